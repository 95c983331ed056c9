"""Tables of series: means over seeds under every selection rule, and all numbers as rows of CSV files."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ule_jax import selection
from ule_jax.report.series import Series
from ule_jax.runs.recorded import FinishedRun
from ule_jax.selection import LAST

NO_METRIC = ('classes', 'groups', 'reasons', 'step')


class Cell(NamedTuple):
  """A mean over seeds.

  Attributes:
    mean: in [0, 1]; None without a value.
    spread: sample standard deviation; None with one seed.
    seeds: number of values.
    reason: why there is no value.
  """

  mean: float | None = None
  spread: float | None = None
  seeds: int = 0
  reason: str = 'no run'

  def __str__(self) -> str:
    if self.mean is None:
      return '–'
    return f'{100 * self.mean:.1f}' + ('' if self.spread is None else f' ± {100 * self.spread:.1f}')


def average(values: Sequence[float | None], reason: str = 'no run') -> Cell:
  """Average values over seeds; None is a missing value.

  >>> str(average([0.9, 0.92, None])), str(average([0.5])), average([]).reason
  ('91.0 ± 1.4', '50.0', 'no run')
  """
  known = [value for value in values if value is not None]
  if not known:
    return Cell(reason=reason)
  return Cell(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known), '')


def rules(series: Iterable[Series]) -> list[str]:
  """List the selection rules of some runs: the label-free default first, oracle rules last."""
  return selection.ranked(rule for member in series for run in member.runs for rule in run.results.selected)


def cell(series: Series | None, rule: str, metric: str) -> Cell:
  """Average a test metric under a rule over the seeds of a series."""
  entries = [run.results.by_rule(rule) for run in series.runs] if series else []
  tests = [results['test'] for results in entries if results]
  reasons = [test['reasons'][metric] for test in tests if metric in test.get('reasons', {})]
  missing = 'this rule is not possible here' if series else 'no run'
  return average([test.get(metric) for test in tests], reasons[0] if reasons else missing)


def metrics(series: Sequence[Series]) -> list[str]:
  """List the test metrics of a data set, in the order of results.json."""
  tests = [run.results.last['test'] for member in series for run in member.runs]
  return list(dict.fromkeys(m for test in tests for m in test if m not in NO_METRIC))


def headline(series: Sequence[Series]) -> str:
  """Choose the main metric of a data set: worst-group accuracy if groups are known, else worst-class accuracy."""
  known = any(cell(member, LAST, 'worst_group_accuracy').mean is not None for member in series)
  return 'worst_group_accuracy' if known else 'worst_class_accuracy'


def title(series: Sequence[Series], metric: str) -> str:
  """Return the name of a metric in the data set's field."""
  return series[0].runs[0].results.titles.get(metric, metric.replace('_', ' '))


def needs_groups(series: Series, rule: str) -> str:
  """Format the splits whose group labels are used: train, and validation by the rule or by a fit on it."""
  run = series.runs[0]
  fitted = run.fields.get('two_stage.rule') == 'dfr' and run.fields.get('two_stage.dfr.split') != 'train'
  uses = ['train'] * run.results.needs_groups['train'] + ['validation'] * (fitted or not selection.is_label_free(rule))
  return ' and '.join(uses) or 'no'


class Changes(NamedTuple):
  """Counts of a group's examples by the correctness of the two roles."""

  group: str
  both: int
  only_first: int
  only_last: int
  neither: int

  @property
  def count(self) -> int:
    """Number of examples."""
    return self.both + self.only_first + self.only_last + self.neither


def changes(run: FinishedRun, split: str = 'test') -> list[Changes]:
  """Count the examples that both, one or none of two roles got right, for each group and for all labelled examples.

  The list is empty for a method of one role, and without predictions of the split.
  """
  arrays = run.arrays('predictions', split, 'label', 'group', 'logits_') if len(run.roles) == 2 else None
  if arrays is None:
    return []
  labelled = arrays['label'] >= 0
  first, last = (arrays[f'logits_{role}'].argmax(1) == arrays['label'] for role in run.roles)

  def count(name, members):
    cells = (first & last, first & ~last, ~first & last, ~first & ~last)
    return Changes(name, *(int((members & cell).sum()) for cell in cells))

  groups = run.results.groups
  rows = [count(name, labelled & (arrays['group'] == i)) for i, name in enumerate(groups)]
  return [row for row in rows if row.count] + [count('all', labelled)]


RESULTS = (
  'dataset', 'method', 'seed', 'run', 'commit', 'role', 'rule', 'step', 'split', 'metric', 'group', 'value', 'count',
  'low', 'high',
)  # fmt: skip


def result_rows(series: Iterable[Series]) -> Iterator[tuple]:
  """Yield a row for every number of every run; the columns are RESULTS."""
  for member in series:
    for run in member.runs:
      entries = [(run.roles[-1], rule, results) for rule, results in run.results.selected.items()]
      entries += [(run.roles[-1], LAST, run.results.last)]
      entries += [(role, run.results.select, results) for role, results in list(run.results.by_role.items())[:-1]]
      for role, rule, results in entries:
        key = (member.dataset, member.label, run.seed, run.name, run.commit, role, rule, results['step'])
        for split in (name for name in results if name != 'step'):
          for metric in (name for name in results[split] if name not in NO_METRIC):
            yield (*key, split, metric, '', results[split][metric], '', '', '')
          for kind in ('classes', 'groups'):
            for name, group in results[split][kind].items():
              interval = group.get('interval') or ('', '')
              metric = 'class_accuracy' if kind == 'classes' else 'group_accuracy'
              yield (*key, split, metric, name, group['accuracy'], group['count'], *interval)


SUMMARY = ('dataset', 'method', 'rule', 'needs_groups', 'metric', 'mean', 'spread', 'seeds', 'why_not')


def summary_rows(series: Sequence[Series]) -> Iterator[tuple]:
  """Yield a row for every mean over seeds; the columns are SUMMARY."""
  for member in series:
    for rule in rules([member]):
      for metric in metrics([member]):
        yield member.dataset, member.label, rule, needs_groups(member, rule), metric, *cell(member, rule, metric)


CHANGES = ('dataset', 'method', 'seed', 'first', 'last', 'group', 'both_right', 'only_first', 'only_last', 'both_wrong')


def change_rows(series: Iterable[Series]) -> Iterator[tuple]:
  """Yield the counts of `changes` of every run; the columns are CHANGES."""
  for member in series:
    for run in member.runs:
      for row in changes(run):
        yield member.dataset, member.label, run.seed, *run.roles, *row


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  """Format rows as CSV; None becomes an empty field."""
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows([header, *rows])
  return text.getvalue()
