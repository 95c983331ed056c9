"""Rows of image files with integer columns, from a released layout on disk or from array_record shards.

A `Table` holds the columns of the files, before a data set selects its label and group among them. A folder with
`dataset_info.json` is a data set that TFDS wrote as array_record (`python -m ule_jax.prepare` does, with the images'
original bytes); every other folder is in its released layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from ule_jax.data.listing import file_version, read_file
from ule_jax.errors import UserError

COLUMNS = 'columns.npz'  # labels and names of a data set in array_record, which are then read without its records


class Rows(NamedTuple):
  """Image files with integer columns.

  Attributes:
    names: of the images, for messages and tables.
    columns: name -> the code of each row.
    read: returns the bytes of image `i`.
    version: returns a text that changes when a file of image `i` does.
    masks: name -> a function that returns the bytes of the mask of image `i`.
  """

  names: Sequence[str]
  columns: Mapping[str, Int32[np.ndarray, 'n']]
  read: Callable[[int], bytes]
  version: Callable[[int], str]
  masks: Mapping[str, Callable[[int], bytes]] = {}

  def take(self, ids: Int[np.ndarray, 'm']) -> Rows:
    """Return the given rows, in their order."""

    def reindexed(read: Callable[[int], Any]) -> Callable[[int], Any]:
      return lambda i: read(int(ids[i]))

    return Rows(
      names=[self.names[int(i)] for i in ids],
      columns={name: values[ids] for name, values in self.columns.items()},
      read=reindexed(self.read),
      version=reindexed(self.version),
      masks={name: reindexed(read) for name, read in self.masks.items()},
    )


class Table(NamedTuple):
  """The files of a data set.

  Attributes:
    parts: name of a split -> its rows.
    names: column -> the names of its codes 0..k-1, where they have names.
    is_array_record: whether it was read from array_record shards.
    remarks: notes that every verb logs at its start.
    unusable: feature of array_record data that is no column -> the reason.
    notes: entries for results.json.
  """

  parts: Mapping[str, Rows]
  names: Mapping[str, tuple[str, ...]] = {}
  is_array_record: bool = False
  remarks: tuple[str, ...] = ()
  unusable: Mapping[str, str] = {}
  notes: Mapping[str, Any] = {}


def files_rows(root: Path, names: Sequence[str], columns: Mapping[str, Any], masks: Mapping[str, Sequence[str]] = {}):
  """Build rows of the files `root/name`.

  Args:
    columns: name -> the code of each row.
    masks: name -> the path of each row's mask, relative to `root`.
  """

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
  """Build a table from rows of all splits.

  Args:
    path: of the list, for messages.
    root: the folder of the images.
    names: of the images, relative to `root`.
    columns: name -> the code of each row.
    part: index into `parts` of each row.
    parts: names of the splits.
    values: column -> the names of its codes.

  Raises:
    UserError: a split has no image.
  """
  table = {}
  for code, name in enumerate(parts):
    ids = np.flatnonzero(part == code)
    if not len(ids):
      raise UserError(f'{path} gives no image to {name}: it needs {", ".join(parts)}.')
    chosen = [names[int(i)] for i in ids]
    table[name] = files_rows(root, chosen, {column: codes[ids] for column, codes in columns.items()})
  return Table(table, values)
