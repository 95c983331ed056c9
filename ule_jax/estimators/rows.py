"""Arrays as people have them -> checked rows with labels from 0, and the rows that validate."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, column_or_1d, validate_data

from ule_jax.data.arrays import UNKNOWN, Rows
from ule_jax.streams import Stream, generator


class Given(NamedTuple):
  """Checked arguments of `fit`.

  Attributes:
    train: rows that are trained on.
    val: rows that select the checkpoint.
    classes: labels in their order, as `classes_`.
    groups: names of class and group.
  """

  train: Rows
  val: Rows
  classes: np.ndarray
  groups: tuple[str, ...]


def images_or_features(estimator: Any, X: Any, reset: bool) -> np.ndarray:
  """Return uint8 images [n h w c] as they are, or features [n d], checked.

  Args:
    estimator: whose number of features and their names are compared, or set.
    X: array, data frame or list.
    reset: set them.

  Raises:
    ValueError: the shape or the type is another one, or a value is not finite.
  """
  if getattr(X, 'ndim', 2) > 2:
    return _images(estimator, np.asarray(X), reset)
  if not reset and len(getattr(estimator, 'shape_', (1,))) > 1:
    raise ValueError(f'X has shape {np.shape(X)}, and the estimator was fitted on images of shape {estimator.shape_}.')
  X = validate_data(estimator, X, reset=reset, dtype='numeric', ensure_all_finite=False)
  for part in (slice(start, start + 2**16) for start in range(0, len(X), 2**16)):
    if (bad := np.argwhere(~np.isfinite(X[part]))).size:
      row, column = bad[0] + (part.start, 0)
      kind = 'NaN' if np.isnan(X[row, column]) else 'inf'
      raise ValueError(f'X contains {kind} in row {row}, feature {column}: impute it, or leave out the row.')
  return X


def _images(estimator: Any, X: np.ndarray, reset: bool) -> np.ndarray:
  """Check images and compare their shape, as `images_or_features`."""
  if X.ndim != 4 or X.dtype != np.uint8 or not X.size:
    raise ValueError(
      f'X has shape {X.shape} and type {X.dtype}: give features [n d], or images [n height width channels] in uint8; '
      'grey ones have one channel.'
    )
  if reset:
    estimator.n_features_in_ = int(np.prod(X.shape[1:]))
  elif X.shape[1:] != estimator.shape_:
    raise ValueError(f'X has images of shape {X.shape[1:]}, and the estimator was fitted on {estimator.shape_}.')
  return X


def is_missing(values: np.ndarray) -> Bool[np.ndarray, 'n']:
  """Return which values are None, NaN, pandas' NA, or an empty string."""
  if values.dtype.kind in 'biu':
    return np.zeros(len(values), bool)
  if values.dtype.kind in 'US':
    return values == np.zeros((), values.dtype)
  return np.array([v is None or str(v) in ('', 'nan', 'NaN', '<NA>', 'NaT') for v in values.tolist()], bool)


def labels_of(y: Any, name: str = 'y') -> np.ndarray:
  """Return the labels of a classification as an array [n].

  Raises:
    ValueError: a label is missing, or they are numbers of a regression.
  """
  y = column_or_1d(y, warn=True)
  if (missing := np.flatnonzero(is_missing(y))).size:
    raise ValueError(
      f'Input {name} contains NaN or another missing label in row {missing[0]}'
      f'{f" and {missing.size - 1} more" if missing.size > 1 else ""}: label them, or leave out these rows.'
    )
  if y.dtype.kind == 'f' and np.isinf(y).any():
    row = int(np.flatnonzero(np.isinf(y))[0])
    raise ValueError(f'Input {name} contains infinity in row {row}: label it, or leave out the row.')
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'The number of unique classes')  # `read` refuses as many as rows
    check_classification_targets(y)
  return y


def read(
  estimator: Any, X: Any, y: Any, groups: Any, sample_weight: Any, validation: tuple[Any, Any, Any], seed: int
) -> Given:
  """Check the arguments of `fit`, and hold out rows for validation where none are given.

  Args:
    estimator: gives `validation_share`, and gets `n_features_in_`.
    validation: X_val, y_val and groups_val.
    seed: of the hold-out.

  Raises:
    ValueError: one sentence about the first argument that is not right.
  """
  if y is None:
    name = type(estimator).__name__
    raise ValueError(f'This {name} estimator requires y to be passed, but the target y is None.')
  X = images_or_features(estimator, X, reset=True)
  y = labels_of(y)
  check_consistent_length(X, y)
  weight = _weights(sample_weight, X)
  group = _groups(groups, len(y), 'groups')
  kept = np.arange(len(y)) if weight is None else np.flatnonzero(weight)
  classes, label = np.unique(y[kept], return_inverse=True)
  if len(classes) < 2:
    alone = f'all rows are of {classes.tolist()[0]!r}' if len(classes) else 'every sample_weight is 0'
    raise ValueError(f'y has to have more than one class, and {alone}: give rows of at least two classes.')
  if len(classes) >= len(kept):
    raise ValueError(f'y has as many classes ({len(classes)}) as rows: give several rows of each class.')
  X, group = X[kept] if len(kept) < len(X) else X, group[kept]
  weight = None if weight is None or (weight[kept] == weight[kept][0]).all() else weight[kept]
  X_val, y_val, groups_val = validation
  if X_val is None:
    if y_val is not None or groups_val is not None:
      raise ValueError('y_val or groups_val without X_val: give all, or none of them.')
    held = hold_out(label, _codes(group)[0], estimator.validation_share, seed)
    named, code = _cross(classes, label, group)
    train, val = (Rows(X[ids], label[ids], code[ids], None if weight is None else weight[ids]) for ids in (~held, held))
    return Given(train, val._replace(weight=None), classes, named)
  if y_val is None:
    raise ValueError('X_val without y_val: give the labels of the validation rows.')
  X_val = images_or_features(estimator, X_val, reset=False) if X.ndim == 2 else _images_like(X_val, X)
  y_val = labels_of(y_val, 'y_val')
  check_consistent_length(X_val, y_val)
  label_val = encode(classes, y_val)
  both = np.concatenate([group, _groups(groups_val, len(y_val), 'groups_val')])
  named, code = _cross(classes, np.concatenate([label, label_val]), both)
  n = len(label)
  return Given(Rows(X, label, code[:n], weight), Rows(X_val, label_val, code[n:]), classes, named)


