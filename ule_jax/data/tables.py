"""Rows of labelled image files, from an official layout on disk or from array_record shards.

A `Table` is what lies on disk, before anyone decides what is a label and what is a group. A folder that holds
`dataset_info.json` is a data set that TFDS wrote as array_record (`python -m ule_jax.prepare` does, images as their
original bytes); every other folder is in its official layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from ule_jax.data.listing import file_version, read_file
from ule_jax.errors import UserError

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
