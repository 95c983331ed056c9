"""Compiled functions that runs of one process share, for callers that train many small networks: estimators.

A run of the command line compiles its functions once and needs no share in those of others.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import TypeVar

import jax
import numpy as np

from ule_jax.config.schema import Config
from ule_jax.data import Dataset
from ule_jax.models.build import pixel_scale
from ule_jax.train import training_data

Function = TypeVar('Function')

MOST = 48  # functions that are kept: three of each run
COUNTS = ('lff', 'lisa', 'mixup')  # methods whose step has the number of training examples in it

_shares = contextvars.ContextVar('shares', default=False)
_functions: OrderedDict[Hashable, object] = OrderedDict()


@contextlib.contextmanager
def shared() -> Iterator[None]:
  """Enable runs in the block, of this thread, to reuse the functions of earlier ones equal but for data and seed."""
  token = _shares.set(True)
  try:
    yield
  finally:
    _shares.reset(token)


def remembered(key: Hashable, make: Callable[[], Function]) -> Function:
  """Return the function that was made for a key inside `shared`, or make it; outside, it is always made.

  Args:
    key: equal for equal functions.
    make: of the function.
  """
  if not _shares.get():
    return make()
  function = _functions.pop(key, None) or make()
  _functions[key] = function  # the newest is the last
  while len(_functions) > MOST:
    _functions.popitem(last=False)
  return function  # type: ignore[return-value]


def identity(config: Config, training: Dataset, mesh: jax.sharding.Mesh) -> Hashable:
  """Return the facts that determine the compiled functions of a run, beside the shapes of their arguments.

  Args:
    config: of the run.
    training: the data set that is trained on.
    mesh: of all devices.
  """
  length = training_data.total_steps(config, training) if config.optim.schedule != 'constant' else 0
  options = config.method, config.model, config.optim, config.train.accumulate, config.parallel, config.fsdp
  counts = tuple(training.group_counts().tolist())
  examples = training.splits['train'].count if config.method.name in COUNTS else 0
  data = training.image_shape, np.dtype(training.dtype).str, len(training.classes), examples, counts
  return options, length, data, pixel_scale(config, training), mesh
