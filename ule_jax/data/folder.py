"""Your own images: a folder with `metadata.csv` and the files it names.

`metadata.csv` has the columns `filename` (relative to the folder), `label`, `split`, and at most one of
`group` and `attribute`:

  label      0..k-1, or names; classes are numbered in the order of the sorted names, or of data.classes
  split      train, val, test (or 0, 1, 2), and val_<something> for further validation splits
  group      what the group is called, or a number; empty where it is not known
  attribute  the same for what may be a shortcut: the group is then (label, attribute)

Labels of the groups may be missing in train, or everywhere: then metrics of groups are absent. Words for missing (nan,
NaN, None, NA, N/A, null, <NA>) are no groups; how many there are is said. A label may not be missing. Data that TFDS
wrote as array_record, with the features image, label, and group or attribute, are read by the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from ule_jax.data import array_record, csv_files, tables
from ule_jax.data.codes import SUSPICIOUS, Numbered, number, refuse_alike, refuse_same_look, whole_number, written
from ule_jax.data.csv_files import Listing
from ule_jax.data.dataset import Dataset, Preparation, Transform
from ule_jax.data.decoding import make_decoding
from ule_jax.data.image_files import check_size, random_crop_and_flip, split_of, square, stretch
from ule_jax.data.listing import match_files
from ule_jax.data.open_table import open_table
from ule_jax.data.tables import Rows, Table
from ule_jax.data.transforms import color_jitter, make_resize
from ule_jax.errors import UserError, brief, unknown

FITS = {'crop': square, 'stretch': stretch}
CODES = {'0': 'train', '1': 'val', '2': 'test', 'valid': 'val', 'validation': 'val'}


def preparation(*, size: int, resize: str, fit: str, white: float = 0.0, background: str = 'white', **_) -> Preparation:
  """Say how images are prepared; takes the options of `load`."""
  first = 'crop the largest square from the middle, then ' if fit == 'crop' else ''
  words = f'{first}resize to {size} x {size} ({resize})'
  return Preparation(
    (size, size, 3), FITS[fit](size, make_resize(resize)), words=words, decoding=make_decoding(white, background)
  )


def load(
  *,
  dir: str,
  size: int,
  fit: str,
  resize: str,
  augment: bool,
  scale: tuple[float, float],
  ratio: tuple[float, float],
  jitter: float,
  unlisted: str,
  white: float = 0.0,
  background: str = 'white',
  classes: tuple[str, ...] = (),
) -> Dataset:
  """Read the metadata, check that every image is there, and leave decoding to the pipeline.

  Args:
    dir: the folder with metadata.csv, or a prepared data set.
    size: pixels, height and width of what the network sees.
    fit: crop the middle square, or stretch, where nothing is random.
    resize: antialias or linear.
    augment: random crops and flips in training.
    scale: of the random crops: range of the share of the area, in (0, 1].
    ratio: of the random crops: range of width / height.
    jitter: strength of colour jitter in training, in [0, 0.5]; 0 is none.
    unlisted: fail, or ignore image files that have no row.
    white: the value that is white in the files; 0: by their type.
    background: the colour that transparent images are put on.
    classes: names of the classes in order, of which every label has to be one; () takes them from the labels.

  Raises:
    UserError: something is missing or cannot be understood.
  """
  _check_options(fit, unlisted, scale, ratio, jitter)
  check_size(size)
  prepared = preparation(size=size, resize=resize, fit=fit, white=white, background=background)
  decoding = prepared.decoding
  classes = _class_names(classes)
  table = open_table(dir, 'a folder of images', lambda root: scan(root, unlisted, classes), (), {'label': None})
  if table.prepared:
    table = _from_records(dir, table, classes)
  values = table.names.get('attribute')

  def split(rows: Rows):
    label, nothing = rows.columns['label'], np.full(len(rows.names), -1, np.int32)
    if values is not None:
      attribute = rows.columns['attribute']
      return split_of(rows, label, np.where(attribute < 0, -1, label * len(values) + attribute), decoding)
    return split_of(rows, label, rows.columns.get('group', nothing), decoding)

  interpolate = make_resize(resize)
  return Dataset(
    splits={part: split(rows) for part, rows in table.parts.items()},
    classes=table.names['label'],
    groups=_group_names(table.names),
    train_transform=_augmented(random_crop_and_flip(size, scale, ratio, interpolate), jitter)
    if augment
    else prepared.eval_transform,
    **prepared._asdict(),
    notes={
      'size': size, 'fit': fit, 'resize': resize, 'augment': augment,
      'scale': list(scale), 'ratio': list(ratio), 'jitter': jitter,
    },
    table=table,
    remarks=table.remarks,
  )  # fmt: skip


def _check_options(
  fit: str, unlisted: str, scale: tuple[float, float], ratio: tuple[float, float], jitter: float
) -> None:
  if fit not in FITS:
    raise unknown('data.fit', fit, FITS)
  if unlisted not in ('fail', 'ignore'):
    raise unknown('data.unlisted', unlisted, ('fail', 'ignore'))
  for field, given, most in (('scale', scale, 1.0), ('ratio', ratio, 100.0)):
    numbers = isinstance(given, (tuple, list)) and len(given) == 2 and all(isinstance(v, (int, float)) for v in given)
    if not numbers or not 0 < given[0] <= given[1] <= most:
      raise UserError(f'data.{field} is {given}: give two numbers, (low, high) with 0 < low <= high <= {most:g}.')
  if not 0 <= jitter <= 0.5:
    raise UserError(f'data.jitter is {jitter}: give a strength from 0 to 0.5.')


def _class_names(classes: Sequence[str]) -> tuple[str, ...]:
  """Check data.classes."""
  names = (
    tuple(str(name).strip() for name in classes)  # a number on the command line is a name, too
    if isinstance(classes, (tuple, list)) and all(isinstance(name, (str, int)) for name in classes)
    else ('',)
  )
  if not all(names) or len(names) == 1:
    raise UserError(f"data.classes is {brief(classes)}: give the names of two or more classes, as ('cat', 'dog').")
  refuse_same_look('data.classes', 'classes', names)
  return names


def _augmented(crop: Transform, jitter: float) -> Transform:
  if not jitter:
    return crop
  return lambda image, rng: color_jitter(crop(image, rng), rng, jitter, jitter)


def scan(root: Path, unlisted: str, classes: tuple[str, ...] = ()) -> Table:
  """Read metadata.csv."""
  path = root / 'metadata.csv'
  if not path.is_file():
    raise UserError(f'{root} has no metadata.csv: write one with the columns filename, label, split.')
  listing = csv_files.read_csv(path, 'filename', ('label', 'split'), ('group', 'attribute'))
  match_files(listing, root, unlisted)
  parts = _parts(listing)
  codes, names, remarks = _understand(listing, parts, classes)
  order = ['train', *sorted({p for p in parts if p.startswith('val')}), 'test']
  part = np.array([order.index(p) for p in parts], np.int32)
  return tables.parted(path, root, listing.names, codes, part, order, names)._replace(remarks=remarks)


def _parts(listing: Listing) -> list[str]:
  """Read the column split."""
  values = listing.columns['split']
  refuse_alike(listing, 'split', dict.fromkeys(values))
  as_whole = whole_number(dict.fromkeys(values))
  parts = {value: CODES.get(as_whole[value], value) for value in as_whole}
  for value, part in parts.items():
    if not re.fullmatch(r'train|val|test|val_\w+', part):
      what = f"the split '{brief(value)}'" if value else 'no split'
      raise UserError(f'{listing.at(values.index(value))} has {what} where train, val, test or val_<something> is due.')
  return [parts[value] for value in values]


def _from_records(dir: str, table: Table, classes: tuple[str, ...]) -> Table:
  """Understand prepared data as metadata.csv is understood."""
  listing = array_record.as_listing(dir, table, ('label', 'group', 'attribute'))
  parts = [part for part, rows in table.parts.items() for _ in rows.names]
  codes, names, remarks = _understand(listing, parts, classes)
  own, first = {}, 0
  for part, rows in table.parts.items():
    here = slice(first, first + len(rows.names))
    own[part] = rows._replace(columns={column: values[here] for column, values in codes.items()})
    first = here.stop
  return table._replace(parts=own, names=names, remarks=remarks)


def _understand(
  listing: Listing, parts: Sequence[str], classes: tuple[str, ...]
) -> tuple[dict[str, Int32[np.ndarray, 'n']], dict[str, tuple[str, ...]], tuple[str, ...]]:
  """Number labels and groups; return the codes of each column, their names, and what is to be said aloud.

  Args:
    parts: of each image.
    classes: names in order, or () for those that occur.

  Raises:
    UserError: a part, a class or a label is missing, or two names look alike.
  """
  path = listing.path
  if {'group', 'attribute'} <= listing.columns.keys():
    raise UserError(f'{path} has both a column group and a column attribute: keep one.')
  if missing := [part for part in ('train', 'val', 'test') if part not in parts]:
    raise UserError(f'{path} gives no image to {missing[0]}: it needs train, val and test.')
  label = number(listing, 'label', classes or listing.declared.get('label', ()))
  _refuse_unlabelled(listing, parts, label)
  if len(label.names) < 2:
    raise UserError(f"{path} has only the label '{brief(label.names[0])}': a classifier needs two.")
  of_train = {int(code) for code, part in zip(label.codes, parts, strict=True) if part == 'train'}
  if absent := sorted(set(range(len(label.names))) - of_train):
    raise UserError(f"{path} gives no image of the class '{brief(label.names[absent[0]])}' to train.")
  refuse_same_look(path, 'classes', label.names)
  codes, names, remarks = {'label': label.codes}, {'label': label.names}, []
  remarks += [] if classes else _suspicious(path, 'label', label.names)
  for column in ('group', 'attribute'):
    if column in listing.columns:
      found = number(listing, column)
      remarks += _count_unknown(path, parts, found) + _suspicious(path, column, found.names)
      if found.names:  # a column that is empty everywhere says nothing
        codes[column], names[column] = found.codes, found.names
  pairs = [f'{label} with {value}' for label in names['label'] for value in names.get('attribute', ())]
  refuse_same_look(path, 'groups', _group_names(names), pairs)
  return codes, names, tuple(remarks)


def _refuse_unlabelled(listing: Listing, parts: Sequence[str], label: Numbered) -> None:
  bare = np.flatnonzero(label.codes < 0)
  if not len(bare):
    return
  first = int(bare[0])
  count = sum(parts[i] == parts[first] for i in bare.tolist())
  whole = (
    f'{count:,} examples of {parts[first]} have no label' if count > 1 else f'an example of {parts[first]} has none'
  )
  word = listing.columns['label'][first]
  name = f', or name {word} in data.classes, if it is the name of a class' if word and word != '-1' else ''
  raise UserError(
    f'{listing.at(first)} has no label ({written([word])}); {whole}: give one, or take the row out{name}.'
  )


def _count_unknown(path: Any, parts: Sequence[str], found: Numbered) -> list[str]:
  """Say how many groups of each part are not known, and how that was written."""
  remarks = []
  for part in dict.fromkeys(parts):
    here = np.array([p == part for p in parts])
    if unknown := int((found.codes[here] < 0).sum()):
      how = written(found.missing)
      remarks.append(f'{path}: {unknown:,} of {int(here.sum()):,} groups of {part} are unknown ({how}).')
  return remarks


def _suspicious(path: Any, column: str, names: Sequence[str]) -> list[str]:
  return [
    f"{path}: '{name}' is read as a name in the column {column}: leave the field empty where nothing is known."
    for name in names
    if name.casefold() in SUSPICIOUS
  ]


def _group_names(names: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
  """Name the groups: those of the column, or each label with each attribute."""
  if 'attribute' in names:
    return tuple(f'{label}, {value}' for label in names['label'] for value in names['attribute'])
  return names.get('group', ())
