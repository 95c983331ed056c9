"""Deep CORAL: features with the same mean and covariance in every environment.

Paper: Sun and Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", arXiv
1607.01719. Code: DomainBed.

  L = mean_g R_g + gamma * mean_{g<h} (mean_j (m_gj - m_hj)^2 + mean_jk (C_gjk - C_hjk)^2)

  g, h  groups with at least two examples in the batch
  m, C  mean and covariance of the features over a group
  j, k  features
  gamma `gamma`

Departs from the paper: as DomainBed does, the means are matched too, the squares are averaged and
not divided by 4, and every pair of training environments is matched, none of them unlabelled.
DomainBed sends each environment through the network on its own, which differs under BatchNorm.
"""

from __future__ import annotations

from etils import epy
from jaxtyping import Float

from ule_jax.losses import EPS
from ule_jax.methods.contract import IGNORES_WEIGHT_ZERO, PERMUTATION_INVARIANT, Method, Sizes
from ule_jax.methods.environments import Environments, penalized, present
from ule_jax.options import Options, option

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp

EXACT = 'highest'  # precision of matrix products, whose factors accelerators round otherwise


class Coral(Options):
  """Options of CORAL."""

  gamma: float = option(
    1.0, 'factor on the feature differences; an exact 0 leaves them out of the graph; DomainBed', ge=0
  )


def make_method(options: Coral, sizes: Sizes) -> Method:
  """Return CORAL.

  Raises:
    UserError: no training example has a group.
  """
  properties = frozenset({PERMUTATION_INVARIANT, IGNORES_WEIGHT_ZERO})
  return penalized(sizes, moment_differences, lambda _: options.gamma, properties)


def moment_differences(environments: Environments) -> Float[jax.Array, '']:
  """Return the mean over pairs of environments of the squared differences of means and of covariances."""
  features, membership = environments.out.features, environments.membership
  marks = present(environments, least=2)
  share = shares(membership)
  count = jnp.sum(membership > 0, axis=0)
  unbiased = count / jnp.maximum(count - 1, 1)

  def moments(share, unbiased):
    mean = jnp.matmul(share, features, precision=EXACT)
    centred = features - mean[None, :]
    return mean, unbiased * jnp.matmul(centred.T, share[:, None] * centred, precision=EXACT)

  means, covariances = jax.vmap(moments, in_axes=(1, 0))(share, unbiased)
  return pairwise(marks, means) + pairwise(marks, covariances.reshape(len(marks), -1))


def shares(membership: Float[jax.Array, 'b g']) -> Float[jax.Array, 'b g']:
  """Return each group's weights scaled to sum 1; 0 for a group without examples in the batch."""
  return membership / jnp.maximum(jnp.sum(membership, axis=0, keepdims=True), EPS)


def pairwise(marks: Float[jax.Array, 'g'], values: Float[jax.Array, 'g m']) -> Float[jax.Array, '']:
  """Return the mean squared difference of values over pairs of marked groups: twice their variance over groups."""
  count = jnp.sum(marks)
  centre = jnp.sum(marks[:, None] * values, axis=0) / jnp.maximum(count, 1)
  spread = jnp.sum(marks * jnp.mean((values - centre[None, :]) ** 2, axis=1))
  return 2 * spread / jnp.maximum(count - 1, 1)
