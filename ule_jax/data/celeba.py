"""CelebA: one of its 40 attributes against another, Blond_Hair against Male by default.

Layout, as distributed: `list_attr_celeba.csv` or `.txt`, `list_eval_partition.csv` or `.txt`, and
`img_align_celeba/*.jpg` (or `img_align_celeba/img_align_celeba/*.jpg`), all in one folder, which may also
be group_DRO's `celebA/data`; or a `celeb_a` that TFDS prepared as array_record. Images are 178 x 218
(width x height); the centre crop is relative, so that other sizes work.

Group = target * 2 + attribute. Source of layout, counts and transforms: kohpangwei/group_DRO,
data/celebA_dataset.py; data: Liu et al. 2015, arXiv 1411.7766.
"""

from __future__ import annotations

import re
from pathlib import Path

from ule_jax.data import csv_files, tables
from ule_jax.data.codes import codes
from ule_jax.data.csv_files import Listing
from ule_jax.data.dataset import Dataset, Preparation
from ule_jax.data.decoding import make_decoding
from ule_jax.data.image_files import random_crop_and_flip, split_of, square
from ule_jax.data.listing import match_files
from ule_jax.data.open_table import check_codes, open_table
from ule_jax.data.tables import Rows, Table
from ule_jax.data.transforms import make_resize
from ule_jax.errors import UserError, brief, unknown

PARTS = ('train', 'val', 'test')  # the partition file's 0, 1, 2
OFFICIAL = {  # of Blond_Hair and Male; other pairs have the same totals
  'train': (71629, 66874, 22880, 1387),
  'val': (8535, 8276, 2874, 182),
  'test': (9767, 7535, 2480, 180),
}


def preparation(*, size: int, resize: str, white: float = 0.0, background: str = 'white', **_) -> Preparation:
  """Say how images are prepared; takes the options of `load`."""
  words = f'crop the largest square from the middle, resize it to {size} x {size} ({resize})'
  return Preparation(
    (size, size, 3), square(size, make_resize(resize)), words=words, decoding=make_decoding(white, background)
  )


def load(
  *,
  dir: str,
  target: str,
  attribute: str,
  size: int,
  resize: str,
  augment: bool,
  white: float = 0.0,
  background: str = 'white',
) -> Dataset:
  """Read the label files, check that every image is there, and leave decoding to the pipeline.

  Args:
    dir: the folder with the two lists and the images, or a prepared data set.
    target: the attribute to predict.
    attribute: the attribute that makes the groups together with the target.
    size: pixels, height and width after resizing.
    resize: antialias or linear.
    augment: random crops of 0.7 to 1 of the area and random flips in training.
    white: the value that is white in the files; 0: by their type.
    background: the colour that transparent images are put on.

  Raises:
    UserError: a file, an attribute or an image is missing, or a file cannot be understood.
  """
  table = open_table(dir, 'CelebA', scan, PARTS)
  names = sorted(table.parts['train'].columns)
  for chosen in (target, attribute):
    if chosen not in names:
      raise unknown('CelebA attribute', chosen, names)
  if target == attribute:
    raise UserError(f'data.target and data.attribute are both {target!r}: choose two attributes.')
  check_codes(dir, table, {target: 2, attribute: 2})
  prepared = preparation(size=size, resize=resize, white=white, background=background)
  # Both sides of the ratio: group_DRO's data/celebA_dataset.py with --augment_data.
  crop = random_crop_and_flip(size, (0.7, 1.0), (1.0, 4 / 3), make_resize(resize))

  def split(rows: Rows):
    y, a = rows.columns[target], rows.columns[attribute]
    return split_of(rows, y, y * 2 + a, prepared.decoding)

  usual = (target, attribute) == ('Blond_Hair', 'Male')
  return Dataset(
    splits={part: split(table.parts[part]) for part in PARTS},
    classes=(f'not {target}', target),
    groups=tuple(f'{t}{target}, {s}{attribute}' for t in ('not ', '') for s in ('not ', '')),
    train_transform=crop if augment else prepared.eval_transform,
    **prepared._asdict(),
    notes={'target': target, 'attribute': attribute, 'size': size, 'resize': resize, 'augment': augment},
    official={part: counts if usual else (sum(counts),) for part, counts in OFFICIAL.items()},
    table=table,
  )


