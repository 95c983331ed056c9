"""Paths that a user gives: those of this machine, and one sentence for all others; anyone may import this file."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ule_jax.errors import UserError

BUCKETS = ('gs://', 's3://', 'az://', 'hf://')  # what etils.epath opens, where the package for it is there
# `gs://bucket`, `file:/tmp`, `C:\data`; pathlib makes one slash of two, and a folder `gs:` of a bucket.
_ELSEWHERE = re.compile(r'[A-Za-z][A-Za-z0-9+.-]*:(?:[/\\]|$)')
# What libraries below take for something else: patterns of file names, another separator, schemes, no text.
_ODD = re.compile(r'[*?\[\\\ud800-\udfff]|:/')


def local_path(given: str | os.PathLike, name: str) -> Path:
  """Make the path of a file or folder on this machine; `~` and `~user`, where the shell left them, are home folders.

  Args:
    given: what the user wrote; only in text a `~` can be a home folder.
    name: of the flag or field, for messages.

  Raises:
    UserError: it is a URL, or no file system can have such a name.
  """
  text = os.fspath(given)
  shown = text if len(text) <= 100 else f'{text[:50]}...{text[-40:]}'
  if _ELSEWHERE.match(text):
    raise UserError(
      f'{name} {shown} is no path of this machine: mount the bucket or drive, or copy what it holds, and give the '
      'local path.'
    )
  try:
    os.fsdecode(text).encode()
  except UnicodeEncodeError:
    raise UserError(f'{name} {shown!a} is not UTF-8: rename it.') from None
  path = Path(expand_home(given) if isinstance(given, str) else given)  # pathlib would take ./~ for a home folder, too
  if isinstance(given, str) and given.startswith('~') and str(path).startswith('~'):
    raise UserError(f'{name} {shown} begins with a user who is not known here: write ./{shown} for a folder.')
  try:
    os.lstat(path)
  except (FileNotFoundError, NotADirectoryError):
    return path
  except (OSError, ValueError) as error:  # a name too long, no permission, a null character
    raise UserError(f'{name} {shown!a} cannot be used ({_words(error)}): choose another one.') from None
  if not os.path.exists(path):
    raise UserError(f'{name} {shown} is a link to {os.readlink(path)}, which is not there: remove it, or restore that.')
  return path


def output_path(given: str | os.PathLike, name: str) -> Path:
  """Make the path of what is to be written, before hours go into its content.

  Raises:
    UserError: as `local_path`; or it cannot be written, as far as permissions say.
  """
  path = local_path(given, name)
  nearest = next(place for place in (path, *path.absolute().parents) if os.path.exists(place))
  problem = ''
  if nearest != path and not nearest.is_dir():
    problem = f'{nearest} is no folder'
  elif not os.access(nearest, os.W_OK):
    problem = os.strerror(errno.EACCES)
  if problem:
    raise UserError(f'{path} cannot be written ({problem}): choose another {name}.')
  return path


def expand_home(text: str) -> str:
  """Write a home folder in full, for records that are read elsewhere; an unknown user's stays, to be refused."""
  return os.path.expanduser(text) if text.startswith('~') else text


@contextlib.contextmanager
def plain_name(directory: Path) -> Iterator[Path]:
  """Yield a path of a folder that every library reads as it stands: a link, where its own has `[`, `*` or a backslash.

  orbax lists files by patterns, so that it finds nothing below `[a]` and the files of others below `*`; tensorstore
  takes a backslash for a slash, and writes into another folder.

  Raises:
    UserError: there is no place for a link.
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
