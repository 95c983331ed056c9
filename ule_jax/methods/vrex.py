"""V-REx: a penalty on the variance of the loss over environments.

Paper: Krueger et al., "Out-of-Distribution Generalization via Risk Extrapolation (REx)", arXiv
2003.00688. Code: DomainBed.

  L = mean_g R_g + weight(step) * mean_g (R_g - mean_h R_h)^2

  g, h    groups: the environments
  weight  1 before step `anneal_steps`, then `penalty_weight`

Departs from the paper: as DomainBed does, the mean risk stands in for the sum, and the weight jumps.
DomainBed also resets Adam at the jump, which a loss cannot do.
"""

from __future__ import annotations

from etils import epy
from jaxtyping import Float

from ule_jax import losses
from ule_jax.methods.contract import IGNORES_WEIGHT_ZERO, PERMUTATION_INVARIANT, Method, Sizes
from ule_jax.methods.environments import Environments, annealed, penalized, present, risks
from ule_jax.options import Options, option

with epy.lazy_imports():
  import jax


class Vrex(Options):
  """Options of V-REx."""

  penalty_weight: float = option(10.0, 'factor on the penalty from step anneal_steps on; DomainBed', ge=0)
  anneal_steps: int = option(500, "steps in which the penalty's factor is 1; DomainBed", ge=0)


def make_method(options: Vrex, sizes: Sizes) -> Method:
  """Return V-REx.

  Raises:
    UserError: no training example has a group.
  """
  weight = annealed(options.penalty_weight, options.anneal_steps)
  return penalized(sizes, variance, weight, frozenset({PERMUTATION_INVARIANT, IGNORES_WEIGHT_ZERO}))


def variance(environments: Environments) -> Float[jax.Array, '']:
  """Return the variance of the risk over the environments in the batch."""
  values, marks = risks(environments), present(environments)
  return losses.weighted_mean((values - losses.weighted_mean(values, marks)) ** 2, marks)
