"""Rows of labelled image files, from an official layout on disk or from a prepared array_record.

A `Table` is what lies on disk, before anyone decides what is a label and what is a group. A folder
that holds `dataset_info.json` is a data set that TFDS wrote as array_record (`python -m
ule_jax.prepare` does, images as their original bytes); every other folder is in its official layout.
"""

from __future__ import annotations

import glob
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int, Int32

from ule_jax.data.columns import Listing, refuse_twice
from ule_jax.errors import UserError, brief
from ule_jax.paths import BUCKETS, local_path

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
COLUMNS = 'columns.npz'  # labels and names of a prepared data set, so that a start reads no image


class Rows(NamedTuple):
  """Image files with integer columns. `read(i)` gives the bytes of image `i`, `version(i)` what changes with them."""

  names: Sequence[str]
  columns: Mapping[str, Int32[np.ndarray, 'n']]
  read: Callable[[int], bytes]
  version: Callable[[int], str]
  masks: Mapping[str, Callable[[int], bytes]] = {}

  def take(self, ids: Int[np.ndarray, 'm']) -> Rows:
    """Return some of the rows."""

    def moved(read: Callable[[int], Any]) -> Callable[[int], Any]:
      return lambda i: read(ids[i])

    return Rows(
      names=[self.names[i] for i in ids],
      columns={name: values[ids] for name, values in self.columns.items()},
      read=moved(self.read),
      version=moved(self.version),
      masks={name: moved(read) for name, read in self.masks.items()},
    )


class Table(NamedTuple):
  """The files of a data set: part -> rows, and column -> the names of its values 0..k-1, where it has any."""

  parts: Mapping[str, Rows]
  names: Mapping[str, tuple[str, ...]] = {}
  prepared: bool = False
  remarks: tuple[str, ...] = ()  # what whoever trains on it should know
  unusable: Mapping[str, str] = {}  # feature of prepared data that is no column -> why


def open_table(
  dir: str,
  title: str,
  scan: Callable[[Path], Table],
  parts: Iterable[str] = (),
  columns: Mapping[str, int | None] = {},
) -> Table:
  """Read a prepared data set, or let `scan` read the official layout.

  Args:
    dir: a folder, or the bucket path of a prepared data set.
    title: the data set's name, for messages.
    parts: that the table must have.
    columns: that every part must have, and how many values each has, if that is fixed.

  Raises:
    UserError: there is no such folder, or what is in it cannot be understood.
  """
  table = _open(dir, title, scan)
  lacking = [f'part {part}' for part in parts if part not in table.parts]
  lacking += [f'column {c}' for c in columns if any(c not in rows.columns for rows in table.parts.values())]
  for column in columns:
    if column in table.unusable:
      raise UserError(f'the feature {column} of {dir} {table.unusable[column]}: one value an image is due.')
  if lacking:
    raise UserError(f'{dir} was not prepared from {title}, as it has no {lacking[0]}: choose its own config.')
  check_codes(dir, table, {column: count for column, count in columns.items() if count is not None})
  return table


def check_codes(dir: str, table: Table, counts: Mapping[str, int]) -> None:
  """Check that columns hold nothing but codes.

  Args:
    counts: column -> number of its values.

  Raises:
    UserError: a value is missing (-1) or is none of 0..count-1; names the image.
  """
  for column, count in counts.items():
    for part, rows in table.parts.items():
      values = np.asarray(rows.columns[column])
      if not np.issubdtype(values.dtype, np.integer):
        raise UserError(f'the feature {column} of {dir} is no whole number: 0 to {count - 1} is due.')
      bad = np.flatnonzero((values < 0) | (values >= count))
      if len(bad):
        more = f'; {len(bad):,} examples of {part} have such a {column}' if len(bad) > 1 else ''
        raise UserError(
          f'{dir}, record {bad[0]} of {part}: {brief(rows.names[bad[0]])} has the {column} {values[bad[0]]} where 0 to '
          f'{count - 1} is due{more}: label them, or prepare the data set again.'
        )


