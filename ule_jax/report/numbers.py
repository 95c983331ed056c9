"""From series of runs to tables: means over seeds under every selection rule, and all numbers as rows of a CSV."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ule_jax.report.runs import Run
from ule_jax.report.series import Series

LAST = 'last'
NO_METRIC = ('classes', 'groups', 'reasons', 'step')


class Cell(NamedTuple):
  """A mean over seeds; `spread` is the sample standard deviation, None with one seed; `reason` why there is none."""

  mean: float | None = None
  spread: float | None = None
  seeds: int = 0
  reason: str = 'no run'

  def __str__(self) -> str:
    if self.mean is None:
      return '–'
    return f'{100 * self.mean:.1f}' + ('' if self.spread is None else f' ± {100 * self.spread:.1f}')


def average(values: Sequence[float | None], reason: str = 'no run') -> Cell:
  """Average over seeds.

  >>> str(average([0.9, 0.92, None])), str(average([0.5])), average([]).reason
  ('91.0 ± 1.4', '50.0', 'no run')
  """
  known = [value for value in values if value is not None]
  if not known:
    return Cell(reason=reason)
  return Cell(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known), '')


def label_free(rule: str) -> bool:
  """Tell whether a selection rule does without group labels, also without a split that was balanced by them.

  >>> label_free('last'), label_free('val/accuracy'), label_free('val_balanced/accuracy')
  (True, True, False)
  """
  return rule == LAST or (rule.startswith('val/') and 'group' not in rule)


def rules(series: Iterable[Series]) -> list[str]:
  """Name every selection rule of some runs: the label-free default, the last step, then those with group labels."""
  names = {rule for one in series for run in one.runs for rule in run.results['selected']}
  return sorted({*names, LAST}, key=lambda r: (not label_free(r), 'worst_class' not in r, r == LAST, r))


def default_rule(names: Sequence[str]) -> str:
  """Take the rule without group labels that numbers are compared by."""
  return names[0]


def oracle_rule(names: Sequence[str]) -> str | None:
  """Take the rule that knows the groups: the worst group, of a balanced validation split if there is one."""
  return max((rule for rule in names if rule.endswith('/worst_group_accuracy')), default=None)


def entry(run: Run, rule: str) -> dict[str, Any] | None:
  """Look up what a run says of its deployed network under a rule."""
  return run.results['last'] if rule == LAST else run.results['selected'].get(rule)


def cell(series: Series | None, rule: str, metric: str) -> Cell:
  """Average a test metric under a rule over the seeds of a series."""
  entries = [entry(run, rule) for run in series.runs] if series else []
  tests = [found['test'] for found in entries if found]
  reasons = [test['reasons'][metric] for test in tests if metric in test.get('reasons', {})]
  missing = 'this rule is not possible here' if series else 'no run'
  return average([test.get(metric) for test in tests], reasons[0] if reasons else missing)


def metrics(series: Sequence[Series]) -> list[str]:
  """Name the test metrics of a data set, in the order of its results."""
  return list({m: 0 for one in series for run in one.runs for m in run.results['last']['test'] if m not in NO_METRIC})


def headline(series: Sequence[Series]) -> str:
  """Choose the metric that a data set is compared by: the worst group, where groups are known."""
  known = any(cell(one, LAST, 'worst_group_accuracy').mean is not None for one in series)
  return 'worst_group_accuracy' if known else 'worst_class_accuracy'


def title(series: Sequence[Series], metric: str) -> str:
  """Call a metric as its field does."""
  return series[0].runs[0].results.get('titles', {}).get(metric, metric.replace('_', ' '))


def needs_groups(series: Series, rule: str) -> str:
  """Say where group labels are used: in training, and in validation by the rule or by a fit on it."""
  run = series.runs[0]
  fitted = run.fields.get('first.prepare') == 'dfr' and run.fields.get('first.dfr.split') != 'train'
  uses = ['train'] * run.results['needs_groups']['train'] + ['validation'] * (fitted or not label_free(rule))
  return ' and '.join(uses) or 'no'


class Changes(NamedTuple):
  """How often each of two roles was right in a group."""

  group: str
  both: int
  only_first: int
  only_last: int
  neither: int

  @property
  def count(self) -> int:
    return self.both + self.only_first + self.only_last + self.neither


def changes(run: Run, split: str = 'test') -> list[Changes]:
  """Count what two roles got right, for each group and for all with a label; nothing for a method of one role."""
  found = run.arrays('predictions', split, 'label', 'group', 'logits_') if len(run.roles) == 2 else None
  if found is None:
    return []
  labelled = found['label'] >= 0
  first, last = (found[f'logits_{role}'].argmax(1) == found['label'] for role in run.roles)

  def count(name, of):
    return Changes(
      name, *(int((of & one).sum()) for one in (first & last, first & ~last, ~first & last, ~first & ~last))
    )

  groups = run.results['groups']
  rows = [count(name, labelled & (found['group'] == i)) for i, name in enumerate(groups)]
  return [row for row in rows if row.count] + [count('all', labelled)]


RESULTS = (
  'dataset', 'method', 'seed', 'run', 'commit', 'role', 'rule', 'step', 'split', 'metric', 'group', 'value', 'count',
  'low', 'high',
)  # fmt: skip


def result_rows(series: Iterable[Series]) -> Iterator[tuple]:
  """Yield every number of every run; the columns are RESULTS."""
  for one in series:
    for run in one.runs:
      entries = [(run.roles[-1], rule, found) for rule, found in run.results['selected'].items()]
      entries += [(run.roles[-1], LAST, run.results['last'])]
      entries += [(role, run.results['select'], found) for role, found in list(run.results['roles'].items())[:-1]]
      for role, rule, found in entries:
        of = (one.dataset, one.label, run.seed, run.name, run.commit, role, rule, found['step'])
        for split in (name for name in found if name != 'step'):
          for metric in (name for name in found[split] if name not in NO_METRIC):
            yield (*of, split, metric, '', found[split][metric], '', '', '')
          for kind in ('classes', 'groups'):
            for name, group in found[split][kind].items():
              interval = group.get('interval') or ('', '')
              metric = 'class_accuracy' if kind == 'classes' else 'group_accuracy'
              yield (*of, split, metric, name, group['accuracy'], group['count'], *interval)


SUMMARY = ('dataset', 'method', 'rule', 'needs_groups', 'metric', 'mean', 'spread', 'seeds', 'why_not')


def summary_rows(series: Sequence[Series]) -> Iterator[tuple]:
  """Yield a row for every mean over seeds; the columns are SUMMARY."""
  for one in series:
    for rule in rules([one]):
      for metric in metrics([one]):
        found = cell(one, rule, metric)
        yield one.dataset, one.label, rule, needs_groups(one, rule), metric, *found


CHANGES = ('dataset', 'method', 'seed', 'first', 'last', 'group', 'both_right', 'only_first', 'only_last', 'both_wrong')


def change_rows(series: Iterable[Series]) -> Iterator[tuple]:
  """Yield the counts of `changes` of every run; the columns are CHANGES."""
  for one in series:
    for run in one.runs:
      for row in changes(run):
        yield one.dataset, one.label, run.seed, *run.roles, *row


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  """Write a CSV; what does not exist is empty."""
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows([header, *rows])
  return text.getvalue()
