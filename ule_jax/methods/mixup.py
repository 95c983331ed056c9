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

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ule_jax import losses
from ule_jax.devices.collectives import gather_examples, local_examples
from ule_jax.methods.contract import (
  IGNORES_WEIGHT_ZERO,
  LABEL_FREE,
  PERMUTATION_INVARIANT,
  Aux,
  Batch,
  Method,
  Sizes,
  stateless,
)

MODEL = 'model'


def make_method(options, sizes: Sizes) -> Method:
  """Make mixup; the options are `method.*` of configs/base.py."""

  def loss(params, forward, state, batch, step, key):
    del params, step
    for_share, for_partner = jax.random.split(key)
    share = jax.random.beta(for_share, options.alpha, options.alpha, dtype=batch.image.dtype)
    partner = permutation(for_partner, batch, sizes.n)
    target = jax.nn.one_hot(batch.label, sizes.k, dtype=share.dtype)
    image = gather_examples(batch.image)
    out = forward(MODEL, local_examples(share * image + (1 - share) * image[partner]))
    each = losses.soft_cross_entropy(out.logits, share * target + (1 - share) * target[partner])
    value = losses.weighted_mean(each, batch.weight)
    return value, Aux({MODEL: value}, {MODEL: out.batch_stats}, state, {})

  return Method((MODEL,), stateless, loss, frozenset({LABEL_FREE, PERMUTATION_INVARIANT, IGNORES_WEIGHT_ZERO}))


def permutation(key: Array, batch: Batch, n: int) -> Int[Array, 'b']:
  """Draw each example's partner: a random permutation that keeps padding to itself."""
  ids = losses.example_ids(batch.index, batch.weight, n)

  def order(key):
    draws = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(ids)
    return jnp.argsort(jnp.where(batch.weight > 0, draws, jnp.inf))

  one, other = jax.random.split(key)
  return jnp.zeros_like(batch.index).at[order(one)].set(order(other).astype(batch.index.dtype))
