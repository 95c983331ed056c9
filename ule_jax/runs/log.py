"""metrics.jsonl and its TensorBoard twin."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


class MetricsLog:
  """metrics.jsonl, a line per report, and the same numbers as TensorBoard events."""

  def __init__(self, workdir: Path, start: int):
    """Open the log; what a killed run wrote after step `start` is cut off."""
    from tensorboardX.event_file_writer import EventsWriter  # 1 s of import that --help does not need

    path = workdir / 'metrics.jsonl'
    if path.exists():
      text = path.read_text(encoding='utf-8', errors='replace')
      kept = [line for line in text.splitlines() if step_of(line) <= start]
      partial = path.with_suffix('.partial')
      partial.write_text(''.join(f'{line}\n' for line in kept), encoding='utf-8')
      partial.replace(path)
    self._file = path.open('a', encoding='utf-8')
    (workdir / 'tensorboard').mkdir(exist_ok=True)
    events = (workdir / 'tensorboard' / 'events').absolute()  # it takes what is before a colon for a scheme
    # Not tensorboardX's SummaryWriter: its thread dies on a full disk, and then its queue blocks for ever.
    self._events = EventsWriter(str(events), f'.{os.getpid()}')
    if start:
      self._event(start + 1, session_log={'status': 1})  # START: what was drawn from this step on is void

  def write(self, step: int, values: dict[str, float]) -> None:
    """Write the numbers that belong to the state at `step`."""
    self._file.write(json.dumps({'step': step, **values}) + '\n')
    self._file.flush()
    tags = [{'tag': name, 'simple_value': value} for name, value in values.items()]
    self._event(step, summary={'value': tags})
    self._events.flush()

  def _event(self, step: int, **content: Any) -> None:
    from tensorboardX.proto.event_pb2 import Event

    self._events.write_event(Event(step=step, wall_time=time.time(), **content))

  def close(self) -> None:
    """Write what is buffered."""
    self._file.close()
    self._events.close()


class NoLog:
  """A log that keeps nothing, for hosts that do not write."""

  def write(self, step: int, values: dict[str, float]) -> None:
    """Do nothing."""

  def close(self) -> None:
    """Do nothing."""


def step_of(line: str) -> float:
  """Return the step of a line of metrics.jsonl, infinity if the line is cut off."""
  try:
    return json.loads(line)['step']
  except (ValueError, KeyError, TypeError):  # the last line of a killed run may be half written
    return float('inf')