def _images_like(X_val: Any, X: np.ndarray) -> np.ndarray:
  X_val = np.asarray(X_val)
  if X_val.dtype != np.uint8 or X_val.shape[1:] != X.shape[1:] or not len(X_val):
    raise ValueError(f'X_val has shape {X_val.shape} and type {X_val.dtype}, and X images of shape {X.shape[1:]}.')
  return X_val


def encode(classes: np.ndarray, y: np.ndarray) -> Int[np.ndarray, 'n']:
  """Return the index of each label among the classes.

  Raises:
    ValueError: a label is none of them.
  """
  known = np.isin(y, classes)
  if not known.all():
    raise ValueError(f'the label {y[~known].tolist()[0]!r} is no class of training: {classes.tolist()[:20]}.')
  return np.searchsorted(classes, y)


def _weights(sample_weight: Any, X: np.ndarray) -> Float[np.ndarray, 'n'] | None:
  """Return the sampling weights, checked; None for none."""
  if sample_weight is None:
    return None
  rows = np.empty((len(X), 1))  # images have more axes than scikit-learn looks at
  return _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)


def _groups(groups: Any, count: int, name: str) -> np.ndarray:
  """Return groups as objects [n], None where one is missing."""
  if groups is None:
    return np.full(count, None, object)
  groups = column_or_1d(groups)
  if len(groups) != count:
    raise ValueError(f'{name} has {len(groups)} rows, and the data {count}: give one of each row, None if unknown.')
  values = groups.astype(object)
  values[is_missing(groups)] = None
  return values


def _codes(values: np.ndarray) -> tuple[Int[np.ndarray, 'n'], list[Any]]:
  """Return the number of each value, -1 for None, and the values in their order."""
  known = {value for value in values.tolist() if value is not None}
  order = sorted(known, key=lambda value: (str(type(value)), value))
  numbers = {value: number for number, value in enumerate(order)}
  return np.array([numbers.get(value, UNKNOWN) for value in values.tolist()], np.int64), order


def _cross(
  classes: np.ndarray, label: Int[np.ndarray, 'n'], group: np.ndarray
) -> tuple[tuple[str, ...], Int[np.ndarray, 'n']]:
  """Return the names of the pairs of class and group that occur, and the pair of each row, -1 without a group."""
  number, order = _codes(group)
  pair = np.where(number >= 0, label * len(order) + number, UNKNOWN)
  present = np.unique(pair[pair >= 0])
  named = tuple(f'{classes[p // len(order)]}, {order[p % len(order)]}' for p in present.tolist())
  return named, np.where(pair >= 0, np.searchsorted(present, pair), UNKNOWN)


def pairs(classes: np.ndarray, y: np.ndarray, groups: Any) -> tuple[tuple[str, ...], Int[np.ndarray, 'n']]:
  """Return the names of the pairs of class and group that occur, and the pair of each row, -1 without a group.

  Args:
    classes: labels in their order.
    y: labels.
    groups: of each row; missing ones are unknown.

  Raises:
    ValueError: a length differs, or a label is no class.
  """
  return _cross(classes, encode(classes, y), _groups(groups, len(y), 'groups'))


def hold_out(
  label: Int[np.ndarray, 'n'], group: Int[np.ndarray, 'n'], share: float, seed: int
) -> Bool[np.ndarray, 'n']:
  """Return a mask of the rows that validate: `share` of each class and group, and of each with two rows at least one.

  Raises:
    ValueError: no class has two rows.
  """
  rng, held = generator(Stream.VALIDATION, seed), np.zeros(len(label), bool)
  pair = label * (group.max(initial=0) + 2) + group + 1
  for value in np.unique(pair):
    rows = rng.permutation(np.flatnonzero(pair == value))
    held[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
  for k in np.unique(label):
    rows = np.flatnonzero(label == k)
    if len(rows) > 1 and not held[rows].any():
      held[rng.permutation(rows)[0]] = True
  if not held.any():
    raise ValueError('no class has two rows, of which one could validate: give more rows, or X_val and y_val.')
  return held
