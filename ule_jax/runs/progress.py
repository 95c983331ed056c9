"""Progress lines of training, and the handler that prints the package's log records on the terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from ule_jax.runs import terminal

log = logging.getLogger(__name__)

ABOUT_TERM = ('trust', 'term_share')  # metrics by which one sees whether the term of a method acts

Value = TypeVar('Value')


class Terminal(logging.Handler):
  """Prints each record as one line on stderr, a warning with the prefix `warning: `.

  A record with `parts` is a report: in a terminal they are one line that is updated.
  """

  def emit(self, record: logging.LogRecord) -> None:
    """Print a record; a report on the progress replaces the last one in a terminal."""
    if (parts := getattr(record, 'parts', None)) and terminal.is_terminal():
      terminal.update(parts)
    else:
      terminal.tell(('warning: ' if record.levelno >= logging.WARNING else '') + record.getMessage())


_terminal = Terminal()


def to_terminal() -> None:
  """Print all of the package's log records from level INFO on; for the command line, whose lines these are.

  Without this call a program that uses the package as a library gets Python's default: warnings on stderr, no progress.
  """
  package = logging.getLogger('ule_jax')
  package.addHandler(_terminal)
  package.setLevel(logging.INFO)
  package.propagate = False  # a library that sets up the root logger would print every line a second time


def _is_live() -> bool:
  """Return whether the command line prints these lines, and into a terminal."""
  prints = _terminal in logging.getLogger('ule_jax').handlers and _terminal.level <= logging.INFO
  return prints and terminal.is_terminal()


def hush() -> None:
  """Print nothing from now on, warnings included: another process of the same run prints these lines."""
  _terminal.setLevel(logging.CRITICAL + 1)


def on_a_line(metrics: Mapping[str, Value]) -> dict[str, Value]:
  """Return the metrics of a step that a line has: the losses, the trust and the term's share of the loss."""
  losses = {name: value for name, value in metrics.items() if 'loss/' in name}
  return losses | {name: metrics[name] for name in ABOUT_TERM if name in metrics}


class Best(NamedTuple):
  """The best validation score so far, in [0, 1], with its rule and step."""

  rule: str
  value: float
  step: int


class Progress:
  """Logs a line per report: step, losses, examples per second, time left, and the best validation score so far.

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
    self._parts = [f'step {start}/{steps}']
    self.note('compiling')

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

  def report(self, step: int, values: Mapping[str, float], best: Best | None = None) -> float:
    """Log the position of the run; return examples per second since the last report, NaN if no step was timed since.

    Args:
      step: number of steps done.
      values: name -> value, in the order of the line; a share is a percentage there.
      best: the best validation score so far.
    """
    now = time.monotonic()
    position = f'step {step:>{len(str(self._steps))}}/{self._steps}'
    rate, speed, time_left = float('nan'), [], []
    if step > self._step:
      rate = (step - self._step) * self._batch_size / max(now - self._mark, 1e-9)
      # Time left from all steps of this process, so that evaluation and saving are in it.
      left = (now - self._began) / (step - self._first) * (self._steps - step)
      speed, time_left = [f'{rate:,.0f} examples/s'], [f'{_duration(left)} left']
      self._mark, self._step = now, step
    numbers = {name: _number(name, value) for name, value in values.items()}
    line = [position, *numbers.values(), *speed, *time_left]
    line += [f'best {best.rule} {100 * best.value:.1f} % at step {best.step}'] if best else []
    # In a terminal that is narrow the last parts have to go.
    losses = [text.removeprefix('loss/') for name, text in numbers.items() if 'loss/' in name]
    others = [text for name, text in numbers.items() if 'loss/' not in name]
    scores = [f'best {100 * best.value:.1f} % at {best.step}'] if best else []
    self._parts = [position, *time_left, *losses, *scores, *others, *speed]
    log.info('  '.join(line), extra={'parts': self._parts})
    return rate

  def note(self, text: str) -> None:
    """Add a word to the line in a terminal until the next report; elsewhere there is no effect."""
    if _is_live():
      terminal.update([self._parts[0], text, *self._parts[1:]])

  def close(self) -> None:
    """End the line in a terminal, which then stays as the last report had it."""
    if _is_live():
      terminal.update(self._parts)
      terminal.end_update()


def _number(name: str, value: float) -> str:
  """Format a metric; a share, as `term_share`, in percent."""
  if name.endswith('_share'):
    return f'{name.removesuffix("_share")} {100 * value:.2g} %'
  return f'{name} {value:.2g}' if name == 'trust' else f'{name} {value:.4f}'


def _duration(seconds: float) -> str:
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{rest:02}' if hours else f'{minutes}:{rest:02}'
