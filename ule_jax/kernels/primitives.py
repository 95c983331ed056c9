"""Primitives of JAX with an implementation of their own on a CPU: abstract evaluation, batching and lowering."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir


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
