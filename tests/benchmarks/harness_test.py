"""The benchmarks' harness: turns, statistics, rows, and tables between the marks of a page."""

import os

import numpy as np
import pytest

from benchmarks import harness


def test_every_other_turn_goes_backwards():
  order = []

  def measure(name):
    order.append(name)
    return float(len(order))

  values = harness.in_turns({name: lambda name=name: measure(name) for name in 'abc'}, 3)
  assert ''.join(order) == 'abccbaabc'
  assert values == {'a': [1.0, 6.0, 7.0], 'b': [2.0, 5.0, 8.0], 'c': [3.0, 4.0, 9.0]}


def test_a_turn_has_as_many_calls_as_take_its_seconds(monkeypatch):
  clock, calls = [0.0], []

  def call():
    calls.append(0)
    clock[0] += 0.1

  monkeypatch.setattr(harness.time, 'perf_counter', lambda: clock[0])
  measure = harness.timed(call, least=0.95)
  assert len(calls) == 2  # the first compiles
  assert measure() == pytest.approx(0.1)
  assert len(calls) == 2 + 10


def test_work_that_is_waited_for_is_in_the_time(monkeypatch):
  clock = [0.0]

  def wait():
    clock[0] += 1.0

  monkeypatch.setattr(harness.time, 'perf_counter', lambda: clock[0])
  assert harness.timed(lambda: None, wait)() == 1.0


def test_statistics():
  values = [4.0, 1.0, 3.0, 2.0, 5.0]
  assert harness.ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
  assert harness.quartiles(values) == (1.5, 3.0, 4.5)
  assert harness.mean_sd(values) == '3.0 ± 1.6'
  assert harness.median_range(values, 0) == '3 (1-5)'
  low, high = harness.bootstrap(np.random.default_rng(0).normal(10, 1, 400).tolist())
  assert low == pytest.approx(10 - 1.96 / 20, abs=0.1)
  assert high == pytest.approx(10 + 1.96 / 20, abs=0.1)
  with pytest.raises(ValueError, match='zip'):
    harness.ratios([1.0], [1.0, 2.0])


def test_rows_are_appended_and_read_in_the_order_of_files(tmp_path):
  harness.append_rows(tmp_path / 'new' / '2026-02.jsonl', [{'n': 2}])
  harness.append_rows(tmp_path / 'new' / '2026-01.jsonl', [{'n': 0}])
  harness.append_rows(tmp_path / 'new' / '2026-01.jsonl', [{'n': 1}])
  harness.append_rows(None, [{'n': 9}])
  assert harness.read_rows(tmp_path / 'new') == [{'n': 0}, {'n': 1}, {'n': 2}]
  assert harness.read_rows(tmp_path / 'gone') == []


def test_a_row_says_where_it_comes_from():
  row = harness.provenance('numpy', 'no-such-package')
  assert {'commit', 'date', 'machine', 'cores', 'load', 'jax', 'numpy'} == row.keys()
  assert row['machine']
  assert row['cores'] >= 1


def test_a_worker_has_its_own_environment():
  with harness.worker(ULE_BENCHMARK='1') as pool:
    assert pool.submit(os.getenv, 'ULE_BENCHMARK').result() == '1'
    assert pool.submit(os.getpid).result() != os.getpid()
  assert 'ULE_BENCHMARK' not in os.environ


def test_tables_are_put_between_their_marks():
  page = 'a\n<!-- table: one -->\nold\n<!-- end -->\nb\n<!-- table: two -->\n<!-- end -->\n'
  new = harness.splice(page, {'one': lambda: '| 1 |', 'two': lambda: '| 2 |'})
  assert new == 'a\n<!-- table: one -->\n| 1 |\n<!-- end -->\nb\n<!-- table: two -->\n| 2 |\n<!-- end -->\n'
  assert harness.splice(new, {'one': lambda: '| 1 |', 'two': lambda: '| 2 |'}) == new
  with pytest.raises(KeyError, match='two'):
    harness.splice(page, {'one': lambda: ''})


def test_cells_stay_as_they_are():
  table = harness.markdown(['', 'x'], [['a', '1.10'], ['b', '']])
  assert [[cell.strip() for cell in line.split('|')[1:3]] for line in table.splitlines()[2:]] == [
    ['a', '1.10'],
    ['b', ''],
  ]


def test_a_config_is_that_of_the_command_line():
  config = harness.load_config('digits:ule', {'method.weight': 0.5, 'data.crops': 1})
  assert (config.method.weight, config.data.crops) == (0.5, 1)
  assert harness.load_dataset(config).splits['train'].count > 0
