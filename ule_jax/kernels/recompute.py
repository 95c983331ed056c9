"""Rematerialisation of second order: blocks whose intermediates are recomputed in backward passes of any order.

`jax.checkpoint` (and flax's `nn.remat`) covers the first backward pass. The gradient of an input gradient
differentiates that pass, too, and would store its recomputed intermediates as residuals: `recompute` applies itself to
its own backward pass.
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
  """Rematerialise `function` to second order.

  Neither its backward pass nor the backward pass of that stores residuals beyond the inputs. (`jax.checkpoint` covers
  the first order only.)

  Args:
    function: (arrays to differentiate, a tree of anything else) -> arrays.
  """

  @jax.custom_vjp
  def run(inputs, rest):
    return function(inputs, rest)

  def forward(inputs, rest):
    perturbed_ids = tuple(i for i, x in enumerate(inputs) if x.perturbed)
    inputs, rest = [x.value for x in inputs], jax.tree.map(lambda x: x.value, rest)
    return run(inputs, rest), (inputs, rest, _Static(perturbed_ids))

  def backward(saved, cotangents):
    inputs, rest, perturbed_ids = saved[0], saved[1], saved[2].value
    # Differentiate perturbed inputs and live outputs only: an input gradient needs no parameter gradients.
    live = [i for i, c in enumerate(cotangents) if not isinstance(c, SymbolicZero)]

    def pull(both, rest):
      # Without a barrier the compiler would share this with the forward pass (CSE), and so store the intermediates.
      both = jax.lax.optimization_barrier(both)
      inputs, cotangents = both[: len(saved[0])], both[len(saved[0]) :]

      def live_outputs(perturbed):
        arguments = list(inputs)
        for i, x in zip(perturbed_ids, perturbed, strict=True):
          arguments[i] = x
        outputs = function(arguments, rest)
        return [outputs[i] for i in live]

      _, pullback = jax.vjp(live_outputs, [inputs[i] for i in perturbed_ids])
      return pullback(cotangents)[0]

    pulled = recompute(pull)([*inputs, *(cotangents[i] for i in live)], rest)
    gradients: list[Any] = [None] * len(inputs)
    for i, gradient in zip(perturbed_ids, pulled, strict=True):
      gradients[i] = gradient
    return gradients, None

  run.defvjp(forward, backward, symbolic_zeros=True)
  return run


def run_block(parent: nn.Module, make: Callable, name: str, remat: bool, x: Array, train: bool) -> Array:
  """Apply a child of a module, rematerialised with `remat`; its variables have the path `name` either way.

  Args:
    make: builds the child, given `name` and `parent`; its call is `(x, train) -> array`.
    x: images or tokens, `b ...`.
  """
  if not remat or parent.is_initializing():
    return make(name=name)(x, train)
  block = make(parent=None)
  stats = parent.variables.get('batch_stats', {}).get(name, {})
  leaves, tree = jax.tree.flatten(parent.variables['params'][name])
  key = parent.make_rng('dropout') if train and parent.has_rng('dropout') else None
  y, *updated = recompute(partial(_apply, block, tree, train))([x, *leaves], {'batch_stats': stats, 'key': key})
  if updated and parent.is_mutable_collection('batch_stats'):
    parent.put_variable('batch_stats', name, jax.tree.unflatten(jax.tree.structure(stats), updated))
  return y


def _apply(block: nn.Module, tree, train: bool, inputs: list[Array], rest: PyTree) -> list[Array]:
  variables = {'params': jax.tree.unflatten(tree, inputs[1:]), 'batch_stats': rest['batch_stats']}
  rngs = {} if rest['key'] is None else {'dropout': rest['key']}
  y, updated = block.apply(variables, inputs[0], train, mutable=['batch_stats'], rngs=rngs)
  return [y, *jax.tree.leaves(updated.get('batch_stats', {}))]
