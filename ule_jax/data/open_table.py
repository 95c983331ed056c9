"""The table of a data set, from array_record shards or from the released layout of its files."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from etils import epath

from ule_jax.data.array_record import open_array_record
from ule_jax.data.listing import is_companion
from ule_jax.data.tables import Table
from ule_jax.errors import UserError, brief
from ule_jax.paths import BUCKETS, local_path


def open_table(
  dir: str,
  title: str,
  scan: Callable[[Path], Table],
  parts: Iterable[str] = (),
  columns: Mapping[str, int | None] = {},
) -> Table:
  """Read a data set in array_record, or its released layout by `scan`.

  Args:
    dir: a folder, or the bucket path of a data set in array_record.
    title: the data set's name, for messages.
    scan: reads the released layout.
    parts: splits that the table must have.
    columns: column that every split must have -> its number of values (None: any).

  Raises:
    UserError: there is no such folder, a split or column is missing, or a value is out of range.
  """
  table = _open(dir, title, scan)
  lacking = [f'part {part}' for part in parts if part not in table.parts]
  lacking += [f'column {c}' for c in columns if any(c not in rows.columns for rows in table.parts.values())]
  for column in columns:
    if column in table.unusable:
      raise UserError(f'the feature {column} of {dir} {table.unusable[column]}: it must be one value an image.')
  if lacking:
    raise UserError(f'{dir} was not prepared from {title}, as it has no {lacking[0]}: choose its own config.')
  check_codes(dir, table, {column: count for column, count in columns.items() if count is not None})
  return table


def check_codes(dir: str, table: Table, counts: Mapping[str, int]) -> None:
  """Check that columns hold only codes 0..count-1.

  Args:
    counts: column -> number of its values.

  Raises:
    UserError: a value is missing (-1) or out of range; the error has the image.
  """
  for column, count in counts.items():
    for part, rows in table.parts.items():
      values = np.asarray(rows.columns[column])
      if not np.issubdtype(values.dtype, np.integer):
        raise UserError(f'the feature {column} of {dir} is no whole number: it must be 0 to {count - 1}.')
      bad = np.flatnonzero((values < 0) | (values >= count))
      if len(bad):
        more = f'; {len(bad):,} examples of {part} have such a {column}' if len(bad) > 1 else ''
        raise UserError(
          f'{dir}, record {bad[0]} of {part}: {brief(rows.names[bad[0]])} has the {column} {values[bad[0]]} instead of '
          f'0 to {count - 1}{more}: label them, or prepare the data set again.'
        )


def _open(dir: str, title: str, scan: Callable[[Path], Table]) -> Table:
  """Open array_record shards in `dir` or at `name/version/` below it, or scan the released layout."""
  remote = dir.startswith(BUCKETS)
  root = epath.Path(dir if remote else local_path(dir, 'data.dir'))
  try:
    exists = root.is_dir()
  except Exception as error:  # any type of the bucket's package, which may be missing
    reason = ' '.join(str(error).split())[:200] or type(error).__name__
    raise UserError(
      f'{dir} cannot be read ({reason}): install the package of such buckets, give it access, or mount the bucket as a '
      'folder.'
    ) from None
  if not exists:
    raise UserError(f'data.dir {dir} is not a folder: point --config.data.dir at {title}.')
  if (root / 'dataset_info.json').exists():
    return open_array_record(root)
  # TFDS writes name/version/; the pattern is fast on folders of 200,000 images.
  literal = epath.Path(glob.escape(os.fspath(root)))  # epath treats the root as a part of the pattern
  below = [path.parent for path in literal.glob('*/[0-9]*.[0-9]*.[0-9]*/dataset_info.json')]
  below = [path for path in below if not is_companion(path.parent.name)]
  if len(below) == 1:
    return open_array_record(below[0])
  if below:
    raise UserError(f'{dir} holds {len(below)} prepared data sets: point --config.data.dir at one, as {below[0]}.')
  if remote:
    raise UserError(
      f'{dir} holds no prepared data set, and images are read from a bucket in no other form: copy there what '
      'ule_jax.prepare writes, or mount the bucket as a folder.'
    )
  return scan(Path(root))
