"""MMD: features whose distribution is the same in every environment, by maximum mean discrepancy.

Paper: Li et al., "Domain Generalization with Adversarial Feature Learning", CVPR 2018; the discrepancy
is that of Gretton et al., "A Kernel Method for the Two-Sample Problem", arXiv 0805.2368. Code: DomainBed.

  L = mean_g R_g + gamma * mean_{g<h} (K_gg + K_hh - 2 K_gh)
  K_gh = mean over i in g, j in h of sum_s exp(-s |f_i - f_j|^2)

  g, h   groups with at least two examples in the batch
  f_i    features of example i
  s      SCALES, 0.001 to 1000
  gamma  `gamma`

Departs from the paper: as DomainBed does, there is no autoencoder and no adversary; this is the
discrepancy alone, in its biased form (the mean in K_gg has each example with itself). DomainBed
sends each environment through the network on its own, which differs under BatchNorm. It computes distances
from norms and products of features that are not centred: in float32 an example is then not at distance 0 of
itself, and the penalty is 3 to 17 % off; here it agrees with float64 to rounding.
"""

from __future__ import annotations

from etils import epy
from jaxtyping import Float

from ule_jax.losses import EPS
from ule_jax.methods.contract import IGNORES_WEIGHT_ZERO, PERMUTATION_INVARIANT, Method, Sizes
from ule_jax.methods.coral import EXACT, shares
from ule_jax.methods.environments import Environments, penalized, present
from ule_jax.options import Options, option

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp

SCALES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)


class Mmd(Options):
  """Options of MMD."""

  gamma: float = option(
    1.0, 'factor on the feature differences; an exact 0 leaves them out of the graph; DomainBed', ge=0
  )


def make_method(options: Mmd, sizes: Sizes) -> Method:
  """Return MMD.

  Raises:
    UserError: no training example has a group.
  """
  properties = frozenset({PERMUTATION_INVARIANT, IGNORES_WEIGHT_ZERO})
  return penalized(sizes, discrepancy, lambda _: options.gamma, properties)


def discrepancy(environments: Environments) -> Float[jax.Array, '']:
  """Return the mean over pairs of environments of the squared maximum mean discrepancy of their features."""
  features, membership = environments.out.features, environments.membership
  marks, share = present(environments, least=2), shares(membership)
  # A squared distance that is a difference of products has their rounding error: so the features are centred first, and
  # the norms are the diagonal of the products, which makes an example's distance to itself 0. The scale 1000 magnifies
  # the rest.
  mass = jnp.sum(membership, axis=1)
  centre = jax.lax.stop_gradient(jnp.matmul(mass, features, precision=EXACT) / jnp.maximum(jnp.sum(mass), EPS))
  centred = features - centre[None, :]
  product = jnp.matmul(centred, centred.T, precision=EXACT)
  squared = jnp.diagonal(product)
  distance = jnp.maximum(squared[:, None] + squared[None, :] - 2 * product, 0)
  kernel = sum(jnp.exp(-scale * distance) for scale in SCALES)
  between = jnp.matmul(share.T, jnp.matmul(kernel, share, precision=EXACT), precision=EXACT)
  within = jnp.diagonal(between)
  pairs = jnp.triu(marks[:, None] * marks[None, :], 1)
  return jnp.sum(pairs * (within[:, None] + within[None, :] - 2 * between)) / jnp.maximum(jnp.sum(pairs), 1)
