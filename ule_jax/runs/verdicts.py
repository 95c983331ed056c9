"""Sentences that follow from the numbers of one run: is a shortcut taken, and can this run tell at all? Without jax."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ule_jax import selection

Z95 = 1.959963984540054  # the standard normal's 97.5 % quantile
# Gaps and falls in accuracy. The bounds are a convention, at a distance from the spread over seeds, which one run does
# not show: worst groups of the README's table have standard deviations of up to 0.07, some of docs/results more.
TAKEN = 0.2  # gap between groups of a class from which a shortcut is taken
FREE = 0.1  # gap below which it is not
DROP = 0.1  # fall from val to test from which the network relies on something that test lacks
HELD_BACK = 0.2  # mean trust below which the term has less than a fifth of its weight
SKILLED = 0.8  # balanced skill in train from which a student's mistakes are no reason for little trust
NEGLIGIBLE = 0.01  # share of the teacher's loss below which the term is named as small
MOST = 4  # sentences

TOOK, IN_PART, DID_NOT, UNCLEAR = 'took', 'in part', 'did not', 'unclear'
# Clauses about a network, and about two of the same outcome
OF_NETWORK = {
  TOOK: 'took the shortcut',
  IN_PART: 'took the shortcut in part',
  DID_NOT: 'took no shortcut that these groups show',
  UNCLEAR: 'cannot be judged, as its worst group has too few examples',
}
OF_BOTH = {
  TOOK: 'both took the shortcut',
  IN_PART: 'both took the shortcut in part',
  DID_NOT: 'neither took a shortcut that these groups show',
  UNCLEAR: 'the worst group has too few examples to judge by it',
}


class Gap(NamedTuple):
  """The largest difference between the accuracies of two groups of one class, with its 95 % interval, in [-1, 1]."""

  value: float
  low: float
  high: float


def verdicts(results: Mapping[str, Any]) -> list[str]:
  """Return one to four sentences that follow from a run's numbers, the answer about the shortcut first.

  Args:
    results: the content of results.json; keys that older versions did not write may be missing.
  """
  sentences = [*_of_groups(results)] or [*_of_splits(results)]
  sentences += [*_of_chance(results), *_of_term(results), *_of_selection(results)]
  return sentences[:MOST]


def chance(metrics: Mapping[str, Any]) -> dict[str, float | None]:
  """Return the accuracies of networks that know nothing about a split, in [0, 1].

  Args:
    metrics: of the split, with the `count` of each class.

  Returns:
    uniform: of a guess, 1 / number of classes.
    majority: of always the most frequent class of the split; None without labels.
  """
  counts = [entry['count'] for entry in metrics['classes'].values()]
  total = sum(counts)
  return {'uniform': 1 / len(counts), 'majority': max(counts) / total if total else None}


def above_chance(metrics: Mapping[str, Any]) -> tuple[float, float] | None:
  """Return how far the mean of the class accuracies of a split is above a guess, and the half width of its interval.

  The interval is that of 95 %. None without labels.
  """
  classes = [entry for entry in metrics['classes'].values() if entry['count']]
  if not classes:
    return None
  variance = sum(_variance(entry['accuracy'], entry['count']) for entry in classes) / len(classes) ** 2
  mean = sum(entry['accuracy'] for entry in classes) / len(classes)
  return mean - 1 / len(metrics['classes']), Z95 * math.sqrt(variance)


def largest_gap(metrics: Mapping[str, Any], class_of_group: Mapping[str, str | None]) -> Gap | None:
  """Return the largest gap between two groups of one class; None if no class has two groups with examples.

  A class that is hard as a whole has no gap, whatever its accuracy.

  Args:
    metrics: of a split.
    class_of_group: group -> its class, None for a group of several classes; empty if unknown, as in older results:
      all groups are then compared with each other.
  """
  by_class: dict[str | None, list[Mapping[str, Any]]] = {}
  for name, entry in metrics['groups'].items():
    if entry['count']:
      by_class.setdefault(class_of_group.get(name), []).append(entry)
  gaps = []
  for groups in by_class.values():
    ordered = sorted(groups, key=lambda entry: entry['accuracy'])
    if len(ordered) > 1:
      gaps.append(difference(ordered[-1], ordered[0]))
  return max(gaps, default=None)


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> Gap:
  """Return the difference of two accuracies, a - b, with its 95 % interval.

  Source: A. Agresti and B. Caffo, The American Statistician 54(4), 2000: one success and one failure added to each.
  """
  value = a['accuracy'] - b['accuracy']
  (p, n), (q, m) = ((1 + x['accuracy'] * x['count'], 2 + x['count']) for x in (a, b))
  centre = p / n - q / m
  spread = Z95 * math.sqrt(_variance(a['accuracy'], a['count']) + _variance(b['accuracy'], b['count']))
  return Gap(value, centre - spread, centre + spread)


def _variance(accuracy: float, count: int) -> float:
  """Return the variance of an accuracy over `count` examples, one success and one failure added."""
  p = (1 + accuracy * count) / (2 + count)
  return p * (1 - p) / (2 + count)


def outcome(gap: Gap) -> str:
  """Return the outcome for a network whose largest gap is given: a key of OF_NETWORK."""
  if gap.value >= FREE and gap.low > 0:
    return TOOK if gap.value >= TAKEN else IN_PART
  return DID_NOT if gap.value < FREE and gap.high < TAKEN else UNCLEAR


def _compared(results: Mapping[str, Any]) -> list[str]:
  """Return the deployed role, and behind it the student, if there is one."""
  roles = list(results['roles'])
  return [roles[-1], *roles[:-1][:1]]


def _of_groups(results: Mapping[str, Any]) -> Iterator[str]:
  """Yield a sentence from the groups of test, where a class has two of them and every example has one."""
  worst, gaps = [], {}
  for role in _compared(results):
    metrics = results['roles'][role]['test']
    gap = largest_gap(metrics, results.get('class_of_group') or {})
    if gap is None or metrics.get('worst_group_accuracy') is None:
      return
    gaps[role] = gap
    worst.append(f"{name_of(role)}'s{'' if worst else ' worst group is'} {percent(metrics['worst_group_accuracy'])}")
  yield sentence(f'{", ".join(worst)}: {_compare(gaps)}')


def _compare(gaps: Mapping[str, Gap]) -> str:
  """Return the clause on which networks took the shortcut; those that did come first.

  Args:
    gaps: role -> the largest gap; the deployed role first.
  """
  outcomes = {role: outcome(gap) for role, gap in gaps.items()}
  deployed, *others = outcomes
  if not others:
    return f'{name_of(deployed)} {OF_NETWORK[outcomes[deployed]]}'
  if len({*outcomes.values()}) == 1:
    less = outcomes[deployed] == TOOK and gaps[others[0]].value - gaps[deployed].value >= FREE
    return OF_BOTH[outcomes[deployed]] + (f', {name_of(deployed)} less' if less else '')
  ordered = sorted(outcomes, key=lambda role: list(OF_NETWORK).index(outcomes[role]))
  short = OF_NETWORK | {DID_NOT: 'did not'}
  return ', '.join(f'{name_of(role)} {short[outcomes[role]]}' for role in ordered)


def _of_splits(results: Mapping[str, Any]) -> Iterator[str]:
  """Yield a sentence from val and test, which is the only evidence where no class of test has two groups."""
  test, val = results['test'], results.get('val')
  if test['accuracy'] is None:
    yield 'Test has no labels, so that this run cannot tell whether a shortcut was taken.'
    return
  if val and val['accuracy'] is not None:
    fall = difference(_whole(val), _whole(test))
    if fall.value >= DROP and fall.low > 0:
      yield (
        f'Val is {percent(val["accuracy"])}, test {percent(test["accuracy"])}: {name_of(_compared(results)[0])} relies '
        'on something that holds in val and not in test.'
      )
      return
  classes = {name: entry['accuracy'] for name, entry in test['classes'].items() if entry['count']}
  worst = min(classes, key=lambda name: classes[name])
  yield (
    'Without groups or known counter-examples in test this run cannot tell whether a shortcut was taken; the worst '
    f'class is {worst} with {percent(classes[worst])}.'
  )


def _of_chance(results: Mapping[str, Any]) -> Iterator[str]:
  """Yield a sentence if the deployed network is on test no better than a guess, or than the most frequent class."""
  test = results['test']
  level, above = chance(test), above_chance(test)
  if above is None or level['majority'] is None or level['uniform'] is None:
    return
  is_at_chance = above[0] <= above[1]
  if is_at_chance or (above[0] < FREE and test['accuracy'] <= level['majority']):
    differs = level['majority'] - level['uniform'] >= FREE / 10
    more = f', and always the most frequent class {percent(level["majority"])}' if differs else ''
    yield (
      f'Test is {"at" if is_at_chance else "hardly above"} chance: {percent(test["accuracy"])}, where a guess has '
      f'{percent(level["uniform"])}{more}.'
    )


def _of_term(results: Mapping[str, Any]) -> Iterator[str]:
  """Yield a sentence on the unlearning term, if little trust or a small share of the loss kept it from acting."""
  trust, share = results.get('trust'), results.get('term_share')
  clauses = []
  if trust and trust['mean'] < HELD_BACK:
    method = results['method'].upper() if results['method'] == 'ule' else results['method']
    later = f', {trust["last"]:.2f} at the end' if trust['last'] >= HELD_BACK else ''
    clauses.append(f'{method} held back: mean trust {_small(trust["mean"])}{later}{_because(results)}')
  if share and share['mean'] < NEGLIGIBLE:
    clauses.append(f"the term was {percent(share['mean'])} of the teacher's loss")
  if clauses:
    yield sentence('; '.join(clauses))


def _because(results: Mapping[str, Any]) -> str:
  """Return the reason of little trust, where the student's accuracy in train is known and is one; else ''."""
  train = next(iter(results['roles'].values())).get('train')
  above = train and above_chance(train)
  if not above or above[0] / (1 - 1 / len(train['classes'])) >= SKILLED:
    return ''
  return f', because the student is right on {percent(train["accuracy"])} of train'


