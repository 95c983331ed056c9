"""What every data set is: named splits of labelled images that are read on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, UInt8

from ule_jax.data.decoding import BY_TYPE, Decoded, Decoding
from ule_jax.data.tables import Table

Image = UInt8[np.ndarray, 'h w c'] | Float32[np.ndarray, 'd']
Transform = Callable[[Image, np.random.Generator], Image]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Split(NamedTuple):
  """One split. `load(i)` reads and decodes image `i`; labels and groups are in memory.

  `group` is -1 where it is not known. `count` is the number of examples. `masks(i)`, where a data
  set has them, reads what is known about image `i`'s pixels: name -> mask. `chance` is how often an example is drawn in
  training, relative to the others. `version(i)` changes when a file of image `i` does (None: it cannot). `look(i)`
  is `load(i)` with what became of the file on the way (None: there are no files). `files(i)` reads the files of an
  image as bytes: the image's, then those of its masks (None: it has none).
  """

  label: Int32[np.ndarray, 'n']
  group: Int32[np.ndarray, 'n']
  load: Callable[[int], Image]
  name: Callable[[int], str]
  masks: Callable[[int], dict[str, UInt8[np.ndarray, 'h w']]] | None = None
  chance: Float[np.ndarray, 'n'] | None = None
  version: Callable[[int], str] | None = None
  look: Callable[[int], Decoded] | None = None
  files: Callable[[int], tuple[bytes, ...]] | None = None

  @property
  def count(self) -> int:
    return len(self.label)

  def take(self, ids: Int[np.ndarray, 'm']) -> Split:
    """Return the split of some of its examples."""
    masks, version, look, files = self.masks, self.version, self.look, self.files
    return Split(
      label=self.label[ids],
      group=self.group[ids],
      load=lambda i: self.load(ids[i]),
      name=lambda i: self.name(ids[i]),
      masks=masks and (lambda i: masks(ids[i])),
      chance=None if self.chance is None else self.chance[ids],
      version=version and (lambda i: version(ids[i])),
      look=look and (lambda i: look(ids[i])),
      files=files and (lambda i: files(ids[i])),
    )


class Preparation(NamedTuple):
  """How an image becomes what a network is shown, where nothing is random; as in `Dataset`."""

  image_shape: tuple[int, ...]
  eval_transform: Transform | None
  mean: tuple[float, ...] = IMAGENET_MEAN
  std: tuple[float, ...] = IMAGENET_STD
  dtype: type = np.uint8
  words: str = ''
  decoding: Decoding = BY_TYPE


class Dataset(NamedTuple):
  """A data set: splits, the names of classes and groups, and how images are prepared.

  `splits` holds at least `train`, `val` and `test`; further validation splits are named
  `val_<something>` and give further selection rules. The transforms run on the host, where images
  still have sizes of their own, and keep uint8 (None changes nothing). `mean` and `std` (of pixels
  scaled to [0, 1]) are applied inside the compiled step. `notes` goes into the results. An "image" may also be the
  float32 features that a frozen encoder made of it; `dtype` says which. `words` says what `eval_transform` does,
  `decoding` what is white in the files, and what transparent images are put on. `remarks` are said at the start of
  whatever uses it.

  `official` has the group counts of the released data set by split, if it is one. `combinations` are
  metrics of its field that are linear in the group accuracies: name -> a weight per group. `titles`
  are what its field calls the common metrics. `table` is what it was read from, if that was files.
  """

  splits: dict[str, Split]
  classes: tuple[str, ...]
  groups: tuple[str, ...]
  image_shape: tuple[int, ...]
  train_transform: Transform | None
  eval_transform: Transform | None
  mean: tuple[float, ...] = IMAGENET_MEAN
  std: tuple[float, ...] = IMAGENET_STD
  notes: Mapping[str, Any] = {}
  official: Mapping[str, tuple[int, ...]] = {}
  combinations: Mapping[str, Float[np.ndarray, 'g']] = {}
  titles: Mapping[str, str] = {}
  table: Table | None = None
  dtype: type = np.uint8
  words: str = ''
  decoding: Decoding = BY_TYPE
  remarks: tuple[str, ...] = ()

  def group_counts(self, split: str = 'train') -> Int32[np.ndarray, 'g']:
    """Count the examples of each group in a split; unknown groups are not counted."""
    group = self.splits[split].group
    return np.bincount(group[group >= 0], minlength=len(self.groups)).astype(np.int32)
