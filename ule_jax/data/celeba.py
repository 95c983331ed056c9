"""CelebA: one of its 40 attributes against another, Blond_Hair against Male by default.

Layout, as distributed: `list_attr_celeba.csv` or `.txt`, `list_eval_partition.csv` or `.txt`, and
`img_align_celeba/*.jpg` (or `img_align_celeba/img_align_celeba/*.jpg`), all in one folder, which may also
be group_DRO's `celebA/data`; or a `celeb_a` that TFDS wrote as array_record. Images are 178 x 218 pixels
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
from ule_jax.data.dataset import Dataset, InputSpec
from ule_jax.data.decoding import make_decoding
from ule_jax.data.image_files import random_crop_and_flip, split_of, square
from ule_jax.data.listing import match_files
from ule_jax.data.open_table import check_codes, open_table
from ule_jax.data.options import Released, augment, size
from ule_jax.data.tables import Rows, Table
from ule_jax.data.transforms import make_resize
from ule_jax.errors import UserError, brief, unknown
from ule_jax.options import option

PARTS = ('train', 'val', 'test')  # codes 0, 1, 2 of the partition file
OFFICIAL = {  # group counts of Blond_Hair and Male; other pairs have the same totals
  'train': (71629, 66874, 22880, 1387),
  'val': (8535, 8276, 2874, 182),
  'test': (9767, 7535, 2480, 180),
}

LICENCE = 'CelebA is for non-commercial research, and its images may not be passed on'


class Options(Released):
  """Options of CelebA."""

  target: str = option('Blond_Hair', 'the attribute to predict')
  attribute: str = option('Male', 'the attribute whose product with the target gives the groups')
  size: int = size(224)
  augment: bool = augment(True, 'random crops (0.7 to 1 of the area) and flips')


def input_spec(options: Options) -> InputSpec:
  """Return the input contract."""
  description = (
    f'crop the largest square from the middle, resize it to {options.size} x {options.size} ({options.resize})'
  )
  return InputSpec(
    (options.size, options.size, 3),
    square(options.size, make_resize(options.resize)),
    description=description,
    decoding=make_decoding(options.white, options.background),
  )


def load(options: Options) -> Dataset:
  """Read the label files and check that every image exists; the pipeline decodes the images.

  Raises:
    UserError: a file, an attribute or an image is missing, or a file cannot be parsed.
  """
  table = open_table(options.dir, 'CelebA', scan, PARTS)
  names = sorted(table.parts['train'].columns)
  for chosen in (options.target, options.attribute):
    if chosen not in names:
      raise unknown('CelebA attribute', chosen, names)
  if options.target == options.attribute:
    raise UserError(f'data.target and data.attribute are both {options.target!r}: choose two attributes.')
  check_codes(options.dir, table, {options.target: 2, options.attribute: 2})
  spec = input_spec(options)
  # Both bounds of the ratio are those of group_DRO's data/celebA_dataset.py with --augment_data.
  crop = random_crop_and_flip(options.size, (0.7, 1.0), (1.0, 4 / 3), make_resize(options.resize))

  def split(rows: Rows):
    y, a = rows.columns[options.target], rows.columns[options.attribute]
    return split_of(rows, y, y * 2 + a, spec.decoding)

  usual = (options.target, options.attribute) == ('Blond_Hair', 'Male')
  return Dataset(
    splits={part: split(table.parts[part]) for part in PARTS},
    classes=(f'not {options.target}', options.target),
    groups=tuple(f'{t}{options.target}, {s}{options.attribute}' for t in ('not ', '') for s in ('not ', '')),
    train_transform=crop if options.augment else spec.eval_transform,
    **spec._asdict(),
    notes={
      'target': options.target,
      'attribute': options.attribute,
      'size': options.size,
      'resize': options.resize,
      'augment': options.augment,
    },
    official={part: counts if usual else (sum(counts),) for part, counts in OFFICIAL.items()},
    table=table,
  )


def scan(root: Path) -> Table:
  """Read the released layout: all attributes of each image as 0 or 1, by split."""
  if not any((root / f'list_attr_celeba.{form}').exists() for form in ('csv', 'txt')):
    root = next((folder for folder in (root / 'celebA' / 'data', root / 'data') if folder.is_dir()), root)
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
  known = {'-1': 0, '0': 0, '1': 1}  # -1 or 1 in the release, 0 or 1 in some copies
  values = {name: codes(attributes, name, known) for name in attributes.columns}
  part = codes(partition, next(iter(partition.columns)), {'0': 0, '1': 1, '2': 2}, 'the split code')
  return tables.parted(partition.path, folder, attributes.names, values, part, PARTS)


def _list(root: Path, stem: str) -> Listing:
  """Read `stem`.csv or `stem`.txt and sort the rows by image name."""
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
  """Read a list of values separated by blanks, whose header (number of images, names of columns) is optional."""
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
  values_by_column = dict(zip(header, map(list, zip(*(row[1:] for _, row in numbered), strict=True)), strict=True))
  return Listing(path, [row[0] for _, row in numbered], lambda i: f'line {numbered[i][0]}', values_by_column)
