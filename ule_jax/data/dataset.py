"""What every data set is: named splits of labelled images that are read on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

Image = UInt8[np.ndarray, 'h w c']
Transform = Callable[[Image, np.random.Generator], Image]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Split(NamedTuple):
  """One split. `load(i)` reads and decodes image `i`; labels and groups are in memory.

  `group` is -1 where it is not known. `count` is the number of examples.
  """

  label: Int32[np.ndarray, 'n']
  group: Int32[np.ndarray, 'n']
  load: Callable[[int], Image]
  name: Callable[[int], str]

  @property
  def count(self) -> int:
    return len(self.label)


class Dataset(NamedTuple):
  """A data set: splits, the names of classes and groups, and how images are prepared.

  `splits` holds at least `train`, `val` and `test`; further validation splits are named
  `val_<something>` and give further selection rules. The transforms run on the host, where images
  still have sizes of their own, and keep uint8 (None changes nothing). `mean` and `std` (of pixels
  scaled to [0, 1]) are applied inside the compiled step. `notes` goes into the results.
  """

  splits: dict[str, Split]
  classes: tuple[str, ...]
  groups: tuple[str, ...]
  image_shape: tuple[int, int, int]
  train_transform: Transform | None
  eval_transform: Transform | None
  mean: tuple[float, ...]
  std: tuple[float, ...]
  notes: dict[str, Any]

  def group_counts(self, split: str = 'train') -> Int32[np.ndarray, 'g']:
    """Count the examples of each group in a split; unknown groups are not counted."""
    group = self.splits[split].group
    return np.bincount(group[group >= 0], minlength=len(self.groups)).astype(np.int32)
