"""The types of a data set: named splits of labelled images that are read on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float16, Float32, Int, Int32, UInt8

from ule_jax.data.decoding import BY_TYPE, Decoded, Decoding
from ule_jax.data.tables import Table

Image = UInt8[np.ndarray, 'h w c'] | Float32[np.ndarray, 'd'] | Float16[np.ndarray, 'd']
Transform = Callable[[Image, np.random.Generator], Image]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Split(NamedTuple):
  """One split: labels and groups in memory, images read on demand.

  Attributes:
    label: class index of each example, from 0.
    group: group index of each example; -1 is unknown.
    load: reads and decodes image `i`: uint8 pixels, or features of an encoder.
    name: of image `i`, for messages and tables.
    masks: reads the masks of image `i`: name -> 0 to 255 (None: the data set has no masks).
    sampling_weight: how often each example is drawn in training, relative to the others (None: equally often).
    version: text that changes when a file of image `i` does (None: there are no files).
    look: `load(i)` with the properties of the file that its pixels do not show (None: there are no files).
    files: reads the bytes of the files of image `i`: the image, then its masks (None: there are no files).
    load_rows: reads several images at once, as arrays in memory can (None: `load` reads each).
  """

  label: Int32[np.ndarray, 'n']
  group: Int32[np.ndarray, 'n']
  load: Callable[[int], Image]
  name: Callable[[int], str]
  masks: Callable[[int], dict[str, UInt8[np.ndarray, 'h w']]] | None = None
  sampling_weight: Float[np.ndarray, 'n'] | None = None
  version: Callable[[int], str] | None = None
  look: Callable[[int], Decoded] | None = None
  files: Callable[[int], tuple[bytes, ...]] | None = None
  load_rows: Callable[[Int[np.ndarray, 'm']], np.ndarray] | None = None

  @property
  def count(self) -> int:
    """Number of examples."""
    return len(self.label)

  def take(self, ids: Int[np.ndarray, 'm']) -> Split:
    """Return the split of the given examples, in their order."""
    masks, version, look, files, load_rows = self.masks, self.version, self.look, self.files, self.load_rows
    return Split(
      label=self.label[ids],
      group=self.group[ids],
      load=lambda i: self.load(int(ids[i])),
      name=lambda i: self.name(int(ids[i])),
      masks=masks and (lambda i: masks(int(ids[i]))),
      sampling_weight=None if self.sampling_weight is None else self.sampling_weight[ids],
      version=version and (lambda i: version(int(ids[i]))),
      look=look and (lambda i: look(int(ids[i]))),
      files=files and (lambda i: files(int(ids[i]))),
      load_rows=load_rows and (lambda block: load_rows(ids[block])),
    )


class InputSpec(NamedTuple):
  """The input contract of a data set: how an image becomes a network input where nothing is random.

  The fields are those of the same names in `Dataset`.
  """

  image_shape: tuple[int, ...]
  eval_transform: Transform | None
  mean: tuple[float, ...] = IMAGENET_MEAN
  std: tuple[float, ...] = IMAGENET_STD
  dtype: type = np.uint8
  description: str = ''
  decoding: Decoding = BY_TYPE


class Dataset(NamedTuple):
  """A data set: splits, the names of classes and groups, and the transforms of images.

  Attributes:
    splits: at least `train`, `val` and `test`; further validation splits, `val_<name>`, give further selection rules.
    classes: names, in the order of the labels.
    groups: names, in the order of the group indices.
    image_shape: of an image after the transform, or of a frozen encoder's features.
    train_transform: random transform on the host, uint8 to uint8, of images of any size (None: the identity).
    eval_transform: the same where nothing is random.
    mean: of pixels scaled to [0, 1], by channel; subtracted inside the compiled step.
    std: standard deviation likewise; divided by inside the compiled step.
    notes: entries for results.json.
    official: split -> the group counts of the release, or its total; {} where there is no release.
    combinations: metrics of the field that are linear in the group accuracies: name -> a weight per group.
    titles: metric -> its name in the field.
    table: the rows that the splits were read from (None: there are no files).
    dtype: of an image: uint8 pixels, or float32 or float16 features.
    description: of `eval_transform`.
    decoding: the pixel value that is white in the files, and the background of transparent images.
    remarks: notes on the data that every verb logs at its start.
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
  description: str = ''
  decoding: Decoding = BY_TYPE
  remarks: tuple[str, ...] = ()

  @property
  def is_features(self) -> bool:
    """Whether the examples are features, [d], and not images."""
    return len(self.image_shape) == 1

  def group_counts(self, split: str = 'train') -> Int32[np.ndarray, 'g']:
    """Count the examples of each group in a split; examples of an unknown group are not counted."""
    group = self.splits[split].group
    return np.bincount(group[group >= 0], minlength=len(self.groups)).astype(np.int32)