def scan(root: Path) -> Table:
  """Read the official layout: all attributes as 0 or 1."""
  if not any((root / f'list_attr_celeba.{form}').exists() for form in ('csv', 'txt')):
    root = next((place for place in (root / 'celebA' / 'data', root / 'data') if place.is_dir()), root)
  attributes, partition = _list(root, 'list_attr_celeba'), _list(root, 'list_eval_partition')
  if missing := set(attributes.names) ^ set(partition.names):
    raise UserError(
      f'image {brief(min(missing))} is in only one of the two lists in {root}: both must name the same images.'
    )
  outer = root / 'img_align_celeba'
  folder = outer / 'img_align_celeba' if (outer / 'img_align_celeba').is_dir() else outer
  if not folder.is_dir():
    raise UserError(f'{root} has no folder img_align_celeba: unpack the aligned images there.')
  match_files(attributes, folder)
  known = {'-1': 0, '0': 0, '1': 1}  # the files say -1 or 1, some copies 0 or 1
  found = {name: codes(attributes, name, known) for name in attributes.columns}
  part = codes(partition, next(iter(partition.columns)), {'0': 0, '1': 1, '2': 2}, 'the split code')
  return tables.parted(partition.path, folder, attributes.names, found, part, PARTS)


def _list(root: Path, stem: str) -> Listing:
  """Read `stem`.csv or `stem`.txt, which may have no header: a row for each image, sorted by its name."""
  path = next((p for p in (root / f'{stem}.csv', root / f'{stem}.txt') if p.is_file()), None)
  if path is None:
    raise UserError(f'{root} has neither {stem}.csv nor {stem}.txt: point --config.data.dir at the CelebA folder.')
  if path.suffix == '.csv':
    listing = csv_files.read_csv(path, 'image_id')
    listing = listing._replace(columns={name: v for name, v in listing.columns.items() if name != 'image_id'})
    if not listing.columns:
      raise UserError(f'{path} has only the column image_id: restore the original.')
  else:
    listing = _read_txt(path)
  csv_files.refuse_twice(listing)
  return listing.take(sorted(range(len(listing.names)), key=listing.names.__getitem__))


def _read_txt(path: Path) -> Listing:
  """Read a list whose values are parted by blanks: the number of images and the names of the columns, or no header."""
  numbered = [
    (i, line.split()) for i, line in enumerate(re.split(r'\r\n|\r|\n', csv_files.read_text(path)), 1) if line.strip()
  ]
  header = ['value']
  if numbered and len(numbered[0][1]) == 1 and numbered[0][1][0].isdecimal():
    announced, header, numbered = brief(numbered[0][1][0]), numbered[1][1] if len(numbered) > 1 else [], numbered[2:]
    if announced != str(len(numbered)):
      raise UserError(f'{path} announces {announced} images and lists {len(numbered)}: restore the original.')
  if not numbered or len(set(header)) < len(header):
    raise UserError(
      f'{path} {"has two columns of the same name" if numbered else "lists no image"}: restore the original.'
    )
  for line, (file, *values) in numbered:
    if len(values) != len(header):
      raise UserError(
        f'{path}, line {line}: the row of {brief(file)} has {len(values)} values instead of {len(header)}.'
      )
  found = dict(zip(header, map(list, zip(*(row[1:] for _, row in numbered), strict=True)), strict=True))
  return Listing(path, [row[0] for _, row in numbered], lambda i: f'line {numbered[i][0]}', found)
