"""BatchNorm as an option, shared by the convolutional networks."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn

BATCH_NORMS = ('none', 'batch', 'frozen')


def make_norm(kind: str, train: bool) -> Callable[[str], Callable]:
  """Return a function from a name to a normalisation layer.

  Args:
    kind: `none`; `batch`: statistics of the batch in training and running ones in evaluation;
      `frozen`: running statistics everywhere, which do not move. With `batch` the examples of a
      batch mix, so that one example's input gradient depends on the others.
  """
  if kind == 'none':
    return lambda name: lambda x: x
  running = not train or kind == 'frozen'
  return lambda name: nn.BatchNorm(use_running_average=running, momentum=0.9, epsilon=1e-5, name=name)
