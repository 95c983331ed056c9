"""Progress lines of training, and the handler that prints the package's log records on the terminal."""

from __future__ import annotations

import logging
import time

from ule_jax.runs.signals import tell

log = logging.getLogger(__name__)


class Terminal(logging.Handler):
  """Prints each record as one line on stderr, a warning with the prefix `warning: `."""

  def emit(self, record: logging.LogRecord) -> None:
    """Print a record."""
    tell(('warning: ' if record.levelno >= logging.WARNING else '') + record.getMessage())


_terminal = Terminal()


def to_terminal() -> None:
  """Print all of the package's log records from level INFO on; for the command line, whose lines these are.

  Without this call a program that uses the package as a library gets Python's default: warnings on stderr, no progress.
  """
  package = logging.getLogger('ule_jax')
  package.addHandler(_terminal)
  package.setLevel(logging.INFO)
  package.propagate = False  # a library that sets up the root logger would print every line a second time


def hush() -> None:
  """Print nothing from now on, warnings included: another process of the same run prints these lines."""
  _terminal.setLevel(logging.CRITICAL + 1)


class Progress:
  """Logs a line per report: step, losses, examples per second, time left.

  Both rates are those of the steps after the first one of this process, which includes its compilation.
  """

  def __init__(self, steps: int, start: int, batch_size: int):
    """Start the clock.

    Args:
      steps: of the whole run.
      start: the step that this process starts from.
      batch_size: examples of a step.
    """
    self._steps, self._batch_size = steps, batch_size
    self._began = self._mark = time.monotonic()
    self._first = self._step = start
    self._compiled = False

  def begin(self, step: int) -> None:
    """Restart the clock at the first call, when `step` steps are done on the device; later calls have no effect.

    Without this call the rates include compilation.

    Args:
      step: number of steps done, those before a resume included.
    """
    if not self._compiled:
      self._compiled = True
      self._began = self._mark = time.monotonic()
      self._first = self._step = step

  def report(self, step: int, values: dict[str, float]) -> float:
    """Log the position of the run; return examples per second since the last report, NaN if no step was timed since."""
    now = time.monotonic()
    line = [f'step {step:>{len(str(self._steps))}}/{self._steps}']
    line += [f'{name} {value:.4f}' for name, value in values.items()]
    rate = float('nan')
    if step > self._step:
      rate = (step - self._step) * self._batch_size / max(now - self._mark, 1e-9)
      # Time left from all steps of this process, so that evaluation and saving are in it.
      left = (now - self._began) / (step - self._first) * (self._steps - step)
      line += [f'{rate:,.0f} examples/s', f'{_duration(left)} left']
      self._mark, self._step = now, step
    log.info('  '.join(line))
    return rate


def _duration(seconds: float) -> str:
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{rest:02}' if hours else f'{minutes}:{rest:02}'
