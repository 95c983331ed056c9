"""Common part of IRM, V-REx, CORAL and MMD: the average over environments, and a penalty on their differences.

  L = mean_g R_g + weight(step) * penalty,  R_g = mean of CE(f(x_i), y_i) over the examples of group g

Departs from the papers: the groups are the environments. Where a group is (label, attribute), an environment
has one class; DomainBed's and SubpopBench's environments are domains or attributes with all classes, so that their
penalty weights are only starting points here. Means over groups are over those in the batch: with equally
many examples of each group, mean_g R_g is the average loss. Examples of unknown group are in none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from etils import epy
from jaxtyping import Float, Int

from ule_jax import losses
from ule_jax.methods.contract import Aux, Method, Output, Sizes, Step, require_groups

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp

MODEL = 'model'


class Environments(NamedTuple):
  """A network's output for a batch, and the division of the batch into environments.

  membership: the weight of each example in the column of its group.
  """

  out: Output
  label: Int[jax.Array, 'b']
  membership: Float[jax.Array, 'b g']


def penalized(
  sizes: Sizes,
  penalty: Callable[[Environments], Float[jax.Array, '']],
  weight: Callable[[Int[jax.Array, '']], Any],
  properties: frozenset[str],
) -> Method:
  """Return the method with a penalty on the differences of environments.

  Args:
    weight: number of the step -> the penalty's weight; a Python 0 leaves the penalty out of the graph.

  Raises:
    UserError: no training example has a group.
  """
  require_groups(sizes)

  def loss(step: Step):
    out = step.forward(MODEL, step.batch.image)
    environments = Environments(
      out, step.batch.label, losses.group_membership(step.batch.group, step.batch.weight, sizes.g)
    )
    value = losses.weighted_mean(risks(environments), present(environments))
    metrics = {'risk': value}
    if not losses.is_static_zero(weight(step.number)):
      metrics['penalty'] = penalty(environments)
      value = value + weight(step.number) * metrics['penalty']
    return value, Aux({MODEL: value}, {MODEL: out.batch_stats}, metrics=metrics)

  return Method((MODEL,), loss, properties)


def annealed(penalty_weight: Any, anneal_steps: Any) -> Callable[[Int[jax.Array, '']], Float[jax.Array, '']]:
  """Return DomainBed's weight of a penalty by step: 1 before step `anneal_steps`, then `penalty_weight`."""
  return lambda number: jnp.where(number < anneal_steps, 1.0, penalty_weight)


def risks(environments: Environments) -> Float[jax.Array, 'g']:
  """Return the mean cross entropy of each environment; 0 for one without examples in the batch."""
  each = losses.cross_entropy(environments.out.logits, environments.label)
  return losses.group_means(each, environments.membership)


def present(environments: Environments, least: int = 1) -> Float[jax.Array, 'g']:
  """Return 1 for each environment with at least `least` examples in the batch, 0 for the others."""
  membership = environments.membership
  return (jnp.sum(membership > 0, axis=0) >= least).astype(membership.dtype)
