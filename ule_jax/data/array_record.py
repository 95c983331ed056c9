"""Data sets in array_record shards, read without decoding and without TensorFlow."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from ule_jax.data.csv_files import Listing
from ule_jax.data.tables import COLUMNS, Rows, Table
from ule_jax.errors import UserError, brief


def open_array_record(root: epath.Path) -> Table:
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
