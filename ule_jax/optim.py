"""One optax optimiser for all roles of a method, with a separate state for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable

import jaxtyping
from etils import epy

from ule_jax.errors import UserError
from ule_jax.options import Options, option

with epy.lazy_imports():  # jax takes seconds to import: errors about options come before it
  import jax
  import optax

# name -> (scaling of the gradient, whether weight decay is added before it: L2, as in PyTorch)
OPTIMIZERS: dict[str, tuple[Callable[[], optax.GradientTransformation], bool]] = {
  'sgd': (lambda: optax.trace(decay=0.9), True),
  'adam': (lambda: optax.scale_by_adam(), True),
  'adamw': (lambda: optax.scale_by_adam(), False),
}


def constant(lr, steps, warmup_steps):
  """Return the schedule that holds the learning rate `lr` after a linear warm-up from 0."""
  del steps
  return (
    optax.schedules.warmup_constant_schedule(0.0, lr, warmup_steps) if warmup_steps else optax.constant_schedule(lr)
  )


def cosine(lr, steps, warmup_steps):
  """Return the schedule that decays `lr` to 0 along half a cosine after a linear warm-up (arXiv 1608.03983)."""
  if not warmup_steps:
    return optax.cosine_decay_schedule(lr, steps)
  # optax.warmup_cosine_decay_schedule compares the rate with 0, which fails for a traced one.
  rise = optax.linear_schedule(0.0, lr, warmup_steps)
  return optax.join_schedules([rise, optax.cosine_decay_schedule(lr, max(steps - warmup_steps, 1))], [warmup_steps])


SCHEDULES = {'constant': constant, 'cosine': cosine}


class Optim(Options):
  """Options of the optimiser: `config.optim`."""

  name: str = option('adam', 'optimiser; sgd has momentum 0.9', choices=OPTIMIZERS)
  lr: float = option(1e-3, 'learning rate', ge=0)
  weight_decay: float = option(
    0.0,
    'of every trained parameter, biases, norms and positions too; L2 in sgd and adam, decoupled in adamw',
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
      `trainable` are not updated. `lr`, `weight_decay` and `clip` may be traced numbers; a Python
      `clip` of 0 is no clipping, and a traced one is infinite for none.
    roles: the keys of the parameter tree's first level.
    steps: length of the schedule.

  Raises:
    UserError: at initialisation, if no parameter matches `trainable`.
  """
  update, coupled = OPTIMIZERS[options.name]
  decay = [optax.add_decayed_weights(options.weight_decay)] if _acts(options.weight_decay) else []
  clip = [optax.clip_by_global_norm(options.clip)] if _acts(options.clip) else []
  rate = optax.scale_by_learning_rate(SCHEDULES[options.schedule](options.lr, steps, options.warmup_steps))
  before, after = (decay, []) if coupled else ([], decay)
  transforms: dict[Hashable, optax.GradientTransformation] = {
    role: optax.chain(*clip, *before, update(), *after, rate) for role in roles
  }
  transforms['frozen'] = optax.set_to_zero()

  def label(params: jaxtyping.PyTree) -> jaxtyping.PyTree:
    trained = is_trained(options.trainable, params)
    labels = {role: jax.tree.map(lambda leaf, role=role: role if leaf else 'frozen', trained[role]) for role in trained}
    if set(jax.tree.leaves(labels)) == {'frozen'}:
      names = ', '.join(sorted({str(name) for role in params.values() for name in role}))
      raise UserError(f'optim.trainable {options.trainable!r} matches no parameter: their paths begin with {names}.')
    return labels

  return optax.partition(transforms, label)


def is_trained(trainable: str, params: jaxtyping.PyTree) -> jaxtyping.PyTree:
  """Return a tree of booleans: whether each parameter's path, without the role, matches `optim.trainable`.

  Args:
    trainable: regular expression, searched for in `module/submodule/name`.
    params: role -> the parameters of its network.
  """
  pattern = re.compile(trainable)

  def matches(path, _):
    _, *below_role = (key.key for key in path)
    return bool(pattern.search('/'.join(below_role)))

  return jax.tree_util.tree_map_with_path(matches, params)


def _acts(number) -> bool:
  """Return False only for a Python 0, which leaves the transform out of the graph; a traced value is always kept."""
  return not isinstance(number, (int, float)) or number != 0
