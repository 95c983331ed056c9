"""Reductions over a batch, look-ups by label or group, and draws that belong to an example."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

EPS = 1e-16  # inside roots and under quotients: a zero gradient gives 0, not NaN; its square is a normal float32

PerExample = Float[Array, 'b']

Logits = Float[Array, 'b k']

Label = Int[Array, 'b']


def weighted_mean(values: PerExample, weight: PerExample) -> Float[Array, '']:
  """Average over examples of positive weight: sum(weight * values) / sum(weight), 0 if all weigh 0.

  >>> float(weighted_mean(jnp.array([1.0, 3.0, 100.0]), jnp.array([1.0, 1.0, 0.0])))
  2.0
  """
  kept = jnp.where(weight > 0, values, 0)  # 0 * inf would be NaN
  return jnp.sum(kept * weight) / jnp.maximum(jnp.sum(weight), EPS)


def add_noise(key: Array, x: Float[Array, 'b *shape'], index: Int[Array, 'b'], std) -> Float[Array, 'b *shape']:
  """Add Gaussian noise that depends on the key and on which example it is, not on its place in the batch.

  Args:
    index: the examples' numbers in their data set.
    std: standard deviation in units of `x`; an exact 0 adds nothing to the graph.
  """
  if is_static_zero(std):
    return x
  noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), x.shape[1:], x.dtype))(index)
  return x + std * noise


def is_static_zero(value: Any) -> bool:
  """Tell whether what is multiplied by a value can be left out of the graph; a traced value never is 0.

  >>> is_static_zero(0.0), is_static_zero(0.1), is_static_zero(jnp.zeros(()))
  (True, False, False)
  """
  return isinstance(value, (int, float)) and value == 0


def example_ids(index: Int[Array, 'b'], weight: PerExample, n: int) -> Int[Array, 'b']:
  """Number the examples of a batch by what they are, not by where they stand; each repeat has its own number.

  To draw by these numbers makes a draw independent of the order in the batch and of its padding.

  Args:
    n: the size of the data set that `index` counts in.

  >>> example_ids(jnp.array([3, 1, 3]), jnp.ones(3), n=10).tolist()
  [3, 1, 13]
  """
  same = (index[:, None] == index[None, :]) & (weight > 0)[None, :]
  return index + n * jnp.sum(jnp.tril(same, -1), axis=1, dtype=index.dtype)


def take(values: Float[Array, 'k'] | Logits, code: Label) -> PerExample:
  """Take each example's value at its label or group, 0 where that is not known (-1).

  Nothing else may index an array by labels or groups: an index of -1 means the last entry to numpy and to JAX.

  Args:
    values: one for each class or group, or a row of these for each example.

  >>> take(jnp.array([3.0, 5.0]), jnp.array([1, -1])).tolist(), take(jnp.array([[3.0, 5.0]]), jnp.array([-1])).tolist()
  ([5.0, 0.0], [0.0])
  """
  if values.ndim == 1:
    return values.at[code].get(mode='fill', fill_value=0, wrap_negative_indices=False)
  kept = {'mode': 'fill', 'fill_value': 0, 'wrap_negative_indices': False}
  return jnp.take_along_axis(values, code[:, None], axis=-1, **kept)[:, 0]


def group_membership(group: Int[Array, 'b'], weight: PerExample, g: int) -> Float[Array, 'b g']:
  """Spread the weights over one column for each group; examples of unknown group are in none."""
  return jax.nn.one_hot(group, g, dtype=weight.dtype) * weight[:, None]


def group_means(values: PerExample, membership: Float[Array, 'b g']) -> Float[Array, 'g']:
  """Average over the examples of each group; 0 for a group without any.

  >>> group_means(jnp.array([1.0, 3.0, 100.0]), group_membership(jnp.array([1, 1, -1]), jnp.ones(3), 2)).tolist()
  [0.0, 2.0]
  """
  kept = jnp.where(membership > 0, values[:, None], 0)
  return jnp.sum(kept * membership, axis=0) / jnp.maximum(jnp.sum(membership, axis=0), EPS)
