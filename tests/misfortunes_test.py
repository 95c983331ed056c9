"""Signals, killed workers, devices that are not there, and no memory: one sentence, and nothing computed is lost."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from common import from_flags, leaves_equal
from numpy._core._exceptions import _ArrayMemoryError
from writers import write_folder

from ule_jax import data
from ule_jax.config.validate import complete_config
from ule_jax.data import pipeline
from ule_jax.devices import runtime
from ule_jax.errors import Interrupted, UserError, is_out_of_memory
from ule_jax.runs import signals
from ule_jax.runs.checkpoints import Checkpoints
from ule_jax.runs.progress import Progress
from ule_jax.sweep import population
from ule_jax.sweep.run import run as sweep_run
from ule_jax.train import evaluate as evaluation
from ule_jax.train import features, loop
from ule_jax.train.run import run as train_run

FAST = ['--config.train.eval_every=50', '--config.train.log_every=3', '--config.model.width=8']
LONG = [*FAST, '--config.data.crops=1', '--config.train.steps=200000']
MAIN = [sys.executable, '-m', 'ule_jax.main', '--config=digits:erm', *LONG]


def config_of(*changes, method='erm', name='digits'):
  crops = ['--config.data.crops=1'] if name == 'digits' else []
  return from_flags(f'{name}:{method}', *FAST, *crops, *changes)


def checkpoints_in(folder):
  return sorted(int(p.name) for p in (folder / 'checkpoints').iterdir() if p.name.isdecimal())


# --- Signals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['SIGHUP', 'SIGUSR1', 'SIGINT', 'SIGTERM'])
def test_each_signal_stops_a_run_with_its_state_saved(name, tmp_path, monkeypatch, capfd):
  original, calls = loop.Batch, []

  def batch(**arrays):
    calls.append(1)
    if len(calls) == 6:
      os.kill(os.getpid(), getattr(signal, name))
      time.sleep(0.3)  # for the thread that acknowledges it
    return original(**arrays)

  monkeypatch.setattr(loop, 'Batch', batch)
  with pytest.raises(Interrupted, match=rf'^{name} at step 6 of 60; resumable by the same command'):
    train_run(config_of('--config.train.steps=60'), tmp_path / 'w')
  assert checkpoints_in(tmp_path / 'w') == [6]
  said = [line for line in capfd.readouterr().err.splitlines() if line.startswith(name)]
  more = ' (a second one stops at once)' if name in ('SIGINT', 'SIGTERM') else ''
  assert said == [f'{name}: stops after this step and saves{more}']


def test_warnings_that_are_repeated_are_one_request(tmp_path, monkeypatch):
  """A terminal that closes sends SIGHUP twice, and SLURM a SIGTERM after its SIGUSR1."""
  original, calls = loop.Batch, []

  def batch(**arrays):
    calls.append(1)
    if len(calls) == 4:
      for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
        os.kill(os.getpid(), number)
        time.sleep(0.05)
    return original(**arrays)

  monkeypatch.setattr(loop, 'Batch', batch)
  with pytest.raises(Interrupted, match='SIGUSR1 at step 4'):
    train_run(config_of('--config.train.steps=60'), tmp_path / 'w')
  assert checkpoints_in(tmp_path / 'w') == [4]


def test_what_is_ignored_at_the_start_stays_ignored():
  code = (
    'import os, signal, time\nfrom ule_jax.runs.signals import Signals\n'
    'with Signals() as signals:\n  os.kill(os.getpid(), signal.SIGHUP)\n  time.sleep(0.2)\nprint("went on")\n'
  )
  command = ['nohup', sys.executable, '-c', code]
  ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
  assert (ended.returncode, ended.stdout) == (0, 'went on\n')
  before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
  try:
    assert signal.SIGUSR1 not in signals.caught()
  finally:
    signal.signal(signal.SIGUSR1, before)
  assert signal.SIGUSR1 in signals.caught()


@pytest.mark.parametrize(
  ('block', 'line', 'patience'),
  [
    ('signals.deferred()', 'SIGINT: stops after this step and saves (a second one stops at once)', 1),
    ('open("/dev/null")', 'SIGINT: stops after what is being computed', 2),
  ],
)
def test_a_signal_is_acknowledged_while_the_main_thread_is_outside_python(block, line, patience):
  """As in a compilation, where Python's handlers wait: here in a factorisation."""
  code = (
    'import numpy as np\nfrom ule_jax.runs.signals import Signals\na = np.random.default_rng(0).random((2000, 2000))\n'
    f'with Signals() as signals, {block}:\n  print("ready", flush=True)\n  np.linalg.eig(a)\n'
  )
  with subprocess.Popen([sys.executable, '-c', code], stdout=-1, stderr=-1, text=True) as process:
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    said = process.stderr.readline()
    waited = time.monotonic() - began
    alive = process.poll() is None
    process.send_signal(signal.SIGINT)
    code = process.wait(timeout=10)
  assert said == f'{line}\n'
  assert alive
  assert waited < patience
  assert code == 75  # at once, too


