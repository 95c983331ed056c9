"""Tables of the robustness benchmark, from benchmarks/results/robustness and method_cost."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from benchmarks import harness
from benchmarks.robustness import plan

ROWS, SETTINGS = plan.load_rows(), plan.load_settings()
RESULTS = harness.RESULTS / 'robustness'
COSTS = harness.RESULTS / 'method_cost'
FITS = ('dfr', 'afr')  # whose second stage is no gradient run


class Measured(NamedTuple):
  """Results of a row in a setting: shares of the test that are right, one of each fresh seed.

  last, label_free, oracle: worst groups of the test at the last step and at those that the rules select.
  """

  seeds: list[int]
  accuracy: np.ndarray
  last: np.ndarray
  label_free: np.ndarray
  oracle: np.ndarray
  tried: int
  picked: dict[str, Any]


@cache
def measured() -> dict[tuple[str, str], Measured]:
  """Return the results by (setting, row)."""
  seeds: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
  for line in harness.read_rows(RESULTS / 'seeds.jsonl'):
    seeds.setdefault((line['setting'], line['row']), {})[line['seed']] = line  # of two runs the later one counts
  results = {}
  for line in harness.read_rows(RESULTS / 'rows.jsonl'):
    key = line['setting'], line['row']
    lines = seeds[key].values()
    columns = [np.array([row[c] for row in lines]) for c in ('accuracy', 'last', 'label_free', 'oracle')]
    results[key] = Measured(list(seeds[key]), *columns, line['tried'], line['picked'])
  return results


def percent(shares: np.ndarray, digits: int = 1) -> str:
  """Return the mean over seeds, in %."""
  return f'{100 * shares.mean():.{digits}f}'


def spread(shares: np.ndarray) -> str:
  """Return mean and standard deviation over seeds, in %."""
  return harness.mean_sd(100 * shares)


def first_cell(row: plan.Row) -> str:
  """Return the heading of a row, the default's in bold."""
  heading = f'**{row.heading}**' if row.id == plan.DEFAULT else row.heading
  return f'{heading} (needs groups)' if row.needs_groups else heading


def summary(settings: list[str], rows: list[plan.Row]) -> str:
  """Return a table of worst groups at the last step, with accuracies in parentheses: a column for each setting."""
  lines = []
  for row in rows:
    results = [measured().get((setting, row.id)) for setting in settings]
    cells = [f'{spread(result.last)} ({percent(result.accuracy, 0)})' if result else '' for result in results]
    if any(cells):
      lines.append([first_cell(row), *cells])
  return harness.markdown(['worst group (accuracy), last step', *(f'`{name}`' for name in settings)], lines)


def of_table(table: str) -> str:
  """Return the summary of the settings that say they are of a table."""
  settings = [name for name, setting in SETTINGS.items() if setting.table == table]
  return summary(settings, [row for row in ROWS.values() if 'changes' not in row.grid])


# The table of the README: settings, and rows of one or, as "best", several candidates, of which each column has the one
# with the largest worst group in the test. That favours the controls, of which there are several.
FRONT_SETTINGS = {
  'digits': 'digits, a tint',
  'dominoes_random': 'dominoes',
  'celeba_attractive': 'faces, frozen encoder',
  'digits_99.5': 'digits, 1 in 200 breaks it',
}
FRONT_ROWS = {
  'ERM': ('erm',),
  'LfF': ('lff',),
  'best control of ULE': (
    'gradient_penalty',
    'shuffled_signed',
    'mistakes',
    'mistakes_gradient_penalty',
    'mistakes_shuffled_signed',
    'mistakes_shuffled_project',
  ),
  '**ULE, default options**': ('ule_default',),
  '**ULE, tuned**': ('mistakes_ule_signed',),
  'GroupDRO (group labels)': ('group_dro',),
  'oracle (group labels)': ('group_balanced', 'group_balanced_gradient_penalty'),
}


def front() -> str:
  """Return the table of the README: worst groups at the last step of few rows in few settings."""
  lines = []
  for heading, candidates in FRONT_ROWS.items():
    cells = []
    for setting in FRONT_SETTINGS:
      results = [measured()[setting, row] for row in candidates if (setting, row) in measured()]
      best = max(results, key=lambda result: result.last.mean(), default=None)
      cells.append(spread(best.last) if best else '–')
    lines.append([heading, *cells])
  return harness.markdown(['worst-group accuracy, %', *FRONT_SETTINGS.values()], lines)


def changes() -> str:
  """Return the table of the default with one option changed at a time."""
  settings = [name for name, setting in SETTINGS.items() if 'changes' in setting.grids]
  return summary(settings, [ROWS[plan.DEFAULT], *(row for row in ROWS.values() if 'changes' in row.grid)])


def details() -> str:
  """Return a table of each setting: all rules, the number of values tried, and the oracle rule's pick."""
  headers = [
    '',
    'accuracy',
    'worst group, last step',
    'label-free rule',
    'oracle rule',
    'tried, picked',
    'default - this',
  ]
  parts = []
  for name, setting in SETTINGS.items():
    rows = [row for row in ROWS.values() if (name, row.id) in measured() and 'changes' not in row.grid]
    if setting.table == 'methods' or not rows:
      continue
    lines = []
    for row in rows:
      result = measured()[name, row.id]
      cells = [spread(shares) for shares in (result.last, result.label_free, result.oracle)]
      picked = ', '.join(f'{field.split(".")[-1]} {value:g}' for field, value in result.picked.items())
      tried = f'{result.tried or "none"}: {picked}' if picked else 'none'
      lines.append([first_cell(row), percent(result.accuracy), *cells, tried, default_minus(name, row.id)])
    seeds = ', '.join(map(str, measured()[name, rows[0].id].seeds))
    parts += [f'`{name}`: {setting.heading}; seeds {seeds}', harness.markdown(headers, lines)]
  return '\n\n'.join(parts)


def default_minus(setting: str, row: str) -> str:
  """Return how far the default is above a row at the last step, paired by seed, with a bootstrap interval."""
  default = measured().get((setting, plan.DEFAULT))
  if default is None or row == plan.DEFAULT:
    return ''
  differences = 100 * (default.last - measured()[setting, row].last)
  if not differences.any():
    return '0 in each seed'
  low, high = harness.bootstrap(differences)
  return f'{differences.mean():+.1f} [{low:+.1f}, {high:+.1f}]'


def methods() -> str:
  """Return the table of all methods of the package."""
  headers = ['method', 'needs groups in', 'settings', 'accuracy', 'worst group, last step', 'label-free rule']
  headers += ['oracle rule', 'step time, FLOPs / ERM']
  costs = {line['row']: line for line in harness.read_rows(COSTS)}
  lines = []
  for row in ROWS.values():
    result = measured().get(('methods', row.id))
    if result is None:
      continue
    cost = costs.get(row.id)
    price = f'{cost["time"]:.1f}, {cost["flops"]:.1f}' if cost else '-'
    price = 'a fit' if row.method in FITS else price
    columns = [percent(result.accuracy), spread(result.last), percent(result.label_free), percent(result.oracle), price]
    lines.append([row.heading, row.needs_groups or '-', str(result.tried or 1), *columns])
  return harness.markdown(headers, lines)


TABLES = {
  'front': front,
  'robustness_chosen_on': lambda: of_table('chosen_on'),
  'robustness_unseen': lambda: of_table('unseen'),
  'robustness_rare': lambda: of_table('rare'),
  'robustness_details': details,
  'robustness_changes': changes,
  'methods': methods,
}
