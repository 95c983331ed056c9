"""The train step: one pure function of (state, batch) for any method and any Flax module."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen, struct
from jaxtyping import Array, Bool, Int, PyTree

from ule_jax.devices import collectives
from ule_jax.errors import UserError
from ule_jax.methods import SEPARABLE, Aux, Batch, Method, Output, Step, labelled
from ule_jax.models.build import Preprocess
from ule_jax.optim import is_trained


@struct.dataclass
class TrainState:
  """Everything that a step reads and changes. It has no key: the key of a step is `fold_in(key, step)`.

  params, batch_stats: role -> a tree of arrays.
  opt_state: of one optimiser over the parameters of all roles.
  method_state: `Aux.method_state` of the previous step.
  bad_step: role -> number of the first step that was not finite (`is_finite`), or -1.
  """

  step: Int[Array, '']
  params: dict[str, PyTree]
  batch_stats: dict[str, PyTree]
  opt_state: PyTree
  method_state: PyTree
  bad_step: dict[str, Int[Array, '']]


def role_key(key: Array, role: str) -> Array:
  """Return the key of a role, for its initialisation and dropout: `key` with a hash of the role's name folded in."""
  return jax.random.fold_in(key, zlib.crc32(role.encode()))


def create_state(
  method: Method, model: linen.Module, tx: optax.GradientTransformation, x: Array, key: Array
) -> TrainState:
  """Return the state before the first step: every role's network, the optimiser's and the method's arrays.

  Args:
    model: its call `(x, train)` returns `(logits, features)`.
    x: a batch of any size, as the networks see it, for the shapes.
    key: of the run.
  """
  params, batch_stats = {}, {}
  for role in method.roles:
    variables = model.init(role_key(key, role), x, train=False)
    params[role], batch_stats[role] = variables['params'], variables.get('batch_stats', {})
  never = {role: jnp.asarray(-1, jnp.int32) for role in method.roles}
  return TrainState(jnp.asarray(0, jnp.int32), params, batch_stats, tx.init(params), method.init(params), never)


def make_train_step(
  method: Method,
  model: linen.Module,
  tx: optax.GradientTransformation,
  key: Array,
  preprocess: Preprocess = lambda x: x,
  accumulate: int = 1,
  trainable: str = '.*',
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
  """Return the pure function `(state, batch) -> (state, metrics)` of one training step.

  One graph computes the logits, input gradients and parameter gradients of all networks. Compile it with
  `donate_argnums=0`.

  Args:
    model: as in `create_state`.
    key: of the run; each step folds in its number.
    preprocess: from the images of a batch to the networks' input.
    accumulate: parts of a batch, from 1 on, whose gradients are computed sequentially and averaged: the numbers
      of the whole batch, except for rounding and dropout, in less memory.
    trainable: regular expression on parameter paths, as `optim.trainable`; the other parameters have no gradients.

  Raises:
    UserError: `accumulate` is above 1, and the method's loss is not the mean of those of the parts.
  """
  if accumulate > 1 and SEPARABLE not in method.properties:
    raise UserError(
      'train.accumulate needs a loss that is a mean over examples, and the method with its options has another one: '
      'set train.accumulate=1, or, for ule, method.mistakes=none or weight and method.trust_exponent=0.'
    )

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
    step_key = jax.random.fold_in(key, state.step)

    def loss(params, batch: Batch, dropout_key: Array) -> tuple[Array, Aux]:
      def forward(role: str, x: Array, train: bool = True) -> Output:
        variables = {'params': collectives.sum_gradient(params[role]), 'batch_stats': state.batch_stats[role]}
        rngs = {'dropout': role_key(dropout_key, role)}
        (logits, features), updated = model.apply(variables, x, train=train, mutable=['batch_stats'], rngs=rngs)
        logits, features = collectives.gather_examples((logits, features))
        return Output(logits, features, updated.get('batch_stats', {}))

      batch = batch._replace(image=preprocess(batch.image))
      whole_batch, own_rows = collectives.gather_examples, collectives.local_examples
      return method.loss(Step(params, state.method_state, batch, state.step, step_key, forward, whole_batch, own_rows))

    whole = labelled(collectives.gather_examples(batch._replace(image=None)))
    batch = whole._replace(image=batch.image)
    differentiate = jax.value_and_grad(loss, has_aux=True)
    if accumulate > 1:
      differentiate = in_parts(differentiate, accumulate)
    (_, aux), gradients = differentiate(state.params, batch, step_key)
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    trained = jax.tree.map(lambda trains, g: g if trains else None, is_trained(trainable, state.params), gradients)
    bad_step = {
      role: jnp.where(
        (first >= 0) | is_finite(aux.losses[role], trained[role], cast(Any, updates)[role], aux.batch_stats[role]),
        first,
        state.step,
      )
      for role, first in state.bad_step.items()
    }
    metrics = {f'loss/{role}': value for role, value in aux.losses.items()} | dict(aux.metrics)
    return TrainState(
      step=state.step + 1,
      params=cast(Any, optax.apply_updates(state.params, updates)),
      batch_stats=aux.batch_stats,
      opt_state=opt_state,
      method_state=aux.method_state,
      bad_step=bad_step,
    ), metrics

  return step


def is_finite(loss: Array, gradient: PyTree, update: PyTree, batch_stats: PyTree) -> Bool[Array, '']:
  """Return whether a step leaves a network that may be used and trained on.

  Both gradient and update are needed: an optimiser turns a gradient whose square overflows into an update of 0, and a
  finite gradient times a large rate into an infinite update.

  Args:
    gradient: of the trained parameters only; a gradient that nothing reads is not computed.
    batch_stats: running statistics, which can overflow although normalised activations do not.
  """
  statistics = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(batch_stats)]
  return jnp.stack([jnp.isfinite(loss + optax.tree.norm(gradient) + optax.tree.norm(update)), *statistics]).all()


def in_parts(differentiate: Callable, parts: int) -> Callable:
  """Return `(params, batch, key) -> ((loss, aux), gradients)`, computed over parts of the batch in turn.

  A part takes every n-th example: with the batch split over devices, each device has its share of every part. The
  results of a part count by the sum of its weights.

  Args:
    differentiate: of the same signature, for a batch at once.
    parts: number of them, which divides the batch.
  """

  def accumulated(params, batch: Batch, key: Array):
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
    total = jnp.maximum(jnp.sum(batch.weight), 1e-16)

    def add_part(sums, turn):
      number, part = turn
      share = jnp.sum(part.weight) / total
      # The barrier keeps unrolled parts from being scheduled together, which would need the memory of the whole batch.
      sums, params_after = jax.lax.optimization_barrier((sums, params))
      (value, aux), gradients = differentiate(params_after, part, jax.random.fold_in(key, number))
      results = value, aux.losses, aux.metrics, gradients
      return jax.tree.map(lambda s, r: s + share * r, sums, results), (aux.batch_stats, aux.method_state)

    first = jax.tree.map(lambda x: x[0], split)
    (value, aux), gradients = jax.eval_shape(differentiate, params, first, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (value, aux.losses, aux.metrics, gradients))
    unroll = jax.default_backend() == 'cpu'  # its compiler has no fast convolutions in a loop: 20 times slower
    turns = (jnp.arange(parts), split)
    (value, losses, metrics, gradients), states = jax.lax.scan(add_part, zeros, turns, unroll=unroll)
    batch_stats, method_state = jax.tree.map(lambda x: x[-1], states)  # equal in every part
    return (value, Aux(losses, batch_stats, method_state, metrics)), gradients

  return accumulated
