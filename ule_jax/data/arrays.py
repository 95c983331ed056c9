"""A data set from arrays in memory: uint8 images or features, as notebooks and estimators have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

from ule_jax.data.dataset import Dataset, Split

UNKNOWN = -1  # group of an example without one
PIXEL_MEAN, PIXEL_STD = (0.5,), (0.25,)  # of pixels in [0, 1], for every channel


class Rows(NamedTuple):
  """The examples of one split.

  Attributes:
    x: uint8 images [n h w c], or features [n d] in float16 or float32; may be a memory map.
    label: class index of each example, from 0.
    group: group index of each example, -1 where it is unknown (None: all are unknown).
    weight: how often each example is drawn in training, relative to the others (None: equally often).
    names: of the examples, for messages and tables (None: their numbers).
  """

  x: np.ndarray
  label: Int[np.ndarray, 'n']
  group: Int[np.ndarray, 'n'] | None = None
  weight: Float[np.ndarray, 'n'] | None = None
  names: Sequence[str] | None = None


def feature_statistics(features: Float[np.ndarray, 'n d']) -> tuple[Float64[np.ndarray, 'd'], Float64[np.ndarray, 'd']]:
  """Return mean and standard deviation of each feature in float64; the latter is 1 for a constant feature.

  Computed in blocks of rows, so that a memory map is not copied and half precision does not overflow.
  """
  rows = max(1, 2**24 // max(1, features.shape[1]))
  blocks = [slice(start, start + rows) for start in range(0, len(features), rows)]
  mean = sum(np.asarray(features[block], np.float64).sum(0) for block in blocks) / len(features)
  variance = sum(((np.asarray(features[block], np.float64) - mean) ** 2).sum(0) for block in blocks) / len(features)
  std = np.sqrt(variance)
  return np.asarray(mean), np.where(std > 1e-6, std, 1.0)


def from_rows(
  splits: Mapping[str, Rows],
  classes: Sequence[str],
  groups: Sequence[str] = (),
  notes: Mapping[str, Any] = {},
) -> Dataset:
  """Return the data set of arrays; features are standardised by the statistics of train, inside the compiled step.

  Args:
    splits: at least `train`, `val` and `test`; all of the same shape per example.
    classes: names, in the order of the labels.
    groups: names, in the order of the group indices.
    notes: entries for results.json.
  """
  x = splits['train'].x
  if x.dtype == np.uint8:
    mean, std = PIXEL_MEAN * x.shape[-1], PIXEL_STD * x.shape[-1]
  else:
    mean, std = (tuple(values.tolist()) for values in feature_statistics(x))
  return Dataset(
    splits={name: _split(rows) for name, rows in splits.items()},
    classes=tuple(classes),
    groups=tuple(groups),
    image_shape=x.shape[1:],
    train_transform=None,
    eval_transform=None,
    mean=mean,
    std=std,
    notes=notes,
    dtype=np.uint8 if x.dtype == np.uint8 else np.float32,
  )


def _split(rows: Rows) -> Split:
  x, names = rows.x, rows.names

  def load(i: int) -> Any:
    return x[i] if x.dtype == np.uint8 else np.asarray(x[i], np.float32)

  count = len(rows.label)
  group = np.full(count, UNKNOWN) if rows.group is None else rows.group
  return Split(
    label=np.asarray(rows.label, np.int32),
    group=np.asarray(group, np.int32),
    load=load,
    name=str if names is None else lambda i: names[i],
    sampling_weight=rows.weight,
  )
