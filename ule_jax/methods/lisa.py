"""LISA: mixup between examples of one label and different groups, or of one domain and different labels.

Paper: Yao et al., "Improving Out-of-Distribution Robustness via Selective Augmentation", arXiv
2201.00299. Code: huaxiuyao/LISA.

  L = mean_i CE(f(a_i x_i + (1 - a_i) x_p(i)), a_i y_i + (1 - a_i) y_p(i)),  a_i ~ Beta(alpha, alpha)

  p(i)   a random example of the batch, with i's label and another group (LISA-L), or with i's domain
         and another label (LISA-D); which of the two is drawn for the whole batch, LISA-L with
         probability `p_sel`
  y      labels as one-hot vectors
  alpha  `alpha`

A domain cannot be told from a group in general. With `domains` > 0 it is the group's number modulo
`domains`, as where group = label * domains + domain; with 0 it is LISA-L at every step.

Departs from the paper: as in the code, the rule is drawn for the batch and a_i for each example.
Departs from the official code, huaxiuyao/LISA b028bbb (subpopulation_shifts/train.py): it draws one batch of each
of four groups, and trains on one mixed example for each pair of them; here every example is mixed with a
partner of its own, and one without a partner in the batch, or of unknown group, stays unmixed: a step sees
twice as many mixed examples. CutMix, the code's choice for CelebA, is left out. It is meant for
`train.sampling: group_balanced`, with a batch of four of theirs; their epoch ends with the smallest group's.
"""

from __future__ import annotations

from etils import epy
from jaxtyping import Bool

from ule_jax import losses
from ule_jax.errors import UserError
from ule_jax.methods.contract import (
  IGNORES_WEIGHT_ZERO,
  PERMUTATION_INVARIANT,
  Aux,
  Batch,
  Method,
  Sizes,
  Step,
  require_groups,
)
from ule_jax.options import Options, option

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp

MODEL = 'model'


class Lisa(Options):
  """Options of LISA."""

  alpha: float = option(2.0, "both parameters of the shares' Beta distribution; LISA", gt=0)
  p_sel: float = option(
    0.5, 'probability of mixing within labels rather than within domains, where domains > 0; LISA', ge=0, le=1
  )
  domains: int = option(0, 'groups in each class, where domain = group % domains; 0: mix within labels only', ge=0)


def make_method(options: Lisa, sizes: Sizes) -> Method:
  """Return LISA.

  Raises:
    UserError: no training example has a group, or `domains` does not divide the groups.
  """
  require_groups(sizes)
  if options.domains and options.domains * sizes.k != sizes.g:
    raise UserError(
      f'method.domains is {options.domains}, but {sizes.k} classes have {sizes.g} groups: '
      'give the number of groups in each class, or 0 to mix within labels only.'
    )

  def loss(step: Step):
    batch = step.batch
    for_rule, for_partner, for_share = jax.random.split(step.key, 3)
    within_label = not options.domains or jax.random.bernoulli(for_rule, options.p_sel)
    allowed = eligible(batch, within_label, options.domains or sizes.g)
    ids = losses.example_ids(batch.index, batch.weight, sizes.n)

    def draw(i, allowed):
      """Return a partner, uniform over the allowed ones, and the share of the example itself."""
      scores = jax.vmap(lambda j: jax.random.gumbel(jax.random.fold_in(jax.random.fold_in(for_partner, i), j)))(ids)
      share = jax.random.beta(jax.random.fold_in(for_share, i), options.alpha, options.alpha, dtype=batch.image.dtype)
      return jnp.argmax(jnp.where(allowed, scores, -jnp.inf)), jnp.where(jnp.any(allowed), share, 1)

    partner, share = jax.vmap(draw)(ids, allowed)

    def mix(values):
      factor = share.reshape(-1, *(1 for _ in values.shape[1:]))
      return factor * values + (1 - factor) * values[partner]

    out = step.forward(MODEL, step.per_image(mix(step.per_example(batch.image))))
    target = mix(jax.nn.one_hot(batch.label, sizes.k, dtype=share.dtype))
    value = step.mean(losses.soft_cross_entropy(out.logits, target))
    mixed = step.mean(jnp.any(allowed, axis=1).astype(value.dtype))
    return value, Aux({MODEL: value}, {MODEL: out.batch_stats}, metrics={'mixed': mixed})

  return Method((MODEL,), loss, frozenset({PERMUTATION_INVARIANT, IGNORES_WEIGHT_ZERO}))


def eligible(batch: Batch, within_label: bool | Bool[jax.Array, ''], domains: int) -> Bool[jax.Array, 'b b']:
  """Return for each example (row) which others may be its partner.

  Args:
    within_label: partners have the same label and another group (LISA-L), else the same domain and another label.
    domains: groups of each class; the domain of a group is its number modulo this.
  """

  def same(values):
    return values[:, None] == values[None, :]

  real = (batch.weight > 0) & (batch.group >= 0)
  same_label, same_domain = same(batch.label), same(batch.group % domains)
  pairs = jnp.where(within_label, same_label & ~same(batch.group), same_domain & ~same_label)
  return pairs & real[:, None] & real[None, :]
