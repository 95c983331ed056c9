"""Files of features: .npz, .npy, .safetensors and .parquet, with the columns beside them. Nothing is ever unpickled.

.npy and .safetensors are memory-mapped, so that only the rows of a batch are read. .npz and .parquet are read whole,
and refused where the memory that is available does not hold them.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ule_jax.data import csv_files
from ule_jax.data.available import refuse_too_large
from ule_jax.data.csv_files import Listing, refuse_twice
from ule_jax.errors import UserError, brief

FEATURES = 'x'
COLUMNS = ('label', 'split', 'group', 'attribute', 'id', 'weight')
SUFFIXES = ('.npz', '.npy', '.safetensors', '.parquet')
WRITTEN = SUFFIXES[:3]  # by ule_jax.embed
TABLES = ('.csv', '.parquet')  # beside a file that holds features only
PLURALS = {f'{name}s': name for name in COLUMNS}
BLOCK = 2**22  # values that are looked at together

Columns = dict[str, list[str]]  # name -> the text of each row


class FeatureFile(NamedTuple):
  """Features with the columns of text beside them.

  Attributes:
    x: the features; a memory map of .npy and .safetensors.
    listing: the columns, a row for each row of `x`; its names are the column `id`, else the numbers of the rows.
  """

  x: Float[np.ndarray, 'n d']
  listing: Listing


def read(path: Path, table: Path | None = None, required: Sequence[str] = ()) -> FeatureFile:
  """Read a file of features and its columns.

  Args:
    path: of the features.
    table: .csv or .parquet with the columns of .npy or .safetensors (None: the one of the same name, if there is one).
    required: columns that must be there.

  Raises:
    UserError: a file is missing, damaged, of another kind, or too large for memory, a column is missing or of another
      length, or a feature is not finite; the error has the row.
  """
  x, columns = _read(path)
  if columns is None:
    source, listing = _beside(path, table, required)
  elif table is not None:
    raise UserError(f'data.table is {table}, but {path} has its columns inside: leave data.table empty.')
  else:
    source, listing = path, Listing(path, [], lambda i: f'row {i}', columns)
  x = _checked(path, x)
  if lacking := [name for name in required if name not in listing.columns]:
    names = ', '.join((FEATURES, *listing.columns))
    raise UserError(f'{source} has no {lacking[0]}: its columns are {brief(names, 300)}; add {lacking[0]}, one a row.')
  if wrong := [name for name in listing.columns if name in PLURALS]:
    raise UserError(f"{source} has '{wrong[0]}' instead of {PLURALS[wrong[0]]}: rename it.")
  for name, values in listing.columns.items():
    if name in COLUMNS and len(values) != len(x):
      raise UserError(f'{source} has {len(values):,} values of {name}, and {path} {len(x):,} rows: give one a row.')
  names = listing.columns.get('id') or [str(i) for i in range(len(x))]
  listing = listing._replace(names=names)
  if 'id' in listing.columns:
    refuse_twice(listing)
  refuse_not_finite(x, listing)
  return FeatureFile(x, listing)


def refuse_not_finite(x: Float[np.ndarray, 'n d'], listing: Listing) -> None:
  """Check that all features are finite in the precision in which they are used.

  Raises:
    UserError: one is not; the error has its row, counted from 0, and their number.
  """
  bad: list[int] = []
  size = max(1, BLOCK // x.shape[1])
  for start in range(0, len(x), size):
    block = _in_use(x[start : start + size])
    if not _all_finite(block):
      bad += (start + np.flatnonzero(~np.isfinite(block).all(1))).tolist()
  if bad:
    row = bad[0]
    value = next(v for v in _in_use(x[row]).tolist() if not np.isfinite(v))
    name = '' if listing.names[row] == str(row) else f' ({brief(listing.names[row])})'
    more = f', and {len(bad) - 1:,} further rows have such values' if len(bad) > 1 else ''
    raise UserError(f'{listing.path}: row {row}{name} of x holds {value}{more}: encode it again, or take it out.')


def _all_finite(block: np.ndarray) -> bool:
  if block.dtype != np.float16:
    return bool(np.isfinite(block).all())
  # An eighth of np.isfinite's time: NaN and infinity have all bits of the exponent.
  return int((np.ascontiguousarray(block).view(np.uint16) & 0x7FFF).max()) < 0x7C00


def _in_use(block: np.ndarray) -> np.ndarray:
  with np.errstate(over='ignore'):
    return block if block.dtype in (np.float16, np.float32) else block.astype(np.float32)


def _read(path: Path) -> tuple[np.ndarray, Columns | None]:
  """Return the features of a file and its columns; None for a kind that holds no columns."""
  if path.suffix.lower() not in SUFFIXES:
    raise UserError(f'{path} is no file of features: give one that ends on {", ".join(SUFFIXES)}.')
  if not path.is_file():
    raise UserError(f'{path} does not exist: give the file of the features.')
  readers = {'.npz': _read_npz, '.npy': _read_npy, '.safetensors': _read_safetensors, '.parquet': _read_parquet}
  try:
    return readers[path.suffix.lower()](path)
  except UserError:
    raise
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise UserError(f'{path} cannot be read ({brief(error, 160)}): restore it, or write it again.') from None


@contextlib.contextmanager
def _no_objects(path: Path, name: str) -> Iterator[None]:
  """Convert NumPy's errors on arrays of Python objects.

  Raises:
    UserError: an array holds Python objects.
  """
  try:
    yield
  except ValueError as error:
    if not any(word in str(error) for word in ('pickle', 'Python objects', 'Object arrays')):
      raise
    raise UserError(
      f'{name} of {path} holds Python objects, which may run any code when they are read: save text with '
      'np.asarray(values, dtype=str), and numbers with dtype=np.float32.'
    ) from None


def _read_npz(path: Path) -> tuple[np.ndarray, Columns]:
  if not zipfile.is_zipfile(path):
    raise ValueError('it is no archive of arrays')
  with np.load(path, allow_pickle=False) as file:
    if FEATURES not in file.files:
      raise UserError(f'{path} has no array x: its arrays are {brief(", ".join(file.files) or "none", 300)}.')
    refuse_too_large(path, sum(info.file_size for info in file.zip.infolist()))
    with _no_objects(path, FEATURES):
      x = file[FEATURES]
    columns = {}
    for name in file.files:
      if name in COLUMNS or name in PLURALS:
        with _no_objects(path, name):
          columns[name] = _texts(path, name, file[name])
  return x, columns


def _read_npy(path: Path) -> tuple[np.ndarray, None]:
  with _no_objects(path, 'the array'):
    return np.lib.format.open_memmap(path, mode='r'), None  # np.load would take any file for a pickle


def _read_safetensors(path: Path) -> tuple[np.ndarray, None]:
  """Map the tensor x of a file, or its only one; the library checks the header, and has no memory map of its own."""
  import ml_dtypes
  import safetensors

  try:
    with safetensors.safe_open(path, framework='np') as file:
      names = list(file.keys())
  except safetensors.SafetensorError as error:
    raise ValueError(str(error)) from None
  if FEATURES not in names and len(names) != 1:
    raise UserError(f'{path} has no tensor x: its tensors are {brief(", ".join(names) or "none", 300)}.')
  with path.open('rb') as stream:
    length = int.from_bytes(stream.read(8), 'little')
    entry = json.loads(stream.read(length))[FEATURES if FEATURES in names else names[0]]
  dtypes = {'F16': np.float16, 'BF16': ml_dtypes.bfloat16, 'F32': np.float32, 'F64': np.float64}
  dtypes |= {'I8': np.int8, 'U8': np.uint8, 'I16': np.int16, 'I32': np.int32, 'I64': np.int64}
  if entry['dtype'] not in dtypes:
    raise UserError(f'the tensor x of {path} is {entry["dtype"]}: save it as float16 or float32.')
  if not all(entry['shape']):
    return np.empty(entry['shape'], np.float32), None
  offset = 8 + length + entry['data_offsets'][0]
  return np.memmap(path, dtypes[entry['dtype']], 'r', offset, tuple(entry['shape'])), None


def _read_parquet(path: Path) -> tuple[np.ndarray, Columns]:
  table = _parquet(path, (FEATURES, *COLUMNS, *PLURALS))  # refuses a lack of pyarrow in our words
  import pyarrow as pa
  from pyarrow import compute

  if FEATURES not in table.column_names:
    raise UserError(f'{path} has no column x of lists: put the features of a row into one list.')
  x = table[FEATURES].combine_chunks()
  if not (pa.types.is_list(x.type) or pa.types.is_large_list(x.type) or pa.types.is_fixed_size_list(x.type)):
    raise UserError(f'the column x of {path} holds {x.type}: put the features of a row into one list.')
  lengths = np.asarray(compute.call_function('list_value_length', [x]).fill_null(0))
  if len(odd := np.flatnonzero(lengths != (lengths[0] if len(lengths) else 0))):
    row = int(odd[0])
    raise UserError(f'row {row} of {path} has {lengths[row]} features, and row 0 {lengths[0]}: give all rows as many.')
  flat = x.flatten().to_numpy(zero_copy_only=False)
  return flat.reshape(len(x), -1), _parquet_columns(path, table)


def _parquet(path: Path, names: Sequence[str]) -> Any:
  """Return a table of those of the columns that a Parquet file has."""
  try:
    from pyarrow import parquet
  except ImportError:
    raise UserError(f"{path} needs pyarrow to be read: pip install 'ule-jax[parquet]', or save it as .npz.") from None
  about = parquet.ParquetFile(path)
  groups = [about.metadata.row_group(i) for i in range(about.metadata.num_row_groups)]
  refuse_too_large(path, 2 * sum(group.total_byte_size for group in groups))  # encoded, and as an array
  return about.read(columns=[name for name in about.schema_arrow.names if name in names])


def _parquet_columns(path: Path, table: Any) -> Columns:
  columns: Columns = {}
  for name in table.column_names:
    if name != FEATURES:
      values = table[name].to_pylist()
      if any(isinstance(value, (list, dict, bytes)) for value in values[:1]):
        raise UserError(f'the column {name} of {path} holds {table[name].type}: give one value a row.')
      columns[name] = ['' if value is None else str(value) for value in values]
  return columns


def _texts(path: Path, name: str, values: np.ndarray) -> list[str]:
  """Return the values of a column as text."""
  if values.ndim != 1:
    raise UserError(f'{name} of {path} has the shape {values.shape}: give one value a row.')
  if values.dtype.kind == 'S':
    return [value.decode('utf-8', 'backslashreplace') for value in values.tolist()]
  if values.dtype.kind not in 'Uiubf':
    raise UserError(f'{name} of {path} is of type {values.dtype}: give text or numbers.')
  return [str(value).strip() for value in values.tolist()]


def _beside(path: Path, table: Path | None, required: Sequence[str]) -> tuple[Path, Listing]:
  """Read the table beside a file that holds features only; without one, and without need of one, it is empty."""
  places = [path.with_suffix(suffix) for suffix in TABLES] if table is None else [table]
  source = next((place for place in places if place.is_file()), None)
  if source is None and (required or table is not None):
    raise UserError(
      f'{places[0]} does not exist: write one row for each row of {path.name}, with the column label, or point '
      '--config.data.table at it.'
    )
  if source is None:
    return path, Listing(path, [], lambda i: f'row {i}', {})
  if source.suffix.lower() == '.parquet':
    columns = _parquet_columns(source, _parquet(source, (*COLUMNS, *PLURALS)))
    return source, Listing(source, [], lambda i: f'row {i}', columns)
  key = 'label' if required else 'id'
  if not required and key not in csv_files.read_text(source).partition('\n')[0]:
    return path, Listing(path, [], lambda i: f'row {i}', {})
  return source, csv_files.read_csv(source, key, (), [name for name in COLUMNS if name != key])


def _checked(path: Path, x: np.ndarray) -> Float[np.ndarray, 'n d']:
  """Return features of two axes in a floating type; whole numbers are converted to float32."""
  if x.ndim != 2 or not all(x.shape):
    advice = 'flatten each example' if x.ndim > 2 else 'give one row for each example'
    raise UserError(f'x of {path} has the shape {x.shape} instead of (examples, features): {advice}.')
  if x.dtype.kind in 'iub':
    return x.astype(np.float32)
  if x.dtype.kind != 'f' and x.dtype.name != 'bfloat16':
    raise UserError(f'x of {path} is of type {x.dtype}: save it as float16 or float32.')
  return x
