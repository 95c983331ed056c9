"""Every method on the embedded task, at its own best setting, beside ERM.

  python benchmarks/family.py --out=NEW.jsonl       tune on seeds 0 to 2, then run seeds 10 to 12 once
  python benchmarks/family.py --out=NEW.jsonl --method=jtt      one method, without the cost of its step
  python benchmarks/family.py --markdown            the table of benchmarks/results/family.jsonl

Every row is a run of the main job on configs/digits.py. A setting is chosen by the mean over the tuning seeds
of val_balanced's worst group at the last step: the oracle rule, for every method alike. Rows of a file that
exist are not run again. The cost of a step is measured in one process, methods in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import record

RESULTS = Path(__file__).parent / 'results' / 'family.jsonl'
TUNING, FRESH = (0, 1, 2), (10, 11, 12)
DFR = {'first.dfr.split': 'val_balanced'}

# method -> the settings that are tried, beside what configs/digits.py says; so few that nobody has much of an
# advantage by their number. What else ULE and its controls are was chosen by benchmarks/robustness.py.
GRID: dict[str, dict[str, tuple]] = {
  'erm': {'optim.weight_decay': (0.0, 1e-3, 1e-2, 1e-1)},
  'rwy': {'optim.weight_decay': (0.0, 1e-3, 1e-2, 1e-1)},
  'suby': {'optim.weight_decay': (0.0, 1e-3, 1e-2, 1e-1)},
  'mixup': {'method.alpha': (0.2, 0.5, 1.0, 2.0)},
  'lff': {'method.q': (0.3, 0.5, 0.7, 0.9)},
  'jtt': {'first.jtt.up_weight': (10.0, 50.0), 'first.steps': (50, 200)},
  'eiil': {'method.step_size': (0.01, 0.1), 'first.steps': (50, 200)},
  'spare': {'first.spare.max_clusters': (2, 5), 'first.steps': (50, 200)},
  'cnc': {'method.contrast': (0.25, 0.75), 'first.steps': (50, 200)},
  'afr': {'first.afr.gamma': (1.0, 4.0), 'first.afr.lr': (0.01, 0.1)},
  'ule': {'method.weight': (0.01, 0.03, 0.1, 0.3)},
  'gradient_penalty': {'method.weight': (0.03, 0.1, 0.3, 1.0)},
  'shuffled_student': {'method.weight': (0.01, 0.03, 0.1, 0.3)},
  'dfr': {},
  'group_dro': {'method.step_size': (0.01, 0.1), 'method.adjustment': (0.0, 2.0)},
  'rwg': {'optim.weight_decay': (0.0, 1e-3, 1e-2, 1e-1)},
  'subg': {'optim.weight_decay': (0.0, 1e-3, 1e-2, 1e-1)},
  'irm': {'method.penalty_weight': (1.0, 10.0, 100.0), 'method.anneal_steps': (200,)},
  'vrex': {'method.penalty_weight': (1.0, 10.0, 100.0), 'method.anneal_steps': (200,)},
  'coral': {'method.gamma': (0.1, 1.0, 10.0)},
  'mmd': {'method.gamma': (0.1, 1.0, 10.0)},
  'lisa': {'method.alpha': (0.5, 2.0), 'method.domains': (0, 2)},
}


def settings(method: str) -> list[dict]:
  """List the settings of a method."""
  grid = GRID[method]
  fixed = DFR if method == 'dfr' else {}
  return [fixed | dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def run(method: str, setting: dict, seed: int) -> dict:
  """Run the main job in this process; return its results."""
  from ule_jax.cli.flags import parse
  from ule_jax.train.run import run as train_run

  flags = [f'--config=digits:{method}', f'--config.seed={seed}', '--config.train.eval_every=200']
  config = parse([*flags, *(f'--config.{name}={value}' for name, value in setting.items())], '', {}).config
  with tempfile.TemporaryDirectory() as scratch:
    return train_run(config, Path(scratch) / 'run')


def row(method: str, setting: dict, seed: int, results: dict) -> dict:
  """Keep what the table needs of a run."""
  rules = {'last': results['last'], 'label_free': results['selected']['val/worst_class_accuracy']}
  rules['oracle'] = results['selected']['val_balanced/worst_group_accuracy']
  return {
    'method': method,
    'setting': setting,
    'seed': seed,
    'needs_groups': results['needs_groups'],
    'val_balanced': results['last']['val_balanced']['worst_group_accuracy'],
    'accuracy': results['last']['test']['accuracy'],
    **{f'worst_{name}': found['test']['worst_group_accuracy'] for name, found in rules.items()},
  }


def best(rows: list[dict], method: str) -> dict:
  """Choose a method's setting on the tuning seeds."""
  found: dict[str, list[float]] = {}
  for r in rows:
    if r.get('method') == method and r.get('seed') in TUNING:
      found.setdefault(json.dumps(r['setting']), []).append(r['val_balanced'])
  return json.loads(max(found, key=lambda s: statistics.mean(found[s])))


