"""Cost of a step of each method on the network of `digits`, relative to ERM: time, and FLOPs of the compiled graph.

python -m benchmarks.speed.method_cost --out=NEW.jsonl
"""

import functools
import json
import statistics

import jax
import numpy as np

from benchmarks import harness
from benchmarks.robustness import plan
from benchmarks.speed.problem import compile_ahead, make_step
from ule_jax import Batch
from ule_jax.config.validate import validate_config
from ule_jax.devices.mesh import make_mesh
from ule_jax.train.assemble import initialise

BATCH, TURNS, LEAST = 128, 30, 0.01  # LEAST: seconds of a turn


def measure(methods: dict[str, str], turns: int) -> list[dict[str, object]]:
  """Return the rows of methods (key -> name); the others are compared with the first one."""
  steps, flops, rng = {}, {}, np.random.default_rng(0)
  mesh = make_mesh()
  for key, method in methods.items():
    config = validate_config(harness.load_config(f'digits:{method}'))
    dataset = harness.load_dataset(config)
    trainer = initialise(config, dataset, mesh)
    group = rng.integers(0, 4, BATCH).astype(np.int32)
    image = rng.integers(0, 255, (BATCH, *dataset.image_shape)).astype(np.uint8)
    batch = Batch(image, group // 2, group, np.arange(BATCH, dtype=np.int32), np.ones(BATCH, np.float32))
    step, columns = compile_ahead(make_step(trainer), trainer.state, batch)
    call = functools.partial(step, trainer.state, batch)
    steps[key] = harness.timed(lambda call=call: jax.block_until_ready(call()), least=LEAST)
    flops[key] = columns['gflop']
  seconds, first = harness.in_turns(steps, turns), next(iter(methods))
  times = {key: statistics.median(harness.ratios(values, seconds[first])) for key, values in seconds.items()}
  return [{'row': key, 'time': round(times[key], 3), 'flops': round(flops[key] / flops[first], 3)} for key in methods]


def main() -> None:
  args = harness.command_parser(__doc__).parse_args()
  methods = {row.id: row.method for row in plan.load_rows().values() if 'methods' in row.grid}
  rows = [row | harness.provenance() for row in measure(methods, TURNS)]
  print('\n'.join(map(json.dumps, rows)))
  harness.append_rows(args.out, rows)


if __name__ == '__main__':
  main()
