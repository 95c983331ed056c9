"""CelebA: one of its 40 attributes against another, Blond_Hair against Male by default.

Layout, as distributed: `list_attr_celeba.csv` or `.txt`, `list_eval_partition.csv` or `.txt`, and
`img_align_celeba/*.jpg` (or `img_align_celeba/img_align_celeba/*.jpg`), all in one folder, which may also
be group_DRO's `celebA/data`; or a `celeb_a` that TFDS prepared as array_record. Images are 178 x 218
(width x height); the centre crop is relative, so that other sizes work.

Group = target * 2 + attribute. Source of layout, counts and transforms: kohpangwei/group_DRO,
data/celebA_dataset.py; data: Liu et al. 2015, arXiv 1411.7766.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ule_jax.data import records
from ule_jax.data.dataset import Dataset, Preparation
from ule_jax.data.decoding import make_decoding
from ule_jax.data.files import random_crop_and_flip, split_of, square
from ule_jax.data.records import Rows, Table
from ule_jax.data.transforms import make_resize
from ule_jax.errors import UserError, unknown

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
  table = records.open_table(dir, 'CelebA', scan, PARTS)
  names = sorted(table.parts['train'].columns)
  for chosen in (target, attribute):
    if chosen not in names:
      raise unknown('CelebA attribute', chosen, names)
  if target == attribute:
    raise UserError(f'data.target and data.attribute are both {target!r}: choose two attributes.')
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
  attributes, header, rows = _list(root, 'list_attr_celeba')
  partition, _, codes = _list(root, 'list_eval_partition')
  if missing := rows.keys() ^ codes.keys():
    raise UserError(f'image {min(missing)} is in only one of the two lists in {root}: both must name the same images.')
  outer = root / 'img_align_celeba'
  folder = outer / 'img_align_celeba' if (outer / 'img_align_celeba').is_dir() else outer
  if not folder.is_dir():
    raise UserError(f'{root} has no folder img_align_celeba: unpack the aligned images there.')
  files = sorted(rows)
  records.match_files(attributes, files, folder)
  known = {'-1': 0, '0': 0, '1': 1}  # the files say -1 or 1, some copies 0 or 1
  columns = {
    name: records.codes(attributes, name, files, [rows[file][i] for file in files], known)
    for i, name in enumerate(header)
  }
  wanted = {'0': 0, '1': 1, '2': 2}
  part = records.codes(partition, 'the split code', files, [codes[file][0] for file in files], wanted)
  return records.parted(partition, folder, files, columns, np.asarray(part), PARTS)


def _list(root: Path, stem: str) -> tuple[Path, list[str], dict[str, list[str]]]:
  """Read `stem`.csv or `stem`.txt: its path, the column names (none in a headless txt), and a row per image."""
  path = next((p for p in (root / f'{stem}.csv', root / f'{stem}.txt') if p.is_file()), None)
  if path is None:
    raise UserError(f'{root} has neither {stem}.csv nor {stem}.txt: point --config.data.dir at the CelebA folder.')
  if path.suffix == '.csv':
    table = records.read_csv(path, ('image_id',))
    files = table.pop('image_id')
    header, rows = list(table), list(zip(*table.values(), strict=True))
    if not header:
      raise UserError(f'{path} has only the column image_id: restore the original.')
  else:
    try:
      lines = [line.split() for line in path.read_text(encoding='utf-8').splitlines() if line.strip()]
    except UnicodeDecodeError:
      raise UserError(f'{path} is not a text file: restore the original.') from None
    header = []
    if lines and len(lines[0]) == 1 and lines[0][0].isdigit():  # the count, then the names
      count, header, lines = int(lines[0][0]), lines[1] if len(lines) > 1 else [], lines[2:]
      if count != len(lines):
        raise UserError(f'{path} announces {count} images and lists {len(lines)}: restore the original.')
    if not lines:
      raise UserError(f'{path} lists no image: restore the original.')
    width = len(header) or 1
    for file, *values in lines:
      if len(values) != width:
        raise UserError(f'{path}: the row of {file} has {len(values)} values instead of {width}.')
    files, rows = [line[0] for line in lines], [line[1:] for line in lines]
  records.refuse_twice(path, files)
  return path, header, dict(zip(files, rows, strict=True))
