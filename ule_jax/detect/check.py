"""Is a suspect a shortcut? Two networks on the images that contradict it: trained as usual, and with those counted up.

A rule that predicts the label may be what the class means. It is a shortcut for a network that follows it against
better knowledge: the ordinary network is wrong where the rule contradicts the label (`gap`), and the same network is
right there, at little loss elsewhere, once these images have half of the weight in training (`gain`). Images that are
only hard, or that are mislabelled, stay wrong in both, and a network that trades some images for others gains nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ule_jax.detect import chance
from ule_jax.detect.students import ORDINARY, Learner, class_balanced
from ule_jax.detect.suspects import FOLDS, Data, Suspect
from ule_jax.detect.verdict import FEWEST


class Check(NamedTuple):
  """Held-out accuracies where a rule agrees with the label and where it contradicts it; classes mixed as in the latter.

  Attributes:
    agree: of the ordinary network, where the rule agrees.
    against: of the ordinary network, where it contradicts.
    agree_balanced: of the network that was trained with both kinds counted alike.
    against_balanced: of the same, where it contradicts.
    gap: agree - against.
    gain: of the mean of both kinds, from the ordinary to the other network.
    gap_null: under permutations of "agrees" and "contradicts" within each class.
    gain_null: under random exchanges of the two networks, image by image.
  """

  agree: float
  against: float
  agree_balanced: float
  against_balanced: float
  gap: float
  gain: float
  gap_null: Float[np.ndarray, 'b']
  gain_null: Float[np.ndarray, 'b']


def is_measurable(suspect: Suspect) -> bool:
  """Return whether enough images contradict a rule, and some agree."""
  return int(suspect.contradicts.sum()) >= FEWEST and bool(suspect.agrees.any())


def held_out(learner: Learner, data: Data, contradicts: Bool[np.ndarray, 'n'] | None = None) -> Bool[np.ndarray, 'n']:
  """Return whether a network is right about each example, trained on the other folds.

  Args:
    contradicts: examples that get half of the weight of their class; None leaves all alike.
  """
  right = np.zeros(len(data.label), bool)
  for f in range(FOLDS):
    rows = np.flatnonzero(data.fold != f)
    weight = class_balanced(data.label, rows)
    if contradicts is not None:
      weight = shared(weight, data.label, contradicts)
    held = data.fold == f
    right[held] = learner.fit(weight, ORDINARY, FOLDS + f).probability[held].argmax(1) == data.label[held]
  return right


def shared(
  weight: Float[np.ndarray, 'n'], label: Int[np.ndarray, 'n'], contradicts: Bool[np.ndarray, 'n']
) -> Float[np.ndarray, 'n']:
  """Return the weights with half of each class for the examples that contradict, where there are both kinds."""
  weight = weight.copy()
  for k in np.unique(label):
    parts = [(label == k) & kind & (weight > 0) for kind in (contradicts, ~contradicts)]
    if all(part.any() for part in parts):
      for part in parts:
        weight[part] *= 0.5 / weight[part].sum()
  return weight


def check(suspect: Suspect, ordinary: Bool[np.ndarray, 'n'], balanced: Bool[np.ndarray, 'n'], data: Data) -> Check:
  """Compare the two networks on held-out examples.

  Args:
    ordinary: whether the ordinary network is right.
    balanced: whether the network is right that was trained with the contradicting examples counted up.
  """
  classes, against = len(data.classes), suspect.contradicts
  mix = np.bincount(data.label[against], minlength=classes) / against.sum()
  counts = np.bincount(data.label[suspect.agrees], minlength=classes)
  mix = np.where(counts > 0, mix, 0)
  of_agree = np.where(suspect.agrees, (mix / np.maximum(counts, 1))[data.label], 0)
  of_agree /= max(of_agree.sum(), 1e-9)
  of_against = against / against.sum()
  flags = suspect.agrees.astype(np.int8) - against
  gap_null = np.zeros(len(data.permutations))
  for b, order in enumerate(
    chance.permuted(np.arange(len(flags)), 2 * data.label + (flags != 0), len(gap_null), data.rng)
  ):
    gap_null[b] = (of_agree - of_against) @ ordinary[order]
  difference = (of_agree + of_against) / 2 * (balanced.astype(int) - ordinary)
  signs = data.rng.integers(0, 2, (len(gap_null), len(flags)), dtype=np.int8) * 2 - 1
  agree, worse, agree_balanced, better = (float(w @ r) for r in (ordinary, balanced) for w in (of_agree, of_against))
  gain, gain_null = float(difference.sum()), signs @ difference
  return Check(agree, worse, agree_balanced, better, agree - worse, gain, gap_null, gain_null)
