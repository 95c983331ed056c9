"""Prediction of the label from one property, and permutations that show how well chance would do.

A property is cut into bins of equal size, and the label is predicted from the frequencies of the classes in a bin:
naive Bayes of one feature. Cross-fitted counts are all it needs, so that hundreds of permutations of the label take a
moment. The correction for many properties is the maximum of the standardised statistics over all of them, by
permutation (Westfall and Young 1993, "Resampling-Based Multiple Testing").
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

LEVEL = 0.05  # of tests, and the probability that one of several simultaneous intervals misses its value
BINS = 8  # of a number; a text keeps its BINS most frequent values, and the others share a bin
SMOOTHING = 1.0  # pseudo-count of a class, spread over the bins


def blocks(label: Int[np.ndarray, 'n'], count: int) -> Int[np.ndarray, 'n']:
  """Return the fold of each example: consecutive blocks of each class, in the order of the data.

  Neighbours are often copies of one another (frames, bursts, crops), which random folds would separate.

  >>> blocks(np.array([0, 1, 0, 1, 0, 0]), 2).tolist()
  [0, 0, 0, 1, 1, 1]
  """
  fold = np.zeros(len(label), np.int64)
  for k in np.unique(label):
    members = np.flatnonzero(label == k)
    fold[members] = np.arange(len(members)) * count // len(members)
  return fold


def binned(values: np.ndarray) -> Int[np.ndarray, 'n']:
  """Return the bin of each value, from 0 on; missing values (nan, '') have a bin of their own.

  Args:
    values: numbers, or texts.

  >>> binned(np.array([1.0, 2.0, np.nan])).tolist(), binned(np.array(['a', 'b', 'a'])).tolist()
  ([0, 1, 2], [0, 1, 0])
  """
  if values.dtype.kind in 'USO':
    names, codes, counts = np.unique(values.astype(str), return_inverse=True, return_counts=True)
    kept = np.argsort(-counts, kind='stable')[:BINS]
    place = np.full(len(names), len(kept))
    place[kept] = np.arange(len(kept))
    codes = place[codes]
  else:
    values = values.astype(np.float64)
    known = np.isfinite(values)
    edges = np.unique(np.quantile(values[known], np.arange(1, BINS) / BINS)) if known.any() else np.zeros(0)
    codes = np.where(known, np.searchsorted(edges, np.where(known, values, 0), side='right'), len(edges) + 1)
  return np.unique(codes, return_inverse=True)[1]


def class_probability(
  codes: Int[np.ndarray, 'n'], label: Int[np.ndarray, '*b n'], fold: Int[np.ndarray, 'n'], classes: int
) -> tuple[Float[np.ndarray, '*b f c k'], Int[np.ndarray, '*b f c k']]:
  """Return the probability of each class in each bin, by the examples of the other folds, and the counts of each fold.

  All classes count alike, however frequent they are.

  Args:
    codes: bin of each example.
    label: of each example, or several permutations of them.
    fold: of each example.
    classes: number of them.
  """
  folds, bins = int(fold.max()) + 1, int(codes.max()) + 1
  labels = np.atleast_2d(label)
  cell = (fold * bins + codes) * classes + labels + np.arange(len(labels))[:, None] * folds * bins * classes
  counts = np.bincount(cell.ravel(), minlength=len(labels) * folds * bins * classes)
  counts = counts.reshape(len(labels), folds, bins, classes)
  others = counts.sum(1, keepdims=True) - counts
  likelihood = (others + SMOOTHING / bins) / (others.sum(2, keepdims=True) + SMOOTHING)
  probability = likelihood / likelihood.sum(-1, keepdims=True)
  return (probability, counts) if label.ndim > 1 else (probability[0], counts[0])


def balanced_accuracy(
  probability: Float[np.ndarray, '*b f c k'], counts: Int[np.ndarray, '*b f c k']
) -> Float[np.ndarray, '*b']:
  """Return the mean over classes of the share that is predicted correctly, by the results of `class_probability`."""
  best = probability == probability.max(-1, keepdims=True)
  hits = (counts * best / best.sum(-1, keepdims=True)).sum((-3, -2))
  total = counts.sum((-3, -2))
  return (hits / np.maximum(total, 1)).sum(-1) / (total > 0).sum(-1)


def permuted(
  values: Int[np.ndarray, 'n'], stratum: Int[np.ndarray, 'n'], count: int, rng: np.random.Generator
) -> Int[np.ndarray, 'b n']:
  """Return `count` permutations of the values within each stratum."""
  permutations = np.repeat(values[None], count, 0)
  for s in np.unique(stratum):
    members = np.flatnonzero(stratum == s)
    permutations[:, members] = rng.permuted(permutations[:, members], axis=1)
  return permutations


class Corrected(NamedTuple):
  """Statistics beside those of permutations, corrected for their number.

  Attributes:
    p: probability that the largest statistic of all is as large by chance, each statistic in its own scale.
    low: lower end of simultaneous 95 % intervals.
    high: upper end of the same.
    chance: mean under permutations.
  """

  p: Float[np.ndarray, 'm']
  low: Float[np.ndarray, 'm']
  high: Float[np.ndarray, 'm']
  chance: Float[np.ndarray, 'm']


def correct(observed: Float[np.ndarray, 'm'], null: Float[np.ndarray, 'b m'], level: float = LEVEL) -> Corrected:
  """Correct statistics for their number by the largest of them under permutations.

  Args:
    observed: a statistic of each question, large where there is an effect.
    null: the same under each permutation.
    level: probability that one of the intervals misses its value.
  """
  mean, spread = null.mean(0), np.maximum(null.std(0), 1e-9)
  largest = ((null - mean) / spread).max(1)
  p = (1 + (largest[:, None] >= (observed - mean) / spread).sum(0)) / (len(null) + 1)
  half = np.quantile(np.abs((null - mean) / spread).max(1), 1 - level) * spread
  return Corrected(p, observed - half, observed + half, mean)
