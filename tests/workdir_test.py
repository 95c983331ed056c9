"""Whose a folder is."""

import json
import os
import platform
import subprocess
import sys
import time

import pytest
from common import from_flags

from ule_jax.config import validate
from ule_jax.devices import runtime
from ule_jax.errors import UserError
from ule_jax.runs import environment, files, workdir
from ule_jax.runs.log import MetricsLog

HOLD = (
  'import sys, time\nfrom pathlib import Path\nfrom ule_jax.runs import workdir\n'
  'with workdir.owned(Path(sys.argv[1]), {"seed": 0}, False):\n  print("mine", flush=True)\n  time.sleep(60)\n'
)


def own(folder, seed=0):
  with workdir.owned(folder, {'seed': seed}, False) as same:
    return same, (folder / 'lock').exists()


def test_a_folder_has_one_owner_and_a_dead_one_is_none(tmp_path):
  folder = tmp_path / 'run'
  with subprocess.Popen([sys.executable, '-c', HOLD, folder], stdout=subprocess.PIPE, text=True) as holder:
    try:
      assert holder.stdout is not None
      assert holder.stdout.readline() == 'mine\n'
      message = rf'in use by process {holder.pid} on {platform.node()} since .* \(0:00:\d\d\)'
      with pytest.raises(UserError, match=message):
        own(folder)
    finally:
      holder.kill()
  assert (folder / 'lock').exists()
  assert own(folder) == (True, True)
  assert not (folder / 'lock').exists()


def test_two_threads_of_one_process_are_two(tmp_path):
  with workdir.owned(tmp_path, {'seed': 0}, False), pytest.raises(UserError, match=f'use by process {os.getpid()}'):
    own(tmp_path)
  assert own(tmp_path) == (True, True)


def test_a_lock_of_another_host_says_how_to_remove_it(tmp_path):
  (tmp_path / 'lock').write_text(json.dumps({'host': 'elsewhere', 'pid': 7, 'started': time.time() - 90_061}))
  with pytest.raises(UserError, match=rf'process 7 on elsewhere since .* \(1 day, 1:01:01\).*remove {tmp_path}/lock'):
    own(tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ['lock']
  (tmp_path / 'lock').write_text('half a li')
  assert own(tmp_path) == (False, True)


def test_a_run_recorded_before_a_field_existed_had_its_value_of_then(tmp_path):
  recorded = {'first': {'lr': 0.0, 'spare': {'threshold': 0.9}}, 'seed': 0}
  now = {'first': {'lr': 0.0, 'batch_norm': 'same', 'spare': {'threshold': 0.9, 'clusters': 0}}, 'seed': 0}
  files.write_json(tmp_path / 'config.json', recorded)
  (tmp_path / 'checkpoints' / '100').mkdir(parents=True)
  assert workdir.compare(tmp_path, now, False)
  first = {'first': {'prepare': 'none', 'steps': 0}}  # a first run has no first run of its own
  assert validate.recorded_fields(first) == {'two_stage.rule': 'none'}
  now['first']['spare']['clusters'] = 4
  with pytest.raises(UserError, match=r'two_stage.spare.clusters \(0 there, 4 here\)'):
    workdir.compare(tmp_path, now, False)


def test_another_config_is_refused_and_unlocked(tmp_path):
  own(tmp_path)
  (tmp_path / 'checkpoints' / '100').mkdir(parents=True)
  with pytest.raises(UserError, match=r'seed \(0 there, 1 here\)'):
    own(tmp_path, seed=1)
  assert {p.name for p in tmp_path.iterdir()} == {'config.json', 'checkpoints'}
  assert workdir.compare(tmp_path, {'seed': 0, 'compilation_cache': 'off'}, False)


def test_a_run_that_died_before_its_config_is_no_stranger(tmp_path):
  (tmp_path / 'config.partial').write_text('{')
  (tmp_path / 'lock').touch()
  assert own(tmp_path) == (False, True)


@pytest.mark.parametrize('number', workdir.NO_ROOM)
def test_no_room_is_one_sentence(number, tmp_path):
  with (
    pytest.raises(UserError, match=r'cannot be written \(.*\): make room'),
    workdir.owned(tmp_path, {}, False),
  ):
    raise OSError(number, os.strerror(number))
  with pytest.raises(FileNotFoundError), workdir.owned(tmp_path, {}, False):
    raise FileNotFoundError(2, 'of something else')


def test_a_damaged_log_loses_only_what_is_damaged(tmp_path):
  lines = [json.dumps({'step': step}) for step in (1, 2, 3, 4)]
  (tmp_path / 'metrics.jsonl').write_bytes('\n'.join([*lines[:2], '{"step"', *lines[2:]]).encode() + b'\n\xff\xfe')
  log = MetricsLog(tmp_path, 3)
  log.write(4, {'train/loss': 0.5})
  log.close()
  found = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert found == [{'step': 1}, {'step': 2}, {'step': 3}, {'step': 4, 'train/loss': 0.5}]


def test_tensorboard_events_can_be_read(tmp_path):
  from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] made by protobuf at run time

  log = MetricsLog(tmp_path, 7)
  log.write(8, {'train/loss': 0.5})
  log.close()
  (path,) = (tmp_path / 'tensorboard').iterdir()
  content, events = path.read_bytes(), []
  while content:
    length = int.from_bytes(content[:8], 'little')
    events.append(Event.FromString(content[12 : 12 + length]))
    content = content[16 + length :]
  assert events[0].file_version == 'brain.Event:2'
  assert (events[1].step, events[1].session_log.status) == (8, 1)  # START: what was there from step 8 on is void
  (value,) = events[2].summary.value
  assert (events[2].step, value.tag, value.simple_value) == (8, 'train/loss', 0.5)


def test_the_environment_names_flags_versions_and_determinism(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_gpu_deterministic_ops=true')
  monkeypatch.setenv('UNRELATED', 'secret')
  found = json.loads(json.dumps(environment.describe_environment(runtime.describe())))
  assert found['flags']['XLA_FLAGS'] == '--xla_gpu_deterministic_ops=true'
  assert 'secret' not in json.dumps(found)
  assert found['versions']['jaxlib']
  assert found['determinism']['xla_gpu_deterministic_ops'] is True
  assert found['determinism']['jax_default_prng_impl'] == 'threefry2x32'
  assert len(found['devices']) == 8
  assert found['backend']


def test_a_start_that_came_to_nothing_binds_nobody(tmp_path):
  own(tmp_path)
  assert own(tmp_path, seed=1) == (False, True)
  (tmp_path / 'results.json').touch()
  with pytest.raises(UserError, match='seed'):
    own(tmp_path)


def test_a_run_that_was_recorded_before_a_field_existed_goes_on_with_what_it_did(tmp_path):
  config = from_flags('digits:erm').to_dict()
  recorded = json.loads(json.dumps(config))
  for field in ('head_init', 'fast_variance'):
    del recorded['model'][field]
  files.write_json(tmp_path / 'config.json', recorded)
  (tmp_path / 'checkpoints' / '3').mkdir(parents=True)
  assert workdir.compare(tmp_path, config, force=False)
  completed = validate.complete_config(recorded, {}).model
  assert (completed.head_init, completed.fast_variance) == ('lecun', True)
  for field, value in (('head_init', 'torch'), ('fast_variance', False)):
    other = json.loads(json.dumps(config))
    other['model'][field] = value
    with pytest.raises(UserError, match=rf'these fields differ: model.{field} '):
      workdir.compare(tmp_path, other, force=False)
