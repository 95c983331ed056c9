"""Primitives of JAX with an implementation of their own on a CPU: abstract evaluation, batching and lowering."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def define(name: str, shape: Callable, generic: Callable, cpu: Callable) -> Primitive:
  """Return a new primitive of two operands, without derivatives.

  Args:
    shape: of the result, from the operands' shapes and the settings.
    generic: the implementation for any platform, and under vmap.
    cpu: the implementation for a CPU.
  """
  operation = Primitive(name)

  @cache
  def compiled(**settings):
    return jax.jit(partial(operation.bind, **settings))

  @operation.def_impl
  def run(*operands, **settings):
    return compiled(**settings)(*operands)

  @operation.def_abstract_eval
  def typed(left, right, **settings):
    return left.update(shape=shape(left.shape, right.shape, **settings), weak_type=False)

  def batch(operands, axes, **settings):
    return jax.vmap(partial(generic, **settings), axes)(*operands), 0

  batching.primitive_batchers[operation] = batch
  mlir.register_lowering(operation, mlir.lower_fun(generic, multiple_results=False))
  mlir.register_lowering(operation, mlir.lower_fun(cpu, multiple_results=False), platform='cpu')
  return operation


def derive_each_other(convolve: Primitive, spread: Primitive, correlate: Primitive) -> None:
  """Make a convolution and its two vector-Jacobian products the derivatives of each other.

  For the cotangent g these are the gradients of <g, operation(a, b)> with respect to a and to b.

  Args:
    convolve: of images x and a kernel; settings `stride` and `padding`, which all three have.
    spread: of a result y and a kernel; also `size`, height and width of x.
    correlate: of x and y; also `window`, height and width of the kernel.
  """
  ad.defbilinear(
    convolve,
    lambda g, x, kernel, **s: spread.bind(g, kernel, **s, size=x.aval.shape[1:3]),
    lambda g, x, kernel, **s: correlate.bind(x, g, **s, window=kernel.aval.shape[:2]),
  )
  ad.defbilinear(
    spread,
    lambda g, y, kernel, size, **s: convolve.bind(g, kernel, **s),
    lambda g, y, kernel, size, **s: correlate.bind(g, y, **s, window=kernel.aval.shape[:2]),
  )
  ad.defbilinear(
    correlate,
    lambda g, x, y, window, **s: spread.bind(y, g, **s, size=x.aval.shape[1:3]),
    lambda g, x, y, window, **s: convolve.bind(x, g, **s),
  )
