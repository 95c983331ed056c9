"""Suspects: rules that may be a shortcut. Each points to a class for an image, with the label or against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ule_jax.detect import chance
from ule_jax.detect.properties import WORDS
from ule_jax.detect.students import COMMITTED, EARLY, Fit, Learner, class_balanced
from ule_jax.detect.verdict import TOGETHER
from ule_jax.explain.clusters import find_clusters

FOLDS = 3  # one to be looked at, and two halves of the others
STRENGTH = 0.1  # inverse of the penalty on the logistic regression of all properties
AGAINST = 0.5  # an image contradicts a rule that gives its label at most this share of an even chance


class Suspect(NamedTuple):
  """A rule, and where it points.

  Attributes:
    name: of the property, or of the network's rule.
    kind: property, student or clusters.
    meaning: the rule in words.
    support: probability that the rule gives to the label of each example, in [0, 1].
    agrees: examples whose label the rule supports.
    contradicts: examples whose label the rule speaks against.
    effect: balanced accuracy of the rule on held-out examples, or, of clusters, their difference in accuracy.
    null: the same under permutations.
  """

  name: str
  kind: str
  meaning: str
  support: Float[np.ndarray, 'n']
  agrees: Bool[np.ndarray, 'n']
  contradicts: Bool[np.ndarray, 'n']
  effect: float
  null: Float[np.ndarray, 'b']


class Data(NamedTuple):
  """Labels, their folds, and permutations of them within the folds.

  Attributes:
    label: class of each example.
    classes: names.
    fold: of each example, from 0 to FOLDS - 1.
    permutations: of the label.
    rng: for further permutations.
  """

  label: Int[np.ndarray, 'n']
  classes: tuple[str, ...]
  fold: Int[np.ndarray, 'n']
  permutations: Int[np.ndarray, 'b n']
  rng: np.random.Generator


def of_property(name: str, values: np.ndarray, data: Data) -> Suspect:
  """Return the rule that predicts the label from one property, cross-fitted.

  Args:
    values: of each example: numbers (nan is missing) or texts.
  """
  codes, classes = chance.binned(values), len(data.classes)
  probability, counts = chance.class_probability(codes, data.label, data.fold, classes)
  support = probability[data.fold, codes, data.label]
  return Suspect(
    name=name,
    kind='property',
    meaning=meaning(name, values, data),
    support=support,
    agrees=support >= 1 / classes,
    contradicts=support <= AGAINST / classes,
    effect=float(chance.balanced_accuracy(probability, counts)),
    null=chance.balanced_accuracy(*chance.class_probability(codes, data.permutations, data.fold, classes)),
  )


def of_all_properties(properties: Mapping[str, np.ndarray], data: Data) -> Suspect:
  """Return the rule of all properties together: a logistic regression on their bins, cross-fitted.

  A shortcut that no single property measures, such as a place, is in several of them.
  """
  from sklearn.linear_model import LogisticRegression
  from sklearn.preprocessing import OneHotEncoder

  codes = np.stack([chance.binned(values) for values in properties.values()], 1)
  x = OneHotEncoder().fit_transform(codes)
  probability = np.zeros((len(data.label), len(data.classes)))
  for f in range(FOLDS):
    rows = np.flatnonzero(data.fold != f)
    fit = LogisticRegression(C=STRENGTH, class_weight='balanced', max_iter=200).fit(x[rows], data.label[rows])
    held = np.flatnonzero(data.fold == f)
    probability[held[:, None], fit.classes_] = fit.predict_proba(x[held])
  support = probability[np.arange(len(data.label)), data.label]
  return Suspect(
    name=TOGETHER,
    kind='property',
    meaning='all properties together',
    support=support,
    agrees=support >= 1 / len(data.classes),
    contradicts=support <= AGAINST / len(data.classes),
    **_judged(probability.argmax(1), data),
  )


def _judged(predicted: Int[np.ndarray, 'n'], data: Data) -> dict[str, Any]:
  """Return balanced accuracy of predictions for held-out examples, and the same for each permutation of the label."""
  total = np.maximum(np.bincount(data.label, minlength=len(data.classes)), 1)
  weight = 1 / total / max(int((total > 0).sum()), 1)
  labels = np.concatenate([data.label[None], data.permutations])
  accuracy = ((labels == predicted) * weight[labels]).sum(1)
  return {'effect': float(accuracy[0]), 'null': accuracy[1:]}


def meaning(name: str, values: np.ndarray, data: Data) -> str:
  """Return the strongest association of a property with a class, in words."""
  onehot = data.label[:, None] == np.arange(len(data.classes))
  share = onehot / np.maximum(onehot.sum(0), 1)
  if values.dtype.kind in 'USO':
    texts, codes = np.unique(values.astype(str), return_inverse=True)
    rates = np.stack([np.bincount(codes, share[:, k], len(texts)) for k in range(len(data.classes))], 1)
    excess = rates - rates.mean(1, keepdims=True)
    text, k = np.unravel_index(excess.argmax(), excess.shape)
    return f"{name} {texts[text] or 'missing'} goes with '{data.classes[k]}'"
  values = values.astype(np.float64)
  known = np.isfinite(values)
  rank = np.zeros(len(values))
  rank[known] = np.argsort(np.argsort(values[known], kind='stable'), kind='stable') / max(known.sum(), 1)
  means = np.array(
    [rank[known & onehot[:, k]].mean() if (known & onehot[:, k]).any() else 0.5 for k in range(len(data.classes))]
  )
  k = int(np.abs(means - 0.5).argmax()) if len(means) > 2 else int(means.argmax())
  low, high = WORDS.get(name, ('', ''))
  word = (high or f'high {name}') if means[k] > 0.5 else (low or f'low {name}')
  return f"{word} ({name}) with '{data.classes[k]}'"


class Students(NamedTuple):
  """Quick students, each trained on one fold.

  Attributes:
    fits: of each fold.
    first: probabilities of the first of the two students that have not seen an example.
    second: of the other one.
  """

  fits: Sequence[Fit]
  first: Float[np.ndarray, 'n k']
  second: Float[np.ndarray, 'n k']


def train_students(learner: Learner, data: Data) -> Students:
  """Train a committed student on each fold; the examples of a fold are judged by the students of the two others."""
  steps = max(1, learner.steps // EARLY)
  points = [max(1, steps * eighth // 8) for eighth in (1, 2, 4, 8)]
  fits = [
    learner.fit(class_balanced(data.label, np.flatnonzero(data.fold == f)), COMMITTED, f, steps, points)
    for f in range(FOLDS)
  ]
  first, second = (
    np.stack([fit.probability for fit in fits])[(data.fold + turn) % FOLDS, np.arange(len(data.fold))]
    for turn in (1, 2)
  )
  return Students(fits, first, second)


def of_students(students: Students, data: Data) -> Suspect:
  """Return the rule of the quick students: an image contradicts it that both are clearly wrong about."""
  rows, classes = np.arange(len(data.label)), len(data.classes)
  both = np.stack([students.first[rows, data.label], students.second[rows, data.label]])
  return Suspect(
    name='quick students',
    kind='student',
    meaning='the rule of two quick students',
    support=both.mean(0),
    agrees=both.min(0) >= 1 / classes,
    contradicts=both.max(0) <= AGAINST / classes,
    **_judged((students.first + students.second).argmax(1), data),
  )


def of_clusters(students: Students, data: Data) -> Suspect:
  """Return the rule "looks as the class usually does": clusters of one student's features, judged by the other student.

  In each fold, each class is clustered as `diagnose` does it, by the features and mistakes of the first student. The
  effect is the second student's accuracy in the usual cluster minus that in the other one.
  """
  n = len(data.label)
  unusual, distance = np.zeros(n, bool), np.zeros(n)
  for f in range(FOLDS):
    rows = np.flatnonzero(data.fold == f)
    wrong = students.first[rows].argmax(1) != data.label[rows]
    clusters = find_clusters(data.label[rows], wrong, students.fits[(f + 1) % FOLDS].features[rows])
    unusual[rows] = np.array([clusters.place(c) for c in range(len(clusters.label))])[clusters.cluster] > 0
    distance[rows] = clusters.distance
  right = students.second.argmax(1) == data.label
  present = [k for k in range(len(data.classes)) if 0 < unusual[data.label == k].sum() < (data.label == k).sum()]

  def difference(right: Bool[np.ndarray, 'b n']) -> Float[np.ndarray, 'b']:
    gaps = [
      right[:, (data.label == k) & ~unusual].mean(1) - right[:, (data.label == k) & unusual].mean(1) for k in present
    ]
    return np.mean(gaps, 0) if gaps else np.zeros(len(right))

  stratum = data.fold * len(data.classes) + data.label
  permutations = chance.permuted(right.astype(np.int8), stratum, len(data.permutations), data.rng).astype(bool)
  return Suspect(
    name='clusters',
    kind='clusters',
    meaning='the usual look of a class to a quick student',
    support=1 / (1 + np.where(unusual, 3 + distance, distance / 100)),
    agrees=~unusual,
    contradicts=unusual,
    effect=float(difference(right[None])[0]),
    null=difference(permutations),
  )


def all_suspects(properties: Mapping[str, np.ndarray], students: Students, data: Data) -> list[Suspect]:
  """Return the rules of all properties that vary, of the students and of the clusters."""
  varying = {name: values for name, values in properties.items() if len(np.unique(values)) > 1}
  suspects = [of_property(name, values, data) for name, values in varying.items()]
  if len(varying) > 1:
    suspects.append(of_all_properties(varying, data))
  return [*suspects, of_students(students, data), of_clusters(students, data)]
