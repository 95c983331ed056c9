"""Other students for ULE, as methods around it: what `robustness.py` tried to make the student commit to the shortcut.

Each adds its options to those of `ule`:

  ule_ahead     the student is trained `ahead` steps before the teacher begins
  ule_decayed   L2 with `decay` on the student's parameters: less capacity
  ule_coarse    the student sees the means of squares of `block` pixels
  ule_noisy     the student's output is the mean over `copies` of the input with Gaussian noise of `std`, and so is its
                margin's gradient: SmoothGrad (Smilkov et al. 2017, arXiv 1706.03825)
  ule_shifted   the same over copies of the batch that are moved by up to `pixels` in both directions, the edge repeated

Only training has the changed student: validation sees it on the plain input. Neither Adam's count nor the learning rate
waits for the teacher of `ule_ahead`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ule_jax.methods import Aux, Method, Output, Sizes, ule
from ule_jax.methods.ule import STUDENT, TEACHER

OPTIONS = {
  'ule_ahead': {'ahead': 150},
  'ule_decayed': {'decay': 0.01},
  'ule_coarse': {'block': 4},
  'ule_noisy': {'copies': 4, 'std': 0.5},
  'ule_shifted': {'copies': 4, 'pixels': 3},
}
Image = Float[Array, 'b h w c']


def register() -> None:
  """Add these to the tables of methods and of their options."""
  sys.path.insert(0, str(Path(__file__).parents[1]))
  from configs import base
  from ule_jax import methods

  for name, options in OPTIONS.items():
    methods.METHODS[name] = methods.METHODS['ule']._replace(make=globals()[name])
    base.METHODS[name] = base.METHODS['ule'] | options


def ule_ahead(options, sizes: Sizes) -> Method:
  """Make a ULE whose teacher waits; the schedule of the learning rate does not."""

  def change(total, aux: Aux, params, step):
    del total, params
    return aux.losses[STUDENT] + jnp.where(step < options.ahead, 0.0, aux.losses[TEACHER])

  return around(ule.make_method(options, sizes), change)


def ule_decayed(options, sizes: Sizes) -> Method:
  """Make a ULE whose student's weights are kept small."""

  def change(total, aux: Aux, params, step):
    del aux, step
    return total + options.decay / 2 * optax.tree.norm(params[STUDENT], squared=True)

  return around(ule.make_method(options, sizes), change)


def ule_coarse(options, sizes: Sizes) -> Method:
  """Make a ULE whose student sees no detail."""

  def coarse(x: Image, _) -> Image:
    (b, h, w, c), n = x.shape, options.block
    means = x.reshape(b, h // n, n, w // n, n, c).mean((2, 4), keepdims=True)
    return jnp.broadcast_to(means, (b, h // n, n, w // n, n, c)).reshape(x.shape)

  return seeing(ule.make_method(options, sizes), coarse, 1)


def ule_noisy(options, sizes: Sizes) -> Method:
  """Make a ULE whose student's output and gradient are means over noise."""
  return seeing(
    ule.make_method(options, sizes),
    lambda x, key: x + options.std * jax.random.normal(key, x.shape, x.dtype),
    options.copies,
  )


def ule_shifted(options, sizes: Sizes) -> Method:
  """Make a ULE whose student's output and gradient are means over shifts."""

  def shifted(x: Image, key) -> Image:
    by = jax.random.randint(key, (2,), 0, 2 * options.pixels + 1)
    edges = [(0, 0), (options.pixels,) * 2, (options.pixels,) * 2, (0, 0)]
    return jax.lax.dynamic_slice(jnp.pad(x, edges, 'edge'), (0, *by, 0), x.shape)

  return seeing(ule.make_method(options, sizes), shifted, options.copies)


def around(method: Method, change: Callable) -> Method:
  """Replace a method's loss by what `(loss, aux, params, step)` becomes."""

  def loss(step):
    total, aux = method.loss(step)
    return change(total, aux, step.params, step.number), aux

  return method._replace(loss=loss)


def seeing(method: Method, see: Callable[[Array, Array], Array], copies: int) -> Method:
  """Let the student's output be the mean over what `see` makes of an input with several keys."""

  def loss(step):
    def run(role: str, x: Array, train: bool = True) -> Output:
      if role != STUDENT:
        return step.forward(role, x, train)
      outputs = [step.forward(role, see(x, jax.random.fold_in(step.key, i)), train) for i in range(copies)]
      mean = jax.tree.map(lambda *each: sum(each) / copies, *[one[:2] for one in outputs])
      return Output(*mean, outputs[-1].batch_stats)

    return method.loss(step._replace(forward=run))

  return method._replace(loss=loss)
