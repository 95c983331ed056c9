"""SIGTERM, SIGINT, SIGHUP and SIGUSR1 stop a run so that the same command resumes it."""

from __future__ import annotations

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
from ule_jax.runs.terminal import acknowledge

# From a scheduler, and from a person: a second one of these exits at once.
URGENT = (signal.SIGTERM, signal.SIGINT)
# From a terminal that closes, and from SLURM before its time limit; often several times, or before a SIGTERM.
WARNING = (signal.SIGHUP, signal.SIGUSR1)
CAUGHT = (*URGENT, *WARNING)
PATIENCE = 1.0  # seconds after which a signal that was not handled yet is acknowledged


def caught() -> tuple[signal.Signals, ...]:
  """Return the signals to catch, without warnings that are ignored already, as SIGHUP is under nohup."""
  return (*URGENT, *(number for number in WARNING if signal.getsignal(number) != signal.SIG_IGN))


class Signals:
  """A context in which the first signal raises `Interrupted`, and a second one exits at once.

  Inside `deferred()` the first signal is only recorded (in `received`), so that the loop can save its state before it
  stops.

  Python runs signal handlers in the main thread between two of its instructions, which may be after a minute of
  compilation. A listener thread therefore reads each signal from a pipe, acknowledges the first and exits at the
  second.
  """

  def __init__(self, shared: bool = False):
    """Create the context; handlers are installed when it is entered.

    Args:
      shared: leave SIGTERM to jax, which broadcasts it to all processes (processes.preempted), and convert the other
        signals to SIGTERM.
    """
    self.received = ''
    self._shared, self._passed = shared, False
    self._deferred = self._lost = False
    self._own = self._urgent = 0  # signals that this process sent to itself, and urgent ones that a handler saw
    self._handlers: dict[int, Any] = {}

  def __enter__(self) -> Signals:
    if threading.current_thread() is threading.main_thread():  # only the main thread may install handlers
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
      os.close(self._writing)  # ends the listener thread
      sys.unraisablehook = self._hook
      for number, handler in self._handlers.items():
        signal.signal(number, handler or signal.SIG_DFL)
    if isinstance(error, Exception) and not isinstance(error, UserError):
      self.check()  # an interrupted import raises ImportError instead of `Interrupted`

  def _listen(self, reading: int, wanted: frozenset[int]) -> None:
    """Acknowledge the first signal, and exit at the second urgent one."""
    seen, urgent, unanswered = False, 0, ''
    while True:
      ready, _, _ = select.select([reading], [], [], PATIENCE if unanswered else None)
      if not ready:  # the main thread computes outside Python
        if not self.received:
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
    resent, self._lost = self._lost, False
    self._urgent += number in URGENT and not resent
    if self._urgent > 1:
      leave()
    if self.received and not resent:  # a second exception would interrupt the cleanup after the first
      return
    self.received = self.received or signal.Signals(number).name
    if not self._deferred:
      self.check()

  def _pass_on(self, number: int, frame: Any) -> None:
    del number, frame
    if not self._passed:
      self._passed = True
      os.kill(os.getpid(), signal.SIGTERM)

  def _on_unraisable(self, unraisable: Any) -> None:
    # Python drops exceptions that are raised during garbage collection, which calls into jax: resend the signal later.
    if isinstance(unraisable.exc_value, Interrupted):
      self._lost, self._own = True, self._own + 1
      threading.Timer(0.01, os.kill, (os.getpid(), signal.Signals[self.received])).start()
    else:
      self._hook(unraisable)

  def ask(self, reason: str) -> None:
    """Request a stop as a signal does, with another reason in the message."""
    if self._shared:
      acknowledge(reason)
      os.kill(os.getpid(), signal.SIGTERM)
    else:
      self.received = self.received or reason

  def check(self) -> None:
    """Raise if a signal has been received.

    Raises:
      Interrupted: a signal, or a call of `ask`, has been recorded.
    """
    if self.received:
      raise Interrupted(f'{self.received}; resumable, the same command continues from the last saved state.')

  @contextmanager
  def deferred(self) -> Iterator[None]:
    """Defer signals to the end of the block; code inside may read `received` and stop earlier.

    Raises:
      Interrupted: a signal was received in the block.
    """
    self._deferred = True
    try:
      yield
    finally:
      self._deferred = False
    self.check()

  def until_signal(self, items: Iterable[Any]) -> Iterator[Any]:
    """Iterate over items until a signal is received.

    Raises:
      Interrupted: a signal was received.
    """
    for item in items:
      self.check()
      yield item


_leaving = threading.Lock()


def leave() -> None:
  """Exit at once after a second signal, without saving."""
  if not _leaving.acquire(blocking=False):  # another thread is exiting already
    time.sleep(PATIENCE)
  acknowledge('stopped: a second signal; resumable, the same command continues from the last checkpoint.')
  os._exit(RESUMABLE)
