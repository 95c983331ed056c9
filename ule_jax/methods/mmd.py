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
sends each environment through the network on its own, which BatchNorm would tell from this. Its distances
come from squared norms and products as they are, so that in float32 an example is not at distance 0 of
itself, and the penalty 3 to 17 % off; here it is that of float64 to rounding.
"""

from __future__ import annotations

from etils import epy
from jaxtyping import Float

from ule_jax.losses import EPS
from ule_jax.methods.contract import IGNORES_WEIGHT_ZERO, PERMUTATION_INVARIANT, Batch, Method, Output, Sizes
from ule_jax.methods.coral import EXACT, shares
from ule_jax.methods.environments import penalized, present
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
  """Make MMD; the options are `method.*` of configs/base.py."""
  properties = frozenset({PERMUTATION_INVARIANT, IGNORES_WEIGHT_ZERO})
  return penalized(sizes, discrepancy, lambda step: options.gamma, properties)


def discrepancy(out: Output, batch: Batch, membership: Float[jax.Array, 'b g']) -> Float[jax.Array, '']:
  """Average the squared maximum mean discrepancy over the pairs of groups."""
  del batch
  marks, share = present(membership, least=2), shares(membership)
  # Squared distances as differences of products are rounded as those are: so of features from their mean, and with the
  # products' own diagonal, which makes the distance of an example to itself 0. The scale 1000 magnifies what is left.
  mass = jnp.sum(membership, axis=1)
  centre = jax.lax.stop_gradient(jnp.matmul(mass, out.features, precision=EXACT) / jnp.maximum(jnp.sum(mass), EPS))
  centred = out.features - centre[None, :]
  product = jnp.matmul(centred, centred.T, precision=EXACT)
  squared = jnp.diagonal(product)
  distance = jnp.maximum(squared[:, None] + squared[None, :] - 2 * product, 0)
  kernel = sum(jnp.exp(-scale * distance) for scale in SCALES)
  between = jnp.matmul(share.T, jnp.matmul(kernel, share, precision=EXACT), precision=EXACT)
  within = jnp.diagonal(between)
  pairs = jnp.triu(marks[:, None] * marks[None, :], 1)
  return jnp.sum(pairs * (within[:, None] + within[None, :] - 2 * between)) / jnp.maximum(jnp.sum(pairs), 1)
