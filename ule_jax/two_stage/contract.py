"""The contract of a rule of the second stage: from a finished first run to the inputs of the second.

The first run is ERM and leaves its predictions on disk; a `prepare` function computes the inputs of the second run from
them. Nothing here is compiled into a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from etils import epy
from jaxtyping import Bool, Float, Int

from ule_jax.errors import UserError

with epy.lazy_imports():
  from scipy import special


class FirstRun(NamedTuple):
  """A finished first run.

  splits: split -> its predictions: `label` [n], `group` [n], `logits` [n k] and `features` [n d], in the data's order.
  kernel, bias: of its last layer.
  held_out: examples of train that it did not see.
  classes: names of the classes.
  seed: of the first run, and of the second.
  """

  splits: Mapping[str, Mapping[str, np.ndarray]]
  kernel: Float[np.ndarray, 'd k']
  bias: Float[np.ndarray, 'k']
  held_out: Bool[np.ndarray, 'n']
  classes: tuple[str, ...]
  seed: int

  def labelled(self, split: str) -> Mapping[str, np.ndarray]:
    """Return the predictions of a split in which every example has a label.

    Raises:
      UserError: an example has none; its -1 would count as a mistake, or as the last class.
    """
    predictions = self.splits[split]
    if missing := int((predictions['label'] < 0).sum()):
      raise UserError(f'{missing} examples of {split} have no label: label them, or take them out of the data.')
    return predictions


class SecondStage(NamedTuple):
  """Inputs of the second run; None leaves the data or the network unchanged.

  group: group of every training example, in [0, len(groups)), in place of the labelled one.
  groups: names of these groups.
  sampling_weight: relative frequency of each training example's draws, from 0 on.
  head: kernel and bias of a new last layer for the first run's network, which is then not trained further.
  notes: name -> value, for the results.
  messages: sentences to print.
  """

  group: Int[np.ndarray, 'n'] | None = None
  groups: tuple[str, ...] = ()
  sampling_weight: Float[np.ndarray, 'n'] | None = None
  head: tuple[Float[np.ndarray, 'd k'], Float[np.ndarray, 'k']] | None = None
  notes: Mapping[str, object] = {}
  messages: tuple[str, ...] = ()


def probabilities(logits: Float[np.ndarray, 'n k']) -> Float[np.ndarray, 'n k']:
  """Return the softmax over classes."""
  return special.softmax(logits, axis=1)
