"""Sentences that answer, for each method: does the network take a shortcut, and did the method help?"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from scipy.stats import binomtest

from ule_jax.report.numbers import needs_groups
from ule_jax.report.series import Series
from ule_jax.runs.verdicts import DROP, FREE, OF_NETWORK, TAKEN, largest_gap, outcome
from ule_jax.runs.verdicts import verdicts as sentences_of

RULE = (
  f'A network is said to take a shortcut where two groups of one class are {100 * TAKEN:.0f} points or more apart, and '
  f'in part from {100 * FREE:.0f} points on, beyond the 95 % interval of their difference. One of the groups may also '
  'be harder: a method that is given the groups tells how hard.'
)
SEVERAL = 'Intervals of several seeds: mean ± standard deviation.'
SINGLE = 'Intervals of one run: 95 % Wilson, in brackets; of the difference of two runs: 95 % Newcombe.'


Counts = tuple[float, int]  # right answers, examples


class Verdict(NamedTuple):
  """The answer for one method.

  Attributes:
    label: of its series.
    answer: the sentence's beginning: "took the shortcut", for example.
    text: the rest, with numbers and intervals.
  """

  label: str
  answer: str
  text: str


class Estimate(NamedTuple):
  """A share with its interval, in [0, 1]: over seeds, or of the examples of one run."""

  mean: float
  low: float
  high: float
  seeds: int

  def __str__(self) -> str:
    if self.seeds > 1:
      return f'{100 * self.mean:.1f} ± {100 * (self.high - self.mean):.1f}\xa0%'
    return f'{100 * self.mean:.1f}\xa0% [{100 * self.low:.1f}, {100 * self.high:.1f}]'


def verdicts(series: Sequence[Series], rule: str) -> list[Verdict]:
  """Return an answer for each method on one data set.

  Args:
    series: of the data set.
    rule: selection rule of the checkpoints.
  """
  present = [member for member in series if entries(member, rule)]
  plain = next((member for member in present if member.method == 'erm'), None)
  return [_verdict(member, plain, rule) for member in present]


def cannot(series: Sequence[Series], rule: str) -> str:
  """Return why these runs cannot tell whether a model takes a shortcut; nothing if they can."""
  if any(_has_groups(member, rule) for member in series):
    return ''
  return (
    'These runs cannot tell whether a model takes a shortcut: no test example has a known group. Known groups (a '
    'column attribute or group of metadata.csv) would, and so would a test split of counter-examples.'
  )


def remarks(series: Sequence[Series], rule: str) -> list[str]:
  """Return the sentences that concern all methods: which runs are lacking, and how the intervals are computed."""
  present = [member for member in series if entries(member, rule)]
  sentences = []
  grouped = any(_has_groups(member, rule) for member in present)
  if all(member.method == 'erm' for member in present):
    sentences.append('Whether a method helps needs a run of one beside plain training (erm), for example ule.')
  elif not any(member.method == 'erm' for member in present):
    sentences.append('Whether a method helps needs a run of plain training (erm) beside it: there is none here.')
  sentences += [RULE] if grouped else []
  sentences += [SEVERAL] if any(len(member.runs) > 1 for member in present) else []
  sentences += [SINGLE] if any(len(member.runs) == 1 for member in present) else []
  return sentences


def entries(member: Series, rule: str) -> list[dict[str, Any]]:
  """Return the metrics of the runs of a series under a rule, without runs in which it was not possible."""
  return [entry for run in member.runs if (entry := run.results.by_rule(rule))]


def worst_group(member: Series, rule: str) -> tuple[str, Estimate]:
  """Return the group that is the worst in most runs, and the accuracy of the worst group of each.

  Raises:
    ValueError: no group is known.
  """
  worst = [_worst(entry['test']) for entry in entries(member, rule) if _known(entry['test'])]
  name = Counter(name for name, _, _ in worst).most_common(1)[0][0]
  return name, _estimate([(correct, count) for _, correct, count in worst])


def accuracy(member: Series, rule: str, split: str = 'test') -> Estimate | None:
  """Return the accuracy on a split; None without examples of it."""
  counts = [_total(entry[split]) for entry in entries(member, rule) if entry.get(split)]
  counts = [(correct, count) for correct, count in counts if count]
  return _estimate(counts) if counts else None


def newcombe(first: Counts, second: Counts) -> tuple[float, float]:
  """Compute the 95 % interval of the difference of two shares, second - first.

  The samples are taken as independent, which is wider than the truth where both are of the same examples.

  Source: R. G. Newcombe, Statistics in Medicine 17, 1998, method 10.

  Args:
    first, second: number of right answers, number of examples.

  >>> [round(v, 4) for v in newcombe((48, 80), (56, 70))]  # the paper's table II (a)
  [0.0524, 0.3339]
  """
  (p1, l1, u1), (p2, l2, u2) = ((count[0] / count[1], *wilson(*count)) for count in (first, second))
  difference = p2 - p1
  return (
    difference - math.sqrt((p2 - l2) ** 2 + (u1 - p1) ** 2),
    difference + math.sqrt((u2 - p2) ** 2 + (p1 - l1) ** 2),
  )


def wilson(correct: float, count: int) -> tuple[float, float]:
  """Compute the 95 % Wilson interval of a share of examples."""
  interval = binomtest(round(correct), count).proportion_ci(method='wilson')
  return float(interval.low), float(interval.high)


def _verdict(member: Series, plain: Series | None, rule: str) -> Verdict:
  average = accuracy(member, rule)
  helped = _helped(member, plain, rule) if plain and member is not plain else ''
  uses = needs_groups(member, rule)
  helped += f' It is given group labels ({uses}).' if uses != 'no' else ''
  if average is None or not _has_groups(member, rule):
    return Verdict(member.label, 'cannot be judged', f'{_without_groups(member, rule)}{helped}{_further(member)}')
  name, worst = worst_group(member, rule)
  text = f'{average} of all test examples are right, {worst} of the worst group, “{name}”.'
  return Verdict(member.label, _answer(member, rule), f'{text}{_student(member, rule)}{helped}{_further(member)}')


def _answer(member: Series, rule: str) -> str:
  """Return the clause on the shortcut, with the number of runs for which it holds if they differ."""
  gaps = [
    largest_gap(entry['test'], run.results.get('class_of_group') or {})
    for run in member.runs
    if (entry := run.results.by_rule(rule)) and _known(entry['test'])
  ]
  outcomes = Counter(outcome(gap) for gap in gaps if gap)
  if not outcomes:
    return 'cannot be judged, as no class has two groups'
  first, count = outcomes.most_common(1)[0]
  return OF_NETWORK[first] + (f' in {count} of {len(gaps)} runs' if count < len(gaps) else '')


def _further(member: Series) -> str:
  """Return the further sentences of a single run: on chance, the unlearning term and the selection."""
  run, *others = member.runs
  return '' if others else ''.join(f' {sentence}' for sentence in sentences_of(run.results)[1:])


def _student(member: Series, rule: str) -> str:
  """Format the student's worst group, where the rule is the one that the run deployed."""
  student = next(iter(member.runs[0].roles))
  tests = [run.results.by_role[student].get('test') for run in member.runs if len(run.roles) > 1]
  tests = [test for test in tests if test and _known(test)]
  if not tests or any(run.results.select != rule for run in member.runs):
    return ''
  return f' Its {student}: {_estimate([_worst(test)[1:] for test in tests])} of its worst group.'


