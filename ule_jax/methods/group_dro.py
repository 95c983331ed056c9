"""Group DRO: the average over the groups, weighted online towards those with a high loss.

Paper: Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", arXiv 1911.08731.
Code: kohpangwei/group_DRO.

  l_g = mean of CE(f(x_i), y_i) over the examples of group g in the batch, + C / sqrt(n_g)
  q_g <- q_g exp(eta l_g) / sum_h q_h exp(eta l_h)
  L   = sum_g q_g l_g

  eta  `step_size`
  C    `adjustment`: an exact 0 for none
  n_g  examples of group g in train
  q    carried from step to step; at first equal for every group with examples in train, 0 for the others

Departs from the paper: as the code does, every q_g moves at every step and the batch holds many
groups (the paper's algorithm draws one group a step), a group without examples in the batch has a
mean loss of 0, and C is part of the loss too, where it has no gradient. The code's greedy variant
(`btl`) and its normalised losses are left out. It is meant for `train.sampling: group_balanced`.
Examples of unknown group count nowhere.
"""

from __future__ import annotations

import numpy as np
from etils import epy

from ule_jax import losses
from ule_jax.methods.contract import (
  IGNORES_WEIGHT_ZERO,
  PERMUTATION_INVARIANT,
  Aux,
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


class GroupDro(Options):
  """Options of group DRO."""

  step_size: float = option(0.01, "step size of the groups' weights; group_DRO", ge=0)
  adjustment: float = option(0.0, 'C: C / sqrt(examples of the group in train) is added to its loss; group_DRO', ge=0)


def make_method(options: GroupDro, sizes: Sizes) -> Method:
  """Return group DRO.

  Raises:
    UserError: no training example has a group.
  """
  require_groups(sizes)
  counts = np.asarray(sizes.group_counts)
  occurs = counts > 0
  scale = np.where(occurs, 1 / np.sqrt(np.maximum(counts, 1)), 0.0)

  def init(_):
    return {'q': jnp.asarray(occurs / occurs.sum(), jnp.float32)}

  def loss(step: Step):
    batch = step.batch
    out = step.forward(MODEL, batch.image)
    each = losses.cross_entropy(out.logits, batch.label)
    membership = losses.group_membership(batch.group, batch.weight, sizes.g)
    of_group = losses.group_means(each, membership) + options.adjustment * jnp.asarray(scale, each.dtype)
    q = step.state['q'] * jnp.exp(options.step_size * jax.lax.stop_gradient(of_group))
    q = q / jnp.sum(q)
    value = jnp.sum(q * of_group)
    metrics = {f'q/{i}': q[i] for i in range(sizes.g)}
    return value, Aux({MODEL: value}, {MODEL: out.batch_stats}, {'q': q}, metrics)

  return Method((MODEL,), loss, frozenset({PERMUTATION_INVARIANT, IGNORES_WEIGHT_ZERO}), init)
