"""Splits that a data set does not have, drawn from its examples by a seed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from ule_jax.errors import UserError

TRAIN = 'train'


def draw(labels: Int[np.ndarray, 'n'], shares: Mapping[str, float], seed: int) -> list[str]:
  """Return the name of each example's split: `train`, or one of `shares`, which each class gives its share of itself.

  The number of a class in a split is rounded, and at least one.

  Args:
    labels: class index of each example.
    shares: split -> its share of the examples, above 0; together below 1.
    seed: of the draw, from 0 on.

  Raises:
    UserError: a class has too few examples for all splits.
  """
  rng = np.random.default_rng((seed, zlib.crc32(b'splits')))
  splits = np.full(len(labels), TRAIN, dtype=f'<U{max(map(len, (TRAIN, *shares)))}')
  for label in np.unique(labels).tolist():
    members = rng.permutation(np.flatnonzero(labels == label))
    first = 0
    for split, share in shares.items():
      count = max(1, round(share * len(members)))
      splits[members[first : first + count]] = split
      first += count
    if first >= len(members):
      raise UserError(
        f'{" and ".join(shares)} cannot be drawn, as a class has only {len(members)} '
        f'{"example" if len(members) == 1 else "examples"} (index {label}): add some, or give a column split.'
      )
  return splits.tolist()
