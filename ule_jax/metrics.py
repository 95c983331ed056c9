"""Accuracies from counts: a clu metric that is summed on the device, and the metrics of results.json.

Counts are kept per (class, group), so that every accuracy is exact over a whole split, its last,
smaller batch included, and merging is a sum. A mean of batch means would be neither.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from flax import struct
from jaxtyping import Array, Bool, Float, Int

Z95 = 1.959963984540054  # the standard normal's 97.5 % quantile


@struct.dataclass
class Counts(clu_metrics.Metric):
  """Correct predictions and examples per class and group; the last column is for unknown groups.

  `correct_by_student` and `total_by_student` are the same counts by the student's outcome: column 0 where the student
  (the first of two networks) is wrong, column 1 where it is right. They are 0 for the student itself, and for a method
  of one network. `broken` counts examples with a logit that is not finite.

  The counts of a population have its axes before these.
  """

  correct: Int[Array | np.ndarray, '*runs k g']
  total: Int[Array | np.ndarray, '*runs k g']
  correct_by_student: Int[Array | np.ndarray, '*runs k 2']
  total_by_student: Int[Array | np.ndarray, '*runs k 2']
  broken: Int[Array | np.ndarray | np.generic, '*runs']

  @classmethod
  def empty(cls, classes: int, groups: int) -> Counts:
    """Return counts of 0, the neutral element of `merge`."""
    zeros, by_student = jnp.zeros((classes, groups + 1), jnp.int32), jnp.zeros((classes, 2), jnp.int32)
    return cls(
      correct=zeros, total=zeros, correct_by_student=by_student, total_by_student=by_student, broken=jnp.int32(0)
    )

  @classmethod
  def from_model_output(
    cls,
    logits: Float[Array, 'b k'],
    label: Int[Array, 'b'],
    group: Int[Array, 'b'],
    weight: Float[Array, 'b'],
    groups: int,
    student: Float[Array, 'b k'] | None = None,
  ) -> Counts:
    """Count a batch.

    Args:
      label: class index; -1 (unknown) is not counted.
      group: group index; -1 (unknown) is counted in the last column.
      weight: 0 marks padding, which is not counted.
      groups: number of known groups.
      student: logits of the student, where `logits` are those of another network.
    """
    counted = (weight > 0).astype(jnp.int32)
    correct = (jnp.argmax(logits, axis=-1) == label).astype(jnp.int32) * counted
    column = jnp.where(group < 0, groups, group)
    empty = cls.empty(logits.shape[-1], groups)
    counts = dataclasses.replace(
      empty,
      correct=_add(empty.correct, label, column, correct),
      total=_add(empty.total, label, column, counted),
      broken=((~jnp.isfinite(logits)).any(-1) * counted).sum(),
    )
    if student is None:
      return counts
    column = (jnp.argmax(student, axis=-1) == label).astype(jnp.int32)
    return dataclasses.replace(
      counts,
      correct_by_student=_add(empty.correct_by_student, label, column, correct),
      total_by_student=_add(empty.total_by_student, label, column, counted),
    )

  def merge(self, other: Counts) -> Counts:
    """Add the counts of two disjoint sets of examples."""
    return jax.tree.map(operator.add, self, other)

  def compute(self) -> Float[Array, '']:
    """Compute the accuracy over all counted examples, in [0, 1]."""
    return self.correct.sum() / jnp.maximum(self.total.sum(), 1)


def _add(
  counts: Int[Array | np.ndarray, 'k g'], label: Int[Array, 'b'], column: Int[Array, 'b'], values: Int[Array, 'b']
) -> Int[Array, 'k g']:
  """Add each example's value to its cell; a label of -1, which would index the last class, is dropped."""
  return jnp.asarray(counts).at[label, column].add(values, mode='drop', wrap_negative_indices=False)


def wilson(correct: int, count: int) -> tuple[float, float] | None:
  """Compute the 95 % Wilson score interval of a proportion; None without examples.

  Source: E. B. Wilson, J. Am. Stat. Assoc. 22, 1927.

  >>> [round(v, 3) for v in wilson(9, 10)]
  [0.596, 0.982]
  """
  if count == 0:
    return None
  p, z2 = correct / count, Z95**2 / count
  centre, spread = p + z2 / 2, Z95 * math.sqrt(p * (1 - p) / count + z2 / (4 * count))
  return (centre - spread) / (1 + z2), (centre + spread) / (1 + z2)


