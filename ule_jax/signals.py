"""SIGTERM and SIGINT end a run so that the same command goes on with it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ule_jax.errors import RESUMABLE, Interrupted, UserError

CAUGHT = (signal.SIGTERM, signal.SIGINT)  # from a scheduler, and from a person


class Signals:
  """While it is entered, the first signal raises `Interrupted`, and a second one exits at once.

  In `deferred()` the first one only becomes the name in `asked`: the code there has something to save.
  """

  def __init__(self, shared: bool = False):
    """Prepare to catch.

    Args:
      shared: SIGTERM is left to jax, which tells all hosts of it (hosts.preempted); SIGINT is passed on as one.
    """
    self.asked = ''
    self._shared, self._passed = shared, False
    self._deferred = self._lost = False
    self._handlers: dict[int, Any] = {}

  def __enter__(self) -> Signals:
    if threading.current_thread() is threading.main_thread():  # Python refuses handlers to the others
      caught = {signal.SIGINT: self._pass_on} if self._shared else dict.fromkeys(CAUGHT, self._on_signal)
      self._handlers = {number: signal.signal(number, handler) for number, handler in caught.items()}
      self._hook, sys.unraisablehook = sys.unraisablehook, self._on_unraisable
    return self

  def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
    if self._handlers:
      sys.unraisablehook = self._hook
      for number, handler in self._handlers.items():
        signal.signal(number, handler or signal.SIG_DFL)
    if isinstance(error, Exception) and not isinstance(error, UserError):
      self.check()  # an import that is interrupted ends with an ImportError

  def _on_signal(self, number: int, frame: Any) -> None:
    del frame
    if self.asked and not self._lost:
      os.write(2, b'stopped: a second signal; resumable, the same command goes on from the last checkpoint.\n')
      os._exit(RESUMABLE)
    self.asked, self._lost = signal.Signals(number).name, False
    if not self._deferred:
      self.check()

  def _pass_on(self, number: int, frame: Any) -> None:
    del number, frame
    if self._passed:
      os._exit(RESUMABLE)
    self._passed = True
    os.kill(os.getpid(), signal.SIGTERM)

  def _on_unraisable(self, unraisable: Any) -> None:
    # Python drops what is raised while it collects garbage, of which jax has a callback: raise it again a little later.
    if isinstance(unraisable.exc_value, Interrupted):
      self._lost = True
      threading.Timer(0.01, os.kill, (os.getpid(), signal.Signals[self.asked])).start()
    else:
      self._hook(unraisable)

  def check(self) -> None:
    """End here if a signal has come.

    Raises:
      Interrupted: one has.
    """
    if self.asked:
      raise Interrupted(f'{self.asked}; resumable, the same command goes on from the last checkpoint.')

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
