"""Options -> one optax optimiser that keeps the roles apart."""

from __future__ import annotations

import re
from collections.abc import Callable

import jax
import optax
from jaxtyping import PyTree

from ule_jax.errors import UserError

# name -> (update from gradients, whether weight decay is added to the gradient before it)
OPTIMIZERS: dict[str, tuple[Callable[[], optax.GradientTransformation], bool]] = {
  'sgd': (lambda: optax.trace(decay=0.9), True),
  'adam': (optax.scale_by_adam, True),
  'adamw': (optax.scale_by_adam, False),
}


def constant(lr, steps, warmup_steps):
  """Keep the learning rate after a linear warm-up."""
  del steps
  return (
    optax.schedules.warmup_constant_schedule(0.0, lr, warmup_steps) if warmup_steps else optax.constant_schedule(lr)
  )


def cosine(lr, steps, warmup_steps):
  """Decay the learning rate to 0 along half a cosine after a linear warm-up."""
  if not warmup_steps:
    return optax.cosine_decay_schedule(lr, steps)
  # As optax.warmup_cosine_decay_schedule, which compares the rate with 0 and so cannot be given a traced one.
  rise = optax.linear_schedule(0.0, lr, warmup_steps)
  return optax.join_schedules([rise, optax.cosine_decay_schedule(lr, max(steps - warmup_steps, 1))], [warmup_steps])


SCHEDULES = {'constant': constant, 'cosine': cosine}


def make_optimizer(options, roles: tuple[str, ...], steps: int) -> optax.GradientTransformation:
  """Build the optimiser; every role has its own state, and its own gradient norm under `clip`.

  Args:
    options: `optim.*` of configs/base.py. Weight decay is L2 (added to the gradient) for `sgd` and
      `adam`, as in PyTorch, and decoupled for `adamw`. Parameters whose path does not match
      `trainable` stay where they are. `lr`, `weight_decay` and `clip` (there infinite for none) may be traced.
    steps: the length of the schedule.

  Raises:
    UserError: when it is initialised, if no parameter matches `trainable`.
  """
  update, coupled = OPTIMIZERS[options.name]
  decay = [optax.add_decayed_weights(options.weight_decay)] if _acts(options.weight_decay) else []
  clip = [optax.clip_by_global_norm(options.clip)] if _acts(options.clip) else []
  rate = optax.scale_by_learning_rate(SCHEDULES[options.schedule](options.lr, steps, options.warmup_steps))
  before, after = (decay, []) if coupled else ([], decay)
  transforms = {role: optax.chain(*clip, *before, update(), *after, rate) for role in roles}
  transforms['frozen'] = optax.set_to_zero()

  def label(params: PyTree) -> PyTree:
    trained = is_trained(options.trainable, params)
    labels = {role: jax.tree.map(lambda own, role=role: role if own else 'frozen', trained[role]) for role in trained}
    if set(jax.tree.leaves(labels)) == {'frozen'}:
      names = ', '.join(sorted({str(name) for role in params.values() for name in role}))
      raise UserError(f'optim.trainable {options.trainable!r} matches no parameter: their paths begin with {names}.')
    return labels

  return optax.partition(transforms, label)


def is_trained(trainable: str, params: PyTree) -> PyTree:
  """Tell of each parameter whether its path, without the role, matches the regular expression `optim.trainable`."""
  pattern = re.compile(trainable)

  def one(path, _):
    _, *rest = (key.key for key in path)
    return bool(pattern.search('/'.join(rest)))

  return jax.tree_util.tree_map_with_path(one, params)


def _acts(number) -> bool:
  """Tell whether a number changes anything; what is traced may, whatever it is."""
  return not isinstance(number, (int, float)) or number != 0
