"""results.json as one type, and a finished run that is read without jax."""

import json
import subprocess
import sys

import pytest

from ule_jax import selection
from ule_jax.errors import UserError
from ule_jax.runs import results
from ule_jax.runs.recorded import FinishedRun, read_run
from ule_jax.runs.results import REQUIRED, Results


def test_a_run_returns_the_content_of_its_file(ule_run):
  written = json.loads((ule_run / 'results.json').read_text())
  read = Results.read(ule_run)
  assert read == written
  assert read.roles == ('student', 'teacher') == tuple(read.by_role)
  assert read.classes == tuple(written['classes'])
  assert read.last == written['last'] == read.by_rule(selection.LAST)
  assert read.by_rule(read.select) == {name: written[name] for name in ('step', 'val', 'val_balanced', 'test')}
  assert read.by_rule('val/nothing') is None
  assert set(read.selected) == set(written['selected'])
  assert results.last_step(ule_run) == 20


@pytest.mark.parametrize('key', REQUIRED)
def test_a_key_that_is_missing_is_named(key, ule_run, tmp_path):
  content = json.loads((ule_run / 'results.json').read_text())
  del content[key]
  (tmp_path / 'results.json').write_text(json.dumps(content))
  with pytest.raises(UserError, match=f'results.json lacks {key}: restore it'):
    Results.read(tmp_path, 'restore it')


def test_results_of_an_older_version_have_empty_values_for_later_keys(ule_run, tmp_path):
  content = json.loads((ule_run / 'results.json').read_text())
  for key in content.keys() - set(REQUIRED):
    del content[key]
  (tmp_path / 'results.json').write_text(json.dumps(content))
  older = Results.read(tmp_path)
  assert (older.titles, older.changed, older.skipped_images) == ({}, [], {})


def test_a_folder_without_results_has_no_last_step(tmp_path):
  assert results.last_step(tmp_path) is None
  (tmp_path / 'results.json').write_text('{"failed": "at step 3"}')  # a member of a sweep
  assert results.last_step(tmp_path) is None


def test_a_finished_run_is_read_without_jax(ule_run):
  code = (
    'import sys; from pathlib import Path\n'
    'from ule_jax.runs.recorded import FinishedRun, read_run\n'
    'config, results = read_run(Path(sys.argv[1]))\n'
    'run = FinishedRun("r", Path(sys.argv[1]), config.flat(), results)\n'
    'assert run.arrays("predictions", "test", "label")["label"].size and run.metrics() and run.data\n'
    'sys.exit("jax" in sys.modules)'
  )
  subprocess.run([sys.executable, '-c', code, str(ule_run)], check=True)


def test_a_half_written_line_of_the_log_is_left_out(ule_run, tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 5, "train/loss/model": 0.5}\n[1]\n{"step": 10, "tr')
  run = FinishedRun('r', tmp_path, read_run(ule_run)[0].flat(), Results.read(ule_run))
  assert run.metrics() == [{'step': 5, 'train/loss/model': 0.5}]
  assert (run.commit, run.data) == ('unknown', None)
