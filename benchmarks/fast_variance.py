"""What `model.fast_variance` saves and loses: the time of a step, and the worst error of a variance in float32.

  python benchmarks/fast_variance.py

A row goes to benchmarks/results/fast_variance.jsonl. Both steps are compiled once and take turns.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import record

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from configs import base  # noqa: E402
from ule_jax.methods import METHODS, Batch, Sizes  # noqa: E402
from ule_jax.models import make_network  # noqa: E402
from ule_jax.models.layers import make_norm  # noqa: E402
from ule_jax.train.step import create_state, make_train_step  # noqa: E402

NETWORK, SIZE, BATCH, TURNS = 'resnet20', 32, 32, 20
VALUES, CHANNELS, RATIOS = 4096, 64, (100, 300, 1000)


def make_step(fast: bool):
  """Compile an ERM step; return a function that times one call of it, in seconds."""
  options = base.make('digits', 'erm').model.to_dict() | dict(name=NETWORK, batch_norm='batch', fast_variance=fast)
  network, key, rng = make_network(SimpleNamespace(**options), 2), jax.random.key(0), np.random.default_rng(0)
  method = METHODS['erm'](SimpleNamespace(**base.METHODS['erm']), Sizes(100, 2, 4, np.array([40, 10, 10, 40])))
  image = jnp.asarray(rng.normal(size=(BATCH, SIZE, SIZE, 3)), jnp.float32)
  label = jnp.asarray(rng.integers(0, 2, BATCH), jnp.int32)
  batch = Batch(image, label, label, jnp.arange(BATCH, dtype=jnp.int32), jnp.ones(BATCH))
  tx = optax.sgd(1e-3)
  state = create_state(method, network, tx, image[:1], key)
  step = jax.jit(make_train_step(method, network, tx, key)).lower(state, batch).compile()

  def timed() -> float:
    began = time.perf_counter()
    jax.block_until_ready(step(state, batch))
    return time.perf_counter() - began

  timed()
  return timed


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
  steps = {fast: make_step(fast) for fast in (True, False)}
  turns = [{fast: steps[fast]() for fast in ((True, False) if i % 2 else (False, True))} for i in range(TURNS)]
  ratios = [turn[False] / turn[True] for turn in turns]
  low, middle, high = statistics.quantiles(ratios, n=4)
  row = {
    **record.made(),
    'network': NETWORK, 'size': SIZE, 'batch': BATCH, 'turns': TURNS, 'jax': jax.__version__,
    'time_of_two_passes': round(middle, 3), 'quartiles': [round(low, 3), round(high, 3)],
    'worst_error': {
      str(ratio): {'one_pass': worst_error(True, ratio), 'two_passes': worst_error(False, ratio)} for ratio in RATIOS
    },
  }  # fmt: skip
  record.add(Path(__file__).parent / 'results' / 'fast_variance.jsonl', row)
  print(json.dumps(row))


if __name__ == '__main__':
  main()
