"""Several processes on this machine train one run: the numbers of one, and one sentence where a process is lost."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest
from common import assert_close, batch_of, from_flags, method_of, network, sgd, train
from sharding_test import KINDS, config_of, stop_after
from writers import write_folder

from ule_jax.devices import processes
from ule_jax.devices.mesh import PARALLEL
from ule_jax.devices.processes import COUNTS, barrier, connect, first_process_first, preempted, process_slice
from ule_jax.errors import Interrupted, UserError
from ule_jax.runs.restore import restore
from ule_jax.train.run import run

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {'PYTHONPATH': f'{HERE.parent}:{HERE}', 'XLA_FLAGS': ''}


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


@contextmanager
def started(number: int, command) -> Iterator[list[subprocess.Popen]]:
  """Start `command(host, port)` once for each host; none is left at the end."""
  port, pipe = free_port(), subprocess.PIPE
  with ExitStack() as stack:
    processes = []
    for i in range(number):
      arguments = [sys.executable, *map(str, command(i, port))]
      processes.append(stack.enter_context(subprocess.Popen(arguments, env=ENVIRONMENT, stderr=pipe, text=True)))
      stack.callback(processes[i].kill)
    yield processes


def end(processes) -> list[tuple[int, str]]:
  """Wait for all, and return their exit codes and what they said on stderr."""
  said = [process.communicate(timeout=200)[1] for process in processes]
  return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def work(number, out, workdir, stop):
  with started(number, lambda i, port: [HERE / 'hosts_worker.py', i, number, port, out, workdir, stop]) as processes:
    ends = end(processes)
  assert [code for code, _ in ends] == [0] * number, ends


@pytest.mark.full
def test_four_and_two_processes_have_the_numbers_of_one_and_go_on_with_its_run(tmp_path, monkeypatch):
  expected = run(config_of(), tmp_path / 'one')
  workdir = tmp_path / 'turns'
  with monkeypatch.context() as patch:
    patch.setattr('ule_jax.devices.processes.preempted', stop_after(2))
    with pytest.raises(Interrupted):
      run(config_of(), workdir)
  work(4, tmp_path / '4.npz', workdir, 2)
  assert not (workdir / 'done').exists()
  work(2, tmp_path / '2.npz', workdir, 0)

  assert (workdir / 'done').exists()
  assert json.loads((workdir / 'results.json').read_text()) == json.loads(json.dumps(expected))
  for split in ('train', 'val', 'val_balanced', 'test'):
    one, turns = (np.load(tmp_path / place / 'predictions' / f'{split}.npz') for place in ('one', 'turns'))
    for name in one.files:  # every example once, in order; and what the last step made of them
      np.testing.assert_allclose(turns[name], one[name], rtol=0, atol=1e-5, err_msg=f'{split} {name}')
  one, turns = (restore(tmp_path / place).networks for place in ('one', 'turns'))
  assert_close(turns, one, rtol=0, atol=1e-6)
  with jax.enable_x64(True):
    for name in KINDS:
      batches = [batch_of(seed=s, dtype=np.float64) for s in range(5)]
      state, _ = train(method_of(name), network(batch_norm='batch', depth=1), batches, sgd(1e-2))
      leaves = jax.tree_util.tree_leaves_with_path((state.params, state.batch_stats, state.method_state))
      for parallel in PARALLEL:
        for number in (2, 4):
          with np.load(tmp_path / f'{number}.npz') as found:
            for path, leaf in leaves:
              assert_close(found[f'{name} {parallel} {jax.tree_util.keystr(path)}'], leaf, rtol=0, atol=1e-10)


def until(found, processes) -> None:
  """Wait until something is the case."""
  began = time.monotonic()
  while not found():
    assert time.monotonic() - began < 120
    assert [process.poll() for process in processes] == [None, None], end(processes)
    time.sleep(0.05)


def training_in(workdir):
  """Return a function that returns whether a run has logged its first step."""
  return lambda: (
    '"step": 100,' in (workdir / 'metrics.jsonl').read_text() if (workdir / 'metrics.jsonl').exists() else False
  )


LONG = ['--config=digits:erm', '--config.train.steps=20000', '--config.train.eval_every=20000', '--config.data.crops=1']
MAIN = (
  'from ule_jax.cli.app import run_verb; from ule_jax.devices import processes; '
  'processes.LOST, processes.BEAT = 15, 0.5; run_verb("main")'
)


@contextmanager
def two(workdir, found):
  """Two hosts of a run that has come so far."""
  flags = [f'--workdir={workdir}', '--hosts=2', *LONG]
  with started(2, lambda i, port: ['-c', MAIN, *flags, f'--host={i}', f'--coordinator=127.0.0.1:{port}']) as processes:
    until(found, processes)
    yield processes


def stopped_at(workdir, processes, number=signal.SIGTERM) -> int:
  """Send one of two hosts a signal, and return the step at which both were saved."""
  processes[1].send_signal(number)
  ends = end(processes)
  sentences = [line for _, said in ends for line in said.splitlines() if line.startswith('stopped: ')]
  assert [code for code, _ in ends] == [75, 75], ends
  assert len(sentences) == 2
  assert sentences[0] == sentences[1]
  assert 'Traceback' not in ends[0][1] + ends[1][1]
  step = int(sentences[0].split('at step ')[1].split(' of')[0].replace(',', ''))
  assert (workdir / 'checkpoints' / str(step)).is_dir()
  return step


@pytest.mark.full
def test_a_signal_at_one_host_stops_all_at_one_step_again_and_again(tmp_path):
  with two(tmp_path, training_in(tmp_path)) as processes:
    first = stopped_at(tmp_path, processes, signal.SIGUSR1)  # passed on as a SIGTERM
  with two(tmp_path, (tmp_path / 'lock').exists) as processes:  # before the resumed run's first step
    assert first <= stopped_at(tmp_path, processes) < 20_000


@pytest.mark.full
def test_two_stages_on_hosts_with_one_device(tmp_path):
  """A fit is saved without a step; what both hosts say of it is what one would have."""
  flags = ['--config=digits:dfr', '--config.train.steps=20', '--config.data.crops=1']
  command = ['-c', MAIN, f'--workdir={tmp_path}', '--hosts=2', *flags]
  with started(2, lambda i, port: [*command, f'--host={i}', f'--coordinator=127.0.0.1:{port}']) as processes:
    ends = end(processes)
  assert [code for code, _ in ends] == [0, 0], ends
  expected = run(from_flags(*flags), tmp_path / 'one')
  assert json.loads((tmp_path / 'results.json').read_text())['test'] == json.loads(json.dumps(expected['test']))


@pytest.mark.full
def test_hosts_with_other_data_leave_together_and_equal_copies_are_the_same(tmp_path):
  rows = [(f'{i}.png', i % 2, ('train', 'val', 'test')[i // 2 % 3]) for i in range(48)]
  write_folder(tmp_path / '0', rows, size=(8, 8))
  shutil.copytree(tmp_path / '0', tmp_path / '1', copy_function=shutil.copyfile)  # other times
  small = ['data.size=8', 'model.name=mlp', 'model.width=8', 'model.depth=1', 'model.weights=none', 'train.steps=2']
  small += ['model.batch_norm=none', 'train.batch_size=8', 'train.eval_batch_size=8', 'loader.threads=1']
  flags = ['--config=folder:erm', '--hosts=2', *(f'--config.{change}' for change in small)]

  def both(workdir):
    command = ['-c', MAIN, f'--workdir={workdir}', *flags]
    with started(
      2,
      lambda i, port: [*command, f'--host={i}', f'--coordinator=127.0.0.1:{port}', f'--config.data.dir={tmp_path}/{i}'],
    ) as processes:
      return end(processes)

  ends = both(tmp_path / 'w')
  assert [code for code, _ in ends] == [0, 0], ends
  with (tmp_path / '1' / '3.png').open('ab') as file:
    file.write(b'\0')
  for workdir in (tmp_path / 'w', tmp_path / 'new'):  # a finished run, and a new one
    ends = both(workdir)
    assert [code for code, _ in ends] == [2, 2], ends
    assert 'host 1 of this run stops with an error when comparing the data' in ends[0][1]
    assert f'{workdir} was trained on other data than are there now: the images of val differ' in ends[1][1]
    assert 'Traceback' not in ends[0][1] + ends[1][1]
  assert not (tmp_path / 'new').exists()


@pytest.mark.full
@pytest.mark.parametrize(('killed', 'codes'), [(1, {75}), (0, {75, -signal.SIGABRT})])
def test_a_host_that_dies_ends_the_other(killed, codes, tmp_path):
  """In one sentence; only if the first one dies, jax may be faster than we are."""
  with two(tmp_path, training_in(tmp_path)) as processes:
    processes[killed].kill()
    began = time.monotonic()
    code, said = end(processes)[1 - killed]
    assert time.monotonic() - began < 40
  assert code in codes
  if code == 75:
    assert said.count('stopped: another host is gone') == 1, said
  if killed:
    assert 'Traceback' not in said
    assert 'stack trace' not in said


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (dict(coordinator='a:1'), '--hosts and --host missing'),
    (dict(number=2, host=0), '--coordinator missing'),
    (dict(coordinator='a:1', number=2, host=2), 'counted from 0 to 1'),
    (dict(coordinator='a', number=2, host=0), 'names no port'),
    (dict(coordinator='a:99999999', number=2, host=0), 'names no port'),
  ],
)
def test_half_an_address_is_refused(arguments, sentence):
  with pytest.raises(UserError, match=sentence):
    connect(**arguments)


@pytest.mark.parametrize(
  ('environment', 'calls'),
  [
    ({}, []),
    ({'SLURM_STEP_NUM_TASKS': '1'}, []),
    ({'SLURM_STEP_NUM_TASKS': '4'}, [{}]),
    ({'OMPI_COMM_WORLD_SIZE': '2'}, [{}]),
    ({'TPU_WORKER_HOSTNAMES': 'a,b'}, [{}]),
    ({'TPU_WORKER_HOSTNAMES': 'a'}, []),
    ({'OMPI_COMM_WORLD_SIZE': ''}, []),
  ],
)
def test_a_launcher_is_recognised(environment, calls, monkeypatch):
  for name in (*COUNTS, 'TPU_WORKER_HOSTNAMES'):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  found = []
  monkeypatch.setattr(processes, '_initialize', lambda **arguments: found.append(arguments))
  connect()
  assert found == calls


def test_a_launcher_that_jax_does_not_know_is_named(monkeypatch):
  def find_nobody(**arguments):
    raise ValueError('coordinator_address should be defined.')  # as jax 0.10 does

  monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '2')
  monkeypatch.setattr(jax.distributed, 'initialize', find_nobody)
  with pytest.raises(UserError, match='--hosts=1 if it is a run of its own'):
    connect()
  connect(number=1)


def test_one_host_waits_for_nobody():
  barrier('nobody')
  with first_process_first('nobody'):
    pass
  assert preempted() == ''
  assert process_slice() == {'host': 0, 'hosts': 1}
