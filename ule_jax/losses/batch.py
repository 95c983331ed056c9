"""Reductions over a batch, look-ups by label or group, and draws that belong to an example."""

from __future__ import annotations

from typing import Any

from etils import epy
from jaxtyping import Float, Int

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp

EPS = 1e-16  # inside roots and under quotients: a zero gradient gives 0, not NaN; its square is a normal float32


def weighted_mean(values: Float[jax.Array, 'b'], weight: Float[jax.Array, 'b']) -> Float[jax.Array, '']:
  """Return the mean over examples of positive weight: sum(weight * values) / sum(weight), 0 if all weigh 0.

  >>> float(weighted_mean(jnp.array([1.0, 3.0, 100.0]), jnp.array([1.0, 1.0, 0.0])))
  2.0
  """
  kept = jnp.where(weight > 0, values, 0)  # 0 * inf would be NaN
  return jnp.sum(kept * weight) / jnp.maximum(jnp.sum(weight), EPS)


def add_noise(
  key: jax.Array, x: Float[jax.Array, 'b *shape'], index: Int[jax.Array, 'b'], std
) -> Float[jax.Array, 'b *shape']:
  """Return `x` with Gaussian noise that depends on the key and each example's index, not on its position in the batch.

  Args:
    index: number of each example in its data set.
    std: standard deviation in units of `x`; a Python 0 leaves the noise out of the graph.
  """
  if is_static_zero(std):
    return x
  noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), x.shape[1:], x.dtype))(index)
  return x + std * noise


def is_static_zero(value: Any) -> bool:
  """True only for a Python 0, whose product can be left out of the graph; a traced value is always kept.

  >>> is_static_zero(0.0), is_static_zero(0.1), is_static_zero(jnp.zeros(()))
  (True, False, False)
  """
  return isinstance(value, (int, float)) and value == 0


def example_ids(index: Int[jax.Array, 'b'], weight: Float[jax.Array, 'b'], n: int) -> Int[jax.Array, 'b']:
  """Return a number for each example that follows from its index, not its position; repeats have numbers of their own.

  Random draws keyed by these numbers do not depend on the order of the batch or on its padding.

  Args:
    n: size of the data set that `index` counts in.

  >>> example_ids(jnp.array([3, 1, 3]), jnp.ones(3), n=10).tolist()
  [3, 1, 13]
  """
  same = (index[:, None] == index[None, :]) & (weight > 0)[None, :]
  return index + n * jnp.sum(jnp.tril(same, -1), axis=1, dtype=index.dtype)


def take(values: Float[jax.Array, 'k'] | Float[jax.Array, 'b k'], code: Int[jax.Array, 'b']) -> Float[jax.Array, 'b']:
  """Return each example's value at its label or group, 0 where that is unknown (-1).

  Nothing else may index an array by labels or groups: an index of -1 is the last entry in NumPy and in JAX.

  Args:
    values: of each class or group, or a row of these for each example.
    code: label or group of each example, or -1.

  >>> take(jnp.array([3.0, 5.0]), jnp.array([1, -1])).tolist(), take(jnp.array([[3.0, 5.0]]), jnp.array([-1])).tolist()
  ([5.0, 0.0], [0.0])
  """
  if values.ndim == 1:
    return values.at[code].get(mode='fill', fill_value=0, wrap_negative_indices=False)
  kept = {'mode': 'fill', 'fill_value': 0, 'wrap_negative_indices': False}
  return jnp.take_along_axis(values, code[:, None], axis=-1, **kept)[:, 0]


def group_membership(group: Int[jax.Array, 'b'], weight: Float[jax.Array, 'b'], g: int) -> Float[jax.Array, 'b g']:
  """Return the weight of each example in the column of its group; a row of 0 for an unknown group (-1)."""
  return jax.nn.one_hot(group, g, dtype=weight.dtype) * weight[:, None]


def group_means(values: Float[jax.Array, 'b'], membership: Float[jax.Array, 'b g']) -> Float[jax.Array, 'g']:
  """Return the weighted mean over the examples of each group; 0 for a group without any.

  >>> group_means(jnp.array([1.0, 3.0, 100.0]), group_membership(jnp.array([1, 1, -1]), jnp.ones(3), 2)).tolist()
  [0.0, 2.0]
  """
  kept = jnp.where(membership > 0, values[:, None], 0)
  return jnp.sum(kept * membership, axis=0) / jnp.maximum(jnp.sum(membership, axis=0), EPS)
