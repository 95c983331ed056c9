"""Progress and messages on the terminal."""

from __future__ import annotations

import time

from ule_jax.runs.signals import tell

_hushed = False


def hush() -> None:
  """Say nothing any more: another host of the same run speaks."""
  global _hushed
  _hushed = True


def say(text: str) -> None:
  """Print a line that is not a result: progress, a warning."""
  if not _hushed:
    tell(text)


class Progress:
  """Prints a line per report: step, losses, examples per second, time left.

  Both are of the steps after the first of this process, which is compiled.
  """

  def __init__(self, steps: int, start: int, batch_size: int):
    self._steps, self._batch_size = steps, batch_size
    self._began = self._mark = time.monotonic()
    self._first = self._step = start
    self._compiled = False

  def begin(self, step: int) -> None:
    """Count from here on: the first steps are done. Of no effect later."""
    if not self._compiled:
      self._compiled = True
      self._began = self._mark = time.monotonic()
      self._first = self._step = step

  def report(self, step: int, values: dict[str, float]) -> float:
    """Print where the run is; return examples per second since the last report, NaN if no step was timed since."""
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
    say('  '.join(line))
    return rate


def _duration(seconds: float) -> str:
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{rest:02}' if hours else f'{minutes}:{rest:02}'
