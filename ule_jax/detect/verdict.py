"""From numbers to a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Int

from ule_jax.detect import chance

if TYPE_CHECKING:
  from ule_jax.detect.check import Check
  from ule_jax.detect.suspects import Data, Suspect

TOGETHER = 'all properties'  # name of the rule of all of them
NONE, SOME, STRONG = 'no evidence', 'some', 'strong'
FEWEST = 12  # examples that contradict a rule, below which nothing can be measured
GAP, WIDE_GAP = 0.10, 0.30  # accuracy that a network loses where a rule contradicts: for SOME and for STRONG
# Least gain by kind of rule. A student's mistakes and clusters of them hold hard images by construction, of which a
# network that sees more of them learns some: up to 0.08 for students on digits without a shortcut, seeds 100 to 107.
GAIN = {'property': 0.05, 'clusters': 0.05, 'student': 0.10}


class Match(NamedTuple):
  """Agreement with the groups of the data, which nothing else reads.

  Attributes:
    auc: that a rule contradicts an example of a smaller group of a class more than one of the largest; mean of classes.
    balanced_accuracy: of "contradicts", for the same question.
  """

  auc: float
  balanced_accuracy: float


class Finding(NamedTuple):
  """A rule with its numbers and its verdict. Accuracies, effects and their intervals are in [0, 1].

  Attributes:
    name: of the property or rule.
    kind: property, student or clusters.
    meaning: the rule in words.
    verdict: NONE, SOME or STRONG.
    reason: of the verdict, in a clause.
    effect: balanced accuracy of the rule on held-out examples; of clusters the difference in accuracy between them.
    effect_interval: simultaneous 95 % interval.
    chance: mean of the effect under permutations of the label.
    p: corrected probability of such an effect by chance.
    against_count: examples that contradict the rule.
    agree: accuracy of an ordinary network where the rule agrees with the label; None where that was not measured.
    against: the same where it contradicts the label.
    agree_balanced: accuracy where it agrees, of a network that was trained with both kinds counted alike.
    against_balanced: the same where it contradicts.
    gap: agree - against.
    gap_interval: simultaneous 95 % interval.
    p_gap: corrected probability of such a gap by chance.
    gain: in the mean of both kinds, by counting them alike.
    gain_interval: simultaneous 95 % interval.
    p_gain: corrected probability of such a gain by chance.
    groups: agreement with the groups, None without any.
  """

  name: str
  kind: str
  meaning: str
  verdict: str
  reason: str
  effect: float
  effect_interval: tuple[float, float]
  chance: float
  p: float
  against_count: int
  agree: float | None = None
  against: float | None = None
  agree_balanced: float | None = None
  against_balanced: float | None = None
  gap: float | None = None
  gap_interval: tuple[float, float] | None = None
  p_gap: float | None = None
  gain: float | None = None
  gain_interval: tuple[float, float] | None = None
  p_gain: float | None = None
  groups: Match | None = None

  @property
  def is_single(self) -> bool:
    """Whether the rule is one property."""
    return self.kind == 'property' and self.name != TOGETHER

  @property
  def rank(self) -> tuple[int, float, float]:
    """Key that sorts the strongest finding first."""
    return (-(NONE, SOME, STRONG).index(self.verdict), -(self.gain if self.gain is not None else -1.0), self.p)


class Learned(NamedTuple):
  """The quick students on examples that they have not seen.

  Attributes:
    curve: step -> chance-corrected balanced accuracy, 0 for guessing and 1 for no error.
    kappa: agreement of the two students' mistakes: 1 for the same, 0 as by chance.
    kappa_low: lower end of its 95 % range under permutations within each class.
    kappa_high: upper end of it.
  """

  curve: dict[int, float]
  kappa: float
  kappa_low: float
  kappa_high: float

  @property
  def sentence(self) -> str:
    """The numbers in words."""
    last = max(self.curve)
    soon = min((step for step, skill in self.curve.items() if skill >= 0.9 * self.curve[last]), default=last)
    return (
      f'Quick students reach a skill of {self.curve[last]:.2f} in {last} steps (0 is guessing), nine tenths of it '
      f'after {soon}; mistakes of two agree by {self.kappa:.2f} '
      f'(by chance: {self.kappa_low:.2f} to {self.kappa_high:.2f}).'
    )


def conclude(
  suspects: Sequence[Suspect],
  predicts: chance.Corrected,
  checks: Mapping[int, Check],
  data: Data,
  group: Int[np.ndarray, 'n'] | None,
) -> list[Finding]:
  """Return the finding about each suspect.

  Args:
    predicts: the corrected effect of each.
    checks: index of a suspect -> its comparison of networks.
    group: of each example, -1 is unknown.
  """
  places = list(checks)
  gap, gain = (
    chance.correct(
      np.array([getattr(checks[i], name) for i in places]),
      np.stack([getattr(checks[i], f'{name}_null') for i in places], 1),
    )
    if places
    else None
    for name in ('gap', 'gain')
  )
  findings = []
  for i, suspect in enumerate(suspects):
    finding = Finding(
      suspect.name, suspect.kind, suspect.meaning, NONE, '', suspect.effect,
      (float(predicts.low[i]), float(predicts.high[i])), float(predicts.chance[i]), float(predicts.p[i]),
      int(suspect.contradicts.sum()), groups=None if group is None else match(suspect, data.label, group),
    )  # fmt: skip
    if i in checks and gap and gain:
      j, result = places.index(i), checks[i]
      finding = finding._replace(
        agree=result.agree, against=result.against,
        agree_balanced=result.agree_balanced, against_balanced=result.against_balanced,
        gap=result.gap, gap_interval=(float(gap.low[j]), float(gap.high[j])), p_gap=float(gap.p[j]),
        gain=result.gain, gain_interval=(float(gain.low[j]), float(gain.high[j])), p_gain=float(gain.p[j]),
      )  # fmt: skip
    verdict, reason = judge(finding)
    findings.append(finding._replace(verdict=verdict, reason=reason))
  return findings


def judge(finding: Finding) -> tuple[str, str]:
  """Return the verdict on a finding and its reason."""
  if finding.p > chance.LEVEL:
    return NONE, 'does not predict the label beyond chance'
  if finding.gap is None or finding.gain is None or finding.gain_interval is None:
    few = finding.against_count
    return (
      NONE,
      f'predicts the label; {few:,} images clearly contradict it' if few < FEWEST else 'others predict it better',
    )
  if finding.gap < GAP or finding.p_gap is None or finding.p_gap > chance.LEVEL:
    return NONE, 'a network is about as good where it contradicts the label'
  least = GAIN[finding.kind]
  if finding.gain < least or finding.p_gain is None or finding.p_gain > chance.LEVEL:
    return NONE, 'images that contradict it are hard: counting them up does not make a network better'
  if finding.gain_interval[0] >= least and finding.gap >= WIDE_GAP:
    return STRONG, 'a network follows it, and need not'
  return SOME, 'a network seems to follow it, and need not'


def match(suspect: Suspect, label: Int[np.ndarray, 'n'], group: Int[np.ndarray, 'n']) -> Match | None:
  """Return how well a rule finds the examples that are not in the largest group of their class; None without any."""
  from sklearn.metrics import balanced_accuracy_score, roc_auc_score

  auc, accuracy = [], []
  for k in np.unique(label):
    rows = (label == k) & (group >= 0)
    smaller = group[rows] != np.bincount(group[rows]).argmax() if rows.any() else np.zeros(0, bool)
    if smaller.any() and not smaller.all():
      auc.append(float(roc_auc_score(smaller, -suspect.support[rows])))
      accuracy.append(float(balanced_accuracy_score(smaller, suspect.contradicts[rows])))
  return Match(float(np.mean(auc)), float(np.mean(accuracy))) if auc else None
