"""Tune and confirm the rows of settings.toml and rows.toml: all of them, or some.

  python -m benchmarks.robustness.run --out=NEW [--data=DIR] [--setting=digits] [--row=ule_default] [--raw=FILE]

A line for each fresh seed goes to NEW/seeds.jsonl, one for the row to NEW/rows.jsonl, and with --raw the scores of
everything that was tried to a file. Rows that NEW has are left out, so that a stopped run resumes. DIR has mnist/,
fashion_mnist/ and weights/ as their files are published, and celeba/ with a CelebA folder; only `digits` needs none of
it. docs/results/methodology.md has the protocol.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import harness
from benchmarks.robustness import dominoes, plan
from benchmarks.robustness.plan import Row, Setting
from ule_jax import selection
from ule_jax.errors import UserError
from ule_jax.sweep.axes import expand
from ule_jax.sweep.run import run as run_sweep
from ule_jax.train.run import run as run_single


class Trained(NamedTuple):
  """A value of a grid with results.json of each seed; `is_whole` unless the loss of one became infinite."""

  value: dict[str, Any]
  results: list[dict[str, Any]]
  is_whole: bool


def make_config(setting: Setting, row: Row, data: Path | None, work: Path) -> Any:
  """Return the config of a row in a setting; prepare its data in `work` if need be."""
  fields = dict(setting.fields)
  if setting.data and data is None:
    raise SystemExit(f'{setting.id} needs the data of {setting.data}: give --data=DIR.')
  if data and setting.data == 'celeba':
    (weights,) = (data / 'weights').glob('resnet20-*.th')
    fields |= {'data.dir': data / 'celeba', 'model.weights': weights}
  elif data and setting.data == 'dominoes':
    fields['data.dir'] = work / f'dominoes-{setting.sides}-{setting.rate}'
    if not fields['data.dir'].exists():
      dominoes.build(data, fields['data.dir'], setting.sides, setting.rate)
  name = f'{setting.config}:{row.method}' + (f',{setting.variant}' if setting.variant else '')
  return harness.load_config(name, fields | row.fields)


def train(
  config: Any, setting: Setting, grid: dict[str, list[Any]], seeds: Sequence[int], folder: Path
) -> list[Trained]:
  """Train all values of a grid with some seeds: as one population, or as single runs."""
  shutil.rmtree(folder, ignore_errors=True)
  axes = grid | {'seed': list(seeds)}
  members, results = expand(config, axes), {}
  if not setting.single_runs:
    run_sweep(config, axes, folder)
  for member in members:
    if (folder / member.name / 'done').exists():  # of a sweep
      results[member.name] = json.loads((folder / member.name / 'results.json').read_text())
    elif setting.single_runs:
      try:
        results[member.name] = run_single(member.config, folder / member.name)
      except UserError as error:
        if 'finite' not in str(error):
          raise
  trained = []
  for value in {json.dumps(member.setting): member.setting for member in members}.values():
    names = [member.name for member in members if member.setting == value]
    finished = [results[name] for name in names if name in results]
    trained.append(Trained(value, finished, len(finished) == len(names)))
  return trained


def label_free(setting: Setting, results: dict[str, Any]) -> str:
  """Return the rule without group labels: the first of the setting's that a run has."""
  return next(rule for rule in setting.label_free if rule in results['selected'])


def score(trained: Trained, rule: str, pick_at: str) -> float:
  """Return the mean validation score of a value, at the step that the rule selects or at the last one."""
  split, metric = selection.parts(rule)
  steps = [r['last'] if pick_at == 'last' else r['selected'][rule] for r in trained.results]
  return float(np.mean([step[split][metric] for step in steps]))


def tune(config: Any, setting: Setting, grid: dict[str, list[Any]], folder: Path) -> tuple[dict[str, Any], list[dict]]:
  """Return the value that each rule picks, and the scores of all that were tried."""
  if all(len(values) == 1 for values in grid.values()):
    only = {field: values[0] for field, values in grid.items()}
    return {pick: dict(only) for pick in setting.picks}, []
  whole = [trained for trained in train(config, setting, grid, setting.tuning_seeds, folder) if trained.is_whole]
  rules = {'oracle': setting.oracle, 'label_free': label_free(setting, whole[0].results[0])}
  scores = [
    {'value': t.value, **{pick: round(score(t, rules[pick], setting.pick_at), 4) for pick in setting.picks}}
    for t in whole
  ]
  picked = {p: max(whole, key=lambda t: score(t, rules[p], setting.pick_at)).value for p in setting.picks}
  return picked, scores


