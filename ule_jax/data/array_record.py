"""Data sets in array_record shards, read without decoding and without TensorFlow."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from etils import epath

from ule_jax.data.csv_files import Listing
from ule_jax.data.tables import COLUMNS, Rows, Table
from ule_jax.errors import UserError, brief


def open_array_record(root: epath.Path) -> Table:
  """Open a TFDS data set in array_record format; no image is decoded, and TensorFlow is not needed.

  Raises:
    UserError: it is damaged, in another format, or has no feature image.
  """
  import tensorflow_datasets as tfds  # 1 s of import that released layouts do not need

  try:
    builder = tfds.builder_from_directory(root)
    splits = {
      name: builder.as_data_source(split=name).data_source  # pyright: ignore[reportCallIssue] a decorator hides it
      for name in builder.info.splits
    }
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
    except Exception as error:  # array_record, protobuf and TFDS have no common type of error
      raise UserError(f'the records of {split} in {root} cannot be read ({error}): prepare them again.') from None
    part = {'validation': 'val', 'valid': 'val'}.get(split, split)
    if part in parts:
      raise UserError(f'{root} has more than one part that is {part}: prepare it again with one.')
    columns = dict(columns)
    image_names = columns.pop('name', None)
    if image_names is None:
      image_names = [f'{root.name}/{split}/{i}' for i in range(len(source))]
    parts[part] = Rows(
      names=list(map(str, image_names)),
      columns=columns,
      read=_Record(source, 'image'),
      version=lambda i, version=version: version,
      masks={name: _Record(source, name) for name in images if name != 'image'},
    )
  return Table(parts, names, is_array_record=True, unusable=unusable)


class _Record(NamedTuple):
  """A function that reads one bytes feature of record `i`; TFDS parses all features, in seven times the time."""

  source: Records
  feature: str

  def __call__(self, i: int) -> bytes:
    try:
      return _example(self.source[int(i)])[self.feature].bytes_list.value[0]
    except Exception as error:  # array_record, protobuf and TFDS have no common type of error
      raise UserError(f'record {i} of the prepared data cannot be read ({error}): prepare them again.') from None


class Records(Protocol):
  """The records of a split, as array_record reads them: one by one, or many at once."""

  def __len__(self) -> int: ...

  def __getitem__(self, i: int) -> bytes: ...

  def __getitems__(self, ids: Sequence[int]) -> Sequence[bytes]: ...


def _example(record: bytes):
  from tensorflow_datasets.proto import tf_example_pb2

  message = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue] made by protobuf at run time
  return message.FromString(record).features.feature


def _flat(features: Any, prefix: str = '') -> dict[str, Any]:
  """Flatten nested features: `outer/inner` -> feature."""
  flat = {}
  for name, feature in features.items():
    flat |= _flat(feature, f'{prefix}{name}/') if hasattr(feature, 'items') else {f'{prefix}{name}': feature}
  return flat


def _column(feature: str) -> str:
  """Return the column name of a feature; TFDS nests CelebA's `attributes/Male`."""
  return feature.removeprefix('attributes/')


def as_listing(path: str, table: Table, columns: Iterable[str]) -> Listing:
  """Convert a table to a listing of text, in the order of its splits.

  Args:
    path: of the data set, for messages.
    columns: to convert; absent ones are skipped.

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
  """Read the columns from `columns.npz`, which `ule_jax.prepare` writes; {} without the file.

  Args:
    counts: split -> number of records.
  """
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


def _read_columns(source: Records, wanted: Mapping[str, str]) -> dict[str, np.ndarray]:
  """Read the columns from every record, at 0.1 ms a record.

  Args:
    wanted: feature -> column.
  """
  values: dict[str, list] = {column: [] for column in wanted.values()}
  for start in range(0, len(source), 1024):
    for record in source.__getitems__(range(start, min(start + 1024, len(source)))):
      example = _example(record)
      for feature, column in wanted.items():
        entry = example[feature]
        items = [*entry.int64_list.value, *entry.float_list.value, *(text.decode() for text in entry.bytes_list.value)]
        values[column].append(items[0] if items else '')
  return {column: np.array(items) for column, items in values.items()}
