"""How much memory a fused ULE step needs, with and without remat, in float32 and bfloat16.

  python benchmarks/memory.py [--out=NEW.jsonl] [--run]    compile every row; --run also makes steps of small ones
  python benchmarks/memory.py --network=vit_s16,vit_b16    those of some networks
  python benchmarks/memory.py --markdown                   the table of benchmarks/results/memory.jsonl

A row is one process: the compiled step's temporary memory (beside parameters, optimiser and batch) and FLOPs as the
compiler reports them; with --run, the peak memory of the process and the seconds of a second step.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import record

RESULTS = Path(__file__).parent / 'results' / 'memory.jsonl'
# network, batch, remat, precision; those of the last two batches are small enough to run on a CPU with 8 GiB
COMPILED = [
  (name, 16, remat, precision)
  for name in ('resnet50', 'vit_s16', 'vit_b16')
  for precision in ('float32', 'bfloat16')
  for remat in (False, True)
]
RUN = [('resnet50', 4, False, 'float32'), ('vit_b16', 2, False, 'float32'), ('vit_b16', 2, True, 'float32')]


def measure(name: str, batch: int, remat: bool, precision: str, run: bool) -> dict:
  """Compile a step at 224 x 224, and make two if asked."""
  from types import SimpleNamespace

  import jax
  import jax.numpy as jnp
  import numpy as np

  from ule_jax.cli.flags import parse
  from ule_jax.devices import runtime
  from ule_jax.methods import Batch, Sizes
  from ule_jax.models import make_model
  from ule_jax.models.build import make_preprocess
  from ule_jax.optim import make_optimizer
  from ule_jax.train.assemble import make_method
  from ule_jax.train.step import create_state, make_train_step

  flags = [f'--config.model.name={name}', f'--config.model.remat={remat}', f'--config.model.precision={precision}']
  config = parse(['--config=celeba:ule', '--config.data.dir=none', *flags], '', {}).config
  method = make_method(config, Sizes(1000, 2, 4, np.full(4, 250), config.model.batch_norm == 'batch'))
  model, tx = (
    make_model(SimpleNamespace(**config.model), 2),
    make_optimizer(SimpleNamespace(**config.optim), method.roles, 100),
  )
  preprocess, key = make_preprocess((0.5,) * 3, (0.5,) * 3), jax.random.key(0)
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (batch, 224, 224, 3), np.uint8)
  ids = jnp.arange(batch, dtype=jnp.int32)
  data = Batch(jnp.asarray(image), ids % 2, ids % 4, ids, jnp.ones(batch))
  make_state = jax.jit(lambda: create_state(method, model, tx, preprocess(data.image[:1]), key))
  step = make_train_step(method, model, tx, key, preprocess)
  step = jax.jit(step, donate_argnums=0, compiler_options=runtime.compiler_options())
  began = time.perf_counter()
  compiled = step.lower(jax.eval_shape(make_state), data).compile()
  row = {
    'network': name,
    'batch': batch,
    'remat': remat,
    'precision': precision,
    'device': jax.devices()[0].device_kind,
  }
  row |= {
    'compile_s': time.perf_counter() - began,
    'temporary_gib': compiled.memory_analysis().temp_size_in_bytes / 2**30,
    'gflop': compiled.cost_analysis()['flops'] / 1e9,
  }
  if run:
    state = make_state()
    for _ in range(2):
      began = time.perf_counter()
      state, metrics = compiled(state, data)
      finite = bool(np.isfinite(jax.device_get(list(metrics.values()))).all())
      row |= {'step_s': time.perf_counter() - began, 'finite': finite}
    row['peak_rss_gib'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  return row


def markdown(rows: list[dict]) -> str:
  """Lay out the table of the README."""
  lines = [
    '| ULE step at 224 x 224 | temporary memory, GiB | with `remat` | | its FLOPs |', '|---|---|---|---|---|',
  ]  # fmt: skip
  kept = {(r['network'], r['batch'], r['precision']): r for r in rows if not r['remat'] and 'step_s' not in r}
  for (network, batch, precision), row in kept.items():
    again = next(
      r for r in rows if r['remat'] and (r['network'], r['batch'], r['precision']) == (network, batch, precision)
    )
    less = 1 - again['temporary_gib'] / row['temporary_gib']
    lines.append(
      f'| `{network}`, batch {batch}, {precision} | {row["temporary_gib"]:.2f} | {again["temporary_gib"]:.2f} '
      f'| -{less:.0%} | {again["gflop"] / row["gflop"]:.2f} times |'
    )
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', type=Path)
  parser.add_argument('--network', default='resnet50,vit_s16,vit_b16', help='of these, with commas between')
  parser.add_argument('--run', action='store_true')
  parser.add_argument('--markdown', action='store_true')
  parser.add_argument('--one')
  args = parser.parse_args()
  if args.markdown:
    print(markdown(record.read(RESULTS)))
    return
  if args.one:
    print(json.dumps(measure(*json.loads(args.one))))
    return
  made = record.made()
  for case in [(*c, False) for c in COMPILED] + [(*c, True) for c in RUN if args.run]:
    if case[0] not in args.network.split(','):
      continue
    command = [sys.executable, __file__, f'--one={json.dumps(case)}']
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row = json.loads(done.stdout) | made
    print(json.dumps(row), flush=True)
    record.add(args.out, row)


if __name__ == '__main__':
  main()
