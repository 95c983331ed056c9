"""What a second run takes from a first one: methods of two stages are two runs.

The first run is ERM and leaves its predictions on disk; a `prepare` function turns them into what the
second run needs. Nothing here is compiled into a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ule_jax.errors import UserError


class FirstRun(NamedTuple):
  """A finished first run. `splits` holds its predictions (`label, group, logits, features`, in order)."""

  splits: Mapping[str, Mapping[str, np.ndarray]]
  kernel: Float[np.ndarray, 'd k']  # of its last layer
  bias: Float[np.ndarray, 'k']
  held_out: Bool[np.ndarray, 'n']  # examples of train that it did not see
  classes: tuple[str, ...]
  seed: int

  def labelled(self, split: str) -> Mapping[str, np.ndarray]:
    """Return the predictions of a split, every example of which has a label.

    Raises:
      UserError: one has none (-1), which would be taken for a mistake or for the last class.
    """
    found = self.splits[split]
    if missing := int((found['label'] < 0).sum()):
      raise UserError(f'{missing} examples of {split} have no label: label them, or take them out of the data.')
    return found


class SecondStage(NamedTuple):
  """What the second run is given; None leaves it as it is.

  group: a group for every training example, in place of the labelled one; `groups` names them.
  chance: how often each training example is drawn, relative to the others.
  head: kernel and bias of the last layer of the first run's network, which is then not trained further.
  notes: for the results.
  messages: sentences for who started the run.
  """

  group: Int[np.ndarray, 'n'] | None = None
  groups: tuple[str, ...] = ()
  chance: Float[np.ndarray, 'n'] | None = None
  head: tuple[Float[np.ndarray, 'd k'], Float[np.ndarray, 'k']] | None = None
  notes: Mapping[str, object] = {}
  messages: tuple[str, ...] = ()


def probabilities(logits: Float[np.ndarray, 'n k']) -> Float[np.ndarray, 'n k']:
  """Compute the softmax."""
  shifted = np.exp(logits - logits.max(1, keepdims=True))
  return shifted / shifted.sum(1, keepdims=True)
