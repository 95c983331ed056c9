"""The benchmark of the step: its separate calls compute what the fused step does, and its table is of its rows."""

import sys

import jax
import jax.numpy as jnp
import pytest
from common import assert_close


@pytest.fixture
def benchmark(root, monkeypatch):
  monkeypatch.syspath_prepend(str(root / 'benchmarks'))
  import step_time

  yield step_time
  sys.modules.pop('step_time')


TINY = {'batch': 4, 'size': 8, 'width': 4, 'depth': 2}


def test_separate_calls_are_the_fused_step(benchmark):
  from ule_jax.train.step import make_train_step

  problem = benchmark.pose('cnn', 'float32', 'ule', batch_norm='batch', **TINY)
  fused = jax.jit(make_train_step(problem.method, problem.model, problem.tx, problem.key, problem.preprocess))
  separate, about = benchmark.make_separate(problem)
  one = other = problem.state
  for _ in range(2):
    one, metrics = fused(one, problem.batch)
    # It gives its parameters and optimiser state away.
    other, found = separate(jax.tree.map(lambda x: x.copy(), other))
    assert_close(found, benchmark.losses_of(metrics), rtol=1e-5)
  assert_close((other.step, other.batch_stats), (one.step, one.batch_stats), rtol=1e-5)
  # Adam divides by its root mean square: rounding shows where a gradient is next to nothing.
  assert_close(other.params, one.params, rtol=1e-3, atol=1e-5)
  assert about['gflop'] > 0


def test_virtual_devices_have_the_losses_of_one(benchmark):
  problem = benchmark.pose('cnn', 'float32', 'ule', batch_norm='batch', **TINY)
  one, four = benchmark.fused(problem), benchmark.fused(problem, 4)
  for _ in range(2):
    assert_close(four.step(), one.step(), rtol=1e-5)
  assert four.about['devices'] == 4


def test_the_tables_are_of_the_last_run(benchmark, monkeypatch):
  monkeypatch.setattr(benchmark, 'LEAST', 0.01)
  monkeypatch.setattr(benchmark, 'product_peak', lambda precision: 1e11)
  monkeypatch.setattr(benchmark.os, 'sched_getaffinity', lambda process: {0, 1})
  rows = benchmark.measure('cnn', 'float32', 2, ('erm', 'ule', 'ule_devices', 'separate'), TINY)
  assert [row['contestant'] for row in rows] == ['erm', 'ule', 'separate', 'ule_devices']
  assert all(len(row['ms']) == 2 for row in rows)
  assert max(value for row in rows[2:] for value in row['differences'].values()) < 1e-3
  assert rows[3]['devices'] in (2, 4)
  old = [row | {'run': 0, 'contestant': who, 'ms': [1.0]} for row in rows for who in ('ule', 'torch_eager')]
  note = {k: v for k, v in rows[2].items() if k != 'compile_s'}
  note |= {'contestant': 'torch_compiled', 'ms': [], 'note': 'ImportError: none'}
  made = benchmark.markdown([*old, *rows, note]).splitlines()
  assert len(made) == 7
  assert made[2].startswith('| `cnn`, 4 of 8 x 8, float32 |')
  assert made[6].endswith('| - | ImportError: none | - |')


SLOW = {'marks': pytest.mark.slow}


@pytest.mark.parametrize(
  ('name', 'batch_norm'),
  [
    ('cnn', 'none'),
    ('resnet20', 'batch'),
    pytest.param('resnet20', 'frozen', **SLOW),
    pytest.param('vit_s16', 'none', **SLOW),
  ],
)
def test_pytorch_computes_the_same(name, batch_norm, benchmark, torchvision, x64, monkeypatch):
  """Both ways in which the rival is written, two steps, in float64."""
  if name == 'vit_s16':
    pytest.importorskip('timm')
  problem = benchmark.pose(name, 'float32', 'ule', batch=4, size=16, batch_norm=batch_norm)
  state = jax.tree.map(lambda x: x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x, problem.state)
  batch = problem.batch._replace(weight=problem.batch.weight.astype(float))
  pixels = lambda image: (image.astype(float) / 255 - 0.5) / 0.5  # noqa: E731
  problem = problem._replace(state=state, batch=batch, preprocess=pixels)
  fused = benchmark.fused(problem)
  expected = [jax.tree.map(float, fused.step()) for _ in range(2)]
  rival = benchmark.Torch(problem, name, 'float32')
  found = [rival.eager(), rival.eager()]
  rival = benchmark.Torch(problem, name, 'float32')
  monkeypatch.setattr(rival.torch, 'compile', lambda function: function)
  step = rival.make_compiled()
  found += [step(), step()]
  for losses, ours in zip(found, expected * 2, strict=True):
    assert {role: float(loss) for role, loss in losses.items()} == pytest.approx(ours, rel=1e-6)
