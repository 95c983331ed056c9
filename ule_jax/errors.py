"""The two ways a run ends on purpose before it is done, and the exit codes; anyone may import this file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

DONE, DEFECT, USAGE, RESUMABLE = 0, 1, 2, 75  # exit codes


class UserError(Exception):
  """Bad usage or bad data: one sentence that names the thing and says what to do (exit code 2)."""


class Interrupted(KeyboardInterrupt):
  """The run was stopped from outside and can be resumed by the same command (exit code 75).

  No `Exception`, so that nobody takes it for one: libraries catch all of those here and there.
  """


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
  """Make the error for a name that is not in a table, with the nearest names that are.

  >>> str(unknown('method', 'ulee', ['erm', 'ule']))
  "unknown method 'ulee': did you mean 'ule'? Known: erm, ule."
  """
  known = sorted(known)
  near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
  hint = f'did you mean {" or ".join(repr(n) for n in near)}? ' if near else ''
  shown = ', '.join(known[:45])
  return UserError(f'unknown {kind} {name!r}: {hint}Known: {shown}.')
