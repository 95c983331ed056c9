"""The benchmark of the step: all contestants compute what the fused step does, and its table is of its rows."""

import sys

import jax
import jax.numpy as jnp
import pytest
from common import assert_close

from benchmarks.speed import method_cost, problem, step, tables

TINY = {'batch': 4, 'size': 8, 'width': 4, 'depth': 2}


def test_separate_calls_are_the_fused_step():
  case = problem.make_problem('cnn', 'float32', 'ule', batch_norm='batch', **TINY)
  fused = jax.jit(problem.make_step(case))
  separate, columns = step.make_separate(case)
  expected = state = case.state
  for _ in range(2):
    expected, metrics = fused(expected, case.batch)
    # The separate step gives its parameters and optimiser state away.
    state, losses = separate(jax.tree.map(lambda x: x.copy(), state))
    assert_close(step.losses_of(losses), step.losses_of(metrics), rtol=1e-5)
  assert_close((state.step, state.batch_stats), (expected.step, expected.batch_stats), rtol=1e-5)
  # Adam divides by its root mean square: rounding shows where a gradient is next to nothing.
  assert_close(state.params, expected.params, rtol=1e-3, atol=1e-5)
  assert columns['gflop'] > 0


def test_virtual_devices_have_the_losses_of_one():
  case = problem.make_problem('cnn', 'float32', 'ule', batch_norm='batch', **TINY)
  single, four = step.fused(case), step.fused(case, 4)
  for _ in range(2):
    assert_close(four.step(), single.step(), rtol=1e-5)
  assert four.columns['devices'] == 4


def test_the_tables_are_of_the_last_run(monkeypatch):
  monkeypatch.setattr(step, 'LEAST', 0.01)
  monkeypatch.setattr(step, 'product_peak', lambda precision: 100.0)
  monkeypatch.setattr(step.os, 'sched_getaffinity', lambda process: {0, 1})
  rows = step.measure('cnn', 'float32', 2, ('erm', 'ule', 'ule_devices', 'separate'), TINY)
  assert [row['contestant'] for row in rows] == ['erm', 'ule', 'separate', 'ule_devices']
  assert all(len(row['ms']) == 2 for row in rows)
  assert rows[3]['devices'] in (2, 4)
  earlier = [row | {'run': 0, 'contestant': name, 'ms': [1.0]} for row in rows for name in ('ule', 'torch_eager')]
  note = {k: v for k, v in rows[2].items() if k != 'compile_s'}
  note |= {'contestant': 'torch_compiled', 'ms': [], 'note': 'ImportError: none'}
  cases = tables.last_cases([*earlier, *rows, note])
  (ours,), (rivals,) = (table(cases).splitlines()[2:] for table in (tables.our_step, tables.rival_steps))
  assert ours.startswith('| `cnn`, 4 of 8 x 8, float32 |')
  cells = [cell.strip() for cell in rivals.split('|')]
  assert cells[4:7] == ['-', 'ImportError: none', '-']


def test_a_contestant_that_computes_something_else_is_refused():
  first = {'ule': {'student': 1.0, 'teacher': 2.0}, 'erm': {'model': 9.0}, 'separate': {'student': 1.0, 'teacher': 2.1}}
  step.compare_losses(first, 0.06)
  with pytest.raises(AssertionError, match='separate computes something else'):
    step.compare_losses(first, 0.01)


def test_the_cost_of_a_method_is_relative_to_the_first():
  erm, ule = method_cost.measure({'method_erm': 'erm', 'method_ule': 'ule'}, turns=2)
  assert (erm['row'], erm['time'], erm['flops']) == ('method_erm', 1.0, 1.0)
  assert isinstance(ule['flops'], float)
  assert 2 < ule['flops'] < 5


@pytest.mark.parametrize(
  ('name', 'batch_norm'),
  [
    ('cnn', 'none'),
    ('resnet20', 'batch'),
    pytest.param('resnet20', 'frozen', marks=pytest.mark.slow),
    pytest.param('vit_s16', 'none', marks=pytest.mark.slow),
  ],
)
def test_pytorch_computes_the_same(name, batch_norm, torchvision, x64, monkeypatch):
  """Both ways in which the rival is written, two steps, in float64."""
  if name == 'vit_s16':
    pytest.importorskip('timm')
  from benchmarks.speed import torch_rival

  case = problem.make_problem(name, 'float32', 'ule', batch=4, size=16, batch_norm=batch_norm)
  state = jax.tree.map(lambda x: x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x, case.state)
  batch = case.batch._replace(weight=case.batch.weight.astype(float))
  pixels = lambda image: (image.astype(float) / 255 - 0.5) / 0.5  # noqa: E731
  case = case._replace(state=state, batch=batch, preprocess=pixels)
  fused = step.fused(case)
  expected = [jax.tree.map(float, fused.step()) for _ in range(2)]
  eager = torch_rival.TorchStep(case, name, 'float32')
  losses = [eager.eager(), eager.eager()]
  monkeypatch.setattr(torch_rival.torch, 'compile', lambda function: function)
  compiled = torch_rival.TorchStep(case, name, 'float32').make_compiled()
  losses += [compiled(), compiled()]
  for rival, ours in zip(losses, expected * 2, strict=True):
    assert {role: float(loss) for role, loss in rival.items()} == pytest.approx(ours, rel=1e-6)


def test_a_machine_without_pytorch_says_so(monkeypatch):
  monkeypatch.setitem(sys.modules, 'benchmarks.speed.torch_rival', None)
  monkeypatch.delattr('benchmarks.speed.torch_rival', raising=False)
  case = problem.make_problem('cnn', 'float32', 'erm', **TINY)
  assert 'Error' in step.rival('torch_eager', case, 'cnn', 'float32').columns['note']