def _open(dir: str, title: str, scan: Callable[[Path], Table]) -> Table:
  remote = dir.startswith(BUCKETS)
  root = epath.Path(dir if remote else local_path(dir, 'data.dir'))
  try:
    found = root.is_dir()
  except Exception as error:  # of the bucket's own package, which may be missing
    reason = ' '.join(str(error).split())[:200] or type(error).__name__
    raise UserError(
      f'{dir} cannot be read ({reason}): install the package of such buckets, give it access, or mount the bucket as a '
      'folder.'
    ) from None
  if not found:
    raise UserError(f'data.dir {dir} is not a folder: point --config.data.dir at {title}.')
  if (root / 'dataset_info.json').exists():
    return _prepared(root)
  # Where TFDS puts it, name/version/; the pattern passes over folders of 200,000 images quickly.
  literal = epath.Path(glob.escape(os.fspath(root)))  # which epath takes for a part of the pattern
  below = [path.parent for path in literal.glob('*/[0-9]*.[0-9]*.[0-9]*/dataset_info.json')]
  below = [path for path in below if not is_companion(path.parent.name)]
  if len(below) == 1:
    return _prepared(below[0])
  if below:
    raise UserError(f'{dir} holds {len(below)} prepared data sets: point --config.data.dir at one, as {below[0]}.')
  if remote:
    raise UserError(
      f'{dir} holds no prepared data set, and images are read from a bucket in no other form: copy there what '
      'ule_jax.prepare writes, or mount the bucket as a folder.'
    )
  return scan(Path(root))


def files_rows(root: Path, names: Sequence[str], columns: Mapping[str, Any], masks: Mapping[str, Sequence[str]] = {}):
  """Make rows of the files `root/name`."""

  def reader(paths: Sequence[str]) -> Callable[[int], bytes]:
    return lambda i: read_file(root / paths[i])

  return Rows(
    names=names,
    columns={name: np.asarray(values, np.int32) for name, values in columns.items()},
    read=reader(names),
    version=lambda i: ' '.join(file_version(f'{root}/{paths[i]}') for paths in (names, *masks.values())),
    masks={name: reader(paths) for name, paths in masks.items()},
  )


def parted(
  path: Path,
  root: Path,
  names: Sequence[str],
  columns: Mapping[str, Int32[np.ndarray, 'n']],
  part: Int32[np.ndarray, 'n'],
  parts: Sequence[str],
  values: Mapping[str, tuple[str, ...]] = {},
) -> Table:
  """Make a table of files and the code of the part that each belongs to.

  Args:
    path: the list, for messages.
    part: index into `parts`.
    values: the names of the columns' values.

  Raises:
    UserError: a part has no image.
  """
  table = {}
  for code, name in enumerate(parts):
    ids = np.flatnonzero(part == code)
    if not len(ids):
      raise UserError(f'{path} gives no image to {name}: it needs {", ".join(parts)}.')
    chosen = [names[i] for i in ids]
    table[name] = files_rows(root, chosen, {column: found[ids] for column, found in columns.items()})
  return Table(table, values)


def read_file(path: Path) -> bytes:
  """Read a file.

  Raises:
    UserError: it is missing or cannot be read.
  """
  try:
    return path.read_bytes()
  except OSError as error:
    raise UserError(f'image {path} cannot be read ({error.strerror}): restore it, or take its row out.') from None


def file_version(path: str) -> str:
  """Describe the state of a file without reading it: size and time of change.

  Raises:
    UserError: it is missing.
  """
  try:
    found = os.stat(path)
  except OSError as error:
    raise UserError(f'image {path} cannot be read ({error.strerror}): restore it, or take its row out.') from None
  return f'{found.st_size} {found.st_mtime_ns}'


def find_root(root: Path, marker: str, *below: str) -> Path:
  """Find the folder that has `marker`: `root`, or one of the places below it where releases put it.

  Raises:
    UserError: none has it.
  """
  for place in (root, *(root / b for b in below)):
    if (place / marker).exists():
      return place
  raise UserError(f'{root} has no {marker}: point --config.data.dir at the folder that has it.')


def match_files(listing: Listing, root: Path, unlisted: str = 'fail') -> None:
  """Check that every row of a list has its file below `root` and every image file its row.

  A row may name a hidden file, which is not asked to have one; a companion file that another system wrote is refused.

  Args:
    listing: its names are relative to `root`, with `/`.
    unlisted: `fail`, or `ignore` image files without a row.

  Raises:
    UserError: a name leaves the folder, a file is missing, or a file has no row.
  """
  path, names = Path(listing.path), listing.names
  for row, name in enumerate(names):
    parts = PurePosixPath(name)
    here = f'{path}, {listing.place(row)}'
    if not parts.parts or (parts.as_posix() != name and '..' not in parts.parts):
      raise UserError(f"{here} names '{brief(name)}', which is no plain path of a file: write it as folder/file.jpg.")
    if parts.is_absolute() or '..' in parts.parts or '\\' in name or ':' in parts.parts[0]:
      raise UserError(f'{here} names {brief(name)}, which is not below {root}: images must lie in that folder.')
    if any(part.startswith('._') or part.casefold() in COMPANIONS for part in parts.parts):
      raise UserError(f'{here} names {brief(name)}, which another system wrote beside an image: take the row out.')
  refuse_twice(listing)
  found = set(list_images(root))
  listed = set(names)
  missing = listed - found
  missing = {name for name in missing if not _is_file(root / name)}  # suffixes of their own
  if missing:
    raise UserError(
      f'{len(missing)} images of {path.name} are missing, the first is {brief(root / min(missing), 300)} '
      f'({listing.place(names.index(min(missing)))}): '
      'complete the folder, or take their rows out of the list.'
    )
  if unlisted == 'fail' and (extra := found - listed):
    raise UserError(
      f'{len(extra)} images in {root} have no row in {path.name}, the first is {brief(min(extra))}: '
      'add their rows, or move the files away.'
    )


