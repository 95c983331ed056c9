"""Invariant risk minimisation: the same classifier has to be the best one in every environment.

Paper: Arjovsky et al., "Invariant Risk Minimization", arXiv 1907.02893. Code: DomainBed.

  L = mean_g R_g + weight(step) * mean_g d_g1 d_g2
  d_gh = d/ds mean of CE(s f(x_i), y_i) over half h of group g, at s = 1

  g       groups: the environments
  h       every other example of the group in the batch: two halves make the squared slope unbiased
  weight  1 before step `anneal_steps`, then `penalty_weight`

Departs from the paper: as in DomainBed, means over the environments stand in for sums, the weight
jumps, and the loss is not divided by it afterwards as it is in the authors' code. DomainBed also
resets Adam at the jump, which a loss cannot do. A group with one example in the batch has no second
half and is left out of the penalty.
"""

from __future__ import annotations

from etils import epy
from jaxtyping import Float

from ule_jax import losses
from ule_jax.methods.contract import IGNORES_WEIGHT_ZERO, Method, Sizes
from ule_jax.methods.environments import Environments, annealed, penalized, present
from ule_jax.options import Options, option

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp


class Irm(Options):
  """Options of IRM."""

  penalty_weight: float = option(100.0, 'factor on the penalty from step anneal_steps on; DomainBed', ge=0)
  anneal_steps: int = option(500, "steps in which the penalty's factor is 1; DomainBed", ge=0)


def make_method(options: Irm, sizes: Sizes) -> Method:
  """Return IRM.

  Raises:
    UserError: no training example has a group.
  """
  weight = annealed(options.penalty_weight, options.anneal_steps)
  # The half of an example follows from its position in the batch: not invariant to permutations.
  return penalized(sizes, squared_slopes, weight, frozenset({IGNORES_WEIGHT_ZERO}))


def squared_slopes(environments: Environments) -> Float[jax.Array, '']:
  """Return the mean over environments of the squared slope of the risk along the scale of the logits, unbiased."""
  logits, membership = environments.out.logits, environments.membership
  unit = jnp.ones((), logits.dtype)
  _, slope = jax.jvp(lambda scale: losses.cross_entropy(scale * logits, environments.label), (unit,), (unit,))
  is_first = jnp.cumsum(membership > 0, axis=0) % 2 == 1
  first = losses.group_means(slope, jnp.where(is_first, membership, 0))
  second = losses.group_means(slope, jnp.where(is_first, 0, membership))
  return losses.weighted_mean(first * second, present(environments, least=2))
