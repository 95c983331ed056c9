"""UrbanCars: urban and country cars with two shortcuts, the background and an object beside the car.

Layout, as its generator writes it: `bg-0.95_co_occur_obj-0.95/train/` and
`bg-0.5_co_occur_obj-0.5/{val,test}/`, in each `obj-X_bg-Y_co_occur_obj-Z/NNN.jpg` with X, Y, Z one of
urban and country, and beside each image `NNN_mask.png` (the car) and `NNN_co_occur_obj_mask.png`. The
masks are readable by `Split.masks`; a split has all of them or none.

Group = obj * 4 + bg * 2 + co_occur_obj. The field's metrics are linear in the group accuracies: the
accuracy weighted by the shares of train (I.D.), and its drop where the background, the object, or
both do not agree with the car. Source of layout, counts, metrics and transforms:
facebookresearch/Whac-A-Mole, dataset/urbancars.py and urbancars_trainers/base_trainer.py; data: Li et al.
2023, arXiv 2212.04825. The authors may not redistribute the images: build them with their generator.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from ule_jax.data import listing, tables
from ule_jax.data.dataset import Dataset, InputSpec
from ule_jax.data.image_files import split_of, stretched
from ule_jax.data.open_table import open_table
from ule_jax.data.options import Released, augment, size
from ule_jax.data.tables import Rows, Table
from ule_jax.data.transforms import random_flip
from ule_jax.errors import UserError

FOLDERS = {
  'train': 'bg-0.95_co_occur_obj-0.95/train',
  'val': 'bg-0.5_co_occur_obj-0.5/val',
  'test': 'bg-0.5_co_occur_obj-0.5/test',
}
VALUES = ('urban', 'country')
COLUMNS = ('obj', 'bg', 'co_occur_obj')
CELLS = [(obj, bg, co) for obj in (0, 1) for bg in (0, 1) for co in (0, 1)]  # in the order of the groups
# (background agrees with the car, object agrees) -> training images of a class: of 4,000, int(0.95 * 0.95 * 4000) etc.
TRAIN = {(True, True): 3610, (False, True): 190, (True, False): 190, (False, False): 10}
OFFICIAL = {
  'train': tuple(TRAIN[bg == obj, co == obj] for obj, bg, co in CELLS),
  'val': (125,) * 8,
  'test': (125,) * 8,
}
MASKS = {'car_mask': '_mask.png', 'co_occur_obj_mask': '_co_occur_obj_mask.png'}

LICENCE = 'UrbanCars is made of Stanford Cars, Places and LVIS, and its authors may not pass it on'


class Options(Released):
  """Options of UrbanCars."""

  size: int = size(256)
  augment: bool = augment(True, 'flips')


def input_spec(options: Options) -> InputSpec:
  """Return the input contract."""
  return stretched(options, options.size)


def load(options: Options) -> Dataset:
  """List the image files and check their masks; the pipeline decodes the images.

  Raises:
    UserError: a folder or a mask is missing, or a folder has an unknown name.
  """
  table = open_table(options.dir, 'UrbanCars', scan, FOLDERS, dict.fromkeys(COLUMNS, len(VALUES)))
  spec = input_spec(options)
  evaluate = spec.eval_transform
  assert evaluate is not None, 'images of any size are resized'

  def split(rows: Rows):
    obj, bg, co = (rows.columns[name] for name in COLUMNS)
    return split_of(rows, obj, obj * 4 + bg * 2 + co, spec.decoding)

  return Dataset(
    splits={part: split(table.parts[part]) for part in FOLDERS},
    classes=('urban car', 'country car'),
    groups=tuple(f'{VALUES[obj]} car, {VALUES[bg]} bg, {VALUES[co]} obj' for obj, bg, co in CELLS),
    train_transform=(lambda image, rng: random_flip(evaluate(image, rng), rng)) if options.augment else evaluate,
    **spec._asdict(),
    notes={'size': options.size, 'resize': options.resize, 'augment': options.augment},
    official=OFFICIAL,
    combinations=combinations(),
    table=table,
  )


def combinations() -> dict[str, Float[np.ndarray, '8']]:
  """Return the weights of the group accuracies in the I.D. accuracy and in the three gaps (gaps are negative).

  >>> [round(float(v), 4) for v in combinations()['id_accuracy'][:4]]
  [0.4512, 0.0238, 0.0238, 0.0013]
  """

  def mean(background: bool, other: bool) -> Float[np.ndarray, '8']:
    """Return the weights of the mean over the two groups in which background and object agree with the car as given."""
    return np.array([0.5 * ((bg == obj) == background and (co == obj) == other) for obj, bg, co in CELLS])

  identical = 0.9025 * mean(True, True) + 0.0475 * (mean(True, False) + mean(False, True)) + 0.0025 * mean(False, False)
  return {
    'id_accuracy': identical,
    'bg_gap': mean(False, True) - identical,
    'co_occur_obj_gap': mean(True, False) - identical,
    'bg_co_occur_obj_gap': mean(False, False) - identical,
  }


def scan(root: Path) -> Table:
  """List the generated folders: class, background and object of each image, by split."""
  root = listing.find_root(root, 'bg-0.95_co_occur_obj-0.95', 'urbancars', 'data/urbancars')
  names, part, columns = [], [], {column: [] for column in COLUMNS}
  known = {f'obj-{VALUES[obj]}_bg-{VALUES[bg]}_co_occur_obj-{VALUES[co]}': (obj, bg, co) for obj, bg, co in CELLS}
  for code, below in enumerate(FOLDERS.values()):
    if not (root / below).is_dir():
      raise UserError(f'{root} has no folder {below}: build it with the generator, or complete it.')
    folders = (entry.name for entry in (root / below).iterdir() if entry.is_dir())
    for folder in sorted(name for name in folders if not listing.is_companion(name)):
      if folder not in known:
        raise UserError(
          f'{root / below} has the folder {folder}, which is no obj-X_bg-Y_co_occur_obj-Z of urban and country: '
          'move it away.'
        )
      files = sorted(
        entry.name
        for entry in (root / below / folder).iterdir()
        if entry.suffix.lower() in listing.SUFFIXES
        and not entry.name.endswith(tuple(MASKS.values()))
        and not listing.is_companion(entry.name)
      )
      names += [f'{below}/{folder}/{name}' for name in files]
      part += [code] * len(files)
      for column, value in zip(COLUMNS, known[folder], strict=True):
        columns[column] += [value] * len(files)
  table = tables.parted(
    root, root, names, {c: np.array(v, np.int32) for c, v in columns.items()}, np.array(part), tuple(FOLDERS)
  )
  return table._replace(parts={part: _with_masks(root, rows) for part, rows in table.parts.items()})


def _with_masks(root: Path, rows: Rows) -> Rows:
  """Add the masks if every image has all of them.

  Raises:
    UserError: some masks are missing.
  """
  paths = {m: [name.rpartition('.')[0] + suffix for name in rows.names] for m, suffix in MASKS.items()}
  missing = [path for masks in paths.values() for path in masks if not (root / path).is_file()]
  if len(missing) == len(MASKS) * len(rows.names):
    return rows
  if missing:
    raise UserError(
      f'{len(missing)} masks in {root} are missing, the first is {min(missing)}: complete them, or remove all masks.'
    )
  return tables.files_rows(root, rows.names, rows.columns, paths)