def _is_file(path: Path) -> bool:
  try:
    return path.is_file()
  except OSError:  # a name that is too long for a file system
    return False


def is_companion(name: str) -> bool:
  """Tell whether a file or folder is none of the user's: hidden, or put beside theirs by another system.

  >>> is_companion('._dog.jpg'), is_companion('@eaDir'), is_companion('dog.jpg')
  (True, True, False)
  """
  return name.startswith('.') or name.casefold() in COMPANIONS


def walk(root: Path) -> Iterator[tuple[str, list[str]]]:
  """Yield each folder below `root`, as a path from there, with the names of its files; without companions.

  Links to folders are followed, but no folder is entered twice, nor one that `root` is in: loops end.

  Raises:
    UserError: a folder cannot be read.
  """

  def refuse(error: OSError) -> None:
    raise UserError(f'{error.filename} cannot be read ({error.strerror}): make it readable, or move it away.')

  above = os.path.join(os.path.realpath(root), '')
  entered, due = set(), [str(root)]
  while due:
    top = due.pop(0)
    for folder, folders, files in os.walk(top, onerror=refuse):
      real = os.path.realpath(folder)
      if real in entered or (top != str(root) and above.startswith(os.path.join(real, ''))):
        folders.clear()
        continue
      entered.add(real)
      folders[:] = sorted(name for name in folders if not is_companion(name))
      # Links after all else: a folder keeps its own path where it has one below the root.
      due += [path for name in folders if os.path.islink(path := os.path.join(folder, name))]
      below = os.path.relpath(folder, root).replace(os.sep, '/')
      yield '' if below == '.' else f'{below}/', [name for name in files if not is_companion(name)]


def list_images(root: Path) -> list[str]:
  """List the image files below a folder, relative to it, sorted as text; `walk` says which folders."""
  return sorted(below + name for below, files in walk(root) for name in files if name.lower().endswith(SUFFIXES))


def _prepared(root: epath.Path) -> Table:
  """Open a TFDS data set in array_record format without decoding and without TensorFlow."""
  import tensorflow_datasets as tfds  # 1 s of import that official layouts do not need

  try:
    builder = tfds.builder_from_directory(root)
    splits = {name: builder.as_data_source(split=name).data_source for name in builder.info.splits}
    for info in builder.info.splits.values():
      if missing := [path for path in info.filepaths if not epath.Path(path).exists()]:
        raise FileNotFoundError(f'{missing[0]} is missing')
  except Exception as error:
    reason = ' '.join(str(error).split())[:200]
    raise UserError(
      f'{root} is not a data set that TFDS wrote as array_record ({reason}): '
      'prepare it again, with file_format="array_record".'
    ) from None
  features = _flat(builder.info.features)
  images = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
  if 'image' not in images:
    raise UserError(f'{root} has no feature image, only {", ".join(features)}: it cannot be read as images.')
  names = {
    _column(name): tuple(feature.names)
    for name, feature in features.items()
    if isinstance(feature, tfds.features.ClassLabel) and feature.num_classes
  }
  wanted = {name: _column(name) for name, feature in features.items() if feature.shape == ()}
  unusable = {_column(n): f'has the shape {f.shape}' for n, f in features.items() if n not in wanted}
  known = _load_columns(root, {name: len(source) for name, source in splits.items()})
  parts = {}
  for split, source in splits.items():
    shards = [epath.Path(path).stat() for path in builder.info.splits[split].filepaths]
    version = ' '.join(f'{shard.length} {shard.mtime}' for shard in shards)
    try:
      columns = known.get(split) or _read_columns(source, wanted)
    except Exception as error:  # array_record, protobuf and TFDS share no type
      raise UserError(f'the records of {split} in {root} cannot be read ({error}): prepare them again.') from None
    part = {'validation': 'val', 'valid': 'val'}.get(split, split)
    if part in parts:
      raise UserError(f'{root} has more than one part that is {part}: prepare it again with one.')
    columns = dict(columns)
    found = columns.pop('name', None)
    parts[part] = Rows(
      names=[f'{root.name}/{split}/{i}' for i in range(len(source))] if found is None else list(map(str, found)),
      columns=columns,
      read=_Record(source, 'image'),
      version=lambda i, version=version: version,
      masks={name: _Record(source, name) for name in images if name != 'image'},
    )
  return Table(parts, names, prepared=True, unusable=unusable)


