"""SIGTERM, SIGINT, SIGHUP and SIGUSR1 end a run so that the same command goes on with it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ule_jax.errors import RESUMABLE, Interrupted, UserError

# From a scheduler, and from a person: a second one of these exits at once.
URGENT = (signal.SIGTERM, signal.SIGINT)
# When a terminal closes, and what SLURM sends before its limit; often several times, or before a SIGTERM.
WARNING = (signal.SIGHUP, signal.SIGUSR1)
CAUGHT = (*URGENT, *WARNING)
PATIENCE = 1.0  # seconds after which a signal that nothing answered is acknowledged


def caught() -> tuple[signal.Signals, ...]:
  """Name the signals to catch: not a warning that is ignored already, as SIGHUP is under nohup."""
  return (*URGENT, *(number for number in WARNING if signal.getsignal(number) != signal.SIG_IGN))


class Signals:
  """While it is entered, the first signal raises `Interrupted`, and a second one exits at once.

  In `deferred()` the first one only becomes the name in `asked`: the code there has something to save.

  Python's handlers wait for the end of whatever the main thread computes outside Python, which may be a minute of
  compilation. Another thread therefore reads of each signal from a pipe, acknowledges the first, exits at the second.
  """

  def __init__(self, shared: bool = False):
    """Prepare to catch.

    Args:
      shared: SIGTERM is left to jax, which tells all hosts of it (hosts.preempted); the others are passed on as one.
    """
    self.asked = ''
    self._shared, self._passed = shared, False
    self._deferred = self._lost = False
    self._own = self._urgent = 0  # signals that this process sent to itself, and urgent ones that a handler saw
    self._handlers: dict[int, Any] = {}

  def __enter__(self) -> Signals:
    if threading.current_thread() is threading.main_thread():  # Python refuses handlers to the others
      handler = self._pass_on if self._shared else self._on_signal
      wanted = [number for number in caught() if not (self._shared and number == signal.SIGTERM)]
      self._handlers = {number: signal.signal(number, handler) for number in wanted}
      self._hook, sys.unraisablehook = sys.unraisablehook, self._on_unraisable
      reading, self._writing = os.pipe()
      os.set_blocking(self._writing, False)
      self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
      threading.Thread(target=self._listen, args=(reading, frozenset(wanted)), daemon=True).start()
    return self

  def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
    if self._handlers:
      signal.set_wakeup_fd(self._wakeup)
      os.close(self._writing)  # which ends the thread
      sys.unraisablehook = self._hook
      for number, handler in self._handlers.items():
        signal.signal(number, handler or signal.SIG_DFL)
    if isinstance(error, Exception) and not isinstance(error, UserError):
      self.check()  # an import that is interrupted ends with an ImportError

  def _listen(self, reading: int, wanted: frozenset[int]) -> None:
    """Acknowledge the first signal, and exit at the second urgent one."""
    seen, urgent, unanswered = False, 0, ''
    while True:
      ready, _, _ = select.select([reading], [], [], PATIENCE if unanswered else None)
      if not ready:  # the main thread is outside Python
        if not self.asked:
          acknowledge(f'{unanswered}: stops after what is being computed')
        unanswered = ''
        continue
      content = os.read(reading, 64)
      if not content:
        os.close(reading)
        return
      for number in (n for n in content if n in wanted):
        if self._own:
          self._own -= 1
          continue
        name = signal.Signals(number).name
        if number in URGENT and urgent:
          leave()
        first, seen = not seen, True
        urgent += number in URGENT
        if first and (self._deferred or self._shared):
          more = ' (a second one stops at once)' if number in URGENT else ''
          acknowledge(f'{name}: stops after this step and saves{more}')
        elif first:
          unanswered = name

  def _on_signal(self, number: int, frame: Any) -> None:
    del frame
    again, self._lost = self._lost, False
    self._urgent += number in URGENT and not again
    if self._urgent > 1:
      leave()
    if self.asked and not again:  # once is enough: another exception would disturb the clearing up
      return
    self.asked = self.asked or signal.Signals(number).name
    if not self._deferred:
      self.check()

  def _pass_on(self, number: int, frame: Any) -> None:
    del number, frame
    if not self._passed:
      self._passed = True
      os.kill(os.getpid(), signal.SIGTERM)

  def _on_unraisable(self, unraisable: Any) -> None:
    # Python drops what is raised while it collects garbage, of which jax has a callback: raise it again a little later.
    if isinstance(unraisable.exc_value, Interrupted):
      self._lost, self._own = True, self._own + 1
      threading.Timer(0.01, os.kill, (os.getpid(), signal.Signals[self.asked])).start()
    else:
      self._hook(unraisable)

  def ask(self, reason: str) -> None:
    """Stop as at a signal, for another reason."""
    if self._shared:
      acknowledge(reason)
      os.kill(os.getpid(), signal.SIGTERM)
    else:
      self.asked = self.asked or reason

  def check(self) -> None:
    """End here if a signal has come.

    Raises:
      Interrupted: one has.
    """
    if self.asked:
      raise Interrupted(f'{self.asked}; resumable, the same command goes on from what is saved.')

  @contextmanager
  def deferred(self) -> Iterator[None]:
    """Let signals wait until somebody looks at `asked`, at the latest until the end of the block.

    Raises:
      Interrupted: one waited until then.
    """
    self._deferred = True
    try:
      yield
    finally:
      self._deferred = False
    self.check()

  def heeded(self, items: Iterable[Any]) -> Iterator[Any]:
    """Iterate until a signal comes.

    Raises:
      Interrupted: it has come.
    """
    for item in items:
      self.check()
      yield item


_leaving = threading.Lock()


def leave() -> None:
  """Exit at once, as a second signal asks to: nothing is saved."""
  if not _leaving.acquire(blocking=False):  # another thread is at it
    time.sleep(PATIENCE)
  acknowledge('stopped: a second signal; resumable, the same command goes on from the last checkpoint.')
  os._exit(RESUMABLE)


def tell(text: str) -> None:
  """Print a line that is not a result; a terminal that is gone, as after SIGHUP, is no reason to stop."""
  try:
    print(text, file=sys.stderr, flush=True)
  except OSError:
    with open(os.devnull, 'w') as nowhere:
      os.dup2(nowhere.fileno(), 2)  # or what is left in the buffer fails again at the end


def acknowledge(text: str) -> None:
  """Say a line at once, from any thread; the terminal may be gone."""
  with contextlib.suppress(OSError):
    os.write(2, f'{text}\n'.encode())
