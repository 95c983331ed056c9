"""Rows of labelled image files, from an official layout on disk or from a prepared array_record.

A `Table` is what lies on disk, before anyone decides what is a label and what is a group. A folder
that holds `dataset_info.json` is a data set that TFDS wrote as array_record (`python -m
ule_jax.prepare` does, images as their original bytes); every other folder is in its official layout.
"""

from __future__ import annotations

import csv
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int, Int32

from ule_jax.errors import UserError

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.tif', '.tiff', '.webp')
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


def open_table(
  dir: str, title: str, scan: Callable[[Path], Table], parts: Iterable[str] = (), columns: Iterable[str] = ()
) -> Table:
  """Read a prepared data set, or let `scan` read the official layout.

  Args:
    dir: a folder, or the bucket path of a prepared data set.
    title: the data set's name, for messages.
    parts: that the table must have.
    columns: that every part must have.

  Raises:
    UserError: there is no such folder, or what is in it cannot be understood.
  """
  table = _open(dir, title, scan)
  lacking = [f'part {part}' for part in parts if part not in table.parts]
  lacking += [f'column {c}' for c in columns if any(c not in rows.columns for rows in table.parts.values())]
  if lacking:
    raise UserError(f'{dir} was not prepared from {title}, as it has no {lacking[0]}: choose its own config.')
  return table


def _open(dir: str, title: str, scan: Callable[[Path], Table]) -> Table:
  try:
    root = epath.Path(dir)
    found = root.is_dir()
  except ImportError as error:
    raise UserError(
      f'{dir} needs a package to be read ({error}): install it, or mount the bucket as a folder.'
    ) from None
  if not found:
    raise UserError(f'data.dir {dir} is not a folder: point --config.data.dir at {title}.')
  if (root / 'dataset_info.json').exists():
    return _prepared(root)
  # Where TFDS puts it, name/version/; the pattern passes over folders of 200,000 images quickly.
  below = [path.parent for path in root.glob('*/[0-9]*.[0-9]*.[0-9]*/dataset_info.json')]
  if len(below) == 1:
    return _prepared(below[0])
  if below:
    raise UserError(f'{dir} holds {len(below)} prepared data sets: point --config.data.dir at one, as {below[0]}.')
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


def read_csv(path: Path, required: Iterable[str]) -> dict[str, list[str]]:
  """Read a comma-separated file with a header: column -> values.

  Raises:
    UserError: it is missing, not text, empty, or lacks a column or a value.
  """
  try:
    rows = [row for row in csv.reader(io.StringIO(path.read_text(encoding='utf-8-sig'), newline='')) if row]
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}.') from None
  except (UnicodeDecodeError, csv.Error):
    raise UserError(f'{path} is not a comma-separated text file: restore the original.') from None
  header, *rows = [[value.strip() for value in row] for row in rows] or [[]]
  for name in required:
    if name not in header:
      raise UserError(f'{path} has no column {name}: its columns are {", ".join(header) or "none"}.')
  if len(set(header)) < len(header):
    raise UserError(f'{path} has two columns of the same name: rename one.')
  if not rows:
    raise UserError(f'{path} lists no image: restore the original.')
  for row in rows:
    if len(row) != len(header):
      raise UserError(f'{path}: the row of {row[0]} has {len(row)} values instead of {len(header)}.')
  return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def refuse_twice(path: Path, values: Sequence[str], what: str = '') -> None:
  """Refuse a value that stands in two rows."""
  if len(set(values)) < len(values):
    seen: set[str] = set()
    twice = next(v for v in values if v in seen or seen.add(v))
    raise UserError(f'{path} lists {what}{twice} twice: take one of the rows out.')


def codes(path: Path, column: str, names: Sequence[str], values: Sequence[str], known: Mapping[str, int]):
  """Turn the text of a column into codes.

  Args:
    names: of the rows, for messages.

  Raises:
    UserError: a value is not known.
  """
  try:
    return np.array([known[value] for value in values], np.int32)
  except KeyError:
    row = next(i for i, value in enumerate(values) if value not in known)
    shown = ', '.join(known)
    raise UserError(f'{path}: {names[row]} has {column} {values[row]!r} where one of {shown} is due.') from None


def match_files(path: Path, names: Sequence[str], root: Path, unlisted: str = 'fail') -> None:
  """Check that every row of a list has its file below `root` and every image file its row.

  Args:
    path: the list, for messages.
    names: file names relative to `root`, with `/`.
    unlisted: `fail`, or `ignore` image files without a row.

  Raises:
    UserError: a name leaves the folder, a file is missing, or a file has no row.
  """
  for name in names:
    parts = PurePosixPath(name)
    if not parts.parts or (parts.as_posix() != name and '..' not in parts.parts):
      raise UserError(f'{path} names {name!r}, which is no plain path of a file: write it as folder/file.jpg.')
    if parts.is_absolute() or '..' in parts.parts or '\\' in name or ':' in parts.parts[0]:
      raise UserError(f'{path} names {name}, which is not below {root}: images must lie in that folder.')
  refuse_twice(path, names)
  found = set(list_images(root))
  listed = set(names)
  missing = listed - found
  missing = {name for name in missing if not _is_file(root / name)}  # suffixes of their own
  if missing:
    raise UserError(
      f'{len(missing)} images of {path.name} are missing, the first is {root / min(missing)}: '
      'complete the folder, or take their rows out of the list.'
    )
  if unlisted == 'fail' and (extra := found - listed):
    raise UserError(
      f'{len(extra)} images in {root} have no row in {path.name}, the first is {min(extra)}: '
      'add their rows, or move the files away.'
    )


def _is_file(path: Path) -> bool:
  try:
    return path.is_file()
  except OSError:  # a name that is too long for a file system
    return False


def list_images(root: Path) -> list[str]:
  """List the image files below a folder, relative to it, sorted as text."""
  found = []
  for folder, _, files in os.walk(root, followlinks=True):
    below = os.path.relpath(folder, root).replace(os.sep, '/')
    prefix = '' if below == '.' else f'{below}/'
    found += [prefix + name for name in files if name.lower().endswith(SUFFIXES)]
  return sorted(found)


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
    if isinstance(feature, tfds.features.ClassLabel)
  }
  wanted = {n: _column(n) for n, f in features.items() if f.shape == () and not np.issubdtype(f.np_dtype, np.floating)}
  known = _load_columns(root, {name: len(source) for name, source in splits.items()})
  parts = {}
  for split, source in splits.items():
    shards = [epath.Path(path).stat() for path in builder.info.splits[split].filepaths]
    version = ' '.join(f'{shard.length} {shard.mtime}' for shard in shards)
    try:
      columns = known.get(split) or _read_columns(source, wanted)
    except Exception as error:  # array_record, protobuf and TFDS share no type
      raise UserError(f'the records of {split} in {root} cannot be read ({error}): prepare them again.') from None
    part = {'validation': 'val'}.get(split, split)
    found = columns.pop('name', None)
    parts[part] = Rows(
      names=[f'{root.name}/{split}/{i}' for i in range(len(source))] if found is None else found.tolist(),
      columns=columns,
      read=_Record(source, 'image'),
      version=lambda i, version=version: version,
      masks={name: _Record(source, name) for name in images if name != 'image'},
    )
  return Table(parts, names, prepared=True)


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
        numbers = entry.int64_list.value
        values[column].append(numbers[0] if numbers else entry.bytes_list.value[0].decode())
  return {
    column: np.array(found, np.int32 if found and isinstance(found[0], int) else None)
    for column, found in values.items()
  }
