"""The compiled train step: a pure function of (state, batch) for any method and any Flax module."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree

from ule_jax.devices import collectives
from ule_jax.errors import UserError
from ule_jax.methods import SEPARABLE, Aux, Batch, Method, Output, labelled
from ule_jax.models.build import Preprocess
from ule_jax.optim import is_trained


@flax.struct.dataclass
class TrainState:
  """All that a step reads and changes. There is no key in it: a step's key is `fold_in(key, step)`."""

  step: Int[Array, '']
  params: dict[str, PyTree]
  batch_stats: dict[str, PyTree]
  opt_state: PyTree
  method_state: PyTree
  bad_step: dict[str, Int[Array, '']]  # role -> the first step that was not finite (`is_finite`), or -1


def role_key(key: Array, role: str) -> Array:
  """Derive a role's own key, from which it is initialised and its dropout drawn."""
  return jax.random.fold_in(key, zlib.crc32(role.encode()))


def create_state(method: Method, model, tx: optax.GradientTransformation, x: Array, key: Array) -> TrainState:
  """Initialise every role's network and the optimiser.

  Args:
    model: a Flax module whose call `(x, train)` returns `(logits, features)`.
    x: a prepared batch of any size, for the shapes.
  """
  params, batch_stats = {}, {}
  for role in method.roles:
    variables = model.init(role_key(key, role), x, train=False)
    params[role], batch_stats[role] = variables['params'], variables.get('batch_stats', {})
  never = {role: jnp.asarray(-1, jnp.int32) for role in method.roles}
  return TrainState(jnp.asarray(0, jnp.int32), params, batch_stats, tx.init(params), method.init(params), never)


def make_train_step(
  method: Method,
  model,
  tx: optax.GradientTransformation,
  key: Array,
  preprocess: Preprocess = lambda x: x,
  accumulate: int = 1,
  trainable: str = '.*',
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
  """Make the pure function `(state, batch) -> (state, metrics)` that does everything of one step.

  All networks' logits, parameter gradients and input gradients come out of it, in one graph. Jit it
  with `donate_argnums=0`.

  Args:
    model: as in `create_state`.
    key: of the run; the step folds in its number.
    preprocess: from the batch's images to what the networks see.
    accumulate: parts of a batch whose gradients are computed one after the other and averaged: the numbers of the
      whole batch, but for rounding and dropout, in less memory.
    trainable: as `optim.trainable`: what `tx` changes. The other parameters' gradients are not computed.

  Raises:
    UserError: the method's loss is not the mean of those of the parts.
  """
  if accumulate > 1 and SEPARABLE not in method.properties:
    raise UserError(
      'train.accumulate needs a loss that is a mean over examples, and the method with its options has another one: '
      'set train.accumulate=1, or, for ule, method.mistakes=none or weight and method.hold_back=0.'
    )

  def step(state: TrainState, batch: Batch):
    step_key = jax.random.fold_in(key, state.step)

    def loss(params, batch: Batch, dropout_key: Array):
      def forward(role: str, x: Array, train: bool = True) -> Output:
        variables = {'params': collectives.sum_gradient(params[role]), 'batch_stats': state.batch_stats[role]}
        rngs = {'dropout': role_key(dropout_key, role)}
        (logits, features), updated = model.apply(variables, x, train=train, mutable=['batch_stats'], rngs=rngs)
        logits, features = collectives.gather_examples((logits, features))
        return Output(logits, features, updated.get('batch_stats', {}))

      batch = batch._replace(image=preprocess(batch.image))
      return method.loss(params, forward, state.method_state, batch, state.step, step_key)

    whole = labelled(collectives.gather_examples(batch._replace(image=None)))
    batch = whole._replace(image=batch.image)
    differentiate = jax.value_and_grad(loss, has_aux=True)
    if accumulate > 1:
      differentiate = in_parts(differentiate, accumulate)
    (_, aux), gradients = differentiate(state.params, batch, step_key)
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    trained = jax.tree.map(lambda own, g: g if own else None, is_trained(trainable, state.params), gradients)
    bad_step = {
      role: jnp.where(
        (first >= 0) | is_finite(aux.losses[role], trained[role], updates[role], aux.batch_stats[role]),
        first,
        state.step,
      )
      for role, first in state.bad_step.items()
    }
    metrics = {f'loss/{role}': value for role, value in aux.losses.items()} | aux.metrics
    return TrainState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=aux.batch_stats,
      opt_state=opt_state,
      method_state=aux.method_state,
      bad_step=bad_step,
    ), metrics

  return step


def is_finite(loss: Array, gradient: PyTree, update: PyTree, batch_stats: PyTree) -> Bool[Array, '']:
  """Tell whether a step leaves a network that may be used and trained on.

  Neither of gradient and update says it for the other: an optimiser turns a gradient whose square overflows into an
  update of 0, and a finite gradient times a large rate into an infinite update.

  Args:
    gradient: of the parameters that are trained only: one that nobody asks for is not computed.
    batch_stats: running statistics, which overflow where normalised activations do not.
  """
  statistics = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(batch_stats)]
  return jnp.stack([jnp.isfinite(loss + optax.tree.norm(gradient) + optax.tree.norm(update)), *statistics]).all()


def in_parts(differentiate: Callable, parts: int) -> Callable:
  """Make `(params, batch, key) -> ((loss, aux), gradients)` go through a batch in parts, each weighed by its weights.

  A part takes every n-th example: with the batch split over devices, each of them has its share of every part.
  """

  def through(params, batch: Batch, key: Array):
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
    whole = jnp.maximum(jnp.sum(batch.weight), 1e-16)

    def one(sums, turn):
      number, part = turn
      share = jnp.sum(part.weight) / whole
      sums, own = jax.lax.optimization_barrier((sums, params))  # where unrolled: one part after the other, for memory
      (value, aux), gradients = differentiate(own, part, jax.random.fold_in(key, number))
      found = value, aux.losses, aux.metrics, gradients
      return jax.tree.map(lambda s, f: s + share * f, sums, found), (aux.batch_stats, aux.method_state)

    first = jax.tree.map(lambda x: x[0], split)
    (value, aux), gradients = jax.eval_shape(differentiate, params, first, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (value, aux.losses, aux.metrics, gradients))
    unroll = jax.default_backend() == 'cpu'  # whose compiler has no fast convolutions in a loop: 20 times slower
    (value, losses, metrics, gradients), kept = jax.lax.scan(one, zeros, (jnp.arange(parts), split), unroll=unroll)
    batch_stats, method_state = jax.tree.map(lambda x: x[-1], kept)  # the same in every part
    return (value, Aux(losses, batch_stats, method_state, metrics)), gradients

  return through