def _of_selection(results: Mapping[str, Any]) -> Iterator[str]:
  """Yield a sentence if the checkpoint was selected on a val in which no example is known to break the shortcut."""
  counts = results.get('counter_examples')
  if counts is not None and selection.is_blind(results['select'], counts.get('val')):
    yield (
      'Val has no known counter-example and cannot see a shortcut: '
      'a validation split with known counter-examples would.'
    )


def _whole(metrics: Mapping[str, Any]) -> dict[str, Any]:
  """Return accuracy and count of all labelled examples of a split."""
  return {'accuracy': metrics['accuracy'], 'count': sum(entry['count'] for entry in metrics['classes'].values())}


def name_of(role: str) -> str:
  """Return the name of a role in a sentence."""
  return 'the network' if role == 'model' else f'the {role}'


def sentence(text: str) -> str:
  """Return a text with a capital letter and a full stop."""
  return f'{text[0].upper()}{text[1:]}.'


def _small(value: float) -> str:
  """Format a number in [0, 1] with two decimals, or two digits if it is smaller than that shows.

  >>> _small(0.07), _small(0.00052)
  ('0.07', '0.00052')
  """
  return f'{value:.2f}' if value >= 0.01 or not value else f'{value:.2g}'


def percent(value: float) -> str:
  """Format a share in percent, with two digits where one decimal would show none.

  >>> percent(0.929), percent(0.0004)
  ('92.9 %', '0.04 %')
  """
  share = 100 * value
  return f'{share:.1f} %' if share >= 0.1 or not share else f'{share:.1g} %'
