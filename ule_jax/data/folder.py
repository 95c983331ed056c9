"""Your own images: a folder with `metadata.csv` and the files it names.

`metadata.csv` has the columns `filename` (relative to the folder), `label`, `split`, and at most one of
`group` and `attribute`:

  label      0..k-1, or names; classes are numbered in the order of the sorted names
  split      train, val, test (or 0, 1, 2), and val_<something> for further validation splits
  group      what the group is called, or a number; empty where it is not known
  attribute  the same for what may be a shortcut: the group is then (label, attribute)

Labels of the groups may be missing in train, or everywhere: then metrics of groups are absent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from ule_jax.data import records
from ule_jax.data.dataset import Dataset, Preparation, Transform
from ule_jax.data.decoding import make_decoding
from ule_jax.data.files import check_size, random_crop_and_flip, split_of, square, stretch
from ule_jax.data.records import Rows, Table
from ule_jax.data.transforms import color_jitter, make_resize
from ule_jax.errors import UserError, unknown

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

  Raises:
    UserError: something is missing or cannot be understood.
  """
  if fit not in FITS:
    raise unknown('data.fit', fit, FITS)
  if unlisted not in ('fail', 'ignore'):
    raise unknown('data.unlisted', unlisted, ('fail', 'ignore'))
  for field, found, most in (('scale', scale, 1.0), ('ratio', ratio, 100.0)):
    numbers = isinstance(found, (tuple, list)) and len(found) == 2 and all(isinstance(v, (int, float)) for v in found)
    if not numbers or not 0 < found[0] <= found[1] <= most:
      raise UserError(f'data.{field} is {found}: give two numbers, (low, high) with 0 < low <= high <= {most:g}.')
  if not 0 <= jitter <= 0.5:
    raise UserError(f'data.jitter is {jitter}: give a strength from 0 to 0.5.')
  check_size(size)
  prepared = preparation(size=size, resize=resize, fit=fit, white=white, background=background)
  decoding = prepared.decoding
  table = records.open_table(dir, 'a folder of images', lambda root: scan(root, unlisted), ('train',), ('label',))
  classes = table.names.get('label', ())
  values = table.names.get('attribute')
  if values is not None:
    groups = tuple(f'{c}, {v}' for c in classes for v in values)
  else:
    groups = table.names.get('group', ())

  def split(rows: Rows):
    label, nothing = rows.columns['label'], np.full(len(rows.names), -1, np.int32)
    if values is not None:
      attribute = rows.columns['attribute']
      return split_of(rows, label, np.where(attribute < 0, -1, label * len(values) + attribute), decoding)
    return split_of(rows, label, rows.columns.get('group', nothing), decoding)

  interpolate = make_resize(resize)
  return Dataset(
    splits={part: split(rows) for part, rows in table.parts.items()},
    classes=classes,
    groups=groups,
    train_transform=_augmented(random_crop_and_flip(size, scale, ratio, interpolate), jitter)
    if augment
    else prepared.eval_transform,
    **prepared._asdict(),
    notes={
      'size': size, 'fit': fit, 'resize': resize, 'augment': augment,
      'scale': list(scale), 'ratio': list(ratio), 'jitter': jitter,
    },
    table=table,
  )  # fmt: skip


def _augmented(crop: Transform, jitter: float) -> Transform:
  if not jitter:
    return crop
  return lambda image, rng: color_jitter(crop(image, rng), rng, jitter, jitter)


def scan(root: Path, unlisted: str) -> Table:
  """Read metadata.csv."""
  path = root / 'metadata.csv'
  if not path.is_file():
    raise UserError(f'{root} has no metadata.csv: write one with the columns filename, label, split.')
  columns = records.read_csv(path, ('filename', 'label', 'split'))
  if {'group', 'attribute'} <= columns.keys():
    raise UserError(f'{path} has both a column group and a column attribute: keep one.')
  names = columns['filename']
  records.match_files(path, names, root, unlisted)
  parts = [CODES.get(value, value) for value in columns['split']]
  for name, part, written in zip(names, parts, columns['split'], strict=True):
    if not re.fullmatch(r'train|val|test|val_\w+', part):
      raise UserError(f'{path}: {name} has the split {written!r} where train, val, test or val_<something> is due.')
  if missing := [part for part in ('train', 'val', 'test') if part not in parts]:
    raise UserError(f'{path} gives no image to {missing[0]}: it needs train, val and test.')
  label, classes = _numbered(path, 'label', names, columns['label'])
  if (label < 0).any():
    raise UserError(f'{path}: {names[int(np.argmin(label))]} has no label: give one, or take the row out.')
  if len(classes) < 2:
    raise UserError(f'{path} has only the label {classes[0]!r}: a classifier needs two.')
  absent = set(range(len(classes))) - {int(v) for v, part in zip(label, parts, strict=True) if part == 'train'}
  if absent:
    raise UserError(f'{path} gives no image of the class {classes[min(absent)]!r} to train.')
  found, values = {'label': label}, {'label': classes}
  for column in ('group', 'attribute'):
    if column in columns:
      codes, known = _numbered(path, column, names, columns[column])
      if known:  # a column that is empty everywhere says nothing
        found[column], values[column] = codes, known
  order = ['train', *sorted({p for p in parts if p.startswith('val')}), 'test']
  part = np.array([order.index(p) for p in parts], np.int32)
  return records.parted(path, root, names, found, part, order, values)


def _numbered(
  path: Path, column: str, names: Sequence[str], values: Sequence[str]
) -> tuple[Int32[np.ndarray, 'n'], tuple[str, ...]]:
  """Number the values of a column and name them; an empty one becomes -1.

  Whole numbers have to be 0..k-1 and stay what they are; other texts are numbered in sorted order.
  """
  known = sorted({value for value in values if value})
  if known and all(re.fullmatch(r'-?\d+', value) for value in known):
    known.sort(key=int)
    for due, value in enumerate(known):
      if int(value) != due:
        row = names[list(values).index(value)]
        raise UserError(
          f'{path}: {row} has the {column} {value}, but {due} is missing: number them 0 to k-1, or use names.'
        )
  code = {value: i for i, value in enumerate(known)} | {'': -1}
  return np.array([code[value] for value in values], np.int32), tuple(known)
