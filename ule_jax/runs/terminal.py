"""Lines on stderr, and one line at the bottom of a terminal that is updated in place.

rich and tqdm have such lines, too: these fail when the terminal is gone, as after SIGHUP, and refresh from a thread,
which loader.workers would fork.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

CLEAR = '\r\x1b[K'  # to the start of the line, and erase it

_line = ''  # the text that is updated; '' while there is none


def is_terminal() -> bool:
  """Return whether stderr is a terminal in which a line can be erased."""
  return sys.stderr.isatty() and os.environ.get('TERM', 'dumb') != 'dumb'


def tell(text: str) -> None:
  """Print a line to stderr, above the updated one; a terminal that is gone, as after SIGHUP, is not an error."""
  _write(f'{CLEAR}{text}\n{_line}' if _line else f'{text}\n')


def acknowledge(text: str) -> None:
  """Write a line to stderr at once and unbuffered, from any thread; the terminal may be gone."""
  with contextlib.suppress(OSError):
    os.write(2, (f'{CLEAR}{text}\n{_line}' if _line else f'{text}\n').encode(errors='backslashreplace'))


def update(parts: Sequence[str]) -> None:
  """Replace the updated line by as many parts as fit into the terminal, the first ones first."""
  global _line
  if not isinstance(sys.stderr, Above):
    sys.stderr = Above(sys.stderr)
  width = shutil.get_terminal_size().columns - 1  # in the last column some terminals wrap
  text = parts[0][:width]
  for part in parts[1:]:
    if len(text) + 2 + len(part) <= width:
      text += f'  {part}'
  _line = text
  _write(CLEAR + text)


def end_update() -> None:
  """End the updated line, which then stays as it is; without one there is no effect."""
  global _line
  if _line:
    _line = ''
    _write('\n')
  if isinstance(sys.stderr, Above):
    sys.stderr = sys.stderr.leave()


class Above:
  """The stream for sys.stderr while a line is updated: the lines that libraries print stand above it."""

  def __init__(self, stream: Any):
    self.stream, self._rest = stream, ''

  def write(self, text: str) -> int:
    """Print whole lines; the rest waits for its end."""
    *lines, self._rest = (self._rest + text).split('\n')
    for line in lines:
      tell(line)
    return len(text)

  def leave(self) -> Any:
    """Return the stream below, on which the rest is printed."""
    if self._rest:
      self.stream.write(self._rest)
    return self.stream

  def __getattr__(self, name: str) -> Any:
    return getattr(self.stream, name)


def _write(text: str) -> None:
  stream = sys.stderr.stream if isinstance(sys.stderr, Above) else sys.stderr
  try:
    print(text, end='', file=stream, flush=True)
  except OSError:
    with open(os.devnull, 'w') as nowhere:
      os.dup2(nowhere.fileno(), 2)  # or the rest of the buffer would fail again at exit
