"""Exceptions that end a run on purpose, exit codes, and the wording of errors. Every room may import this file."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable, Sequence

DONE, DEFECT, USAGE, RESUMABLE = 0, 1, 2, 75  # exit codes


class UserError(Exception):
  """Bad usage or bad data (exit code 2): one sentence that names the thing and the remedy."""


class Interrupted(KeyboardInterrupt):
  """The run was stopped from outside and can be resumed by the same command (exit code 75).

  Not an `Exception`, because libraries catch all of those.
  """


def brief(value: object, most: int = 80) -> str:
  r"""Return a value for a message: one line of printable characters, without the middle of a long one.

  >>> brief('a b'), brief('a\nb\u200b'), brief('x' * 100, 9)
  ('a b', 'a\\nb\\u200b', 'xxx...xxx')
  """
  text = str(value)
  if len(text) > most:
    half = (most - 3) // 2
    text = f'{text[:half]}...{text[len(text) - half :]}'
  return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in text)


# Words of XLA, CUDA's libraries and C++ in exceptions that have no type of their own
OUT_OF_MEMORY = ('RESOURCE_EXHAUSTED', 'OUT_OF_MEMORY', 'Out of memory', 'ALLOC_FAILED', 'std::bad_alloc')


def is_out_of_memory(error: BaseException) -> bool:
  """Return whether an error is a lack of memory, of the host or of a device."""
  text = str(error)
  if isinstance(error, OSError):
    return error.errno == errno.ENOMEM
  if 'OS error' in text:  # tensorstore uses RESOURCE_EXHAUSTED for a full disk, too
    return os.strerror(errno.ENOMEM) in text
  return isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY)


def out_of_memory(error: BaseException, remedy: str) -> UserError:
  """Return the error for a lack of memory.

  Args:
    error: of the library.
    remedy: end of the sentence.
  """
  text = ' '.join(str(error).split()) or type(error).__name__
  return UserError(f'out of memory ({text if len(text) <= 120 else "... " + text[-116:]}): {remedy}.')


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
  """Return the error for a name that is not in a table, with the nearest names that are.

  >>> str(unknown('method', 'ulee', ['erm', 'ule']))
  "unknown method 'ulee': did you mean 'ule'? Known: erm, ule."
  """
  known = sorted(known)
  near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
  hint = f'did you mean {" or ".join(repr(n) for n in near)}? ' if near else ''
  names = ', '.join(map(brief, known[:45]))
  return UserError(f'unknown {kind} {brief(name)!r}: {hint}Known: {names}.')


def one_line(error: BaseException) -> str:
  """Return the text of an error on one line, without quotation marks around it."""
  return re.sub(r'\s+', ' ', str(error)).strip('"')


def nearest_names(name: str, known: Sequence[str], prefix: str = '', otherwise: str = 'see --help.') -> str:
  """Return the end of a sentence: the nearest known names, or `otherwise` where none is near."""
  near = difflib.get_close_matches(name, known, n=2, cutoff=0.4)
  return f': did you mean {" or ".join(prefix + n for n in near)}?' if near else f': {otherwise}'
