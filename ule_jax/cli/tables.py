"""Tables that verbs print, at most 100 columns wide."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import SEPARATING_LINE, tabulate

from ule_jax import selection
from ule_jax.runs.verdicts import chance

if TYPE_CHECKING:
  from ule_jax.data import Dataset
  from ule_jax.models.pretrained.mapping import Row

WIDTH = 100
GAP = 2  # blanks between columns
NARROW = 46  # columns to which names are wrapped, before other columns have to go below
MOST_CLASSES = 30  # of a table
LEVELS = {'uniform': 'chance: a guess', 'majority': 'chance: the most frequent class'}


def _layout(headers: Sequence[str], rows: Sequence[Any], names: int = 1) -> str:
  """Format a table with rules above, below the headers and at the end.

  What is too wide has its first column wrapped, and then its last columns in another table, behind the same names.

  Args:
    rows: cells, or SEPARATING_LINE.
    names: number of columns that hold names and lie to the left; the others hold numbers and lie to the right.
  """
  lines = [headers, SEPARATING_LINE, *rows]
  cells = [line for line in lines if line != SEPARATING_LINE]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  room = WIDTH - sum(width + GAP for width in widths[1:])
  first = min(widths[0], max(room, NARROW))
  blocks = [list(range(names))]
  for column in range(names, len(widths)):
    if len(blocks[-1]) > names and first + sum(widths[i] + GAP for i in [*blocks[-1][1:], column]) > WIDTH:
      blocks.append(list(range(names)))
    blocks[-1].append(column)
  return '\n\n'.join(
    tabulate(
      [line if line == SEPARATING_LINE else [line[i] for i in columns] for line in lines],
      tablefmt='simple',
      disable_numparse=True,
      colalign=['left' if i < names else 'right' for i in columns],
      maxcolwidths=[first, *(None for _ in columns[1:])] if first < widths[0] else None,
    )
    for columns in blocks
  )


def results_table(results: dict[str, Any], split: str = 'test') -> str:
  """Return the table of the accuracies of a finished run on a split, its roles side by side."""
  roles: Sequence[str] = tuple(results['roles'])
  metrics = [results['roles'][role][split] for role in roles]
  rows: list[Any] = [[title, '', *cells] for title, cells in _metric_rows(results['titles'], metrics)]
  rows += _rows_by_name('group', metrics, metrics[0])
  title = f'{_title(results)}: {split}, % {_chosen(results)}'
  return f'{title}\n{_layout(("", "examples", *roles), rows)}'


def run_table(results: dict[str, Any]) -> str:
  """Return the table of a run that has just finished: its deployed network on each split, and the others on test.

  The splits are train, val, test, and the one that the run selects by.
  """
  *others, deployed = results['roles']
  selected = '' if results['select'] == selection.LAST else selection.parts(results['select'])[0]
  splits = [name for name in dict.fromkeys(('train', 'val', selected, 'test')) if name in results]
  metrics = [results[name] for name in splits]
  metrics += [results['roles'][role]['test'] for role in others]
  of_metrics = _metric_rows(results['titles'], metrics)
  rows: list[Any] = [[*first, ''] for first in ([title, *cells] for title, cells in of_metrics[:1])]
  rows += [[*row, *('' for _ in others), ''] for row in _chance_rows(results, splits)]
  rows += [[title, *cells, ''] for title, cells in of_metrics[1:]]
  test = results['test']
  for kind in ('class', 'group'):
    for row in _rows_by_name(kind, metrics, test):
      rows.append(row if row == SEPARATING_LINE else [row[0], *row[2:], row[1]])
  headers = (deployed, *splits, *(f'{role} test' for role in others), 'test examples')
  return f'{_title(results)}: accuracy, % {_chosen(results)}\n{_layout(headers, rows)}'


def rules_table(results: dict[str, Any]) -> str:
  """Return the table of the deployed role at each checkpoint that a selection rule chose, with these rules."""
  entries = {'last step': results['last'], **results['selected']}
  worst = 'group' if any(entry['test']['worst_group_accuracy'] is not None for entry in entries.values()) else 'class'
  rules: dict[int, list[str]] = {}
  for rule, entry in entries.items():
    rules.setdefault(entry['step'], []).append(rule)
  rows = []
  for names in rules.values():
    entry = entries[names[0]]
    test = entry['test']
    numbers = [str(entry['step']), _percent(test['accuracy']), _percent(test[f'worst_{worst}_accuracy'])]
    lines = textwrap.wrap(', '.join(names), WIDTH - 40, break_on_hyphens=False)
    rows += [[*numbers, lines[0]], *([''] * 3 + [line] for line in lines[1:])]
  headers = ('step', 'test acc.', f'worst {worst}', 'chosen by')
  return tabulate(
    [headers, SEPARATING_LINE, *rows], tablefmt='simple', disable_numparse=True, colalign=('right',) * 3 + ('left',)
  )


def sentences(lines: Sequence[str]) -> str:
  """Return sentences, each on lines of its own, wrapped."""
  return '\n'.join(textwrap.fill(line, WIDTH, break_on_hyphens=False, break_long_words=False) for line in lines)


def next_commands(directory: Path) -> str:
  """Return the commands that one may want after a run.

  Args:
    directory: of the run.
  """
  folder = shlex.quote(str(directory))
  commands = {
    f'python -m ule_jax.diagnose --run={folder}': 'what is it misled by?',
    f'python -m ule_jax.report {folder} --out=report': 'tables, curves and pictures on one page',
    f'python -m ule_jax.export --run={folder}': 'the network, for other programs',
  }
  width = max(map(len, commands))
  return '\n'.join(['next:', *(f'  {command:{width}}  # {purpose}' for command, purpose in commands.items())])


def _title(results: dict[str, Any]) -> str:
  return f'{results["method"]} on {results["dataset"]}, seed {results["seed"]}'


def _chosen(results: dict[str, Any]) -> str:
  return f'(step {results["step"]}, chosen by {results["select"]})'


def _metric_rows(titles: Mapping[str, str], columns: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
  """Return the title and the cells of each metric that one of the columns has.

  Args:
    titles: metric -> its name in the literature of the data set.
    columns: metrics of a network on a split.
  """
  names = [name for name in columns[-1] if name not in ('classes', 'groups', 'reasons')]
  rows = [
    (titles.get(name, name.replace('_', ' ')), [_percent(metrics.get(name)) for metrics in columns]) for name in names
  ]
  return [(title, cells) for title, cells in rows if {*cells} != {'-'}]


def _chance_rows(results: dict[str, Any], splits: Sequence[str]) -> list[list[str]]:
  """Return the accuracies of a guess, and of always the most frequent class where it has another, on each split."""
  levels = [chance(results[split]) for split in splits]
  rows = [[title, *(_percent(level[name]) for level in levels)] for name, title in LEVELS.items()]
  guess, frequent = rows
  return [guess] if {*frequent[1:]} <= {*guess[1:], '-'} else rows


def _rows_by_name(kind: str, columns: Sequence[Mapping[str, Any]], counted: Mapping[str, Any]) -> list[Any]:
  """Return the rows of classes or groups behind a line: name, examples, accuracies; those without an accuracy are out.

  Of many classes only those with the lowest accuracies are there.

  Args:
    kind: `class` or `group`.
    columns: metrics of a network on a split.
    counted: the metrics whose examples are counted, and by which of many classes the lowest are chosen.
  """
  plural = {'class': 'classes', 'group': 'groups'}[kind]
  tables = [metrics[plural] for metrics in columns]
  entries = {name: entry for name, entry in counted[plural].items() if any(t[name]['count'] for t in tables)}
  names = list(entries)
  if kind == 'class' and len(names) > MOST_CLASSES:
    names = sorted((name for name in names if entries[name]['count']), key=lambda name: entries[name]['accuracy'])
    names = names[:MOST_CLASSES]
  rows = [
    [f'{kind}: {name}', f'{entries[name]["count"]:,}', *(_percent(table[name]['accuracy']) for table in tables)]
    for name in names
  ]
  if more := len(entries) - len(names):
    rows.append([f'{more:,} other classes, not lower', '', *('' for _ in columns)])
  return [SEPARATING_LINE, *rows] if rows else []


def sweep_tables(sweep: dict[str, Any]) -> str:
  """Return the tables of a sweep: test accuracies of each setting under every selection rule, its choice, failures."""
  settings, parts = sweep['settings'], []
  finished = next(row for row in settings if row['seeds'])
  rules, known = list(finished['selected']), finished['last']['test']
  worst = 'worst_group_accuracy' if 'worst_group_accuracy' in known else 'worst_class_accuracy'
  for metric in (worst, 'accuracy'):
    rows = []
    for row in settings:
      entries = [row['last'], *row['selected'].values()] if row['seeds'] else []
      cells = [_spread(entry['test'][metric]) for entry in entries] or ['-'] * (1 + len(rules))
      rows.append([row['name'], str(len(row['seeds'])), *cells])
    title = f'{sweep["method"]} on {sweep["dataset"]}: test {metric.replace("_", " ")}, %'
    headers = ('setting', 'n', 'last', *(f'[{i + 1}]' for i in range(len(rules))))
    parts.append(f'{title}\n{_layout(headers, rows)}')
  parts.append(
    'Mean ± standard deviation (n - 1) over n seeds, at the last step and at the step that a rule selects\n'
    "in each run. A rule picks the setting with the best mean validation score, its own metric's. Picked\n"
    'settings, their validation score, and test accuracies:'
  )
  rows = []
  for i, rule in enumerate(rules):
    name, cells = '-', ['-'] * 3
    if pick := sweep['picked'].get(rule):
      split, metric = rule.split('/')
      entries = (split, metric), ('test', 'accuracy'), ('test', worst)
      name, cells = pick['setting'], [_spread(pick[s][m]) for s, m in entries]
    rows.append([f'[{i + 1}] {rule}', name, *cells])
  title = worst.removesuffix('_accuracy').replace('_', ' ')
  parts.append(_layout(('rule', 'picks', 'validation', 'accuracy', title), rows, names=2))
  if sweep['failed']:
    parts.append('\n'.join(f'failed: {name}: {reason}' for name, reason in sweep['failed'].items()))
  return '\n\n'.join(parts)


def counts_table(dataset: Dataset) -> str:
  """Return the table of the number of images of each split, by group and by class."""
  counts = {
    split: [*dataset.group_counts(split).tolist(), int((content.group < 0).sum())]
    for split, content in dataset.splits.items()
  }
  rows: list[Any] = [
    [name, *(f'{column[i]:,}' for column in counts.values())]
    for i, name in enumerate([*dataset.groups, 'unknown group'])
    if any(column[i] for column in counts.values())
  ]
  rows.append(SEPARATING_LINE)
  for k, label in enumerate(dataset.classes):
    rows.append([f'class: {label}', *(f'{int((s.label == k).sum()):,}' for s in dataset.splits.values())])
  rows += [SEPARATING_LINE, ['all', *(f'{s.count:,}' for s in dataset.splits.values())]]
  return _layout(('group', *counts), rows)


def clusters_table(diagnosis: dict[str, Any]) -> str:
  """Return the table of the clusters of a diagnosis; those that mislead the first network most come first.

  Args:
    diagnosis: as `explain.diagnosis.look` returns it.
  """
  rows = []
  for cluster in diagnosis['summaries']:
    accuracies = (_percent(cluster.accuracy[role]) for role in diagnosis['roles'])
    rows.append([diagnosis['classes'][cluster.label], str(cluster.place), f'{cluster.count:,}', *accuracies])
  title = f'{diagnosis["method"]} on {diagnosis["dataset"]}, {diagnosis["split"]}: right in each cluster, %'
  parts = [title + '\n' + _layout(('class', 'cluster', 'examples', *diagnosis['roles']), rows)]
  if diagnosis['matches']:
    rows = [[match.name, f'{match.purity:.3f}', f'{match.rand:.3f}'] for match in diagnosis['matches']]
    parts.append(_layout(('compared with the true groups', 'purity', 'adjusted Rand index'), rows))
  return '\n\n'.join([*parts, *filter(None, [sentences([diagnosis['remark']])])])


def weights_table(tensors: Sequence[Row]) -> str:
  """Return the parameters that each tensor of a file of weights becomes; unused tensors come last."""
  rows = []
  for row in sorted(tensors, key=lambda row: (not row.ours, row.theirs)):
    ours = ' '.join(row.ours).replace('params/', '') or '-'
    note = f'  ({row.note})' if row.note else ''
    rows.append([row.theirs, 'x'.join(map(str, row.shape)) or 'scalar', ours + note])
  return tabulate(rows, tablefmt='plain', disable_numparse=True, colalign=('left', 'right', 'left'))


def files_table(sizes: Mapping[Path, int]) -> str:
  """Return the table of the files that were written; sizes are in bytes."""
  rows = [[f'{size / 2**20:.1f} MiB', str(path)] for path, size in sizes.items()]
  return tabulate(rows, tablefmt='plain', disable_numparse=True, colalign=('right', 'left'))


def _spread(entry: dict[str, Any]) -> str:
  spread = '' if entry['sd'] is None else f' ± {100 * entry["sd"]:.1f}'
  return f'{100 * entry["mean"]:.1f}{spread}'


def _percent(value: float | None) -> str:
  return '-' if value is None else f'{100 * value:.1f}'
