"""The lock of a folder: flock between processes of one host, a lease with a heartbeat between hosts.

On one host flock decides: the kernel releases the lock of a process that died. Other hosts may not see it. The owner
therefore writes a new number into the file every `BEAT` seconds, and a process of another host watches the file for
`LEASE` seconds of its own clock: if the number stays the same, the owner is gone and the lock is taken over. The clocks
of two hosts are never compared. An owner that was only paused reads the other owner in the file at its next heartbeat,
and exits at once without writing anything.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ule_jax.errors import RESUMABLE, UserError

log = logging.getLogger(__name__)

BEAT = 10.0  # seconds between two heartbeats
LEASE = 120.0  # seconds without a heartbeat after which a lock is taken over
# File systems without flock: Function not implemented, Operation not supported, No locks available.
NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
  """Hold the lock of a folder.

  Args:
    path: of the lock file, which is created and removed.

  Raises:
    UserError: another process holds the lock.
    OSError: the file cannot be written.
  """
  while True:
    with path.open('a+', encoding='utf-8') as file:
      seen = _flocked(file, path)
      owner = _read(path)
      if owner and not (seen and owner['host'] == platform.node()):
        _outlive(path, owner)
      # The last owner may have removed the file between our opening and locking it.
      if not (path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))):
        continue
      lease = Lease(path)
      lease.confirm(wait=not seen or owner.get('host', platform.node()) != platform.node())
      try:
        yield
      finally:
        lease.end()
      return


def _flocked(file: IO[str], path: Path) -> bool:
  """Acquire the kernel's lock without waiting; return False on a file system without flock.

  Raises:
    UserError: another process of this host, or of a host that shares its locks, holds it.
  """
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise _in_use(path, _read(path)) from None
  except OSError as error:
    if error.errno not in NO_FLOCK:
      raise UserError(f'{path} cannot be locked ({error.strerror}): choose another --workdir.') from None
    log.warning(
      f'the file system of {path.parent} has no locks (flock: {error.strerror}): another process there is '
      f'recognised by its heartbeat in {path.name} every {BEAT:.0f} s.'
    )
    return False
  return True


def _outlive(path: Path, owner: dict[str, Any]) -> None:
  """Wait until another host's lock has had no heartbeat for `LEASE` seconds, or is removed.

  Raises:
    UserError: there is a heartbeat, or the owner's version of ule_jax writes none.
  """
  if 'beat' not in owner:
    raise UserError(
      f'{path.parent} was taken by {_name(owner)}, and {platform.node()} cannot see whether that still runs: '
      f'if it does not, remove {path}.'
    )
  log.info(
    f'{path.parent} was taken by {_name(owner)}: it is taken over if there is no heartbeat for {LEASE:.0f} s '
    f'(or remove {path} if you know that it does not run)'
  )
  end = time.monotonic() + LEASE
  while time.monotonic() < end:
    time.sleep(min(1.0, LEASE / 20))
    now = _read(path)
    if now and (now.get('token'), now.get('beat')) != (owner.get('token'), owner['beat']):
      raise _in_use(path, now)
    if not path.exists():  # the owner ended meanwhile
      return
  log.info(f'{path.parent}: no heartbeat from {_name(owner)} for {LEASE:.0f} s; taken over')


class Lease:
  """The owner's side: a thread that writes the heartbeat, and checks whether another host took the lock over."""

  def __init__(self, path: Path):
    """Write the owner's name into the file."""
    self._path = path
    self._token, self._beat, self._began = uuid.uuid4().hex, 0, time.time()
    self._ended = threading.Event()
    self._write()
    self._thread = threading.Thread(target=self._live, daemon=True)

  def confirm(self, wait: bool) -> None:
    """Start the heartbeat, unless another host took the lock over at the same moment: the last writer holds it.

    Args:
      wait: first wait for another host's write, where flock does not decide between the two.

    Raises:
      UserError: another host holds the lock.
    """
    if wait:
      time.sleep(min(BEAT, LEASE / 10))
    if not self._mine():
      raise _in_use(self._path, _read(self._path))
    self._thread.start()

  def end(self) -> None:
    """Stop the heartbeat and release the lock."""
    self._ended.set()
    self._thread.join()
    with contextlib.suppress(OSError):
      if self._mine():
        self._path.unlink(missing_ok=True)

  def _write(self) -> None:
    about = {'host': platform.node(), 'pid': os.getpid(), 'started': self._began}
    # A fixed length in one write, so that no reader sees half of it.
    text = json.dumps(about | {'token': self._token, 'beat': f'{self._beat:012}'})
    # Reopened for each heartbeat, because NFS clients send writes to the server on close.
    with self._path.open('r+b', buffering=0) as file:
      if os.fstat(file.fileno()).st_size != len(text):
        file.truncate(0)
      file.write(text.encode())

  def _mine(self) -> bool:
    """Return whether the file exists and names no other owner; an unreadable file names none."""
    owner = _read(self._path)
    return owner.get('token') == self._token if owner else self._path.exists()

  def _live(self) -> None:
    while not self._ended.wait(BEAT):
      try:
        if not self._mine():
          self._exit_taken_over()
        self._beat += 1
        self._write()
      except OSError:  # the file server is unreachable: the next heartbeat may succeed
        continue

  def _exit_taken_over(self) -> None:
    """Exit the process at once, because its next write would go into another process's run."""
    owner = _read(self._path)
    line = (
      f'stopped: {self._path.parent} was taken over by {_name(owner)} while this process had no heartbeat; '
      'nothing more is written.\n'
    )
    with contextlib.suppress(OSError):
      os.write(2, line.encode())
    os._exit(RESUMABLE)


def _in_use(path: Path, owner: dict[str, Any]) -> UserError:
  return UserError(f'{path.parent} is in use by {_name(owner)}: wait for it, stop it, or choose another --workdir.')


def _read(path: Path) -> dict[str, Any]:
  """Read the owner of a lock from its file; {} if it cannot be read."""
  try:
    # Reopened each time: NFS clients see the writes of other hosts only on open.
    owner = json.loads(path.read_text(encoding='utf-8'))
    return owner if isinstance(owner['host'], str) and owner['host'] else {}
  except (ValueError, KeyError, TypeError, OSError):
    return {}


def _name(owner: dict[str, Any]) -> str:
  """Describe the owner of a lock: process, host and age."""
  try:
    began = datetime.datetime.fromtimestamp(owner['started'])
    age = datetime.timedelta(seconds=round(time.time() - owner['started']))
    return f'process {owner["pid"]} on {owner["host"]} since {began:%Y-%m-%d %H:%M:%S} ({age})'
  except (ValueError, KeyError, TypeError, OSError, OverflowError):
    return 'another process'