TERMINAL = """
import os, pty, sys, time
pid, terminal = pty.fork()
if not pid:
  os.execv(sys.argv[1], sys.argv[1:])
text = b''
while b' left' not in text.partition(b' in /')[2]:  # a step is reported
  text += os.read(terminal, 4096)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.full
def test_a_terminal_that_closes_leaves_a_saved_run(tmp_path):
  command = [sys.executable, '-c', TERMINAL, *MAIN, f'--workdir={tmp_path}']
  ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
  assert ended.stdout == '75\n', ended.stderr
  assert checkpoints_in(tmp_path)
  assert not (tmp_path / 'lock').exists()


def test_a_sweep_stops_at_a_warning(tmp_path, monkeypatch):
  original = population.make_order

  def make_order(*args):
    order = original(*args)

    def warned(first, *rest):
      if first == 4:
        os.kill(os.getpid(), signal.SIGUSR1)
      return order(first, *rest)

    return warned

  monkeypatch.setattr(population, 'make_order', make_order)
  config = config_of('--config.train.steps=8', '--config.train.eval_every=4')
  with pytest.raises(Interrupted, match='SIGUSR1 at step 4 of 8; resumable'):
    sweep_run(config, {'seed': [0, 1]}, tmp_path / 'w')
  assert checkpoints_in(tmp_path / 'w') == [4]


@pytest.mark.full
def test_features_that_are_computed_stop_at_a_warning(frozen_run, tmp_path, monkeypatch):
  config = json.loads((frozen_run / 'config.json').read_text())
  config = complete_config(config, {'model.feature_cache': str(tmp_path / 'cache')})
  original = features.pipeline.eval_batches

  def eval_batches(*args, **kwargs):
    for batch in original(*args, **kwargs):
      os.kill(os.getpid(), signal.SIGHUP)
      time.sleep(0.2)
      yield batch

  monkeypatch.setattr(features.pipeline, 'eval_batches', eval_batches)
  with pytest.raises(Interrupted, match='SIGHUP; resumable'):
    train_run(config, tmp_path / 'w')
  assert not list((tmp_path / 'cache').glob('*')) or not (tmp_path / 'w' / 'done').exists()


# --- Data workers ------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  rows = [(f'{s}/{i}.png', ('cat', 'dog')[i % 2], s) for s in ('train', 'val', 'test') for i in range(16)]
  return write_folder(tmp_path_factory.mktemp('folder') / 'data', rows, ('filename', 'label', 'split'))


def of_folder(folder, *changes):
  small = ['--config.data.size=8', '--config.model.name=mlp', '--config.model.depth=1', '--config.model.weights=none']
  small += ['--config.train.batch_size=8', '--config.train.eval_batch_size=16', f'--config.data.dir={folder}']
  return config_of(*small, '--config.train.steps=60', '--config.loader.threads=1', *changes, name='folder')


@pytest.mark.parametrize('number', [signal.SIGKILL, pytest.param(signal.SIGSEGV, marks=pytest.mark.full)])
def test_a_killed_worker_stops_the_run_with_its_state_saved(number, folder, tmp_path, monkeypatch):
  whole = train_run(of_folder(folder), tmp_path / 'whole')
  original, calls = loop.Batch, []

  def batch(**arrays):
    calls.append(1)
    if len(calls) == 3:
      for worker in multiprocessing.active_children():
        assert worker.pid is not None
        os.kill(worker.pid, number)
    return original(**arrays)

  with monkeypatch.context() as patch:
    patch.setattr(loop, 'Batch', batch)
    began = time.monotonic()
    name = number.name
    with pytest.raises(Interrupted, match=rf'^a data worker was killed by {name} \(loader\.workers=2.* at step \d+ of'):
      train_run(of_folder(folder, '--config.loader.workers=2'), tmp_path / 'w')
    assert time.monotonic() - began < 60
  (saved,) = checkpoints_in(tmp_path / 'w')
  assert 3 <= saved < 60
  assert not multiprocessing.active_children()
  assert train_run(of_folder(folder, '--config.loader.workers=0'), tmp_path / 'w') == whole


def test_the_batches_after_a_lost_worker_are_the_same(folder):
  config = of_folder(folder)
  options = dict(config.data)
  dataset = data.load(options.pop('name'), options)
  settings = {'batch_size': 4, 'seed': 0, 'sampling': 'uniform', 'threads': 1, 'start': 5}
  expected, said = pipeline.train_batches(dataset, **settings), []
  batches = pipeline.train_batches(dataset, **settings, workers=1, lost=said.append)
  for step in range(8):
    if step == 2:
      (worker,) = multiprocessing.active_children()
      assert worker.pid is not None
      for number in signals.CAUGHT:  # as a terminal or a scheduler sends them to all
        os.kill(worker.pid, number)
      time.sleep(0.2)
      assert worker.is_alive()
      worker.kill()
    assert leaves_equal(next(batches), next(expected))
  batches.close()
  assert len(said) == 1
  assert 'SIGKILL' in said[0]


@pytest.mark.parametrize(
  ('code', 'text'),
  [(-9, 'killed by SIGKILL'), (-7, r'killed by SIGBUS .* shared memory \(/dev/shm\)'), (1, 'ended with exit code 1')],
)
def test_how_a_worker_ended_is_said(code, text):
  with pytest.raises(UserError, match=text):
    raise UserError(pipeline._why_lost(code, 3))


# --- Devices -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('verb', ['main', pytest.param('sweep', marks=pytest.mark.full)])
@pytest.mark.parametrize(
  'platforms', ['cuda', *(pytest.param(p, marks=pytest.mark.full) for p in ('tpu', 'cuda,cpu', 'gqu'))]
)
def test_a_device_that_is_not_there_is_refused_before_the_data(verb, platforms, tmp_path):
  if any(os.path.exists(path) for path in runtime.GPUS) and platforms != 'gqu':
    pytest.skip('it is there')
  command = [sys.executable, '-m', f'ule_jax.{verb}', '--config=digits:erm', f'--workdir={tmp_path / "w"}']
  command += ['--axis=seed=0,1'] if verb == 'sweep' else []
  env = os.environ | {'JAX_PLATFORMS': platforms}
  ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=100)
  assert ended.returncode == 2
  (line,) = [line for line in ended.stderr.splitlines() if line.startswith('error: ')]
  assert f'the device that JAX_PLATFORMS={platforms} asks for is not here' in line
  assert line.endswith('or set JAX_PLATFORMS=cpu.')
  assert 'Traceback' not in ended.stderr
  assert not (tmp_path / 'w').exists()


def test_a_gpu_that_jax_does_not_use_is_refused(monkeypatch, tmp_path):
  gpu = tmp_path / 'nvidia0'
  gpu.touch()
  plugin = type('Point', (), {'name': 'xla_cuda12'})
  monkeypatch.setattr(runtime, 'GPUS', (str(gpu),))
  monkeypatch.setattr(runtime.importlib.metadata, 'entry_points', lambda group: [plugin])
  monkeypatch.setattr(runtime, 'jax', type('Jax', (), {'config': type('C', (), {'jax_platforms': None})}))
  runtime.jax.default_backend = lambda: 'cpu'
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  with pytest.raises(UserError, match='there is a GPU, but jax does not use it although xla_cuda12 is installed'):
    runtime.require_devices()
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')  # hidden on purpose
  runtime.require_devices()
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
  monkeypatch.setattr(runtime.importlib.metadata, 'entry_points', lambda group: [])  # jax warns of it
  runtime.require_devices()

  def fail():
    raise RuntimeError("Unable to initialize backend 'cuda': no visible devices. (you may need to uninstall it)")

  runtime.jax.default_backend = fail
  with pytest.raises(UserError, match=r'jax has a plugin is not here or does not work \(Unable .* visible devices\.\)'):
    runtime.require_devices()


# --- Memory ------------------------------------------------------------------------------------------

FULL = 'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 68719476736 bytes.'


def failing(*_, **__):
  raise jax.errors.JaxRuntimeError(FULL)


@pytest.mark.parametrize(
  ('place', 'name'),
  [(loop, 'initialise'), (evaluation, 'make_eval_step'), (loop, 'compile_step'), (pipeline, '_read')],
)
@pytest.mark.parametrize('error', [jax.errors.JaxRuntimeError(FULL), MemoryError('Unable to allocate 286. GiB')])
def test_no_memory_is_one_sentence_with_the_fields_that_help(place, name, error, tmp_path, monkeypatch):
  def fail(*args, **kwargs):
    raise error

  calls = (lambda *a, **k: fail) if name in ('make_eval_step', 'compile_step') else fail
  monkeypatch.setattr(place, name, calls)
  with pytest.raises(UserError) as raised:
    train_run(config_of('--config.train.steps=4', '--config.train.eval_every=2'), tmp_path / 'w')
  said = str(raised.value)
  assert said.startswith('out of memory (')
  for field in ('train.batch_size (128)', 'train.eval_batch_size (512)', 'train.accumulate (1)', 'model.remat'):
    assert field in said
  assert said.endswith('the last checkpoint stands.')
  assert not (tmp_path / 'w' / 'done').exists()


def test_no_memory_in_a_sweep_counts_its_members(tmp_path, monkeypatch):
  monkeypatch.setattr(population, 'compile_members', failing)
  with pytest.raises(UserError, match=r'give fewer than these 6 members at once, or lower train\.batch_size'):
    sweep_run(config_of(), {'seed': [0, 1, 2], 'optim.lr': [0.1, 0.2]}, tmp_path / 'w')


def test_a_checkpoint_that_cannot_be_read_for_lack_of_memory_is_not_damaged(tmp_path, monkeypatch):
  config = config_of('--config.train.steps=4', '--config.train.eval_every=2')
  train_run(config, tmp_path)
  (tmp_path / 'done').unlink()
  before = sorted(p.name for p in (tmp_path / 'checkpoints').iterdir())
  for error, message in (
    (jax.errors.JaxRuntimeError(FULL), 'out of memory'),
    (ValueError('opening x: [OS error 24: Too many open files]'), 'raise the limit'),
  ):
    with monkeypatch.context() as patch:
      patch.setattr(Checkpoints, '_restore', lambda self, *_, error=error: (_ for _ in ()).throw(error))
      with pytest.raises(UserError, match=message):
        train_run(config, tmp_path)
    assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == before


@pytest.mark.parametrize(
  ('error', 'expected'),
  [
    (MemoryError(), True),
    (_ArrayMemoryError((1 << 40,), np.dtype('float32')), True),
    (OSError(12, 'Cannot allocate memory'), True),
    (RuntimeError('INTERNAL: Error dispatching computation: Out of memory allocating 59033602180 bytes.'), True),
    (RuntimeError('INTERNAL: CUBLAS_STATUS_ALLOC_FAILED'), True),
    (RuntimeError('CUDA_ERROR_OUT_OF_MEMORY: out of memory'), True),
    (RuntimeError('std::bad_alloc'), True),
    (ValueError('RESOURCE_EXHAUSTED: writing x [OS error 28: No space left on device]'), False),
    (OSError(28, 'No space left on device'), False),
    (ValueError('shapes differ'), False),
  ],
)
def test_what_is_a_lack_of_memory(error, expected):
  assert is_out_of_memory(error) == expected


@pytest.mark.full
def test_an_allocation_that_is_too_large_ends_with_code_2(tmp_path):
  """In a process that may have 16 GiB."""
  command = [*MAIN[:-1], '--config.train.steps=2', '--config.train.eval_batch_size=2000000000', f'--workdir={tmp_path}']
  shell = 'ulimit -v 16777216; exec "$@"'
  ended = subprocess.run(['bash', '-c', shell, 'run', *command], capture_output=True, text=True, check=False)
  assert ended.returncode == 2, ended.stderr
  (line,) = [line for line in ended.stderr.splitlines() if line.startswith('error: ')]
  assert 'train.eval_batch_size (2000000000)' in line
  assert 'Traceback' not in ended.stderr


# --- Progress ----------------------------------------------------------------------------------------


def test_the_time_left_is_that_of_the_steps_and_not_of_compiling(monkeypatch, capsys):
  now = [0.0]
  monkeypatch.setattr('ule_jax.runs.progress.time.monotonic', lambda: now[0])

  def after(seconds):
    now[0] += seconds

  progress = Progress(10_000, 6_500, 100)
  after(61)  # compiles, and does a step
  progress.begin(6_501)
  assert np.isnan(progress.report(6_501, {'loss': 0.5}))
  assert capsys.readouterr().err == 'step  6501/10000  loss 0.5000\n'
  after(9)
  assert progress.report(6_510, {}) == 100
  assert capsys.readouterr().err == 'step  6510/10000  100 examples/s  58:10 left\n'
  progress.begin(6_510)  # of no effect
  after(20)
  assert progress.report(6_520, {}) == 50
  assert '1:28:32 left' in capsys.readouterr().err


def test_runs_and_sweeps_begin_to_count_after_their_first_steps(tmp_path, monkeypatch):
  begun, reports = [], []
  original = Progress.report
  monkeypatch.setattr(Progress, 'begin', lambda self, step: begun.append(step))
  monkeypatch.setattr(Progress, 'report', lambda *a: reports.append(len(begun)) or original(*a))
  config = config_of('--config.train.steps=4', '--config.train.log_every=1')
  train_run(config, tmp_path / 'w')
  assert begun == [1]
  assert reports == [1] * 4
  sweep_run(config, {'seed': [0, 1]}, tmp_path / 'v')
  assert begun[1] == 1
