"""A user's images: a folder for each class (class_folders.py), or `metadata.csv` and the files that it lists.

`metadata.csv` has the columns `filename` (or `file_name`; relative to the folder), `label`, `split`, and at most one of
`group` and `attribute`:

  label      0..k-1, or names; classes are indexed in the order of the sorted names, or of data.classes
  split      train, val, test (or 0, 1, 2), and val_<something> for further validation splits
  group      name or number of the group; empty where it is unknown
  attribute  value of a possible shortcut; the group is then (label, attribute)

Groups may be unknown in train, or everywhere: then metrics of groups are absent. Words for missing (nan, NaN, None, NA,
N/A, null, <NA>) are unknown groups, whose number is logged. A label may not be missing. Data that TFDS wrote as
array_record, with the features image, label, and group or attribute, are read by the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from ule_jax.data import array_record, class_folders, csv_files, split_names, tables
from ule_jax.data.codes import SUSPICIOUS, Numbered, number, refuse_same_look, written
from ule_jax.data.csv_files import Listing
from ule_jax.data.dataset import Dataset, InputSpec, Transform
from ule_jax.data.decoding import make_decoding
from ule_jax.data.image_files import check_size, random_crop_and_flip, split_of, square, stretch
from ule_jax.data.layouts import LAYOUTS
from ule_jax.data.listing import match_files, relative_names
from ule_jax.data.near_duplicates import TOGETHER
from ule_jax.data.open_table import open_table
from ule_jax.data.options import Files, augment, size
from ule_jax.data.split_names import CODES as CODES
from ule_jax.data.tables import Rows, Table
from ule_jax.data.transforms import color_jitter, make_resize
from ule_jax.errors import UserError, brief
from ule_jax.options import option

FITS = {'crop': square, 'stretch': stretch}
OF_FOLDERS = ('layout', 'val', 'test', 'split_seed', 'together')  # options that metadata.csv has no use for


class Options(Files):
  """Options of your own images."""

  size: int = size(224)
  fit: str = option('crop', 'crop (the middle square) or stretch', choices=FITS, treatment=True)
  augment: bool = augment(True, 'random crops and flips')
  scale: tuple = option((0.7, 1.0), 'range of the share of the area of random crops, in (0, 1]', treatment=True)
  ratio: tuple = option((0.75, 4 / 3), 'range of width / height of random crops', treatment=True)
  jitter: float = option(0.0, 'strength of colour jitter in training', ge=0, le=0.5, treatment=True)
  unlisted: str = option(
    'fail',
    'fail, or ignore image files without a row in metadata.csv, or in no class',
    choices=('fail', 'ignore'),
    treatment=True,
  )
  classes: tuple = option(
    (),
    'names of the classes in order, of which every label has to be one; (): those that occur, sorted',
    added=True,
  )
  layout: str = option(
    'auto',
    'auto: metadata.csv if there is one, else class or split_class; CLASS/*.jpg, SPLIT/CLASS/*.jpg, CLASS_NUMBER.jpg',
    choices=LAYOUTS,
    added=True,
  )
  val: float = option(0.2, 'share of train that becomes val, where there is no folder val', gt=0, lt=0.5, added=True)
  test: float = option(0.2, 'share of train that becomes test, where there is no folder test', gt=0, lt=0.5, added=True)
  split_seed: int = option(0, 'of the draw of val and test, not of training', ge=0, added=True)
  together: str = option(
    'none',
    'images that the draw keeps in one split: files of one name, near_duplicates (decodes all images), or both',
    choices=TOGETHER,
    added=True,
  )


def input_spec(options: Options) -> InputSpec:
  """Return the input contract."""
  first = 'crop the largest square from the middle, then ' if options.fit == 'crop' else ''
  description = f'{first}resize to {options.size} x {options.size} ({options.resize})'
  return InputSpec(
    (options.size, options.size, 3),
    FITS[options.fit](options.size, make_resize(options.resize)),
    description=description,
    decoding=make_decoding(options.white, options.background),
  )


def load(options: Options) -> Dataset:
  """Read the metadata and check that every image exists; the pipeline decodes the images.

  Raises:
    UserError: a file, column, class or label is missing, a value cannot be parsed, or an option is out of its range.
  """
  _check_ranges(options)
  check_size(options.size)
  spec = input_spec(options)
  decoding = spec.decoding
  classes = class_names(options.classes)
  table = open_table(options.dir, 'a folder of images', lambda root: scan(root, options, classes), (), {'label': None})
  if table.is_array_record:
    table = _from_records(options.dir, table, classes)
    table = table._replace(
      remarks=(*table.remarks, *_without_effect(options, OF_FOLDERS, 'prepared data have their splits'))
    )
  values = table.names.get('attribute')

  def split(rows: Rows):
    label, unknown_groups = rows.columns['label'], np.full(len(rows.names), -1, np.int32)
    if values is not None:
      attribute = rows.columns['attribute']
      return split_of(rows, label, np.where(attribute < 0, -1, label * len(values) + attribute), decoding)
    return split_of(rows, label, rows.columns.get('group', unknown_groups), decoding)

  crop = random_crop_and_flip(options.size, options.scale, options.ratio, make_resize(options.resize))
  return Dataset(
    splits={part: split(rows) for part, rows in table.parts.items()},
    classes=table.names['label'],
    groups=group_names(table.names),
    train_transform=_augmented(crop, options.jitter) if options.augment else spec.eval_transform,
    **spec._asdict(),
    notes={
      'size': options.size, 'fit': options.fit, 'resize': options.resize, 'augment': options.augment,
      'scale': list(options.scale), 'ratio': list(options.ratio), 'jitter': options.jitter, **table.notes,
    },
    table=table,
    remarks=table.remarks,
  )  # fmt: skip


def _check_ranges(options: Options) -> None:
  """Check the ranges of random crops."""
  for field, given, most in (('scale', options.scale, 1.0), ('ratio', options.ratio, 100.0)):
    numbers = isinstance(given, (tuple, list)) and len(given) == 2 and all(isinstance(v, (int, float)) for v in given)
    if not numbers or not 0 < given[0] <= given[1] <= most:
      raise UserError(f'data.{field} is {given}: give two numbers, (low, high) with 0 < low <= high <= {most:g}.')


def class_names(classes: Sequence[str]) -> tuple[str, ...]:
  """Return data.classes as text.

  Raises:
    UserError: there are fewer than two names, one is empty, or two look alike.
  """
  names = (
    tuple(str(name).strip() for name in classes)  # the command line parses a name of digits as a number
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


def scan(root: Path, options: Options, classes: tuple[str, ...] = ()) -> Table:
  """Read metadata.csv, or the folders of classes: label, and group or attribute, of each image, by split.

  Args:
    classes: all names of classes, in their order; () uses the sorted labels.
  """
  path = root / 'metadata.csv'
  if options.layout == 'auto' and path.is_file():
    listing = csv_files.read_csv(path, 'filename', ('label', 'split'), ('group', 'attribute'), 'file_name')
    listing = listing._replace(names=relative_names(listing.names, root))
    match_files(listing, root, options.unlisted)
    parts, notes = split_names.of_column(listing), {}
    codes, names, remarks = _encode(listing, parts, classes)
    remarks += _without_effect(options, OF_FOLDERS, 'metadata.csv gives the splits') + class_folders.beside_csv(listing)
  else:
    shares = {'val': options.val, 'test': options.test}
    draw = class_folders.Draw(shares, options.split_seed, options.together, input_spec(options).decoding)
    listing, parts, known, notes, before = class_folders.read_images(
      root, options.layout, options.unlisted, classes, draw
    )
    codes, names, remarks = _encode(listing, parts, known)
    drawn = notes.get('drawn', {})
    unused = [name for name in OF_FOLDERS[1:] if name not in drawn]
    remarks = (*before, *remarks, *_without_effect(options, unused, 'it is of splits that are drawn'))
  order = ['train', *sorted({p for p in parts if p.startswith('val')}), 'test']
  part = np.array([order.index(p) for p in parts], np.int32)
  table = tables.parted(listing.path, root, listing.names, codes, part, order, names)
  return table._replace(remarks=remarks, notes=notes)


def _without_effect(options: Options, names: Sequence[str], reason: str) -> tuple[str, ...]:
  """Format a remark with those of some options that were chosen, and do nothing."""
  chosen = [f'data.{name}' for name in names if getattr(options, name) != Options.model_fields[name].default]
  return (f'{", ".join(chosen)} {"have" if chosen[1:] else "has"} no effect: {reason}.',) if chosen else ()


def _from_records(dir: str, table: Table, classes: tuple[str, ...]) -> Table:
  """Interpret the columns of array_record data as those of metadata.csv."""
  listing = array_record.as_listing(dir, table, ('label', 'group', 'attribute'))
  parts = [part for part, rows in table.parts.items() for _ in rows.names]
  codes, names, remarks = _encode(listing, parts, classes)
  coded, first = {}, 0
  for part, rows in table.parts.items():
    rows_of_part = slice(first, first + len(rows.names))
    coded[part] = rows._replace(columns={column: values[rows_of_part] for column, values in codes.items()})
    first = rows_of_part.stop
  return table._replace(parts=coded, names=names, remarks=remarks)


def _encode(
  listing: Listing, parts: Sequence[str], classes: tuple[str, ...]
) -> tuple[dict[str, Int32[np.ndarray, 'n']], dict[str, tuple[str, ...]], tuple[str, ...]]:
  """Encode labels and groups as indices; return the codes of each column, their names, and remarks to log.

  Args:
    parts: split of each image.
    classes: all names of classes, in their order; () uses the sorted labels.

  Raises:
    UserError: a split, a class or a label is missing, or two names look alike.
  """
  path = listing.path
  if {'group', 'attribute'} <= listing.columns.keys():
    raise UserError(f'{path} has both a column group and a column attribute: keep one.')
  if missing := [part for part in ('train', 'val', 'test') if part not in parts]:
    raise UserError(f'{path} gives no image to {missing[0]}: it needs train, val and test.')
  label = number(listing, 'label', classes or listing.declared.get('label', ()))
  _refuse_unlabelled(listing, parts, label)
  if len(label.names) < 2:
    raise UserError(f"{path} has only the label '{brief(', '.join(label.names))}': a classifier needs two.")
  of_train = {int(code) for code, part in zip(label.codes, parts, strict=True) if part == 'train'}
  if absent := sorted(set(range(len(label.names))) - of_train):
    raise UserError(f"{path} gives no image of the class '{brief(label.names[absent[0]])}' to train.")
  refuse_same_look(path, 'classes', label.names)
  codes, remarks = {'label': label.codes}, []
  names: dict[str, tuple[str, ...]] = {'label': label.names}
  remarks += [] if classes else suspicious(path, 'label', label.names)
  for column in ('group', 'attribute'):
    if column in listing.columns:
      numbered = number(listing, column)
      remarks += count_unknown(path, parts, numbered) + suspicious(path, column, numbered.names)
      if numbered.names:  # a column that is empty everywhere is ignored
        codes[column], names[column] = numbered.codes, numbered.names
  pairs = [f'{label} with {value}' for label in names['label'] for value in names.get('attribute', ())]
  refuse_same_look(path, 'groups', group_names(names), pairs)
  return codes, names, tuple(remarks)


def _refuse_unlabelled(listing: Listing, parts: Sequence[str], label: Numbered) -> None:
  """Check that every example has a label; the error has the first that has none, and how many there are."""
  bare = np.flatnonzero(label.codes < 0)
  if not len(bare):
    return
  first = int(bare[0])
  count = sum(parts[i] == parts[first] for i in bare.tolist())
  total = (
    f'{count:,} examples of {parts[first]} have no label' if count > 1 else f'an example of {parts[first]} has none'
  )
  word = listing.columns['label'][first]
  name = f', or name {word} in data.classes, if it is the name of a class' if word and word != '-1' else ''
  raise UserError(
    f'{listing.at(first)} has no label ({written([word])}); {total}: give one, or take the row out{name}.'
  )


def count_unknown(path: Any, parts: Sequence[str], groups: Numbered) -> list[str]:
  """Format the number of unknown groups of each split, with the words for missing that occur."""
  remarks = []
  for part in dict.fromkeys(parts):
    mask = np.array([p == part for p in parts])
    if unknown := int((groups.codes[mask] < 0).sum()):
      spelling = written(groups.missing)
      remarks.append(f'{path}: {unknown:,} of {int(mask.sum()):,} groups of {part} are unknown ({spelling}).')
  return remarks


def suspicious(path: Any, column: str, names: Sequence[str]) -> list[str]:
  """Format a remark for each name that may be a word for missing."""
  return [
    f"{path}: '{name}' is read as a name in the column {column}: leave the field empty where the value is unknown."
    for name in names
    if name.casefold() in SUSPICIOUS
  ]


def group_names(names: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
  """Return the names of the groups: those of the column group, or each label with each attribute."""
  if 'attribute' in names:
    return tuple(f'{label}, {value}' for label in names['label'] for value in names['attribute'])
  return names.get('group', ())
