"""A data set from arrays in memory: uint8 images or features, as notebooks and estimators have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

from ule_jax.data.dataset import Dataset, Split

UNKNOWN = -1  # group of an example without one
BLOCK = 2**22  # values that are converted at once
PIXEL_MEAN, PIXEL_STD = (0.5,), (0.25,)  # of pixels in [0, 1], for every channel


class Rows(NamedTuple):
  """The examples of one split.

  Attributes:
    x: uint8 images [n h w c], or features [n d] in any precision; may be a memory map.
    label: class index of each example, from 0.
    group: group index of each example, -1 where it is unknown (None: all are unknown).
    weight: how often each example is drawn in training, relative to the others (None: equally often).
    names: of the examples, for messages and tables (None: their numbers).
    rows: of `x` that are the examples, in their order (None: all).
  """

  x: np.ndarray
  label: Int[np.ndarray, 'n']
  group: Int[np.ndarray, 'n'] | None = None
  weight: Float[np.ndarray, 'n'] | None = None
  names: Sequence[str] | None = None
  rows: Int[np.ndarray, 'n'] | None = None


def feature_statistics(
  features: Float[np.ndarray, 'n d'], rows: Int[np.ndarray, 'm'] | None = None
) -> tuple[Float64[np.ndarray, 'd'], Float64[np.ndarray, 'd']]:
  """Return mean and standard deviation of each feature in float64; the latter is 1 for a constant feature.

  Computed in one pass over blocks of rows, so that a memory map is not copied and half precision does not overflow; the
  squared deviations of blocks are merged as in Chan, Golub and LeVeque 1979.

  Args:
    features: may be a memory map.
    rows: the only ones that count (None: all).
  """
  count = len(features) if rows is None else len(rows)
  size = max(1, BLOCK // max(1, features.shape[1]))
  total, mean, squares = 0, np.zeros(features.shape[1]), np.zeros(features.shape[1])
  for start in range(0, count, size):
    part = slice(start, min(start + size, count))
    block = np.asarray(features[part if rows is None else rows[part]], np.float64)
    centre = block.mean(0)
    block = block - centre  # not in place: a block of float64 is a view of the caller's array
    apart = centre - mean
    number = len(block)
    squares += np.einsum('bd,bd->d', block, block) + apart**2 * (total * number / (total + number))
    total += number
    mean += apart * (number / total)
  variance = squares / count
  std = np.sqrt(variance)
  return mean, np.where(std > 1e-6, std, 1.0)


def from_rows(
  splits: Mapping[str, Rows],
  classes: Sequence[str],
  groups: Sequence[str] = (),
  notes: Mapping[str, Any] = {},
  standardise: bool = True,
) -> Dataset:
  """Return the data set of arrays; features are standardised by the statistics of train, inside the compiled step.

  Args:
    splits: at least `train`, `val` and `test`; all of the same shape per example. Any, where nothing is trained.
    classes: names, in the order of the labels.
    groups: names, in the order of the group indices.
    notes: entries for results.json.
    standardise: compute the statistics of features; not where a run has them.
  """
  first = splits.get('train', next(iter(splits.values())))
  x = first.x
  dtype = x.dtype.type if x.dtype in (np.uint8, np.float16) else np.float32
  if x.dtype == np.uint8:
    mean, std = PIXEL_MEAN * x.shape[-1], PIXEL_STD * x.shape[-1]
  elif standardise:
    mean, std = (tuple(values.tolist()) for values in feature_statistics(x, first.rows))
  else:
    mean, std = (0.0,) * x.shape[1], (1.0,) * x.shape[1]
  return Dataset(
    splits={name: _split(rows, dtype) for name, rows in splits.items()},
    classes=tuple(classes),
    groups=tuple(groups),
    image_shape=x.shape[1:],
    train_transform=None,
    eval_transform=None,
    mean=mean,
    std=std,
    notes=notes,
    dtype=dtype,
  )


def _split(rows: Rows, dtype: type) -> Split:
  x, names, ids = rows.x, rows.names, rows.rows

  def load_rows(block: Int[np.ndarray, 'm']) -> np.ndarray:
    return np.asarray(x[block if ids is None else ids[block]], dtype)

  count = len(rows.label)
  group = np.full(count, UNKNOWN) if rows.group is None else rows.group
  return Split(
    label=np.asarray(rows.label, np.int32),
    group=np.asarray(group, np.int32),
    load=lambda i: load_rows(np.array([i]))[0],
    name=str if names is None else lambda i: names[i],
    sampling_weight=rows.weight,
    load_rows=load_rows,
  )
