"""Tables of results in the terminal (100 columns)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WIDTH = 100


def results_table(results: dict[str, Any], split: str = 'test') -> str:
  """Lay out the accuracies of a finished run on a split, its roles side by side."""
  roles: Sequence[str] = tuple(results['roles'])
  found = [results['roles'][role][split] for role in roles]
  rows = [('', '', *roles)]
  metrics = [name for name in found[0] if name not in ('classes', 'groups', 'reasons')]
  for name in metrics:
    title = results['titles'].get(name, name.replace('_', ' '))
    rows.append((title, '', *(_percent(t[name]) for t in found)))
  for group, first in found[0]['groups'].items():
    rows.append((f'group: {group}', f'{first["count"]:,}', *(_percent(t['groups'][group]['accuracy']) for t in found)))
  cells = max(9, *(len(role) for role in roles)) + 2
  count = max(len(row[1]) for row in rows) + 2
  name = min(max(len(row[0]) for row in rows), WIDTH - count - cells * len(roles))
  lines = [f'{r[0][:name]:<{name}}{r[1]:>{count}}' + ''.join(f'{c:>{cells}}' for c in r[2:]) for r in rows]
  rule, top = '-' * len(lines[0]), 1 + len(metrics)
  title = (
    f'{results["method"]} on {results["dataset"]}, seed {results["seed"]}: {split}, % '
    f'(step {results["step"]}, chosen by {results["select"]})'
  )
  groups = [*lines[top:], rule] if lines[top:] else []
  return '\n'.join([title, rule, lines[0], rule, *lines[1:top], rule, *groups])


def rules_table(results: dict[str, Any]) -> str:
  """Lay out what each selection rule would have given for the deployed role."""
  rows = [('selection rule', 'step', 'test acc.', 'test worst group')]
  chosen = {'last step': results['last'], **results['selected']}
  for rule, one in chosen.items():
    test = one['test']
    rows.append((rule, str(one['step']), _percent(test['accuracy']), _percent(test['worst_group_accuracy'])))
  widths = [max(len(row[i]) for row in rows) for i in range(4)]
  lines = [
    '  '.join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
    for row in rows
  ]
  return '\n'.join([lines[0], '-' * len(lines[0]), *lines[1:]])


def sweep_tables(sweep: dict[str, Any]) -> str:
  """Lay out a sweep: test accuracies of each setting under every selection rule, what each rule picks, what failed."""
  settings, parts = sweep['settings'], []
  found = next(row for row in settings if row['seeds'])
  rules, known = list(found['selected']), found['last']['test']
  worst = 'worst_group_accuracy' if 'worst_group_accuracy' in known else 'worst_class_accuracy'
  for metric in (worst, 'accuracy'):
    rows = [('setting', 'n', 'last', *(f'[{i + 1}]' for i in range(len(rules))))]
    for row in settings:
      cells = [row['last'], *row['selected'].values()] if row['seeds'] else []
      shown = [_spread(cell['test'][metric]) for cell in cells] or ['-'] * (1 + len(rules))
      rows.append((row['name'], str(len(row['seeds'])), *shown))
    title = f'{sweep["method"]} on {sweep["dataset"]}: test {metric.replace("_", " ")}, %'
    parts.append('\n'.join([title, *_aligned(rows)]))
  parts.append(
    'Mean ± standard deviation (n - 1) over n seeds, at the last step and at the step that a rule selects\n'
    "in each run. A rule picks the setting with the best mean validation score, its own metric's:"
  )
  rows = [('rule', 'picks', 'validation', 'test accuracy', f'test {worst.removesuffix("_accuracy").replace("_", " ")}')]
  for i, rule in enumerate(rules):
    name, cells = '-', ['-'] * 3
    if pick := sweep['picked'].get(rule):
      split, metric = rule.split('/')
      shown = (split, metric), ('test', 'accuracy'), ('test', worst)
      name, cells = pick['setting'], [_spread(pick[s][m]) for s, m in shown]
    rows.append((f'[{i + 1}] {rule}', name, *cells))
  parts.append('\n'.join(_aligned(rows, left=2)))
  if sweep['failed']:
    parts.append('\n'.join(f'failed: {name}: {reason}' for name, reason in sweep['failed'].items()))
  return '\n\n'.join(parts)


def _aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
  """Lay out rows of cells, the first ones to the left, with a rule under the first row."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

  def line(row: Sequence[str]) -> str:
    cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
    return '  '.join(cells).rstrip()

  head, *rest = map(line, rows)
  return [head, '-' * max(map(len, [head, *rest])), *rest]


def _spread(found: dict[str, Any]) -> str:
  spread = '' if found['sd'] is None else f' ± {100 * found["sd"]:.1f}'
  return f'{100 * found["mean"]:.1f}{spread}'


def _percent(value: float | None) -> str:
  return '-' if value is None else f'{100 * value:.1f}'
