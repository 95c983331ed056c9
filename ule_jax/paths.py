"""Paths from the command line and config: local ones are normalised, all others are refused."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ule_jax.errors import UserError

BUCKETS = ('gs://', 's3://', 'az://', 'hf://')  # schemes that etils.epath opens with the package for each installed
# `gs://bucket`, `file:/tmp`, `C:\data`; pathlib would merge the two slashes and create a folder named `gs:`.
_ELSEWHERE = re.compile(r'[A-Za-z][A-Za-z0-9+.-]*:(?:[/\\]|$)')
# Characters that orbax or tensorstore misread: glob patterns, the other separator, lone surrogates, URL schemes.
_ODD = re.compile(r'[*?\[\\\ud800-\udfff]|:/')


def local_path(given: str | os.PathLike, name: str) -> Path:
  """Return the path of a file or folder on this machine, with `~` and `~user` expanded.

  Args:
    given: the user's path; `~` is expanded in a string only, as pathlib drops the `./` that protects it.
    name: of the flag or field, for messages.

  Raises:
    UserError: it is a URL, a broken link, or no file system can have such a name.
  """
  text = os.fspath(given)
  quoted = text if len(text) <= 100 else f'{text[:50]}...{text[-40:]}'
  if _ELSEWHERE.match(text):
    raise UserError(
      f'{name} {quoted} is no path of this machine: mount the bucket or drive, or copy what it holds, and give the '
      'local path.'
    )
  try:
    os.fsdecode(text).encode()
  except UnicodeEncodeError:
    raise UserError(f'{name} {quoted!a} is not UTF-8: rename it.') from None
  path = Path(expand_home(given) if isinstance(given, str) else given)
  if isinstance(given, str) and given.startswith('~') and str(path).startswith('~'):
    raise UserError(f'{name} {quoted} begins with a user who is not known here: write ./{quoted} for a folder.')
  try:
    os.lstat(path)
  except (FileNotFoundError, NotADirectoryError):
    return path
  except (OSError, ValueError) as error:  # a name too long, no permission, a null character
    raise UserError(f'{name} {quoted!a} cannot be used ({_words(error)}): choose another one.') from None
  if not os.path.exists(path):
    raise UserError(f'{name} {quoted} is a link to {os.readlink(path)}, which does not exist: remove or restore it.')
  return path


def output_path(given: str | os.PathLike, name: str) -> Path:
  """Return the path of an output, checked for write permission before its content takes hours to compute.

  Args:
    given: the user's path; it need not exist.
    name: of the flag, for messages.

  Raises:
    UserError: as in `local_path`, or the permissions do not allow writing.
  """
  path = local_path(given, name)
  nearest = next(folder for folder in (path, *path.absolute().parents) if os.path.exists(folder))
  problem = ''
  if nearest != path and not nearest.is_dir():
    problem = f'{nearest} is no folder'
  elif not os.access(nearest, os.W_OK):
    problem = os.strerror(errno.EACCES)
  if problem:
    raise UserError(f'{path} cannot be written ({problem}): choose another {name}.')
  return path


def expand_home(text: str) -> str:
  """Expand a leading `~`; the `~name` of an unknown user is returned unchanged."""
  return os.path.expanduser(text) if text.startswith('~') else text


@contextlib.contextmanager
def plain_name(directory: Path) -> Iterator[Path]:
  """Yield a path of the folder without special characters: its own, or a temporary link to it.

  orbax lists files by glob patterns, so that it finds nothing below `[a]`, and other folders' files below `*`;
  tensorstore reads a backslash as a slash and writes into another folder.

  Raises:
    UserError: no link can be created.
  """
  directory = directory.absolute()
  directory.mkdir(parents=True, exist_ok=True)
  if not _ODD.search(os.fspath(directory)):
    yield directory
    return
  with contextlib.ExitStack() as stack:
    try:
      folder = stack.enter_context(tempfile.TemporaryDirectory(prefix='ule_jax-', ignore_cleanup_errors=True))
      link = Path(folder).absolute() / 'link'
      link.symlink_to(directory, target_is_directory=True)
    except OSError as error:
      raise UserError(f'no link to {directory} can be made ({_words(error)}): choose a folder of plain name.') from None
    if _ODD.search(os.fspath(link)):
      raise UserError(f'{directory} needs a link in a folder of plain name, and {folder} is none: set TMPDIR to one.')
    yield link


def _words(error: Exception) -> str:
  return getattr(error, 'strerror', None) or str(error)