def confirm(config: Any, setting: Setting, picked: dict[str, Any], folder: Path) -> tuple[list[dict], dict[str, bool]]:
  """Train the selected values with the fresh seeds: test accuracy and worst groups of each, and the use of groups."""
  fresh: dict[str, list[dict[str, Any]]] = {}
  for pick, value in picked.items():
    if pick == 'label_free' and value == picked['oracle']:
      continue
    grid = {field: [chosen] for field, chosen in value.items()}
    (trained,) = train(config, setting, grid, setting.fresh_seeds, folder)
    if not trained.is_whole:
      raise SystemExit(f'{setting.id}: a run of {value}, which {pick} picks, is not finite.')
    fresh[pick] = trained.results
  rule = label_free(setting, fresh['oracle'][0])
  rows = []
  for i, seed in enumerate(setting.fresh_seeds):
    oracle, free = fresh['oracle'][i], fresh.get('label_free', fresh['oracle'])[i]
    tests = {'last': oracle['last'], 'label_free': free['selected'][rule], 'oracle': oracle['selected'][setting.oracle]}
    worst = {name: round(step['test']['worst_group_accuracy'], 4) for name, step in tests.items()}
    rows.append({'seed': seed, 'accuracy': round(oracle['last']['test']['accuracy'], 4), **worst})
  return rows, fresh['oracle'][0]['needs_groups']


def measure(setting: Setting, row: Row, grid: dict[str, list[Any]], args: argparse.Namespace, work: Path) -> str:
  """Tune and confirm a row and record it; return a line that says how it ended."""
  began = time.monotonic()
  config = make_config(setting, row, args.data, work)
  picked, scores = tune(config, setting, grid, work / 'runs')
  seeds, needs_groups = confirm(config, setting, picked, work / 'runs')
  used = ', '.join(split for split, is_used in needs_groups.items() if is_used)
  if used != row.needs_groups:
    raise SystemExit(f'{row.id} used group labels in {used or "nothing"}: say so in rows.toml.')
  key = {'setting': setting.id, 'row': row.id}
  harness.append_rows(args.raw, [key | line for line in scores])
  harness.append_rows(args.out / 'seeds.jsonl', [key | line for line in seeds])
  record = key | {'tried': len(scores), 'picked': picked['oracle']} | harness.provenance()
  harness.append_rows(args.out / 'rows.jsonl', [record])
  mean = 100 * np.mean([line['last'] for line in seeds])
  return f'{setting.id}, {row.id}: worst group {mean:.1f} in {time.monotonic() - began:.0f} s'


def main() -> None:
  rows, settings = plan.load_rows(), plan.load_settings()
  parser = harness.command_parser(__doc__)
  parser.add_argument('--data', type=Path)
  parser.add_argument('--setting', choices=settings, metavar='ID')
  parser.add_argument('--row', choices=rows, metavar='ID')
  parser.add_argument('--raw', type=Path, help='a file for the scores of everything that is tried')
  args = parser.parse_args()
  if not args.out:
    parser.error('give --out=NEW')
  harness.reuse_memory()
  done = {(row['setting'], row['row']) for row in harness.read_rows(args.out / 'rows.jsonl')}
  with tempfile.TemporaryDirectory() as work:
    for setting in settings.values():
      if args.setting not in (None, setting.id):
        continue
      if setting.data and not args.data and not args.setting:
        print(f'{setting.id}: left out, as it needs --data')
        continue
      for row, grid in plan.rows_of(setting, rows):
        if args.row in (None, row.id) and (setting.id, row.id) not in done and not row.archived:
          try:
            print(measure(setting, row, grid, args, Path(work)), flush=True)
          except UserError as error:
            raise SystemExit(f'{setting.id}, {row.id}: {error}') from None


if __name__ == '__main__':
  main()