def grid(out: Path, only: str | None) -> None:
  """Run what the file does not have yet; of one method, if `only` one is asked for."""
  methods = [only] if only else list(GRID)
  rows, made, began = record.read(out), record.made(), time.monotonic()
  done = {(r['method'], json.dumps(r['setting']), r['seed']) for r in rows if 'seed' in r}

  def do(method: str, setting: dict, seed: int, left: int) -> None:
    if (method, json.dumps(setting), seed) not in done:
      rows.append(row(method, setting, seed, run(method, setting, seed)) | made)
      record.add(out, rows[-1])
      spent = time.monotonic() - began
      print(f'{spent:5.0f} s, {left} left: {method} {setting} seed {seed}', file=sys.stderr, flush=True)

  tuning = [(m, s, seed) for m in methods for s in settings(m) for seed in TUNING if len(settings(m)) > 1]
  for i, job in enumerate(tuning):
    do(*job, len(tuning) - i + len(methods) * len(FRESH))
  for i, method in enumerate(methods):
    chosen = best(rows, method) if len(settings(method)) > 1 else settings(method)[0]
    for seed in FRESH:
      do(method, chosen, seed, (len(methods) - i) * len(FRESH))
  if not only and not any('cost' in r for r in rows):
    record.add(out, *({'method': method, **cost, **made} for method, cost in costs().items()))


def costs() -> dict[str, dict[str, float]]:
  """Measure a step of every method on the task's network, relative to ERM: time and FLOPs of the compiled graph."""
  import jax
  import numpy as np

  from ule_jax import data
  from ule_jax.cli.flags import parse
  from ule_jax.devices.mesh import make_mesh
  from ule_jax.methods import Batch
  from ule_jax.train import assemble
  from ule_jax.train.step import make_train_step

  steps, flops, rng = {}, {}, np.random.default_rng(0)
  mesh = make_mesh()
  for method in GRID:
    config = parse([f'--config=digits:{method}'], '', {}).config
    options = dict(config.data)
    dataset = data.load(options.pop('name'), options)
    built = assemble.initialise(config, dataset, mesh)
    ids = rng.integers(0, 4, 128).astype(np.int32)
    image = rng.integers(0, 255, (128, *dataset.image_shape)).astype(np.uint8)
    batch = Batch(image, ids // 2, ids, np.arange(128, dtype=np.int32), np.ones(128, np.float32))
    step = make_train_step(built.method, built.model, built.tx, built.key, built.preprocess)
    steps[method] = jax.jit(step).lower(built.state, batch).compile()
    flops[method] = steps[method].cost_analysis()['flops']
    steps[method] = (steps[method], built.state, batch)
  times: dict[str, list[float]] = {method: [] for method in GRID}
  for _ in range(30):
    for method, (step, state, batch) in steps.items():
      began = time.perf_counter()
      for _ in range(20):
        jax.block_until_ready(step(state, batch))
      times[method].append(time.perf_counter() - began)
  base = times['erm']
  return {
    method: {
      'cost': statistics.median(t / b for t, b in zip(times[method], base, strict=True)),
      'flops': flops[method] / flops['erm'],
    }
    for method in GRID
  }


def markdown(path: Path) -> str:
  """Lay out the fresh seeds."""
  rows = record.read(path)
  cost = {r['method']: r for r in rows if 'cost' in r}
  lines = [
    '| method | needs groups in | settings | accuracy | worst group, last step | label-free rule | oracle rule '
    '| step time, FLOPs / ERM |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for method in GRID:
    fresh = [r for r in rows if r['method'] == method and r.get('seed') in FRESH]
    if not fresh:
      continue
    needs = [where for where, used in fresh[0]['needs_groups'].items() if used]
    mean = {
      name: 100 * statistics.mean(r[name] for r in fresh) for name in fresh[0] if name.startswith(('worst', 'acc'))
    }
    spread = 100 * statistics.stdev(r['worst_last'] for r in fresh)
    price = '-'
    if method in ('dfr', 'afr'):
      price = 'a fit'
    elif method in cost:
      price = f'{cost[method]["cost"]:.1f}, {cost[method]["flops"]:.1f}'
    worst = ' | '.join(f'{mean[f"worst_{rule}"]:.1f}' for rule in ('label_free', 'oracle'))
    lines.append(
      f'| `{method}` | {", ".join(needs) or "-"} | {len(settings(method))} | {mean["accuracy"]:.1f} '
      f'| {mean["worst_last"]:.1f} ± {spread:.1f} | {worst} | {price} |'
    )
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', type=Path)
  parser.add_argument('--method', choices=GRID)
  parser.add_argument('--markdown', action='store_true')
  args = parser.parse_args()
  if args.out:
    grid(args.out, args.method)
  if args.markdown or not args.out:
    print(markdown(args.out or RESULTS))


if __name__ == '__main__':
  main()
