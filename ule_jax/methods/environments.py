"""What IRM, V-REx, CORAL and MMD share: the average over environments, and a penalty on their differences.

  L = mean_g R_g + weight(step) * penalty,  R_g = mean of CE(f(x_i), y_i) over the examples of group g

Departs from the papers: the groups are the environments. Where a group is (label, attribute), an environment
has one class; DomainBed's and SubpopBench's environments are domains or attributes with all classes, so that their
penalty weights are starting points here and no more. Means over groups are over those that the batch has: with as
many examples of each group, mean_g R_g is the average loss. Examples of unknown group are in none.
"""

from __future__ import annotations

from collections.abc import Callable

from etils import epy
from jaxtyping import Float

from ule_jax import losses
from ule_jax.methods.contract import Aux, Batch, Method, Output, Sizes, require_groups, stateless

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp

MODEL = 'model'


def penalized(
  sizes: Sizes,
  penalty: Callable[[Output, Batch, Float[jax.Array, 'b g']], Float[jax.Array, '']],
  weight: Callable,
  properties: frozenset[str],
) -> Method:
  """Make a method from its penalty.

  Args:
    weight: step -> the penalty's weight; an exact 0 leaves it out of the graph.
  """
  require_groups(sizes)

  def loss(params, forward, state, batch, step, key):
    del params, key
    out = forward(MODEL, batch.image)
    membership = losses.group_membership(batch.group, batch.weight, sizes.g)
    value = losses.weighted_mean(risks(out, batch, membership), present(membership))
    metrics = {'risk': value}
    if not losses.is_static_zero(weight(step)):
      metrics['penalty'] = penalty(out, batch, membership)
      value = value + weight(step) * metrics['penalty']
    return value, Aux({MODEL: value}, {MODEL: out.batch_stats}, state, metrics)

  return Method((MODEL,), stateless, loss, properties)


def annealed(penalty_weight, anneal_steps) -> Callable:
  """Make the weight of DomainBed's IRM and V-REx: 1 before step `anneal_steps`, then `penalty_weight`."""
  return lambda step: jnp.where(step < anneal_steps, 1.0, penalty_weight)


def risks(out: Output, batch: Batch, membership: Float[jax.Array, 'b g']) -> Float[jax.Array, 'g']:
  """Compute each group's mean loss."""
  return losses.group_means(losses.cross_entropy(out.logits, batch.label), membership)


def present(membership: Float[jax.Array, 'b g'], least: int = 1) -> Float[jax.Array, 'g']:
  """Mark the groups with at least so many examples in the batch with 1, the others with 0."""
  return (jnp.sum(membership > 0, axis=0) >= least).astype(membership.dtype)
