"""Accuracies from counts: a clu metric that is summed on the device, and the numbers made of it.

Counts are kept per (class, group), so that every accuracy is exact over a whole split, remainders
included, and merging is a sum. A mean of batch means would be neither.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from jaxtyping import Array, Float, Int

Z95 = 1.959963984540054  # the standard normal's 97.5 % quantile


@flax.struct.dataclass
class Counts(clu_metrics.Metric):
  """Right answers and examples per class and group; the last column is for unknown groups.

  The same where the student, that is the first of two networks, is wrong (column 0) and right (column 1); of the
  student itself, and of a network that has none beside it, no example is counted there.

  Those of many runs at once have axes before these.
  """

  correct: Int[Array | np.ndarray, '*runs k g']
  total: Int[Array | np.ndarray, '*runs k g']
  correct_beside: Int[Array | np.ndarray, '*runs k 2']
  total_beside: Int[Array | np.ndarray, '*runs k 2']
  broken: Int[
    Array | np.ndarray | np.generic, '*runs'
  ]  # examples of which a logit is not finite, so that no answer is one

  @classmethod
  def empty(cls, classes: int, groups: int) -> Counts:
    """Return the counts of no example."""
    zeros, beside = jnp.zeros((classes, groups + 1), jnp.int32), jnp.zeros((classes, 2), jnp.int32)
    return cls(correct=zeros, total=zeros, correct_beside=beside, total_beside=beside, broken=jnp.int32(0))

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
    """Count a batch. Examples of weight 0 are padding; group -1 is unknown; `student` has the student's logits.

    An example without a label (-1) is neither right nor wrong: it is not counted.
    """
    counted = (weight > 0).astype(jnp.int32)
    correct = (jnp.argmax(logits, axis=-1) == label).astype(jnp.int32) * counted
    column = jnp.where(group < 0, groups, group)
    empty = cls.empty(logits.shape[-1], groups)
    found = empty.replace(
      correct=_add(empty.correct, label, column, correct),
      total=_add(empty.total, label, column, counted),
      broken=((~jnp.isfinite(logits)).any(-1) * counted).sum(),
    )
    if student is None:
      return found
    column = (jnp.argmax(student, axis=-1) == label).astype(jnp.int32)
    return found.replace(
      correct_beside=_add(empty.correct_beside, label, column, correct),
      total_beside=_add(empty.total_beside, label, column, counted),
    )

  def merge(self, other: Counts) -> Counts:
    """Add two disjoint sets of examples."""
    return jax.tree.map(operator.add, self, other)

  def compute(self) -> Float[Array, '']:
    """Compute the accuracy over all examples."""
    return self.correct.sum() / jnp.maximum(self.total.sum(), 1)


def _add(
  counts: Int[Array, 'k g'], label: Int[Array, 'b'], column: Int[Array, 'b'], values: Int[Array, 'b']
) -> Int[Array, 'k g']:
  """Add each example's value to its cell; nothing where the label is -1, which would be the last class."""
  return counts.at[label, column].add(values, mode='drop', wrap_negative_indices=False)


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
  """Turn counts into the metrics of results.json, all in [0, 1].

  A metric that does not exist is None, and `reasons` says why.

  `mistake_balanced_accuracy` averages over what the student gets wrong and right in each class: no group label is
  needed. A network that knows no more than the student has 1/2 there.

  Args:
    train_group_counts: examples of each group in train, the weights of `adjusted_accuracy`
      (as in group_DRO's and WILDS' Waterbirds); None if the groups of some are not known.
    combinations: further metrics: name -> the weight of each group's accuracy.
  """
  correct, total = np.asarray(counts.correct, np.int64), np.asarray(counts.total, np.int64)
  group_correct, group_total = correct.sum(0), total.sum(0)
  unknown = int(group_total[-1])
  group_correct, group_total = group_correct[:-1], group_total[:-1]
  seen = group_total > 0
  group_accuracy = np.divide(group_correct, group_total, out=np.zeros(len(groups)), where=seen)
  class_total = total.sum(1)
  class_seen = class_total > 0
  class_accuracy = np.divide(correct.sum(1), class_total, out=np.zeros(len(classes)), where=class_seen)
  share = np.zeros(len(groups)) if train_group_counts is None else np.asarray(train_group_counts, float)

  values: dict[str, Any] = {}
  reasons: dict[str, str] = {}

  def put(name: str, value, reason: str = '') -> None:
    values[name] = None if reason else float(value)
    if reason:
      reasons[name] = reason

  no_example = '' if total.sum() else 'the split has no example'
  put('accuracy', correct.sum() / max(total.sum(), 1), no_example)
  put('worst_class_accuracy', class_accuracy[class_seen].min(initial=1.0), no_example)
  beside = np.asarray(counts.total_beside, np.int64)
  found = np.asarray(counts.correct_beside, np.int64)[beside > 0] / beside[beside > 0]
  no_student = '' if beside.sum() else 'there is no student beside it'
  put('mistake_balanced_accuracy', found.mean() if beside.any() else 0, no_example or no_student)
  no_group = no_example
  if unknown:
    no_group = f'{unknown} examples of the split have no group'
  elif not groups:
    no_group = 'the data set has no groups'
  put('worst_group_accuracy', group_accuracy[seen].min(initial=1.0), no_group)
  put('mean_group_accuracy', group_accuracy[seen].mean() if seen.any() else 0, no_group)
  unseen = [g for g, n, s in zip(groups, seen, share, strict=True) if s > 0 and not n]
  no_share = no_group or ('' if share.sum() else 'not every example of train has a group')
  if not no_share and unseen:
    no_share = f'group {unseen[0]!r} is in train but not in this split'
  put('adjusted_accuracy', (group_accuracy * share).sum() / max(share.sum(), 1), no_share)
  for name, weights in combinations.items():
    lacking = [g for g, n, w in zip(groups, seen, weights, strict=True) if w and not n]
    put(name, group_accuracy @ weights, no_group or (f'the split has no {lacking[0]!r}' if lacking else ''))
  values['classes'] = {
    name: {'accuracy': float(class_accuracy[i]) if class_seen[i] else None, 'count': int(class_total[i])}
    for i, name in enumerate(classes)
  }
  values['groups'] = {
    name: {
      'accuracy': float(group_accuracy[i]) if seen[i] else None,
      'count': int(group_total[i]),
      'interval': wilson(int(group_correct[i]), int(group_total[i])),
    }
    for i, name in enumerate(groups)
  }
  if reasons:
    values['reasons'] = reasons
  return values
