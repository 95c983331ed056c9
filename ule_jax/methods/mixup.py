"""Mixup: straight lines between examples have to be straight lines between labels.

Paper: Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv 1710.09412. Code for the
variant between environments: DomainBed.

  L = mean_i CE(f(a x_i + (1 - a) x_p(i)), a y_i + (1 - a) y_p(i)),  a ~ Beta(alpha, alpha)

  a      one number for the batch
  p      a random permutation of the batch (of its examples of positive weight)
  y      labels as one-hot vectors
  alpha  `alpha`

Departs from the paper: not known to. DomainBed mixes whole minibatches of two environments; this
one reads no groups.
"""

from __future__ import annotations

from etils import epy
from jaxtyping import Int

from ule_jax import losses
from ule_jax.methods.contract import (
  IGNORES_WEIGHT_ZERO,
  LABEL_FREE,
  PERMUTATION_INVARIANT,
  Aux,
  Batch,
  Method,
  Sizes,
  Step,
)
from ule_jax.options import Options, option

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp

MODEL = 'model'


class Mixup(Options):
  """Options of mixup."""

  alpha: float = option(0.2, "both parameters of the shares' Beta distribution: small ones hardly mix; DomainBed", gt=0)


def make_method(options: Mixup, sizes: Sizes) -> Method:
  """Return mixup."""

  def loss(step: Step):
    batch = step.batch
    for_share, for_partner = jax.random.split(step.key)
    share = jax.random.beta(for_share, options.alpha, options.alpha, dtype=batch.image.dtype)
    partner = permutation(for_partner, batch, sizes.n)
    target = jax.nn.one_hot(batch.label, sizes.k, dtype=share.dtype)
    image = step.per_example(batch.image)
    out = step.forward(MODEL, step.per_image(share * image + (1 - share) * image[partner]))
    value = step.mean(losses.soft_cross_entropy(out.logits, share * target + (1 - share) * target[partner]))
    return value, Aux({MODEL: value}, {MODEL: out.batch_stats})

  return Method((MODEL,), loss, frozenset({LABEL_FREE, PERMUTATION_INVARIANT, IGNORES_WEIGHT_ZERO}))


def permutation(key: jax.Array, batch: Batch, n: int) -> Int[jax.Array, 'b']:
  """Return the position of each example's partner: a random permutation of the examples of positive weight.

  Args:
    n: size of the data set that `batch.index` counts in.
  """
  ids = losses.example_ids(batch.index, batch.weight, n)

  def order(key):
    draws = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(ids)
    return jnp.argsort(jnp.where(batch.weight > 0, draws, jnp.inf))

  for_example, for_partner = jax.random.split(key)
  positions = jnp.zeros_like(batch.index)
  return positions.at[order(for_example)].set(order(for_partner).astype(batch.index.dtype))
