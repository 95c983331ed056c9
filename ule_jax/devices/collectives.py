"""Collectives of a program that runs once per device (pmap); the identity under jit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from jaxtyping import Array, PyTree

AXIS = 'batch'


def axis() -> str | None:
  """Return the name of the devices' axis inside a program that runs on each of them, None elsewhere."""
  try:
    jax.lax.axis_size(AXIS)
  except NameError:
    return None
  return AXIS


@jax.custom_vjp
def gather_examples(x: PyTree) -> PyTree:
  """Put together the examples of all devices, in the batch's order; all devices then compute the same with them.

  The gradient of what they compute is the same everywhere, so that each device takes its own examples' part.
  """
  if axis() is None:
    return x
  return jax.tree.map(lambda v: jax.lax.all_gather(v, AXIS, tiled=True), x)


@jax.custom_vjp
def local_examples(x: PyTree) -> PyTree:
  """Take this device's examples out of a batch that all devices have: the inverse of `everyone`."""
  if axis() is None:
    return x

  def own(v: Array) -> Array:
    size = v.shape[0] // jax.lax.axis_size(AXIS)
    return jax.lax.dynamic_slice_in_dim(v, jax.lax.axis_index(AXIS) * size, size)

  return jax.tree.map(own, x)


def local_draw(draw: Callable[[Sequence[int]], Array], shape: Sequence[int]) -> Array:
  """Draw numbers for this device's examples, out of those of the whole batch.

  Args:
    draw: shape -> random numbers.
    shape: of this device's, examples first.
  """
  return draw(shape) if axis() is None else local_examples(draw((shape[0] * jax.lax.axis_size(AXIS), *shape[1:])))


@jax.custom_vjp
def sum_gradient(x: PyTree) -> PyTree:
  """Return parameters as they are; their gradient is the sum of what the devices contribute to it."""
  return x


def _total(x: PyTree) -> PyTree:
  return x if axis() is None else jax.lax.psum(x, AXIS)


# The rules go through the functions again, so that a gradient of a gradient is right as well.
gather_examples.defvjp(lambda x: (gather_examples(x), None), lambda _, g: (local_examples(g),))

local_examples.defvjp(lambda x: (local_examples(x), None), lambda _, g: (gather_examples(g),))

sum_gradient.defvjp(lambda x: (x, None), lambda _, g: (_total(g),))
