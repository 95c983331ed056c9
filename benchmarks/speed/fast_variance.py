"""Effect of `model.fast_variance`: the time of a step, and the worst error of a variance in float32.

python -m benchmarks.speed.fast_variance --out=NEW.jsonl
"""

import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.speed.problem import compile_ahead, make_problem, make_step
from ule_jax.models.layers import make_norm

NETWORK, SIZE, BATCH, TURNS = 'resnet20', 32, 32, 20
VALUES, CHANNELS, RATIOS = 4096, 64, (100, 300, 1000)


def make_timer(fast: bool) -> Callable[[], float]:
  """Return a function that times one compiled ERM step, in seconds."""
  problem = make_problem(NETWORK, 'float32', 'erm', batch=BATCH, size=SIZE, batch_norm='batch', fast_variance=fast)
  step, _ = compile_ahead(make_step(problem), problem.state, problem.batch)
  return harness.timed(lambda: jax.block_until_ready(step(problem.state, problem.batch)))


def worst_error(fast: bool, ratio: float) -> float:
  """Return the largest relative error of a channel's variance where its mean is `ratio` deviations."""
  values = np.random.default_rng(0).normal(size=(VALUES, CHANNELS)).astype(np.float32) + np.float32(ratio)
  norm = make_norm('batch', True, fast_variance=fast)(None)
  start = norm.init(jax.random.key(0), jnp.asarray(values))
  moved = norm.apply(start, jnp.asarray(values), mutable=['batch_stats'])[1]['batch_stats']['var']
  # The running variance begins at 1 and moves by a tenth of the way.
  variance = (np.asarray(moved, np.float64) - norm.momentum) / (1 - norm.momentum)
  return float(np.abs(variance / values.astype(np.float64).var(0) - 1).max())


def main() -> None:
  args = harness.command_parser(__doc__).parse_args()
  seconds = harness.in_turns({'one_pass': make_timer(True), 'two_passes': make_timer(False)}, TURNS)
  low, middle, high = harness.quartiles(harness.ratios(seconds['two_passes'], seconds['one_pass']))
  errors = {str(r): {'one_pass': worst_error(True, r), 'two_passes': worst_error(False, r)} for r in RATIOS}
  row = {'network': NETWORK, 'size': SIZE, 'batch': BATCH, 'turns': TURNS, 'time_of_two_passes': round(middle, 3)}
  row |= {'quartiles': [round(low, 3), round(high, 3)], 'worst_error': errors} | harness.provenance()
  print(json.dumps(row))
  harness.append_rows(args.out, [row])


if __name__ == '__main__':
  main()
