"""Waterbirds: landbirds and waterbirds, most of them in front of land and water respectively.

Layout, as released: `metadata.csv` (`img_id, img_filename, y, split, place, place_filename`) beside the
200 species folders; `dir` may also be a folder above it in the trees of group_DRO and WILDS.

Group = y * 2 + place. The field reports the adjusted mean accuracy: test accuracies of the groups
weighted by the groups' shares of train. Source of layout, counts and transforms: kohpangwei/group_DRO,
data/cub_dataset.py and README; data: Sagawa et al. 2020, arXiv 1911.08731. Known label noise (their
README): Eastern Towhees, Western Meadowlarks and Western Wood Pewees are landbirds labelled waterbird.
"""

from __future__ import annotations

from pathlib import Path

from ule_jax.data import csv_files, tables
from ule_jax.data.codes import codes
from ule_jax.data.dataset import Dataset, InputSpec
from ule_jax.data.decoding import make_decoding
from ule_jax.data.image_files import random_crop_and_flip, shrink_and_center, split_of
from ule_jax.data.listing import find_root, match_files
from ule_jax.data.open_table import open_table
from ule_jax.data.options import Released, augment, size
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

LICENCE = 'Waterbirds is made of CUB and Places, photographs for non-commercial research and education'


class Options(Released):
  """Options of Waterbirds."""

  size: int = size(224)
  augment: bool = augment(False, 'random crops (0.7 to 1 of the area) and flips')


def input_spec(options: Options) -> InputSpec:
  """Return the input contract."""
  size, larger = options.size, int(options.size * 256 / 224)
  description = f'resize both sides to {larger} ({options.resize}), crop {size} x {size} from the middle'
  return InputSpec(
    (size, size, 3),
    shrink_and_center(size, make_resize(options.resize)),
    description=description,
    decoding=make_decoding(options.white, options.background),
  )


def load(options: Options) -> Dataset:
  """Read the metadata and check that every image exists; the pipeline decodes the images.

  Raises:
    UserError: a file or column is missing, or a value cannot be parsed.
  """
  table = open_table(options.dir, 'Waterbirds', scan, PARTS, {'y': 2, 'place': 2})
  spec = input_spec(options)
  # group_DRO's data/cub_dataset.py with --augment_data; without it, train images get the transform of test images.
  crop = random_crop_and_flip(options.size, (0.7, 1.0), (0.75, 4 / 3), make_resize(options.resize))

  def split(rows: Rows):
    y, place = rows.columns['y'], rows.columns['place']
    return split_of(rows, y, y * 2 + place, spec.decoding)

  return Dataset(
    splits={part: split(table.parts[part]) for part in PARTS},
    classes=CLASSES,
    groups=tuple(f'{bird} on {place}' for bird in CLASSES for place in ('land', 'water')),
    train_transform=crop if options.augment else spec.eval_transform,
    **spec._asdict(),
    notes={'size': options.size, 'resize': options.resize, 'augment': options.augment},
    official=OFFICIAL,
    titles={'adjusted_accuracy': 'adjusted accuracy'},
    table=table,
  )


def scan(root: Path) -> Table:
  """Read the released layout: y and place of each image, by split."""
  root = find_root(root, 'metadata.csv', RELEASE, f'cub/data/{RELEASE}', 'waterbirds_v1.0')
  path = root / 'metadata.csv'
  listing = csv_files.read_csv(path, 'img_filename', ('img_id', 'y', 'split', 'place'))
  csv_files.refuse_twice(listing, 'img_id')
  y, place = (codes(listing, column, {'0': 0, '1': 1}) for column in ('y', 'place'))
  part = codes(listing, 'split', {'0': 0, '1': 1, '2': 2})
  match_files(listing, root)
  return tables.parted(path, root, listing.names, {'y': y, 'place': place}, part, PARTS, {'y': CLASSES})
