"""Splits that a folder does not have, drawn from its images by their names and a seed; sets of images stay together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from ule_jax.errors import UserError, brief

TRAIN = 'train'


def draw(
  names: Sequence[str],
  labels: Int[np.ndarray, 'n'],
  classes: Sequence[str],
  shares: Mapping[str, float],
  seed: int,
  unit: Int[np.ndarray, 'n'] | None = None,
) -> list[str]:
  """Return the name of each example's split: `train`, or one of `shares`, which each class gives its share of itself.

  The order of draw is that of digests of seed and name: the order of the examples has no influence, and examples that
  are added move few others. A unit is drawn by its first name, into the first split that has room for it in each of its
  classes; train has the rest. The number of a class in a split is rounded, and at least one.

  Args:
    names: of the examples; no two are equal.
    labels: class index of each example.
    classes: names, for messages.
    shares: split -> its share of the examples, above 0; together below 1.
    seed: of the draw, from 0 on.
    unit: index of the unit of each example, which is drawn as a whole (None: each example is one).

  Raises:
    UserError: a class has too few units for all splits.
  """
  members: dict[int, list[int]] = {}
  for row, index in enumerate(range(len(names)) if unit is None else unit.tolist()):
    members.setdefault(index, []).append(row)

  def key(rows: Sequence[int]) -> bytes:
    first = min(names[row] for row in rows)
    return hashlib.sha256(f'{seed} {first}'.encode('utf-8', 'surrogateescape')).digest()

  units = sorted(members.values(), key=key)
  codes = labels.tolist()
  counts = [Counter(codes[row] for row in rows) for rows in units]
  totals = Counter(codes)
  room = {split: {c: max(1, round(share * total)) for c, total in totals.items()} for split, share in shares.items()}
  chosen = [TRAIN] * len(units)
  for at, of_unit in enumerate(counts):
    for split, free in room.items():
      if all(free[c] >= count for c, count in of_unit.items()):
        chosen[at] = split
        for c, count in of_unit.items():
          free[c] -= count
        break
  _complete(chosen, counts, list(shares), classes)
  splits = [TRAIN] * len(names)
  for rows, split in zip(units, chosen, strict=True):
    for row in rows:
      splits[row] = split
  return splits


def _complete(chosen: list[str], counts: Sequence[Counter[int]], drawn: Sequence[str], classes: Sequence[str]) -> None:
  """Move the smallest unit of train with a class into each split that lacks the class, so that train keeps some.

  Args:
    chosen: split of each unit; changed in place.
    counts: number of examples of each class in each unit.
    drawn: names of the splits that are drawn.
    classes: names.

  Raises:
    UserError: there is no such unit.
  """
  having = {split: Counter[int]() for split in (TRAIN, *drawn)}  # split -> class -> units that have it
  for split, of_unit in zip(chosen, counts, strict=True):
    having[split].update(of_unit.keys())
  every = sorted(set().union(*counts))
  for split in drawn:
    for label in (c for c in every if not having[split][c]):
      movable = [
        at
        for at, (name, of_unit) in enumerate(zip(chosen, counts, strict=True))
        if name == TRAIN and label in of_unit and all(having[TRAIN][c] > 1 for c in of_unit)
      ]
      if not movable:
        raise _too_few(label, counts, drawn, classes)
      at = min(movable, key=lambda at: (counts[at].total(), at))
      chosen[at] = split
      having[split].update(counts[at].keys())
      having[TRAIN].subtract(counts[at].keys())
  if lacking := [c for c in every if not having[TRAIN][c]]:
    raise _too_few(lacking[0], counts, drawn, classes)


def _too_few(label: int, counts: Sequence[Counter[int]], drawn: Sequence[str], classes: Sequence[str]) -> UserError:
  """Return the error of a class with too few units."""
  units = [of_unit[label] for of_unit in counts if label in of_unit]
  total = sum(units)
  images = 'an image' if total == 1 else f'{total:,} images'
  kept = f', and those that are kept together count once ({len(units):,})' if len(units) < total else ''
  return UserError(
    f"{' and '.join(drawn)} cannot be drawn from train, as '{brief(classes[label])}' has only {images}{kept}: add "
    'some, or give the splits, as SPLIT/CLASS/*.jpg.'
  )