def summarize(
  counts: Counts,
  classes: Sequence[str],
  groups: Sequence[str],
  train_group_counts: Sequence[int] | Int[np.ndarray, 'g'] | None,
  combinations: Mapping[str, Float[np.ndarray, 'g']] = {},
) -> dict[str, Any]:
  """Compute the metrics of results.json from counts; accuracies are in [0, 1].

  A metric that cannot be computed is None, with its reason under `reasons`.

  `mistake_balanced_accuracy` is the mean accuracy over the cells class x (student wrong, student right), which needs
  no group label. A network that knows only what the student knows has 1/2.

  Args:
    classes: names, in the order of the labels.
    groups: names, in the order of the group indices.
    train_group_counts: examples of each group in train, the weights of `adjusted_accuracy`
      (as in group_DRO's and WILDS' Waterbirds); None if the group of an example is unknown.
    combinations: further metrics, linear in the group accuracies: name -> the weight of each group.
  """
  correct, total = np.asarray(counts.correct, np.int64), np.asarray(counts.total, np.int64)
  class_total, (*_, unknown) = total.sum(1), total.sum(0)
  group_correct, group_total = correct.sum(0)[:-1], total.sum(0)[:-1]
  class_accuracy, group_accuracy = _ratio(correct.sum(1), class_total), _ratio(group_correct, group_total)
  share = np.zeros(len(groups)) if train_group_counts is None else np.asarray(train_group_counts, float)
  by_student = np.asarray(counts.total_by_student, np.int64)
  cells = np.asarray(counts.correct_by_student, np.int64)[by_student > 0] / by_student[by_student > 0]
  no_example = no_group = '' if total.sum() else 'the split has no example'
  no_student = '' if by_student.sum() else 'there is no student beside it'
  if unknown:
    no_group = f'{unknown} examples of the split have no group'
  elif not groups:
    no_group = 'the data set has no groups'
  entries = [
    ('accuracy', correct.sum() / max(total.sum(), 1), no_example),
    ('worst_class_accuracy', class_accuracy[class_total > 0].min(initial=1.0), no_example),
    ('mistake_balanced_accuracy', cells.mean() if by_student.any() else 0, no_example or no_student),
    *_of_groups(group_accuracy, group_total > 0, groups, share, combinations, no_group),
  ]
  values: dict[str, Any] = {name: None if reason else float(value) for name, value, reason in entries}
  values['classes'] = {
    name: {'accuracy': float(class_accuracy[i]) if class_total[i] else None, 'count': int(class_total[i])}
    for i, name in enumerate(classes)
  }
  values['groups'] = {
    name: {
      'accuracy': float(group_accuracy[i]) if group_total[i] else None,
      'count': int(group_total[i]),
      'interval': wilson(int(group_correct[i]), int(group_total[i])),
    }
    for i, name in enumerate(groups)
  }
  reasons = {name: reason for name, _, reason in entries if reason}
  return values | ({'reasons': reasons} if reasons else {})


def _ratio(correct: Int[np.ndarray, 'n'], total: Int[np.ndarray, 'n']) -> Float[np.ndarray, 'n']:
  """Return correct / total, 0 without examples."""
  return np.divide(correct, total, out=np.zeros(len(total)), where=total > 0)


def _of_groups(
  accuracy: Float[np.ndarray, 'g'],
  seen: Bool[np.ndarray, 'g'],
  groups: Sequence[str],
  share: Float[np.ndarray, 'g'],
  combinations: Mapping[str, Float[np.ndarray, 'g']],
  no_group: str,
) -> Iterator[tuple[str, float, str]]:
  """Yield the metrics that need group labels: name, value, and the reason why it cannot be computed, or ''.

  Args:
    accuracy: of each group.
    seen: whether the split has examples of it.
    groups: names.
    share: examples of each group in train; zeros if the group of an example is unknown.
    combinations: as in `summarize`.
    no_group: the reason why none of these metrics can be computed, or ''.
  """
  yield 'worst_group_accuracy', accuracy[seen].min(initial=1.0), no_group
  yield 'mean_group_accuracy', accuracy[seen].mean() if seen.any() else 0, no_group
  unseen = [group for group, n, s in zip(groups, seen, share, strict=True) if s > 0 and not n]
  no_share = no_group or ('' if share.sum() else 'not every example of train has a group')
  if not no_share and unseen:
    no_share = f'group {unseen[0]!r} is in train but not in this split'
  yield 'adjusted_accuracy', (accuracy * share).sum() / max(share.sum(), 1), no_share
  for name, weights in combinations.items():
    lacking = [group for group, n, w in zip(groups, seen, weights, strict=True) if w and not n]
    yield name, float(accuracy @ weights), no_group or (f'the split has no {lacking[0]!r}' if lacking else '')
