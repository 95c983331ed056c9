"""Image files below a folder, and their match with the rows of a list."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ule_jax.data.csv_files import Listing, refuse_twice
from ule_jax.errors import UserError, brief

SUFFIXES = (
  '.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.apng', '.bmp', '.dib', '.gif', '.tif', '.tiff', '.webp', '.avif', '.jp2',
  '.j2k', '.jpx', '.ppm', '.pgm', '.pbm', '.pnm',
)  # fmt: skip

COMPANIONS = {
  '__macosx',
  '@eadir',
  '@recycle',
  '#recycle',
  '#snapshot',
  '$recycle.bin',
  'thumbs.db',
  'desktop.ini',
  'lost+found',
  'system volume information',
}


def read_file(path: Path) -> bytes:
  """Read a file.

  Raises:
    UserError: the file is missing or cannot be read.
  """
  try:
    return path.read_bytes()
  except OSError as error:
    raise UserError(f'image {path} cannot be read ({error.strerror}): restore it, or take its row out.') from None


def file_version(path: str) -> str:
  """Return the state of a file without reading it: size and modification time.

  Raises:
    UserError: the file is missing.
  """
  try:
    status = os.stat(path)
  except OSError as error:
    raise UserError(f'image {path} cannot be read ({error.strerror}): restore it, or take its row out.') from None
  return f'{status.st_size} {status.st_mtime_ns}'


def find_root(root: Path, marker: str, *below: str) -> Path:
  """Find the folder that holds `marker`: `root`, or one of the folders below it that releases use.

  Raises:
    UserError: none holds it.
  """
  for folder in (root, *(root / b for b in below)):
    if (folder / marker).exists():
      return folder
  raise UserError(f'{root} has no {marker}: point --config.data.dir at the folder that has it.')


def match_files(listing: Listing, root: Path, unlisted: str = 'fail') -> None:
  """Check that every row of a list has its file below `root`, and every image file its row.

  A hidden file may be listed, but need not be; a companion file of another system is refused.

  Args:
    listing: its names are relative to `root`, with `/`.
    unlisted: `fail`, or `ignore` image files without a row.

  Raises:
    UserError: a name leaves the folder, a file is missing, or a file has no row.
  """
  path, names = Path(listing.path), listing.names
  for row, name in enumerate(names):
    parts = PurePosixPath(name)
    where = f'{path}, {listing.place(row)}'
    if not parts.parts or (parts.as_posix() != name and '..' not in parts.parts):
      raise UserError(f"{where} names '{brief(name)}', which is no plain path of a file: write it as folder/file.jpg.")
    if parts.is_absolute() or '..' in parts.parts or '\\' in name or ':' in parts.parts[0]:
      raise UserError(f'{where} names {brief(name)}, which is not below {root}: images must lie in that folder.')
    if any(part.startswith('._') or part.casefold() in COMPANIONS for part in parts.parts):
      raise UserError(f'{where} names {brief(name)}, which another system wrote beside an image: take the row out.')
  refuse_twice(listing)
  existing = set(list_images(root))
  listed = set(names)
  missing = listed - existing
  missing = {name for name in missing if not _is_file(root / name)}  # files of other suffixes may be listed
  if missing:
    first = min(missing)
    alike = next((name for name in sorted(existing) if _same_letters(name) == _same_letters(first)), '')
    other = f'; the file is {brief(alike)}, in other letters' if alike else ''
    raise UserError(
      f'{len(missing)} images of {path.name} are missing, the first is {brief(root / first, 300)} '
      f'({listing.place(names.index(first))}{other}): '
      'complete the folder, or take their rows out of the list.'
    )
  if unlisted == 'fail' and (extra := existing - listed):
    raise UserError(
      f'{len(extra)} images in {root} have no row in {path.name}, the first is {brief(min(extra))}: '
      'add their rows, or move the files away.'
    )


def relative_names(names: Sequence[str], root: Path) -> list[str]:
  """Return paths without `./`, and those inside a folder, if absolute, relative to it; all others unchanged.

  >>> relative_names(['./a/1.jpg', '/photos/a/1.jpg', '/etc/1.jpg', '../1.jpg', ''], Path('/photos'))
  ['a/1.jpg', 'a/1.jpg', '/etc/1.jpg', '../1.jpg', '']
  """
  tops = [f'{top.rstrip("/")}/' for top in dict.fromkeys((root.absolute().as_posix(), root.resolve().as_posix()))]

  def relative(name: str) -> str:
    path = PurePosixPath(name)
    if not name or '..' in path.parts:
      return name
    text = path.as_posix()
    return next((text.removeprefix(top) for top in tops if text.startswith(top)), text)

  return [relative(name) if name.startswith(('.', '/')) or '/.' in name or '//' in name else name for name in names]


def _same_letters(name: str) -> str:
  """Return a key that is equal for names that differ by case, or by the form of their accents."""
  return unicodedata.normalize('NFC', name.casefold())


def _is_file(path: Path) -> bool:
  try:
    return path.is_file()
  except OSError:  # a name that is too long for a file system
    return False


def is_companion(name: str) -> bool:
  """Return whether a file or folder is hidden, or a companion that an operating system writes beside others.

  >>> is_companion('._dog.jpg'), is_companion('@eaDir'), is_companion('dog.jpg')
  (True, True, False)
  """
  return name.startswith('.') or name.casefold() in COMPANIONS


def walk(root: Path, companions: list[str] | None = None) -> Iterator[tuple[str, list[str]]]:
  """Yield each folder below `root`, as a relative path, with the names of its files; companions are skipped.

  Links to folders are followed, but no folder is entered twice, and none that contains `root`, so that loops end.

  Args:
    companions: a list to which the names of skipped files and folders are appended.

  Raises:
    UserError: a folder cannot be read.
  """

  def refuse(error: OSError) -> None:
    raise UserError(f'{error.filename} cannot be read ({error.strerror}): make it readable, or move it away.')

  above = os.path.join(os.path.realpath(root), '')
  entered, queue = set(), [str(root)]
  while queue:
    top = queue.pop(0)
    for folder, folders, files in os.walk(top, onerror=refuse):
      real = os.path.realpath(folder)
      if real in entered or (top != str(root) and above.startswith(os.path.join(real, ''))):
        folders.clear()
        continue
      entered.add(real)
      if companions is not None:
        companions += [name for name in (*folders, *files) if is_companion(name)]
      folders[:] = sorted(name for name in folders if not is_companion(name))
      # Links come last, so that a folder below the root keeps its own path.
      queue += [path for name in folders if os.path.islink(path := os.path.join(folder, name))]
      below = os.path.relpath(folder, root).replace(os.sep, '/')
      yield '' if below == '.' else f'{below}/', [name for name in files if not is_companion(name)]


def list_images(root: Path) -> list[str]:
  """List the image files below a folder (see `walk`), relative to it and sorted as text."""
  return sorted(below + name for below, files in walk(root) for name in files if name.lower().endswith(SUFFIXES))
