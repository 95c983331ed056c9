"""Classification losses, one value per example."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from etils import epy
from jaxtyping import Float, Int

from ule_jax.losses.batch import take

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp


def cross_entropy(logits: Float[jax.Array, 'b k'], label: Int[jax.Array, 'b']) -> Float[jax.Array, 'b']:
  """Return -log p(label), 0 for an unknown label (-1).

  >>> round(float(cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))[0]), 4)
  1.3863
  """
  return -take(jax.nn.log_softmax(logits), label)


def generalized_cross_entropy(
  logits: Float[jax.Array, 'b k'], label: Int[jax.Array, 'b'], q: float | Float[jax.Array, ''] = 0.7
) -> Float[jax.Array, 'b']:
  """Return (1 - p(label)^q) / q, which commits to easy examples and gives up on the rest.

  Between cross entropy (q -> 0) and the mean absolute error (q = 1). Its gradient is cross
  entropy's times p(label)^q, so that examples the network gets wrong are hardly learned.
  Source: Zhang and Sabuncu 2018, arXiv 1805.07836, eq. 6; as the biased network's loss in LfF,
  arXiv 2007.02561.

  Args:
    q: in (0, 1].

  >>> round(float(generalized_cross_entropy(jnp.zeros((1, 2)), jnp.array([0]), q=1.0)[0]), 4)
  0.5
  """
  return (1 - jnp.exp(-q * cross_entropy(logits, label))) / q


def soft_cross_entropy(logits: Float[jax.Array, 'b k'], target: Float[jax.Array, 'b k']) -> Float[jax.Array, 'b']:
  """Return the cross entropy to a distribution over the classes.

  >>> round(float(soft_cross_entropy(jnp.zeros((1, 4)), jnp.array([[0.5, 0.5, 0, 0]]))[0]), 4)
  1.3863
  """
  return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)


def classification_loss(
  name: str, q
) -> Callable[[Float[jax.Array, 'b k'], Int[jax.Array, 'b']], Float[jax.Array, 'b']]:
  """Return the classification loss of a name, with `q` bound where it has one."""
  if name == 'generalized_cross_entropy':
    return partial(generalized_cross_entropy, q=q)
  return CLASSIFICATION_LOSSES[name]


CLASSIFICATION_LOSSES = {
  'cross_entropy': cross_entropy,
  'generalized_cross_entropy': generalized_cross_entropy,
}
