"""Spawrious: four dog breeds in six locations, generated images, six challenges.

Layout, as released: `spawrious224/{0,1}/<location>/<class>/*.png`. In the one-to-one challenges (o2o)
each breed has one location in training, with 97 % of its images in environment 0 and 87 % in environment 1;
the other images are from a location that all breeds share. In the many-to-many ones (m2m) pairs of breeds
swap pairs of locations. In test the locations are assigned differently, so that no (breed, location) of
test is in training. A group is a cell (breed, location).

The release has no validation split and selects the first files of an unsorted listing, which differs
between machines. Here listings are sorted as text, a permutation drawn from `seed` for each cell selects
the files (the first sorted names would be of a few prompts of the generator), and the last `val_fraction`
of each cell's share of train is the validation split.

Source: aengusl/spawrious, spawrious/torch.py (the m2m locations differ from the paper in m2m_hard, its
issue 2); data: Lynch et al. 2023, arXiv 2303.05470. The field's metric is the average accuracy on test.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from ule_jax.data import listing, tables
from ule_jax.data.dataset import Dataset, InputSpec
from ule_jax.data.image_files import split_of, stretched
from ule_jax.data.open_table import open_table
from ule_jax.data.options import Released, augment, size
from ule_jax.data.tables import Table
from ule_jax.data.transforms import color_jitter, random_flip, random_grayscale
from ule_jax.errors import UserError, unknown
from ule_jax.options import option

CLASSES = ('bulldog', 'corgi', 'dachshund', 'labrador')
LOCATIONS = ('desert', 'jungle', 'dirt', 'mountain', 'snow', 'beach')
CELL = 3168  # images of a (directory, location, class) in the release
RATES = (0.97, 0.87)  # of the spurious location, by environment


class Challenge(NamedTuple):
  """The locations of each class in each training environment and in test; `filler` is shared by all classes."""

  train: dict[str, tuple[str, str]]
  test: dict[str, tuple[str, ...]]
  filler: str | None = None


def _one_to_one(train: str, test: str, filler: str) -> Challenge:
  order = ('bulldog', 'dachshund', 'labrador', 'corgi')  # the release's order of classes in these lists
  return Challenge(
    {c: (location, location) for c, location in zip(order, train.split(), strict=True)},
    {c: (location,) for c, location in zip(order, test.split(), strict=True)},
    filler,
  )


def _many_to_many(train: str, test: str) -> Challenge:
  g, t = train.split(), test.split()
  return Challenge(
    {'bulldog': (g[0], g[1]), 'dachshund': (g[1], g[0]), 'labrador': (g[2], g[3]), 'corgi': (g[3], g[2])},
    {'bulldog': (t[0], t[1]), 'dachshund': (t[1], t[0]), 'labrador': (t[2], t[3]), 'corgi': (t[3], t[2])},
  )


CHALLENGES = {
  'o2o_easy': _one_to_one('desert jungle dirt snow', 'dirt snow desert jungle', 'beach'),
  'o2o_medium': _one_to_one('mountain beach dirt jungle', 'jungle dirt beach snow', 'desert'),
  'o2o_hard': _one_to_one('jungle mountain snow desert', 'mountain snow desert jungle', 'beach'),
  'm2m_easy': _many_to_many('desert mountain dirt jungle', 'dirt jungle mountain desert'),
  'm2m_medium': _many_to_many('beach snow mountain desert', 'desert mountain beach snow'),
  'm2m_hard': _many_to_many('dirt jungle snow beach', 'snow beach dirt jungle'),
}


class Options(Released):
  """Options of Spawrious."""

  challenge: str = option('o2o_hard', 'o2o_ or m2m_, then easy, medium or hard', choices=CHALLENGES)
  size: int = size(224)
  augment: bool = augment(True, 'flips, colour jitter and sometimes grey')
  val_fraction: float = option(0.2, 'share of train for validation: the release has no split for it', gt=0, lt=1)
  seed: int = option(0, 'of the choice of files and the validation split, not of training', ge=0)


def input_spec(options: Options) -> InputSpec:
  """Return the input contract."""
  return stretched(options, options.size)


def load(options: Options) -> Dataset:
  """List the image files and select those of a challenge; the pipeline decodes the images.

  Raises:
    UserError: a folder or image is missing, or an option is out of its range.
  """
  table = open_table(
    options.dir, 'Spawrious', scan, ('images',), {'directory': 2, 'location': len(LOCATIONS), 'class': len(CLASSES)}
  )
  spec = input_spec(options)
  evaluate = spec.eval_transform
  assert evaluate is not None, 'images of any size are resized'

  def train(image, rng):
    # facebookresearch/DomainBed, domainbed/datasets.py: flip, ColorJitter(.3, .3, .3, .3), RandomGrayscale(0.1)
    jittered = color_jitter(random_flip(evaluate(image, rng), rng), rng, 0.3, 0.3)
    return random_grayscale(jittered, rng, 0.1)

  rows = table.parts['images']
  everything = split_of(
    rows, rows.columns['class'], rows.columns['class'] * len(LOCATIONS) + rows.columns['location'], spec.decoding
  )
  chosen = CHALLENGES[options.challenge]
  ids_by_split = _choose(rows.columns, chosen, options.val_fraction, options.seed, options.dir)
  locations = {'train': chosen.train, 'test': chosen.test, 'shared in train': chosen.filler}
  return Dataset(
    splits={name: everything.take(ids) for name, ids in ids_by_split.items()},
    classes=CLASSES,
    groups=tuple(f'{breed} in {location}' for breed in CLASSES for location in LOCATIONS),
    train_transform=train if options.augment else spec.eval_transform,
    **spec._asdict(),
    notes={
      'challenge': options.challenge,
      'locations': locations,
      'val_fraction': options.val_fraction,
      'data_seed': options.seed,
      'size': options.size,
      'resize': options.resize,
      'augment': options.augment,
    },
    official=official(options.challenge, options.val_fraction),
    titles={'accuracy': 'average OOD accuracy', 'worst_group_accuracy': 'worst (class, location) cell'},
    table=table,
  )


def official(challenge: str, val_fraction: float) -> dict[str, tuple[int, ...]]:
  """Compute the number of images per cell in each split of a challenge, for the complete release.

  Args:
    val_fraction: share of train that becomes the validation split, in (0, 1).
  """
  counts = {name: np.zeros((len(CLASSES), len(LOCATIONS)), int) for name in ('train', 'val', 'test')}
  for (breed, location), shares in _shares(CHALLENGES[challenge], lambda directory, breed, location: CELL).items():
    cell = CLASSES.index(breed), LOCATIONS.index(location)
    for _, amount in shares:
      held_out = round(amount * val_fraction)
      counts['train'][cell] += amount - held_out
      counts['val'][cell] += held_out
  for breed, locations in CHALLENGES[challenge].test.items():
    for location in locations:
      counts['test'][CLASSES.index(breed), LOCATIONS.index(location)] += CELL * (1 if len(locations) > 1 else 2)
  return {name: tuple(int(n) for n in cells.ravel()) for name, cells in counts.items()}


def scan(root: Path) -> Table:
  """List the released folders, all or some of them: directory, location and class of each image."""
  root = root / 'spawrious224' if (root / 'spawrious224').is_dir() else root
  names, columns = [], {'directory': [], 'location': [], 'class': []}
  for directory in ('0', '1'):
    if not (root / directory).is_dir():
      raise UserError(f'{root} has no folder {directory}: point --config.data.dir at spawrious224.')
    for location in _folders(root / directory, LOCATIONS, 'location'):
      for breed in _folders(root / directory / location, CLASSES, 'class'):
        below = f'{directory}/{location}/{breed}'
        files = sorted(
          name
          for name in os.listdir(root / below)
          if name.lower().endswith(listing.SUFFIXES) and not listing.is_companion(name)
        )
        names += [f'{below}/{name}' for name in files]
        codes = (int(directory), LOCATIONS.index(location), CLASSES.index(breed))
        for column, code in zip(columns.values(), codes, strict=True):
          column += [code] * len(files)
  if not names:
    raise UserError(f'{root} has no image: unpack a Spawrious archive there.')
  return Table({'images': tables.files_rows(root, names, columns)}, {'location': LOCATIONS, 'class': CLASSES})


def _folders(root: Path, known: tuple[str, ...], kind: str) -> list[str]:
  """List the names of the folders in `root`, all of which have to be known."""
  names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not listing.is_companion(entry.name))
  for name in names:
    if name not in known:
      raise unknown(f'{kind} in {root}', name, known)
  return names


def _shares(challenge: Challenge, size) -> dict[tuple[str, str], list[tuple[int, int]]]:
  """Return (class, location) -> the (directory, number of images) that train takes from it.

  Args:
    size: (directory, class, location) -> its number of images.
  """
  shares: dict[tuple[str, str], list[tuple[int, int]]] = {}

  def add(directory: int, breed: str, location: str, amount: int) -> None:
    shares.setdefault((breed, location), []).append((directory, amount))

  for breed, locations in challenge.train.items():
    for environment, location in enumerate(locations):
      if challenge.filler is None:  # many to many: all images of directory 0, as in the release
        add(0, breed, location, size(0, breed, location))
      else:
        amount = size(environment, breed, location)
        spurious = int(RATES[environment] * amount)
        add(environment, breed, location, spurious)
        add(environment, breed, challenge.filler, amount - spurious)
  return shares


def _choose(columns, challenge: Challenge, val_fraction: float, seed: int, dir: str) -> dict[str, Int[np.ndarray, 'm']]:
  """Select the rows of each split.

  Args:
    columns: directory, location and class of each row.
    dir: the folder, for messages.
  """
  key = (columns['directory'] * len(LOCATIONS) + columns['location']) * len(CLASSES) + columns['class']
  order = np.argsort(key, kind='stable')
  bounds = np.searchsorted(key[order], np.arange(2 * len(LOCATIONS) * len(CLASSES) + 1))

  def cell(directory: int, breed: str, location: str) -> Int[np.ndarray, 'm']:
    at = (directory * len(LOCATIONS) + LOCATIONS.index(location)) * len(CLASSES) + CLASSES.index(breed)
    members = order[bounds[at] : bounds[at + 1]]
    if not len(members):
      raise UserError(
        f'{dir} has no image in {directory}/{location}/{breed}, which this challenge needs: '
        'unpack the archive of the challenge (for m2m the entire data set).'
      )
    # Seeded by the cell, too, so that its selection does not depend on other cells.
    return members[np.random.default_rng((seed, at)).permutation(len(members))]

  train, val, test = [], [], []
  shares = _shares(challenge, lambda directory, breed, location: len(cell(directory, breed, location)))
  for (breed, location), parts in shares.items():
    for directory, amount in parts:
      members = cell(directory, breed, location)
      if len(members) < amount:
        raise UserError(
          f'{dir} has {len(members)} images in {directory}/{location}/{breed} instead of {amount}: unpack the archive '
          'of the challenge again.'
        )
      held_out = round(amount * val_fraction)
      train.append(members[: amount - held_out])
      val.append(members[amount - held_out : amount])
  for breed, locations in challenge.test.items():
    for location in locations:
      test += [cell(directory, breed, location) for directory in ((0,) if challenge.filler is None else (0, 1))]
  return {name: np.sort(np.concatenate(ids)) for name, ids in (('train', train), ('val', val), ('test', test))}
