"""Features of any encoder: a file with `x` [n d] and labels, in place of images.

  .npz           arrays x, label, and those below that there are
  .npy           x, memory-mapped; the columns are in a .csv or .parquet of the same name, or in data.table
  .safetensors   the same: x, or the only tensor
  .parquet       a column x of lists, and the columns

  label      0..k-1, or names; classes are indexed in the order of the sorted names, or of data.classes
  split      train, val, test (or 0, 1, 2), and val_<something>; what is missing is drawn from train (data.val,
             data.test, data.split_seed)
  group      name or number of the group; empty where it is unknown
  attribute  value of a possible shortcut; the group is then (label, attribute)
  id         name of the example, for tables
  weight     how often an example of train is drawn, relative to the others

Features stay as they are in the file; the compiled step standardises them by mean and deviation of train, which the run
records. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32

from ule_jax import options as declared
from ule_jax.data import arrays, feature_files, folder, split_names
from ule_jax.data.codes import Numbered, number, refuse_same_look, written
from ule_jax.data.csv_files import Listing
from ule_jax.data.dataset import Dataset, InputSpec
from ule_jax.data.draw_splits import draw
from ule_jax.data.listing import file_version
from ule_jax.errors import UserError, brief
from ule_jax.options import option
from ule_jax.paths import local_path

IS_FEATURES = True
DESCRIPTION = 'features as the encoder made them; the network standardises them by mean and deviation of train'


class Options(declared.Options):
  """Options of features."""

  file: str = option('', 'the features: .npz, .npy, .safetensors or .parquet', identity=False, treatment=True)
  table: str = option(
    '',
    '.csv or .parquet with label, split ... of .npy and .safetensors; the one of the same name if empty',
    identity=False,
    treatment=True,
  )
  classes: tuple = option(
    (),
    'names of the classes in order, of which every label has to be one; (): those that occur, sorted',
    added=True,  # as of folder: one option in records of both
  )
  val: float = option(0.2, 'share of train that becomes val, where there is none', gt=0, lt=0.5, added=True)
  test: float = option(0.2, 'share of train that becomes test, where there is none', gt=0, lt=0.5, added=True)
  split_seed: int = option(0, 'of the draw of val and test, not of training', ge=0, added=True)


def input_spec(options: Options) -> InputSpec:
  """Return the input contract without the width and the statistics, which a run has in its features.json."""
  del options
  return InputSpec((0,), None, (), (), np.float32, DESCRIPTION)


def recorded_spec(mean: Sequence[float], std: Sequence[float]) -> InputSpec:
  """Return the input contract of a run that was trained on features.

  Args:
    mean: of each feature over train.
    std: standard deviation of each feature over train.
  """
  return InputSpec((len(mean),), None, tuple(mean), tuple(std), np.float32, DESCRIPTION)


def load(options: Options) -> Dataset:
  """Read the features and their columns; a memory map is read row by row later.

  Raises:
    UserError: a file, a column, a class or a label is missing, a value cannot be parsed, or a feature is not finite.
  """
  if not options.file:
    raise UserError('there are no features: give --config.data.file=FILE (.npz, .npy, .safetensors or .parquet).')
  path = local_path(options.file, 'data.file')
  table = local_path(options.table, 'data.table') if options.table else None
  classes = folder.class_names(options.classes)
  x, listing = feature_files.read(path, table, ('label',))
  label = _labels(listing, classes)
  parts, drawn = _parts(listing, label.codes, options)
  _refuse_absent(listing.path, parts, label)
  group, groups, remarks = _groups(listing, parts, label)
  weight = _weights(listing, parts)
  part = np.array(parts)
  order = ['train', *sorted({name for name in set(parts) if name.startswith('val')}), 'test']
  splits = {}
  for name in order:
    rows = np.flatnonzero(part == name)
    names = [listing.names[i] for i in rows.tolist()]
    drawn_by = weight[rows] if weight is not None and name == 'train' else None
    splits[name] = arrays.Rows(x, label.codes[rows], group[rows], drawn_by, names, rows)
  dataset = arrays.from_rows(
    splits, label.names, groups, {'features': x.shape[1], 'precision': x.dtype.name, **_draw_notes(drawn, options)}
  )
  version = ' '.join(file_version(str(source)) for source in dict.fromkeys((path, listing.path)))
  return dataset._replace(
    splits={name: split._replace(version=lambda i: version) for name, split in dataset.splits.items()},
    description=DESCRIPTION,
    remarks=(*drawn, *folder.suspicious(listing.path, 'label', () if classes else label.names), *remarks),
  )


def _labels(listing: Listing, classes: tuple[str, ...]) -> Numbered:
  """Return the labels.

  Raises:
    UserError: one is missing, there is one class only, or as many classes as examples.
  """
  label = number(listing, 'label', classes)
  if len(bare := np.flatnonzero(label.codes < 0)):
    word = listing.columns['label'][int(bare[0])]
    more = f'; {len(bare):,} examples have none' if len(bare) > 1 else ''
    raise UserError(f'{listing.at(int(bare[0]))} has no label ({written([word])}){more}: give one, or take it out.')
  if len(label.names) < 2:
    raise UserError(f"{listing.path} has only the label '{brief(', '.join(label.names))}': a classifier needs two.")
  if len(label.names) >= len(label.codes):
    raise UserError(
      f'{listing.path} has {len(label.names):,} classes and {len(label.codes):,} rows: give every class some examples, '
      'in a column label of classes and not of names or measurements.'
    )
  refuse_same_look(listing.path, 'classes', label.names)
  return label


def _parts(listing: Listing, label: Int32[np.ndarray, 'n'], options: Options) -> tuple[list[str], tuple[str, ...]]:
  """Return the split of each row, and a remark on those that are drawn.

  Raises:
    UserError: a value is no name of a split, there is no train, or a class is too small for the splits.
  """
  parts = split_names.of_column(listing) if 'split' in listing.columns else ['train'] * len(label)
  if 'train' not in parts:
    raise UserError(f'{listing.path} gives no example to train: name some in the column split.')
  shares = {name: getattr(options, name) for name in ('val', 'test') if name not in parts}
  if not shares:
    return parts, ()
  train = np.flatnonzero(np.array(parts) == 'train')
  for row, name in zip(train.tolist(), draw(label[train], shares, options.split_seed), strict=True):
    parts[row] = name
  drawn = ' and '.join(f'{parts.count(name):,} for {name}' for name in shares)
  return parts, (
    f'{listing.path} has no {" and no ".join(shares)}: {drawn} of {len(train):,} examples of train are drawn, '
    f'stratified by label, by data.split_seed={options.split_seed}.',
  )


def _draw_notes(drawn: tuple[str, ...], options: Options) -> dict[str, Any]:
  return {'drawn': {'val': options.val, 'test': options.test, 'split_seed': options.split_seed}} if drawn else {}


def _refuse_absent(path: Any, parts: list[str], label: Numbered) -> None:
  """Check that every split has an example of every class.

  Raises:
    UserError: one has none.
  """
  codes = {name: index for index, name in enumerate(dict.fromkeys(parts))}
  part = np.array([codes[name] for name in parts])
  for name, index in codes.items():
    counts = np.bincount(label.codes[part == index], minlength=len(label.names))
    if len(absent := np.flatnonzero(counts == 0)):
      raise UserError(
        f"{path} gives no example of the class '{brief(label.names[absent[0]])}' to {name}: give it some, or take the "
        'class or the split out.'
      )


def _groups(
  listing: Listing, parts: Sequence[str], label: Numbered
) -> tuple[Int32[np.ndarray, 'n'], tuple[str, ...], list[str]]:
  """Return the group of each row, -1 where it is unknown, the names of the groups, and remarks.

  Raises:
    UserError: there are both a group and an attribute, or two names look alike.
  """
  columns = [name for name in ('group', 'attribute') if name in listing.columns]
  if len(columns) > 1:
    raise UserError(f'{listing.path} has both a column group and a column attribute: keep one.')
  unknown = np.full(len(label.codes), -1, np.int32)
  if not columns:
    return unknown, (), []
  column = columns[0]
  values = number(listing, column)
  remarks = folder.count_unknown(listing.path, parts, values) + folder.suspicious(listing.path, column, values.names)
  if not values.names:  # a column that is empty everywhere is ignored
    return unknown, (), remarks
  names: Mapping[str, tuple[str, ...]] = {'label': label.names, column: values.names}
  groups = folder.group_names(names)
  refuse_same_look(listing.path, 'groups', groups)
  if column == 'group':
    return values.codes, groups, remarks
  return np.where(values.codes < 0, unknown, label.codes * len(values.names) + values.codes), groups, remarks


def _weights(listing: Listing, parts: Sequence[str]) -> Float64[np.ndarray, 'n'] | None:
  """Return how often each row is drawn in training; None without a column.

  Raises:
    UserError: a weight of train is no number from 0 on, or all are 0.
  """
  texts = listing.columns.get('weight')
  if texts is None:
    return None
  weights = np.zeros(len(texts))
  for row, (text, part) in enumerate(zip(texts, parts, strict=True)):
    if part == 'train':
      try:
        weights[row] = float(text)
      except ValueError:
        weights[row] = np.nan
      if not 0 <= weights[row] < np.inf:
        raise UserError(f"{listing.at(row)} has the weight '{brief(text)}': give a number from 0 on.")
  if not weights.any():
    raise UserError(f'{listing.path}: all weights of train are 0: give some examples one above it.')
  return weights
