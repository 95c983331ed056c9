"""Spawrious: four dog breeds in six locations, generated images, six challenges.

Layout, as released: `spawrious224/{0,1}/<location>/<class>/*.png`. In the one-to-one challenges (o2o)
each breed has one location in training, 97 % of its images in environment 0 and 87 % in environment 1;
the rest is from a location that all share. In the many-to-many ones (m2m) pairs of breeds swap pairs of
locations. In test the locations are dealt out differently, so that no (breed, location) of test is in
training. A group is a cell (breed, location).

The release has no validation split and takes the first files of an unsorted listing, which differs
between machines. Here listings are sorted as text, a permutation drawn from `seed` for each cell says
which files are taken (sorted names alone would take a few prompts of the generator), and the last
`val_fraction` of each cell's share of train is the validation split.

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
from ule_jax.data.dataset import Dataset, Preparation
from ule_jax.data.decoding import make_decoding
from ule_jax.data.image_files import split_of, stretch
from ule_jax.data.open_table import open_table
from ule_jax.data.tables import Table
from ule_jax.data.transforms import color_jitter, make_resize, random_flip, random_grayscale
from ule_jax.errors import UserError, unknown

CLASSES = ('bulldog', 'corgi', 'dachshund', 'labrador')
LOCATIONS = ('desert', 'jungle', 'dirt', 'mountain', 'snow', 'beach')
CELL = 3168  # images of the release in a directory's (location, class)
RATES = (0.97, 0.87)  # of the spurious location, by environment


class Challenge(NamedTuple):
  """Class -> its locations: in each training environment and in test; `filler` is the shared one."""

  train: dict[str, tuple[str, str]]
  test: dict[str, tuple[str, ...]]
  filler: str | None = None


def _one_to_one(train: str, test: str, filler: str) -> Challenge:
  order = ('bulldog', 'dachshund', 'labrador', 'corgi')  # the release's own order in these lists
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


def preparation(*, size: int, resize: str, white: float = 0.0, background: str = 'white', **_) -> Preparation:
  """Say how images are prepared; takes the options of `load`."""
  words = f'resize to {size} x {size}, whatever the aspect ratio ({resize})'
  return Preparation(
    (size, size, 3), stretch(size, make_resize(resize)), words=words, decoding=make_decoding(white, background)
  )


def load(
  *,
  dir: str,
  challenge: str,
  size: int,
  resize: str,
  augment: bool,
  val_fraction: float,
  seed: int,
  white: float = 0.0,
  background: str = 'white',
) -> Dataset:
  """List the tree, choose the images of a challenge, and leave decoding to the pipeline.

  Args:
    dir: the folder spawrious224, the one above it, or a prepared data set.
    challenge: o2o_ or m2m_, then easy, medium or hard.
    size: pixels, height and width after resizing.
    resize: antialias or linear.
    augment: flips, colour jitter and sometimes no colour in training.
    val_fraction: share of train that becomes the validation split, in (0, 1).
    seed: of the choice of files and of the validation split.
    white: the value that is white in the files; 0: by their type.
    background: the colour that transparent images are put on.

  Raises:
    UserError: something is missing or an option is out of its range.
  """
  if challenge not in CHALLENGES:
    raise unknown('data.challenge', challenge, CHALLENGES)
  if not 0 < val_fraction < 1:
    raise UserError(f'data.val_fraction is {val_fraction}: give the share of train for validation, between 0 and 1.')
  table = open_table(
    dir, 'Spawrious', scan, ('images',), {'directory': 2, 'location': len(LOCATIONS), 'class': len(CLASSES)}
  )
  prepared = preparation(size=size, resize=resize, white=white, background=background)

  def train(image, rng):
    # facebookresearch/DomainBed, domainbed/datasets.py: flip, ColorJitter(.3, .3, .3, .3), RandomGrayscale(0.1)
    jittered = color_jitter(random_flip(prepared.eval_transform(image, rng), rng), rng, 0.3, 0.3)
    return random_grayscale(jittered, rng, 0.1)

  rows = table.parts['images']
  whole = split_of(
    rows, rows.columns['class'], rows.columns['class'] * len(LOCATIONS) + rows.columns['location'], prepared.decoding
  )
  chosen = CHALLENGES[challenge]
  taken = _choose(rows.columns, chosen, val_fraction, seed, dir)
  locations = {'train': chosen.train, 'test': chosen.test, 'shared in train': chosen.filler}
  return Dataset(
    splits={name: whole.take(ids) for name, ids in taken.items()},
    classes=CLASSES,
    groups=tuple(f'{breed} in {location}' for breed in CLASSES for location in LOCATIONS),
    train_transform=train if augment else prepared.eval_transform,
    **prepared._asdict(),
    notes={
      'challenge': challenge,
      'locations': locations,
      'val_fraction': val_fraction,
      'data_seed': seed,
      'size': size,
      'resize': resize,
      'augment': augment,
    },
    official=official(challenge, val_fraction),
    titles={'accuracy': 'average OOD accuracy', 'worst_group_accuracy': 'worst (class, location) cell'},
    table=table,
  )


def official(challenge: str, val_fraction: float) -> dict[str, tuple[int, ...]]:
  """Count what the release gives to each split of a challenge, per cell."""
  counts = {name: np.zeros((len(CLASSES), len(LOCATIONS)), int) for name in ('train', 'val', 'test')}
  for (breed, location), shares in _shares(CHALLENGES[challenge], lambda directory, breed, location: CELL).items():
    cell = CLASSES.index(breed), LOCATIONS.index(location)
    for _, amount in shares:
      held_out = round(amount * val_fraction)
      counts['train'][cell] += amount - held_out
      counts['val'][cell] += held_out
  for breed, places in CHALLENGES[challenge].test.items():
    for location in places:
      counts['test'][CLASSES.index(breed), LOCATIONS.index(location)] += CELL * (1 if len(places) > 1 else 2)
  return {name: tuple(int(n) for n in cells.ravel()) for name, cells in counts.items()}


def scan(root: Path) -> Table:
  """List the official tree, or the part of it that is there."""
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
  found = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not listing.is_companion(entry.name))
  for name in found:
    if name not in known:
      raise unknown(f'{kind} in {root}', name, known)
  return found


def _shares(challenge: Challenge, size) -> dict[tuple[str, str], list[tuple[int, int]]]:
  """Say how many images of which directory each (class, location) gives to train.

  Args:
    size: the number of images of (directory, class, location).
  """
  shares: dict[tuple[str, str], list[tuple[int, int]]] = {}

  def add(directory: int, breed: str, location: str, amount: int) -> None:
    shares.setdefault((breed, location), []).append((directory, amount))

  for breed, locations in challenge.train.items():
    for environment, location in enumerate(locations):
      if challenge.filler is None:  # many to many: all of it, and only directory 0 as in the release
        add(0, breed, location, size(0, breed, location))
      else:
        amount = size(environment, breed, location)
        spurious = int(RATES[environment] * amount)
        add(environment, breed, location, spurious)
        add(environment, breed, challenge.filler, amount - spurious)
  return shares


def _choose(columns, challenge: Challenge, val_fraction: float, seed: int, dir: str) -> dict[str, Int[np.ndarray, 'm']]:
  """Choose the rows of each split."""
  key = (columns['directory'] * len(LOCATIONS) + columns['location']) * len(CLASSES) + columns['class']
  order = np.argsort(key, kind='stable')
  bounds = np.searchsorted(key[order], np.arange(2 * len(LOCATIONS) * len(CLASSES) + 1))

  def cell(directory: int, breed: str, location: str) -> Int[np.ndarray, 'm']:
    at = (directory * len(LOCATIONS) + LOCATIONS.index(location)) * len(CLASSES) + CLASSES.index(breed)
    found = order[bounds[at] : bounds[at + 1]]
    if not len(found):
      raise UserError(
        f'{dir} has no image in {directory}/{location}/{breed}, which this challenge needs: '
        'unpack the archive of the challenge (for m2m the entire data set).'
      )
    # Seeded by the cell too: what one cell gives does not depend on the others.
    return found[np.random.default_rng((seed, at)).permutation(len(found))]

  train, val, test = [], [], []
  shares = _shares(challenge, lambda directory, breed, location: len(cell(directory, breed, location)))
  for (breed, location), parts in shares.items():
    for directory, amount in parts:
      found = cell(directory, breed, location)
      if len(found) < amount:
        raise UserError(f'{dir} has {len(found)} images in {directory}/{location}/{breed}, and {amount} are due.')
      held_out = round(amount * val_fraction)
      train.append(found[: amount - held_out])
      val.append(found[amount - held_out : amount])
  for breed, places in challenge.test.items():
    for location in places:
      test += [cell(directory, breed, location) for directory in ((0,) if challenge.filler is None else (0, 1))]
  return {name: np.sort(np.concatenate(ids)) for name, ids in (('train', train), ('val', val), ('test', test))}
