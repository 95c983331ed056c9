"""Waterbirds: landbirds and waterbirds, most of them in front of land and water respectively.

Layout, as released: `metadata.csv` (`img_id, img_filename, y, split, place, place_filename`) beside the
200 species folders; `dir` may also be the folder above, in group_DRO's tree or WILDS'.

Group = y * 2 + place. The field's mean accuracy is the adjusted one: test accuracies of the groups
weighted by their shares of train. Source of layout, counts and transforms: kohpangwei/group_DRO,
data/cub_dataset.py and README; data: Sagawa et al. 2020, arXiv 1911.08731. Known label noise (their
README): Eastern Towhees, Western Meadowlarks and Western Wood Pewees are landbirds labelled waterbird.
"""

from __future__ import annotations

from pathlib import Path

from ule_jax.data import csv_files, tables
from ule_jax.data.codes import codes
from ule_jax.data.dataset import Dataset, Preparation
from ule_jax.data.decoding import make_decoding
from ule_jax.data.image_files import random_crop_and_flip, shrink_and_center, split_of
from ule_jax.data.listing import find_root, match_files
from ule_jax.data.open_table import open_table
from ule_jax.data.tables import Rows, Table
from ule_jax.data.transforms import make_resize

PARTS = ('train', 'val', 'test')  # the codes 0, 1, 2
RELEASE = 'waterbird_complete95_forest2water2'
OFFICIAL = {
  'train': (3498, 184, 56, 1057),
  'val': (467, 466, 133, 133),
  'test': (2255, 2255, 642, 642),
}
CLASSES = ('landbird', 'waterbird')


def preparation(*, size: int, resize: str, white: float = 0.0, background: str = 'white', **_) -> Preparation:
  """Say how images are prepared; takes the options of `load`."""
  words = f'resize both sides to {int(size * 256 / 224)} ({resize}), crop {size} x {size} from the middle'
  return Preparation(
    (size, size, 3),
    shrink_and_center(size, make_resize(resize)),
    words=words,
    decoding=make_decoding(white, background),
  )


def load(*, dir: str, size: int, resize: str, augment: bool, white: float = 0.0, background: str = 'white') -> Dataset:
  """Read the metadata, check that every image is there, and leave decoding to the pipeline.

  Args:
    dir: the folder with metadata.csv, or a prepared data set.
    size: pixels, height and width.
    resize: antialias or linear.
    augment: random crops of 0.7 to 1 of the area and random flips in training.
    white: the value that is white in the files; 0: by their type.
    background: the colour that transparent images are put on.

  Raises:
    UserError: something is missing or cannot be understood.
  """
  table = open_table(dir, 'Waterbirds', scan, PARTS, {'y': 2, 'place': 2})
  prepared = preparation(size=size, resize=resize, white=white, background=background)
  # group_DRO's data/cub_dataset.py with --augment_data; without it, train images are prepared like test ones
  crop = random_crop_and_flip(size, (0.7, 1.0), (0.75, 4 / 3), make_resize(resize))

  def split(rows: Rows):
    y, place = rows.columns['y'], rows.columns['place']
    return split_of(rows, y, y * 2 + place, prepared.decoding)

  return Dataset(
    splits={part: split(table.parts[part]) for part in PARTS},
    classes=CLASSES,
    groups=tuple(f'{bird} on {place}' for bird in CLASSES for place in ('land', 'water')),
    train_transform=crop if augment else prepared.eval_transform,
    **prepared._asdict(),
    notes={'size': size, 'resize': resize, 'augment': augment},
    official=OFFICIAL,
    titles={'adjusted_accuracy': 'adjusted accuracy'},
    table=table,
  )


def scan(root: Path) -> Table:
  """Read the official layout."""
  root = find_root(root, 'metadata.csv', RELEASE, f'cub/data/{RELEASE}', 'waterbirds_v1.0')
  path = root / 'metadata.csv'
  listing = csv_files.read_csv(path, 'img_filename', ('img_id', 'y', 'split', 'place'))
  csv_files.refuse_twice(listing, 'img_id')
  y, place = (codes(listing, column, {'0': 0, '1': 1}) for column in ('y', 'place'))
  part = codes(listing, 'split', {'0': 0, '1': 1, '2': 2})
  match_files(listing, root)
  return tables.parted(path, root, listing.names, {'y': y, 'place': place}, part, PARTS, {'y': CLASSES})
