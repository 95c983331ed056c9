"""Less memory for more arithmetic: blocks whose insides are computed again in a backward pass of any order.

`jax.checkpoint` (and flax's `nn.remat`) does this for the first backward pass. The gradient of an input gradient
differentiates that pass, too, and what it computed again would then be kept: `recompute` applies itself to its own
backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, PyTree

Pure = Callable[[list[Array], PyTree], list[Array]]


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Static:
  value: tuple[int, ...]


def recompute(function: Pure) -> Pure:
  """Make a function that keeps nothing but its inputs for its backward pass, nor for the backward pass of that.

  Args:
    function: (arrays to differentiate, anything else) -> arrays.
  """

  @jax.custom_vjp
  def run(inputs, rest):
    return function(inputs, rest)

  def forward(inputs, rest):
    moved = tuple(i for i, x in enumerate(inputs) if x.perturbed)
    inputs, rest = [x.value for x in inputs], jax.tree.map(lambda x: x.value, rest)
    return run(inputs, rest), (inputs, rest, _Static(moved))

  def backward(saved, cotangents):
    inputs, rest, moved = saved[0], saved[1], saved[2].value
    # Only between what moved and what is asked for: the input gradient needs no parameter gradients.
    live = [i for i, c in enumerate(cotangents) if not isinstance(c, SymbolicZero)]

    def pull(both, rest):
      # Without a barrier the compiler finds that all this was computed before, and keeps it.
      both = jax.lax.optimization_barrier(both)
      inputs, cotangents = both[: len(saved[0])], both[len(saved[0]) :]

      def part(some):
        whole = list(inputs)
        for i, x in zip(moved, some, strict=True):
          whole[i] = x
        outputs = function(whole, rest)
        return [outputs[i] for i in live]

      _, pull_part = jax.vjp(part, [inputs[i] for i in moved])
      return pull_part(cotangents)[0]

    found = recompute(pull)([*inputs, *(cotangents[i] for i in live)], rest)
    slopes: list[Any] = [None] * len(inputs)
    for i, slope in zip(moved, found, strict=True):
      slopes[i] = slope
    return slopes, None

  run.defvjp(forward, backward, symbolic_zeros=True)
  return run


def run_block(parent: nn.Module, make: Callable, name: str, remat: bool, x: Array, train: bool) -> Array:
  """Run a child of a module, whose variables lie under `name` in any case; with `remat`, compute it again later.

  Args:
    make: builds the child, given `name` and `parent`; its call is `(x, train) -> array`.
  """
  if not remat or parent.is_initializing():
    return make(name=name)(x, train)
  block = make(parent=None)
  stats = parent.variables.get('batch_stats', {}).get(name, {})
  leaves, tree = jax.tree.flatten(parent.variables['params'][name])
  key = parent.make_rng('dropout') if train and parent.has_rng('dropout') else None
  y, *moved = recompute(partial(_apply, block, tree, train))([x, *leaves], {'batch_stats': stats, 'key': key})
  if moved and parent.is_mutable_collection('batch_stats'):
    parent.put_variable('batch_stats', name, jax.tree.unflatten(jax.tree.structure(stats), moved))
  return y


def _apply(block: nn.Module, tree, train: bool, inputs: list[Array], rest: PyTree) -> list[Array]:
  variables = {'params': jax.tree.unflatten(tree, inputs[1:]), 'batch_stats': rest['batch_stats']}
  rngs = {} if rest['key'] is None else {'dropout': rest['key']}
  y, updated = block.apply(variables, inputs[0], train, mutable=['batch_stats'], rngs=rngs)
  return [y, *jax.tree.leaves(updated.get('batch_stats', {}))]