class _Record(NamedTuple):
  """Reads one bytes feature of one record; parsing all features by TFDS takes seven times as long."""

  source: Any
  feature: str

  def __call__(self, i: int) -> bytes:
    try:
      return _example(self.source[int(i)])[self.feature].bytes_list.value[0]
    except Exception as error:  # array_record, protobuf and TFDS share no type
      raise UserError(f'record {i} of the prepared data cannot be read ({error}): prepare them again.') from None


def _example(record: bytes):
  from tensorflow_datasets.proto import tf_example_pb2

  return tf_example_pb2.Example.FromString(record).features.feature


def _flat(features: Any, prefix: str = '') -> dict[str, Any]:
  flat = {}
  for name, feature in features.items():
    flat |= _flat(feature, f'{prefix}{name}/') if hasattr(feature, 'items') else {f'{prefix}{name}': feature}
  return flat


def _column(feature: str) -> str:
  """Name the column of a feature: TFDS nests CelebA's `attributes/Male`."""
  return feature.removeprefix('attributes/')


def as_listing(path: str, table: Table, columns: Iterable[str]) -> Listing:
  """Say what prepared data say of their images as text, all parts one after the other.

  Args:
    path: of the data set, for messages.
    columns: those that are wanted, as far as they are there.

  Raises:
    UserError: a code has no name.
  """
  names = [name for rows in table.parts.values() for name in rows.names]
  ends = np.cumsum([len(rows.names) for rows in table.parts.values()])

  def place(row: int) -> str:
    part = int(np.searchsorted(ends, row, side='right'))
    return f'record {row - (ends[part - 1] if part else 0)} of {list(table.parts)[part]}'

  texts = {}
  for column in (c for c in columns if all(c in rows.columns for rows in table.parts.values())):
    values = [value for rows in table.parts.values() for value in np.asarray(rows.columns[column]).tolist()]
    known = table.names.get(column)
    if known is not None:
      for row, code in enumerate(values):
        if not (isinstance(code, int) and -1 <= code < len(known)):
          raise UserError(
            f'{path}, {place(row)}: {brief(names[row])} has the {column} {brief(code)}, and the feature {column} names '
            f'{len(known)}.'
          )
      values = [('' if '-1' in known else '-1') if code < 0 else known[code] for code in values]
    texts[column] = [str(value).strip() for value in values]
  return Listing(path, names, place, texts, {c: known for c, known in table.names.items() if c in texts})


def _load_columns(root: epath.Path, counts: Mapping[str, int]) -> dict[str, dict[str, np.ndarray]]:
  """Read the labels beside the records, where prepare wrote them."""
  path = root / COLUMNS
  if not path.exists():
    return {}
  try:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
      parts: dict[str, dict[str, np.ndarray]] = {split: {} for split in counts}
      for key in file.files:
        split, column = key.split('/', 1)
        parts[split][column] = file[key]
  except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise UserError(f'{path} is damaged ({error}): prepare the data set again.') from None
  for split, columns in parts.items():
    if not columns or any(len(values) != counts[split] for values in columns.values()):
      raise UserError(f'{path} does not fit the {counts[split]} records of {split}: prepare the data set again.')
  return parts


def _read_columns(source: Sequence[bytes], wanted: Mapping[str, str]) -> dict[str, np.ndarray]:
  """Read the labels out of every record: 0.1 ms each."""
  values: dict[str, list] = {column: [] for column in wanted.values()}
  for start in range(0, len(source), 1024):
    for record in source.__getitems__(range(start, min(start + 1024, len(source)))):
      example = _example(record)
      for feature, column in wanted.items():
        entry = example[feature]
        found = [*entry.int64_list.value, *entry.float_list.value, *(text.decode() for text in entry.bytes_list.value)]
        values[column].append(found[0] if found else '')
  return {column: np.array(found) for column, found in values.items()}
