"""Collectives of a program that runs once per device (pmap); the identity under jit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from jaxtyping import Array, PyTree

AXIS = 'batch'


def axis() -> str | None:
  """Return the name of the device axis inside pmap, None elsewhere."""
  try:
    jax.lax.axis_size(AXIS)
  except NameError:
    return None
  return AXIS


@jax.custom_vjp
def gather_examples(x: PyTree) -> PyTree:
  """All-gather the examples of every device, in batch order; the identity outside pmap.

  Backward: every device holds the same cotangent of the whole batch, so each keeps the rows of its own examples and no
  psum is needed.

  Args:
    x: arrays [b/devices ...].

  Returns:
    Arrays [b ...].
  """
  if axis() is None:
    return x
  return jax.tree.map(lambda v: jax.lax.all_gather(v, AXIS, tiled=True), x)


@jax.custom_vjp
def local_examples(x: PyTree) -> PyTree:
  """Return this device's rows of whole-batch arrays, the inverse of `gather_examples`; the identity outside pmap.

  Args:
    x: arrays [b ...].

  Returns:
    Arrays [b/devices ...].
  """
  if axis() is None:
    return x

  def rows(v: Array) -> Array:
    size = v.shape[0] // jax.lax.axis_size(AXIS)
    return jax.lax.dynamic_slice_in_dim(v, jax.lax.axis_index(AXIS) * size, size)

  return jax.tree.map(rows, x)


def local_draw(draw: Callable[[Sequence[int]], Array], shape: Sequence[int]) -> Array:
  """Return this device's rows of random numbers that are drawn for the whole batch, the same on any number of devices.

  Args:
    draw: shape -> random numbers.
    shape: of this device's rows, examples first.
  """
  return draw(shape) if axis() is None else local_examples(draw((shape[0] * jax.lax.axis_size(AXIS), *shape[1:])))


@jax.custom_vjp
def sum_gradient(x: PyTree) -> PyTree:
  """Return `x` unchanged; its gradient is the psum of the gradients of all devices."""
  return x


def _total(x: PyTree) -> PyTree:
  return x if axis() is None else jax.lax.psum(x, AXIS)


# The backward passes call the functions themselves, so that second derivatives are right as well.
gather_examples.defvjp(lambda x: (gather_examples(x), None), lambda _, g: (local_examples(g),))

local_examples.defvjp(lambda x: (local_examples(x), None), lambda _, g: (gather_examples(g),))

sum_gradient.defvjp(lambda x: (x, None), lambda _, g: (_total(g),))
