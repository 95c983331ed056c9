"""metrics.jsonl and its TensorBoard twin."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ule_jax.runs.files import write_text


class MetricsLog:
  """metrics.jsonl, one line per report, and the same numbers as TensorBoard events."""

  def __init__(self, workdir: Path, start: int):
    """Open the log and remove the lines after step `start`, which a killed run wrote."""
    from tensorboardX.event_file_writer import EventsWriter  # 1 s of import that --help does not need

    path = workdir / 'metrics.jsonl'
    if path.exists():
      text = path.read_text(encoding='utf-8', errors='replace')
      kept = [line for line in text.splitlines() if step_of(line) <= start]
      write_text(path, ''.join(f'{line}\n' for line in kept))
    self._file = path.open('a', encoding='utf-8')
    (workdir / 'tensorboard').mkdir(exist_ok=True)
    events = (workdir / 'tensorboard' / 'events').absolute()  # a relative path with a colon would be read as a URL
    # Not tensorboardX's SummaryWriter: its thread dies on a full disk, and then its queue blocks indefinitely.
    self._events = EventsWriter(str(events), f'.{os.getpid()}')
    if start:
      self._event(start + 1, session_log={'status': 1})  # START: TensorBoard discards its points from this step on

  def write(self, step: int, values: dict[str, float]) -> None:
    """Write the metrics of the state at `step`."""
    self._file.write(json.dumps({'step': step, **values}) + '\n')
    self._file.flush()
    tags = [{'tag': name, 'simple_value': value} for name, value in values.items()]
    self._event(step, summary={'value': tags})
    self._events.flush()

  def _event(self, step: int, **content: Any) -> None:
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] made by protobuf at run time

    self._events.write_event(Event(step=step, wall_time=time.time(), **content))

  def close(self) -> None:
    """Flush and close both files."""
    self._file.close()
    self._events.close()


class NoLog:
  """A log that discards everything, for the processes that do not write."""

  def write(self, step: int, values: dict[str, float]) -> None:
    """Discard."""

  def close(self) -> None:
    """Discard."""


def step_of(line: str) -> float:
  """Return the step of a line of metrics.jsonl, infinity if the line is cut off."""
  try:
    return json.loads(line)['step']
  except (ValueError, KeyError, TypeError):  # the last line of a killed run may be half written
    return float('inf')
