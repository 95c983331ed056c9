"""CelebA: one of its 40 attributes against another, Blond_Hair against Male by default.

Layout, as distributed: `list_attr_celeba.csv` or `.txt`, `list_eval_partition.csv` or `.txt`, and
`img_align_celeba/*.jpg` (or `img_align_celeba/img_align_celeba/*.jpg`), all in one folder. Images are
178 x 218 (width x height); the centre crop is relative, so that other sizes work.

Group = target * 2 + attribute. Source of layout and transforms: kohpangwei/group_DRO,
data/celebA_dataset.py; data: Liu et al. 2015, arXiv 1411.7766.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ule_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset, Split
from ule_jax.data.transforms import center_square, random_flip, random_resized_crop, read_image, resize
from ule_jax.errors import UserError, unknown

SPLITS = ('train', 'val', 'test')  # the partition file's 0, 1, 2
Rows = dict[str, list[str]]  # image file -> the values of its row


def load(*, dir: str, target: str, attribute: str, size: int, augment: bool) -> Dataset:
  """Read the label files, check that every image is there, and leave decoding to the pipeline.

  Args:
    dir: the folder with the two lists and the images.
    target: the attribute to predict.
    attribute: the attribute that makes the groups together with the target.
    size: pixels, height and width after resizing.
    augment: random crops of 0.7 to 1 of the area and random flips in training.

  Raises:
    UserError: a file, an attribute or an image is missing, or a file cannot be understood.
  """
  root = Path(dir)
  if not root.is_dir():
    raise UserError(f'data.dir {dir} is not a folder: point --config.data.dir at the CelebA folder.')
  if size < 1:
    raise UserError(f'data.size is {size}: give the side of the image in pixels.')
  names, attributes = _table(root, 'list_attr_celeba')
  for chosen in (target, attribute):
    if chosen not in names:
      raise unknown('CelebA attribute', chosen, names)
  if target == attribute:
    raise UserError(f'data.target and data.attribute are both {target!r}: choose two attributes.')
  _, partition = _table(root, 'list_eval_partition')
  if missing := attributes.keys() ^ partition.keys():
    raise UserError(f'image {min(missing)} is in only one of the two lists in {root}: both must name the same images.')
  folder = _image_folder(root)
  present = {entry.name for entry in folder.iterdir()}
  if missing := attributes.keys() - present:
    raise UserError(
      f'{len(missing)} images of list_attr_celeba are missing, the first is {folder / min(missing)}: '
      'complete the folder, or take their rows out of both lists.'
    )

  files = sorted(attributes)
  y, a = (_binary(root, attributes, files, names.index(n)) for n in (target, attribute))
  split = _split_of(root, partition, files)

  def part(code: int) -> Split:
    ids = np.flatnonzero(split == code)
    if not len(ids):
      raise UserError(f'list_eval_partition in {root} gives no image to {SPLITS[code]} (code {code}).')
    chosen = [files[i] for i in ids]
    return Split(
      label=y[ids],
      group=(y * 2 + a)[ids],
      load=lambda i: read_image(folder / chosen[i]),
      name=chosen.__getitem__,
    )

  def evaluate(image, rng):
    del rng
    return resize(np.ascontiguousarray(center_square(image)), (size, size))

  def train(image, rng):
    # Both sides of the ratio: group_DRO's data/celebA_dataset.py with --augment_data.
    crop = random_resized_crop(image, (size, size), rng, scale=(0.7, 1.0), ratio=(1.0, 4 / 3))
    return random_flip(crop, rng)

  return Dataset(
    splits={name: part(code) for code, name in enumerate(SPLITS)},
    classes=(f'not {target}', target),
    groups=tuple(f'{t}{target}, {s}{attribute}' for t in ('not ', '') for s in ('not ', '')),
    image_shape=(size, size, 3),
    train_transform=train if augment else evaluate,
    eval_transform=evaluate,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    notes={'target': target, 'attribute': attribute, 'size': size, 'augment': augment},
  )


def _table(root: Path, stem: str) -> tuple[list[str], Rows]:
  """Read `stem`.csv or `stem`.txt: the column names (none in a headless txt) and a row per image."""
  path = next((p for p in (root / f'{stem}.csv', root / f'{stem}.txt') if p.is_file()), None)
  if path is None:
    raise UserError(f'{root} has neither {stem}.csv nor {stem}.txt: point --config.data.dir at the CelebA folder.')
  try:
    lines = path.read_text(encoding='utf-8').splitlines()
  except UnicodeDecodeError:
    raise UserError(f'{path} is not a text file: restore the original.') from None
  if path.suffix == '.csv':
    header, *rows = [row for row in csv.reader(lines) if row] or [[]]
    names = header[1:]
  else:
    rows = [line.split() for line in lines if line.strip()]
    names = []
    if rows and len(rows[0]) == 1 and rows[0][0].isdigit():  # the count, then the names
      count, names, rows = int(rows[0][0]), rows[1] if len(rows) > 1 else [], rows[2:]
      if count != len(rows):
        raise UserError(f'{path} announces {count} images and lists {len(rows)}: restore the original.')
  width = len(names) + 1 if names else 2
  table: Rows = {}
  for row in rows:
    if len(row) != width:
      raise UserError(f'{path}: the row of {row[0]} has {len(row)} values instead of {width}.')
    if row[0] in table:
      raise UserError(f'{path} lists {row[0]} twice: take one of the rows out.')
    if Path(row[0]).name != row[0]:
      raise UserError(f'{path} names {row[0]}, which is not a plain file name: images must lie in img_align_celeba.')
    table[row[0]] = row[1:]
  if not table:
    raise UserError(f'{path} lists no image: restore the original.')
  return names, table


def _image_folder(root: Path) -> Path:
  outer = root / 'img_align_celeba'
  folder = outer / 'img_align_celeba' if (outer / 'img_align_celeba').is_dir() else outer
  if not folder.is_dir():
    raise UserError(f'{root} has no folder img_align_celeba: unpack the aligned images there.')
  return folder


def _binary(root: Path, rows: Rows, files: Iterable[str], column: int) -> np.ndarray:
  """Read an attribute as 0 or 1; the files say -1 or 1, some copies 0 or 1."""
  values = {'-1': 0, '0': 0, '1': 1}
  try:
    return np.array([values[rows[name][column]] for name in files], np.int32)
  except KeyError as error:
    raise UserError(f'list_attr_celeba in {root} has the value {error} where -1 or 1 is due.') from None


def _split_of(root: Path, rows: Rows, files: Iterable[str]) -> np.ndarray:
  codes = {'0': 0, '1': 1, '2': 2}
  try:
    return np.array([codes[rows[name][0]] for name in files], np.int32)
  except KeyError as error:
    raise UserError(f'list_eval_partition in {root} has the split code {error} where 0, 1 or 2 is due.') from None
