"""Whose a folder is when hosts cannot see each other, or the file system has no locks."""

import errno
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from common import from_flags

from ule_jax.errors import UserError
from ule_jax.runs import lock, workdir
from ule_jax.sweep.run import run as sweep_run
from ule_jax.train.run import run as train_run

# Another host: its name differs, and its kernel's locks are not seen here.
ELSEWHERE = (
  'import fcntl, platform, sys, time\nfrom pathlib import Path\nfrom ule_jax.runs import lock, workdir\n'
  'platform.node = lambda: "elsewhere"\nfcntl.flock = lambda *a: None\n'
  'lock.BEAT, lock.LEASE = 0.2, float(sys.argv[2])\n'
  'with workdir.owned(Path(sys.argv[1]), {"seed": 0}, False):\n'
  '  print("mine", flush=True)\n  time.sleep(60)\n  Path(sys.argv[1], "written").touch()\n'
)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
  monkeypatch.setattr(lock, 'BEAT', 0.2)
  monkeypatch.setattr(lock, 'LEASE', 2.0)


@contextmanager
def elsewhere(folder):
  command = [sys.executable, '-c', ELSEWHERE, folder, '2']
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as holder:
    try:
      assert holder.stdout is not None
      assert holder.stdout.readline() == 'mine\n'
      yield holder
    finally:
      holder.kill()


@pytest.fixture
def own(capsys):
  """Lock a folder for a moment; whether it held this run, and the lines that were printed meanwhile."""

  def own(folder):
    capsys.readouterr()
    with workdir.owned(folder, {'seed': 0}, False) as same:
      assert json.loads((folder / 'lock').read_text())['host'] == platform.node()
    assert not (folder / 'lock').exists()
    return same, capsys.readouterr().err.splitlines()

  return own


def test_a_live_owner_on_another_host_is_not_disturbed(tmp_path, own):
  with elsewhere(tmp_path) as holder:
    with pytest.raises(UserError, match=rf'in use by process {holder.pid} on elsewhere since .*: wait for it'):
      own(tmp_path)
    time.sleep(0.5)
    assert holder.poll() is None


def test_a_killed_owner_on_another_host_is_followed_after_the_stated_time(tmp_path, own):
  with elsewhere(tmp_path) as holder:
    holder.kill()
    holder.wait()
    began = time.monotonic()
    same, said = own(tmp_path)
  assert same
  assert 2 <= time.monotonic() - began < 10
  assert len(said) == 2
  assert f'taken by process {holder.pid} on elsewhere' in said[0]
  assert 'taken over if there is no heartbeat for 2 s' in said[0]
  assert 'for 2 s; taken over' in said[1]


@pytest.mark.parametrize('skew', [-86_400 * 365, 86_400 * 365])
def test_clocks_of_two_hosts_are_not_compared(skew, tmp_path, own):
  with elsewhere(tmp_path) as holder:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    about = json.loads((tmp_path / 'lock').read_text())
    (tmp_path / 'lock').write_text(json.dumps(about | {'started': time.time() + skew}))
    os.utime(tmp_path / 'lock', (time.time() + skew,) * 2)
    assert len(own(tmp_path)[1]) == 2
  with elsewhere(tmp_path), pytest.raises(UserError, match='in use by'):
    own(tmp_path)


def test_an_owner_that_was_only_paused_ends_without_writing(tmp_path):
  with elsewhere(tmp_path) as holder:
    holder.send_signal(signal.SIGSTOP)
    with workdir.owned(tmp_path, {'seed': 0}, False):
      mine = (tmp_path / 'lock').read_text()
      holder.send_signal(signal.SIGCONT)
      said = holder.communicate(timeout=20)[1]
      assert json.loads((tmp_path / 'lock').read_text())['token'] == json.loads(mine)['token']
  assert holder.returncode == 75
  assert f'taken over by process {os.getpid()} on {platform.node()}' in said
  assert said.count('\n') == 1
  assert not (tmp_path / 'written').exists()


def test_of_two_hosts_that_take_over_at_once_the_last_one_has_it(tmp_path):
  path = tmp_path / 'lock'
  path.touch()
  first, last = lock.Lease(path), lock.Lease(path)
  with pytest.raises(UserError, match='in use by'):
    first.confirm(wait=True)
  last.confirm(wait=True)
  last.end()
  assert not path.exists()


@pytest.mark.parametrize('number', [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_flock_the_lease_decides(number, tmp_path, monkeypatch, own):
  def flock(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(fcntl, 'flock', flock)
  same, said = own(tmp_path)
  assert not same
  (line,) = said
  assert f'has no locks (flock: {os.strerror(number)})' in line
  assert 'make room' not in line
  with workdir.owned(tmp_path, {'seed': 0}, False), pytest.raises(UserError, match=f'in use by process {os.getpid()}'):
    own(tmp_path)
  dead = {'host': platform.node(), 'pid': 7, 'started': time.time(), 'token': 'x', 'beat': '000000000004'}
  (tmp_path / 'lock').write_text(json.dumps(dead))
  assert 'taken over' in own(tmp_path)[1][-1]


def test_a_file_system_whose_lock_fails_is_named(tmp_path, monkeypatch, own):
  def flock(*_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  monkeypatch.setattr(fcntl, 'flock', flock)
  with pytest.raises(UserError, match=r'lock cannot be locked \(Input/output error\): choose another --workdir'):
    own(tmp_path)


def test_a_file_server_that_is_away_for_a_while_ends_nothing(tmp_path, monkeypatch):
  with workdir.owned(tmp_path, {'seed': 0}, False):
    with monkeypatch.context() as patch:
      patch.setattr(lock.Lease, '_write', lambda self: (_ for _ in ()).throw(OSError(errno.ESTALE, 'stale')))
      time.sleep(0.6)
    before = json.loads((tmp_path / 'lock').read_text())['beat']
    time.sleep(0.6)
    assert json.loads((tmp_path / 'lock').read_text())['beat'] > before


def test_runs_and_sweeps_hold_the_lock(tmp_path):
  config = from_flags('digits:erm', '--config.data.crops=1', '--config.train.steps=1')
  with lock.held(tmp_path / 'lock'):
    for start in (
      lambda: train_run(config, tmp_path),
      lambda: sweep_run(config, {'seed': [0, 1]}, tmp_path),
    ):
      with pytest.raises(UserError, match=f'in use by process {os.getpid()}'):
        start()
