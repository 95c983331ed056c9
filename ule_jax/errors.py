"""The two ways a run ends on purpose before it is done, and the exit codes; anyone may import this file."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable, Sequence

DONE, DEFECT, USAGE, RESUMABLE = 0, 1, 2, 75  # exit codes


class UserError(Exception):
  """Bad usage or bad data: one sentence that names the thing and says what to do (exit code 2)."""


class Interrupted(KeyboardInterrupt):
  """The run was stopped from outside and can be resumed by the same command (exit code 75).

  No `Exception`, so that nobody takes it for one: libraries catch all of those here and there.
  """


def brief(value: object, most: int = 80) -> str:
  r"""Show what was read from a file in a message: one line of printable characters, its middle left out if it is long.

  >>> brief('a b'), brief('a\nb\u200b'), brief('x' * 100, 9)
  ('a b', 'a\\nb\\u200b', 'xxx...xxx')
  """
  text = str(value)
  if len(text) > most:
    half = (most - 3) // 2
    text = f'{text[:half]}...{text[len(text) - half :]}'
  return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in text)


# What XLA, CUDA's libraries and C++ say, in exceptions that have no type of their own.
OUT_OF_MEMORY = ('RESOURCE_EXHAUSTED', 'OUT_OF_MEMORY', 'Out of memory', 'ALLOC_FAILED', 'std::bad_alloc')


def is_out_of_memory(error: BaseException) -> bool:
  """Tell whether a host or a device had no memory left."""
  text = str(error)
  if isinstance(error, OSError):
    return error.errno == errno.ENOMEM
  if 'OS error' in text:  # tensorstore calls a full disk RESOURCE_EXHAUSTED, too
    return os.strerror(errno.ENOMEM) in text
  return isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY)


def out_of_memory(error: BaseException, remedy: str) -> UserError:
  """Make the error for a lack of memory."""
  said = ' '.join(str(error).split()) or type(error).__name__
  return UserError(f'out of memory ({said if len(said) <= 120 else "... " + said[-116:]}): {remedy}.')


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
  """Make the error for a name that is not in a table, with the nearest names that are.

  >>> str(unknown('method', 'ulee', ['erm', 'ule']))
  "unknown method 'ulee': did you mean 'ule'? Known: erm, ule."
  """
  known = sorted(known)
  near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
  hint = f'did you mean {" or ".join(repr(n) for n in near)}? ' if near else ''
  shown = ', '.join(brief(one) for one in known[:45])
  return UserError(f'unknown {kind} {brief(name)!r}: {hint}Known: {shown}.')


def one_line(error: BaseException) -> str:
  """Return the text of an error on one line, without quotation marks around it."""
  return re.sub(r'\s+', ' ', str(error)).strip('"')


def nearest_names(name: str, known: Sequence[str], prefix: str = '', otherwise: str = 'see --help.') -> str:
  """Return the end of a sentence: the nearest known names, or `otherwise` where none is near."""
  near = difflib.get_close_matches(name, known, n=2, cutoff=0.4)
  return f': did you mean {" or ".join(prefix + n for n in near)}?' if near else f': {otherwise}'
