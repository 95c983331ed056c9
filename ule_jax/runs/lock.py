"""Whose a folder is: a lock that the kernel frees with its process, and a lease for hosts that cannot see each other.

On one host flock decides: the kernel frees the lock of a process that died, so that nobody has to guess. Another host
may not see it. The owner therefore writes a new number into the file every `BEAT` seconds, and who finds a lock of
another host watches it for `LEASE` seconds of its own clock: if the number stays, the owner is gone, and the lock is
taken over. Clocks of two hosts are never compared. An owner that was only paused finds another's name in the file at
its next beat, and ends at once without writing anything.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from ule_jax.errors import RESUMABLE, UserError

BEAT = 10.0  # seconds between two signs of life
LEASE = 120.0  # seconds without one after which a lock is taken over
# File systems without flock: Function not implemented, Operation not supported, No locks available.
NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)


@contextlib.contextmanager
def held(path: Path, say: Callable[[str], None]) -> Iterator[None]:
  """Hold the lock of a folder.

  Args:
    path: of the file, which is made and removed.
    say: is told when another host's lock is waited for or taken over, and of a file system without flock.

  Raises:
    UserError: another process has it.
    OSError: the file cannot be written.
  """
  while True:
    with path.open('a+', encoding='utf-8') as file:
      seen = _flocked(file, path, say)
      owner = _read(path)
      if owner and not (seen and owner['host'] == platform.node()):
        _outlive(path, owner, say)
      # Its last owner may have removed the file between our opening and locking it.
      if not (path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))):
        continue
      lease = Lease(path)
      lease.confirm(wait=not seen or owner.get('host', platform.node()) != platform.node())
      try:
        yield
      finally:
        lease.end()
      return


def _flocked(file: IO[str], path: Path, say: Callable[[str], None]) -> bool:
  """Take the kernel's lock; tell whether there is one on this file system.

  Raises:
    UserError: another process of this host, or of one whose locks this one sees, has it.
  """
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise _in_use(path, _read(path)) from None
  except OSError as error:
    if error.errno not in NO_FLOCK:
      raise UserError(f'{path} cannot be locked ({error.strerror}): choose another --workdir.') from None
    say(
      f'warning: the file system of {path.parent} has no locks (flock: {error.strerror}): another process there is '
      f'recognised by what it writes into {path.name} every {BEAT:.0f} s.'
    )
    return False
  return True


def _outlive(path: Path, owner: dict[str, Any], say: Callable[[str], None]) -> None:
  """Wait until a lock that this host cannot see into shows no sign of life for `LEASE` seconds.

  Raises:
    UserError: it shows one; or its owner is of a version that gives none.
  """
  if 'beat' not in owner:
    raise UserError(
      f'{path.parent} was taken by {_name(owner)}, and from {platform.node()} nobody can see whether that still runs: '
      f'if it does not, remove {path}.'
    )
  say(
    f'{path.parent} was taken by {_name(owner)}: it is taken over if that gives no sign of life for {LEASE:.0f} s '
    f'(or remove {path} if you know that it does not run)'
  )
  end = time.monotonic() + LEASE
  while time.monotonic() < end:
    time.sleep(min(1.0, LEASE / 20))
    now = _read(path)
    if now and (now.get('token'), now.get('beat')) != (owner.get('token'), owner['beat']):
      raise _in_use(path, now)
    if not path.exists():  # it ended meanwhile
      return
  say(f'{path.parent}: no sign of life from {_name(owner)} for {LEASE:.0f} s; taken over')


class Lease:
  """The owner's side: a thread that gives signs of life, and sees whether another host took the lock over."""

  def __init__(self, path: Path):
    """Write the owner's name into the file."""
    self._path = path
    self._token, self._beat, self._began = uuid.uuid4().hex, 0, time.time()
    self._ended = threading.Event()
    self._write()
    self._thread = threading.Thread(target=self._live, daemon=True)

  def confirm(self, wait: bool) -> None:
    """Begin to beat, or find that another host took the lock over at the same moment: the last one has it.

    Args:
      wait: for what the other may write, where no kernel decides between the two.

    Raises:
      UserError: it did.
    """
    if wait:
      time.sleep(min(BEAT, LEASE / 10))
    if not self._mine():
      raise _in_use(self._path, _read(self._path))
    self._thread.start()

  def end(self) -> None:
    """Give the lock back."""
    self._ended.set()
    self._thread.join()
    with contextlib.suppress(OSError):
      if self._mine():
        self._path.unlink(missing_ok=True)

  def _write(self) -> None:
    about = {'host': platform.node(), 'pid': os.getpid(), 'started': self._began}
    # Of one length, and in one write: nobody reads half of it.
    text = json.dumps(about | {'token': self._token, 'beat': f'{self._beat:012}'})
    # Opened anew: what is written is sent to a file server when it is closed.
    with self._path.open('r+b', buffering=0) as file:
      if os.fstat(file.fileno()).st_size != len(text):
        file.truncate(0)
      file.write(text.encode())

  def _mine(self) -> bool:
    """Tell whether the file is there and names nobody else; one that cannot be read does not."""
    owner = _read(self._path)
    return owner.get('token') == self._token if owner else self._path.exists()

  def _live(self) -> None:
    while not self._ended.wait(BEAT):
      try:
        if not self._mine():
          self._lose()
        self._beat += 1
        self._write()
      except OSError:  # the file server is away: the next beat may reach it
        continue

  def _lose(self) -> None:
    """End the process at once: whatever it wrote now would go into another's run."""
    owner = _read(self._path)
    line = (
      f'stopped: {self._path.parent} was taken over by {_name(owner)} while this process gave no sign of life; '
      'nothing more is written.\n'
    )
    with contextlib.suppress(OSError):
      os.write(2, line.encode())
    os._exit(RESUMABLE)


def _in_use(path: Path, owner: dict[str, Any]) -> UserError:
  return UserError(f'{path.parent} is in use by {_name(owner)}: wait for it, stop it, or choose another --workdir.')


def _read(path: Path) -> dict[str, Any]:
  """Read who owns a lock; {} if it does not say."""
  try:
    # Opened anew: over a network, only that sees what another host wrote.
    owner = json.loads(path.read_text(encoding='utf-8'))
    return owner if isinstance(owner['host'], str) and owner['host'] else {}
  except (ValueError, KeyError, TypeError, OSError):
    return {}


def _name(owner: dict[str, Any]) -> str:
  """Say who owns a lock and since when."""
  try:
    began = datetime.datetime.fromtimestamp(owner['started'])
    age = datetime.timedelta(seconds=round(time.time() - owner['started']))
    return f'process {owner["pid"]} on {owner["host"]} since {began:%Y-%m-%d %H:%M:%S} ({age})'
  except (ValueError, KeyError, TypeError, OSError, OverflowError):
    return 'another process'
