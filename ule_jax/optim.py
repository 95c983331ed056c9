"""Options -> one optax optimiser that keeps the roles apart."""

from __future__ import annotations

import re
from collections.abc import Callable

import jaxtyping
from etils import epy

from ule_jax.errors import UserError
from ule_jax.options import Options, option

with epy.lazy_imports():  # jax takes seconds to import: errors about options come before it
  import jax
  import optax

# name -> (update from gradients, whether weight decay is added to the gradient before it)
OPTIMIZERS: dict[str, tuple[Callable[[], optax.GradientTransformation], bool]] = {
  'sgd': (lambda: optax.trace(decay=0.9), True),
  'adam': (lambda: optax.scale_by_adam(), True),
  'adamw': (lambda: optax.scale_by_adam(), False),
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


class Optim(Options):
  """Options of the optimiser: `config.optim`."""

  name: str = option('adam', 'sgd has momentum 0.9', choices=OPTIMIZERS)
  lr: float = option(1e-3, 'learning rate', ge=0)
  weight_decay: float = option(
    0.0,
    'of every parameter that is trained, biases, norms and positions too; L2 in sgd and adam, decoupled in adamw',
    ge=0,
  )
  schedule: str = option('constant', 'of the learning rate, after the warm-up', choices=SCHEDULES)
  warmup_steps: int = option(0, 'steps in which the learning rate rises from 0', ge=0)
  clip: float = option(0.0, 'largest gradient norm of each role; 0: none', ge=0)
  trainable: str = option('.*', 'regular expression on parameter paths; the others stay as they are')


def make_optimizer(options, roles: tuple[str, ...], steps: int) -> optax.GradientTransformation:
  """Build the optimiser; every role has its own state, and its own gradient norm under `clip`.

  Args:
    options: values of `Optim`. Weight decay is L2 (added to the gradient) for `sgd` and
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

  def label(params: jaxtyping.PyTree) -> jaxtyping.PyTree:
    trained = is_trained(options.trainable, params)
    labels = {role: jax.tree.map(lambda own, role=role: role if own else 'frozen', trained[role]) for role in trained}
    if set(jax.tree.leaves(labels)) == {'frozen'}:
      names = ', '.join(sorted({str(name) for role in params.values() for name in role}))
      raise UserError(f'optim.trainable {options.trainable!r} matches no parameter: their paths begin with {names}.')
    return labels

  return optax.partition(transforms, label)


def is_trained(trainable: str, params: jaxtyping.PyTree) -> jaxtyping.PyTree:
  """Tell of each parameter whether its path, without the role, matches the regular expression `optim.trainable`."""
  pattern = re.compile(trainable)

  def one(path, _):
    _, *rest = (key.key for key in path)
    return bool(pattern.search('/'.join(rest)))

  return jax.tree_util.tree_map_with_path(one, params)


def _acts(number) -> bool:
  """Tell whether a number changes anything; what is traced may, whatever it is."""
  return not isinstance(number, (int, float)) or number != 0
