"""Named streams of random numbers on the host, so that no two purposes draw the same ones."""

from __future__ import annotations

import enum

import numpy as np


class Stream(enum.IntEnum):
  """Purposes of random draws that do not belong to an example: the last part of a seed `(seed, index, 0, stream)`."""

  DRAW = 1  # the examples of a step, by their sampling weights
  SUBSAMPLE = 2  # the examples of a class or group that are left
  DFR_HALVES = 3  # the halves of DFR's split, and its balanced subsets
  SPARE_SAMPLE = 4  # the examples that SPARE's silhouette is computed on
  VALIDATION = 5  # the rows of an estimator's data that are not trained on


def generator(stream: Stream, seed: int, index: int = 0) -> np.random.Generator:
  """Return the random generator of a purpose.

  Args:
    stream: the purpose.
    seed: of the run.
    index: of the draw, for example the step.
  """
  return np.random.default_rng((seed, index, 0, int(stream)))
