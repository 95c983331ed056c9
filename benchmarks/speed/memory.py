"""Memory of a fused ULE step, with and without remat, in float32 and bfloat16.

python -m benchmarks.speed.memory [--out=NEW.jsonl] [--run]    compile every row; --run also makes steps of small ones
"""

import json
import resource
import time
from typing import Any

import jax
import numpy as np

from benchmarks import harness
from benchmarks.speed.problem import compile_ahead, make_problem, make_step

SIZE = 224
# network, batch, remat, precision
COMPILED = [
  (name, 16, remat, precision)
  for name in ('resnet50', 'vit_s16', 'vit_b16')
  for precision in ('float32', 'bfloat16')
  for remat in (False, True)
]
# Small enough to run on a CPU with 8 GiB
RUN = [('resnet50', 4, False, 'float32'), ('vit_b16', 2, False, 'float32'), ('vit_b16', 2, True, 'float32')]


def measure(network: str, batch: int, remat: bool, precision: str, run: bool) -> dict[str, Any]:
  """Compile a step, and make two if asked; return its row."""
  problem = make_problem(network, precision, 'ule', batch=batch, size=SIZE, remat=remat)
  step, columns = compile_ahead(make_step(problem), problem.state, problem.batch, donate_argnums=0)
  row: dict[str, Any] = {'network': network, 'batch': batch, 'remat': remat, 'precision': precision}
  row |= {'device': jax.devices()[0].device_kind} | columns
  if run:
    state, seconds = problem.state, 0.0
    for _ in range(2):
      began = time.perf_counter()
      state, metrics = step(state, problem.batch)
      assert np.isfinite(jax.device_get(list(metrics.values()))).all(), metrics
      seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row |= {'step_s': round(seconds, 2), 'peak_rss_gib': round(peak, 2)}
  return row


def main() -> None:
  parser = harness.command_parser(__doc__)
  parser.add_argument('--run', action='store_true')
  args = parser.parse_args()
  for case in [(*c, False) for c in COMPILED] + [(*c, True) for c in RUN if args.run]:
    with harness.worker() as pool:
      row = pool.submit(measure, *case).result() | harness.provenance()
    print(json.dumps(row), flush=True)
    harness.append_rows(args.out, [row])


if __name__ == '__main__':
  main()
