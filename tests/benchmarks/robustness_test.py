"""The robustness benchmark: its pages of settings and rows, and a small run of it."""

import argparse

import pytest

from benchmarks import harness
from benchmarks.robustness import plan, run
from benchmarks.speed import problem
from configs import base

ROWS, SETTINGS = plan.load_rows(), plan.load_settings()


def test_bundles_are_merged_and_what_a_block_says_itself_counts(tmp_path):
  path = tmp_path / 'rows.toml'
  path.write_text(
    """
    [bundles.a]
    method = {q = 0.7, weight = 1.0}
    [bundles.b]
    method = {weight = 2.0}
    [rows.x]
    heading = 'X'
    method = 'ule'
    use = ['a', 'b']
    fields = {optim.lr = 0.1, method.q = 0.3}
    grid.tuned = {method.a = [1.0, 3.0]}
    """
  )
  (row,) = plan.load_rows(path).values()
  assert row.fields == {'method.q': 0.3, 'method.weight': 2.0, 'optim.lr': 0.1}
  assert row.grid == {'tuned': {'method.a': [1.0, 3.0]}}


def test_what_benchmarks_call_the_default_is_the_default():
  defaults = base.METHODS['ule']
  fields = ROWS[plan.DEFAULT].fields
  assert fields == {field: defaults[field.removeprefix('method.')] for field in fields}
  assert defaults | problem.ULE == defaults | {'trust_exponent': 0.0}


def test_every_setting_names_rows_and_grids_that_are_there():
  grids = {grid for row in ROWS.values() for grid in row.grid}
  for setting in SETTINGS.values():
    assert set(setting.grids) <= grids, setting.id
    assert set(setting.rows or ()) <= ROWS.keys(), setting.id
    pairs = plan.rows_of(setting, ROWS)
    assert len({row.id for row, _ in pairs}) == len(pairs) > 0, setting.id
  assert grids == {grid for setting in SETTINGS.values() for grid in setting.grids}


def test_methods_are_tuned_alike():
  """The table of all methods: at most four values each, so that nobody has much of an advantage by their number."""
  for row, grid in plan.rows_of(SETTINGS['methods'], ROWS):
    values = 1
    for axis in grid.values():
      values *= len(axis)
    assert 1 <= values <= 4, row.id


def test_fresh_seeds_are_not_those_of_tuning():
  for setting in SETTINGS.values():
    assert not set(setting.fresh_seeds) & set(setting.tuning_seeds), setting.id


@pytest.mark.parametrize('row', [row for row in ROWS.values() if not row.archived], ids=lambda row: row.id)
def test_every_row_is_a_config(row, tmp_path):
  config = harness.load_config(f'digits:{row.method}', row.fields)
  for grid in row.grid.values():
    for field, values in grid.items():
      config.update_from_flattened_dict({field: values[0]})


def test_an_archived_row_is_not_run_and_has_its_commit():
  archived = [row for row in ROWS.values() if row.archived]
  assert {row.method for row in archived} == {'ule_ahead', 'ule_decayed', 'ule_noisy', 'ule_shifted', 'ule_coarse'}
  assert {row.archived for row in archived} == {'bde165c'}


FAST = {'data.crops': 1, 'train.steps': 4, 'train.eval_every': 2, 'train.batch_size': 16}


@pytest.fixture
def setting():
  changes = {'fields': FAST, 'tuning_seeds': [0], 'fresh_seeds': [10, 11], 'grids': ['tuned']}
  return SETTINGS['digits']._replace(**changes)


@pytest.fixture
def args(tmp_path):
  return argparse.Namespace(data=None, out=tmp_path / 'out', raw=tmp_path / 'raw.jsonl')


ROW = plan.Row('tiny', 'tiny', 'erm', {}, {'tuned': {'optim.weight_decay': [0.0, 10.0]}})


def measure(setting, row, args, tmp_path):
  run.measure(setting, row, row.grid['tuned'], args, tmp_path / 'work')
  return harness.read_rows(args.out / 'rows.jsonl')[-1], harness.read_rows(args.out / 'seeds.jsonl')


def test_a_row_is_tuned_and_confirmed(setting, args, tmp_path):
  record, seeds = measure(setting, ROW, args, tmp_path)
  assert (record['setting'], record['row'], record['tried']) == ('digits', 'tiny', 2)
  assert record['picked']['optim.weight_decay'] in (0.0, 10.0)
  assert [line['seed'] for line in seeds] == [10, 11]
  assert all(line.keys() == {'setting', 'row', 'seed', 'accuracy', 'last', 'label_free', 'oracle'} for line in seeds)
  tried = harness.read_rows(args.raw)
  assert [line['value'] for line in tried] == [{'optim.weight_decay': 0.0}, {'optim.weight_decay': 10.0}]
  best = max(tried, key=lambda line: line['oracle'])
  assert record['picked'] == best['value']


def test_single_runs_and_a_population_come_to_the_same(setting, args, tmp_path):
  _, population = measure(setting, ROW, args, tmp_path)
  args.out = tmp_path / 'single'
  _, single = measure(setting._replace(single_runs=True), ROW, args, tmp_path)
  assert single == population


def test_a_row_that_is_not_tuned_is_only_confirmed(setting, args, tmp_path):
  record, seeds = measure(setting, ROW._replace(grid={'tuned': {}}), args, tmp_path)
  assert (record['tried'], record['picked'], len(seeds)) == (0, {}, 2)


def test_groups_that_a_row_does_not_own_up_to_are_seen(setting, args, tmp_path):
  row = ROW._replace(fields={'train.sampling': 'group_balanced'}, grid={'tuned': {}})
  with pytest.raises(SystemExit, match=r'tiny used group labels in train: say so in rows\.toml'):
    measure(setting, row, args, tmp_path)
  measure(setting, row._replace(needs_groups='train'), args, tmp_path)


def test_data_that_are_not_given_are_asked_for(tmp_path):
  with pytest.raises(SystemExit, match='dominoes needs the data of dominoes: give --data=DIR'):
    run.make_config(SETTINGS['dominoes'], ROW, None, tmp_path)