def _without_groups(member: Series, rule: str) -> str:
  """Format the comparison of test with validation and chance, the only one without groups."""
  test, val = accuracy(member, rule), accuracy(member, rule, 'val')
  if test is None:
    return 'The test split has no labelled example.'
  chance = f'chance is {100 / len(member.runs[0].classes):.1f}\xa0%'
  text = f'{test} of the test examples are right{f", {val} of val" if val else ""}; {chance}.'
  if val and test.high < val.low and val.mean - test.mean >= DROP:
    points = 100 * (val.mean - test.mean)
    text += f' Test is {points:.0f} points below val: it relies on something that holds in val and not in test.'
  return text


def _helped(member: Series, plain: Series, rule: str) -> str:
  """Format the difference to plain training, and whether it is beyond its noise."""
  grouped = _has_groups(member, rule) and _has_groups(plain, rule)
  first, second = (_right(runs, rule, grouped) for runs in (plain, member))
  shared = sorted(first.keys() & second.keys())
  quantity = 'worst group' if grouped else 'test accuracy'
  if not first or not second:
    return ''
  if len(shared) > 1:
    differences = [_share(second[seed]) - _share(first[seed]) for seed in shared]
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(differences))
    low, high = min(differences), max(differences)
    beyond = abs(mean) > 2 * error and low * high > 0
    interval = f'{100 * low:+.1f} to {100 * high:+.1f} in {len(differences)} seeds'
  else:
    pair = [counts[shared[0] if shared else min(counts)] for counts in (first, second)]
    mean, (low, high) = _share(pair[1]) - _share(pair[0]), newcombe(*pair)
    beyond = low * high > 0
    interval = f'[{100 * low:+.1f}, {100 * high:+.1f}], one run each'
  answer = ('It helps' if mean > 0 else 'It does harm') if beyond else 'Whether it helps cannot be told'
  side = 'above' if mean > 0 else 'below'
  return f' {answer}: its {quantity} is {100 * abs(mean):.1f} points {side} that of {plain.label} ({interval}).'


def _right(member: Series, rule: str, grouped: bool) -> dict[int, Counts]:
  """Return seed -> right answers and examples: of the worst group, or of all."""
  tests = {run.seed: entry['test'] for run in member.runs if (entry := run.results.by_rule(rule))}
  if grouped:
    return {seed: _worst(test)[1:] for seed, test in tests.items() if _known(test)}
  return {seed: _total(test) for seed, test in tests.items() if _total(test)[1]}


def _share(counts: Counts) -> float:
  return counts[0] / counts[1]


def _estimate(counts: Sequence[Counts]) -> Estimate:
  """Average shares over runs.

  Args:
    counts: number of right answers and of examples of each run.
  """
  values = [correct / count for correct, count in counts]
  mean = statistics.fmean(values)
  if len(values) == 1:
    return Estimate(mean, *wilson(*counts[0]), 1)
  spread = statistics.stdev(values)
  return Estimate(mean, mean - spread, mean + spread, len(values))


def _known(test: dict[str, Any]) -> bool:
  """Return whether a split has a worst group."""
  return test.get('worst_group_accuracy') is not None and any(group['count'] for group in test['groups'].values())


def _has_groups(member: Series, rule: str) -> bool:
  return any(_known(entry['test']) for entry in entries(member, rule))


def _worst(test: dict[str, Any]) -> tuple[str, float, int]:
  """Return the name of the worst group, its right answers and its examples."""
  counted = {name: group for name, group in test['groups'].items() if group['count']}
  name = min(counted, key=lambda name: counted[name]['accuracy'])
  return name, counted[name]['accuracy'] * counted[name]['count'], counted[name]['count']


def _total(test: dict[str, Any]) -> Counts:
  """Return the right answers and the examples of a split."""
  count = sum(entry['count'] for entry in test['classes'].values())
  return (test['accuracy'] or 0) * count, count
