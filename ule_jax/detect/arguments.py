"""Checks of the arguments of `find_shortcuts`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

FEWEST = 30  # examples of a class: ten in each of three folds
NETWORKS = ('mlp', 'linear', 'cnn')


def checked(
  x: Any,
  y: Any,
  groups: Any,
  classes: Sequence[str] | None,
  properties: Mapping[str, np.ndarray] | None,
  permutations: int,
  steps: int,
  network: str,
) -> tuple[np.ndarray, Int[np.ndarray, 'n'], tuple[str, ...], Int[np.ndarray, 'n'] | None]:
  """Return images or features, class indices, names of the classes, and group indices.

  Raises:
    ValueError: as `find_shortcuts`.
  """
  x = np.asarray(x)
  is_image = x.dtype == np.uint8 and x.ndim == 4 and x.shape[-1] in (1, 3, 4)
  if not is_image and not (x.dtype.kind == 'f' and x.ndim == 2):
    raise ValueError(f'x is {x.dtype}{list(x.shape)}: give uint8 images [n h w c] or float features [n d].')
  if not is_image and not np.isfinite(x).all():
    row = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
    raise ValueError(f'row {row} of x has a feature that is nan or infinite: take it out or correct it.')
  label, names = _codes(y, len(x), classes)
  counts = np.bincount(label, minlength=len(names))
  if (counts > 0).sum() < 2:
    raise ValueError('y has one class only: there is nothing to predict.')
  if (few := int(counts.argmin())) is not None and counts[few] < FEWEST:
    raise ValueError(f"the class '{names[few]}' has {counts[few]} examples: give at least {FEWEST} of each class.")
  for name, values in (properties or {}).items():
    if np.shape(values) != (len(x),) or np.asarray(values).dtype.kind not in 'fiubUS':
      raise ValueError(
        f"the property '{name}' is no array of {len(x):,} numbers or texts: give a value for each example."
      )
  if permutations < 100:
    raise ValueError(f'permutations is {permutations}: give at least 100.')
  if steps < 8:
    raise ValueError(f'steps is {steps}: give at least 8.')
  if network not in NETWORKS:
    raise ValueError(f'network is {network!r}: give one of {", ".join(NETWORKS)}.')
  if network == 'cnn' and not is_image:
    raise ValueError('network is cnn, and features are no images: give mlp or linear.')
  group = None if groups is None else _codes(groups, len(x), None, 'groups')[0]
  return x, label, names, group


def _codes(
  y: Any, count: int, classes: Sequence[str] | None, name: str = 'y'
) -> tuple[Int[np.ndarray, 'n'], tuple[str, ...]]:
  """Return indices and names of labels or groups; a negative index is an unknown group."""
  values = np.asarray(y)
  if values.shape != (count,):
    raise ValueError(
      f'{name} has the shape {list(values.shape)}, and x has {count:,} examples: give one value for each.'
    )
  if values.dtype.kind in 'iub':
    codes = values.astype(np.int64)
    if name == 'y' and (codes < 0).any():
      raise ValueError(f'example {int((codes < 0).argmax())} has no label ({codes.min()}): take such examples out.')
    most = int(codes.max(initial=0)) + 1
    names = tuple(map(str, classes if classes is not None else range(most)))
    if len(names) < most:
      raise ValueError(f'y has the label {most - 1}, and there are {len(names)} names of classes: name all of them.')
    return codes, names
  if values.dtype.kind not in 'US':
    raise ValueError(f'{name} holds {values.dtype} values: give indices or names.')
  texts, codes = np.unique(values.astype(str), return_inverse=True)
  if classes is not None:
    place = {text: list(map(str, classes)).index(text) if text in classes else -1 for text in texts.tolist()}
    if unknown := [text for text, index in place.items() if index < 0]:
      raise ValueError(f"y has the label '{unknown[0]}', which is not among the classes: name all of them.")
    return np.array([place[text] for text in texts.tolist()])[codes], tuple(map(str, classes))
  return codes, tuple(texts.tolist())
