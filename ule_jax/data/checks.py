"""What can be wrong with a data set that loads: other counts than the release, images that do not decode."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from ule_jax.data.dataset import Dataset, Split
from ule_jax.data.decoding import Decoded, Decoding, decode, has_changed, may_have_changed
from ule_jax.data.tables import Rows
from ule_jax.errors import UserError, brief

EVERY = 10.0  # seconds between lines of progress
QUARTER = 64  # of the levels of a pixel
SAMPLE = 256  # images of a split that are looked at where not all are

T = TypeVar('T')


def differences(dataset: Dataset) -> list[str]:
  """Compare the group counts with those of the release; a sentence part per difference."""
  official = {split: tuple(counts) for split, counts in dataset.official.items()}
  found = {}
  for split, counts in official.items():
    whole = len(counts) == 1  # only the total is known
    found[split] = (dataset.splits[split].count,) if whole else tuple(dataset.group_counts(split).tolist())
  if official and found != official:
    if official['val'] != official['test'] == found['val'] and found['test'] == official['val']:
      return ['val has the images of test, and test those of val: swap them back']
    sizes = {name: (sum(found[name]), sum(official[name])) for name in ('val', 'test')}
    if sizes['val'][1] != sizes['test'][1] and sizes['val'] == sizes['test'][::-1]:
      return ["val and test have each other's sizes: swap them back"]
  different = []
  for split, counts in official.items():
    for i, (here, due) in enumerate(zip(found[split], counts, strict=True)):
      if here != due:
        cell = f'{split} / {dataset.groups[i]}' if len(counts) > 1 else split
        different.append(f'{cell} has {here:,} instead of {due:,}')
  return different


def refuse_unlabelled(dataset: Dataset) -> None:
  """Check that every label is a class and every group one of the groups, or not known (-1).

  Raises:
    UserError: one is not; names the example.
  """
  for part, split in dataset.splits.items():
    for what, codes, names, least in (
      ('label', split.label, dataset.classes, 0),
      ('group', split.group, dataset.groups, -1),
    ):
      bad = np.flatnonzero((codes < least) | (codes >= len(names)))
      if len(bad):
        raise UserError(
          f'{len(bad):,} examples of {part} have no {what} of the {len(names)} that there are, the first is '
          f'{brief(split.name(int(bad[0])))} ({codes[bad[0]]}): label them, or take them out.'
        )


class Scan(NamedTuple):
  """What `count` images are like.

  `bad` says what is wrong with those that cannot be decoded, by index. Of the others, some are transparent somewhere,
  are the first of several in their file, or have changed since a run was recorded; `low` and `high` are the ends of
  their pixels.
  """

  count: int
  bad: dict[int, str]
  transparent: int = 0
  several: int = 0
  changed: int = 0
  low: int = 255
  high: int = 0


def scan_of(image: Decoded) -> Scan:
  """Scan one image."""
  low, high = int(image.pixels.min()), int(image.pixels.max())
  return Scan(1, {}, image.transparent, image.several, image.changed, low, high)


def scan_images(split: Split, say: Callable[[str], None]) -> Scan:
  """Decode every image of a split."""

  def attempt(i: int) -> Scan:
    try:
      seen = split.look(i) if split.look else Decoded(split.load(i))
      if split.masks:
        split.masks(i)
    except UserError as error:
      return Scan(1, {i: str(error)})
    return scan_of(seen)

  return together(_each(attempt, split.count, say))


def together(scans: Iterable[Scan]) -> Scan:
  """Put scans together; the indices of what is bad have to differ."""
  whole = Scan(0, {})
  for one in scans:
    whole = Scan(
      whole.count + one.count,
      whole.bad | one.bad if one.bad else whole.bad,
      whole.transparent + one.transparent,
      whole.several + one.several,
      whole.changed + one.changed,
      min(whole.low, one.low),
      max(whole.high, one.high),
    )
  return whole


def _each(attempt: Callable[[int], T], count: int, say: Callable[[str], None]) -> Iterator[T]:
  """Do something with every image of a split, in threads, and say how far it is."""
  began = told = time.monotonic()
  with ThreadPoolExecutor(os.cpu_count()) as pool:
    for i, one in enumerate(pool.map(attempt, range(count))):
      yield one
      if (now := time.monotonic()) - told > EVERY:
        rate = (i + 1) / (now - began)
        say(f'{i + 1:,} of {count:,} images read, {rate:,.0f} a second, {(count - i) / rate:.0f} s left')
        told = now


def remarks(scans: Iterable[Scan], decoding: Decoding) -> list[str]:
  """Say, in a sentence each, what the images of a data set have that their pixels do not tell."""
  seen = together(one._replace(bad={}) for one in scans)
  count, said = f'{seen.count:,} images that were looked at', []
  if seen.transparent:
    said.append(
      f'{seen.transparent:,} of {count} are transparent in places and were put on {decoding.background} '
      '(data.background).'
    )
  if seen.several:
    said.append(f'{seen.several:,} of {count} hold several frames or pages, of which the first was taken.')
  if seen.low <= seen.high < seen.low + QUARTER:
    white = f'data.white={decoding.white:g}' if decoding.white else 'the type of the files'
    said.append(
      f'the pixels of {count} use less than a quarter of their range, {seen.low} to {seen.high} of 255: if {white} '
      'does not say what is white in them, give the value that is with --config.data.white.'
    )
  if seen.changed:
    said.append(
      f'{seen.changed:,} of {count} have other pixels than when this run was recorded: what is white now follows from '
      'the type of a file alone, and transparent images are put on a colour; train again in another --workdir to have '
      'the same pixels throughout.'
    )
  return said


def look_at_images(dataset: Dataset, say: Callable[[str], None], sampled: bool) -> None:
  """Decode the images that are read only at the end of a run, all but those of train, and a sample of train.

  Args:
    sampled: decode a sample of the others, too.

  Raises:
    UserError: the first that cannot be decoded.
  """
  scans = []
  for name, split in sorted(dataset.splits.items(), key=lambda item: item[0] == 'train'):
    if sampled or name == 'train':
      split = split.take(np.unique(np.linspace(0, split.count - 1, SAMPLE).astype(int)))
    scans.append(scan_images(split, say))
    if bad := scans[-1].bad:
      more = f' {len(bad) - 1} more of {name} cannot.' if len(bad) > 1 else ''
      raise UserError(f'{next(iter(bad.values()))}{more}')
  for text in remarks(scans, dataset.decoding):
    say(f'warning: {text}')


def without_bad_images(dataset: Dataset, say: Callable[[str], None]) -> Dataset:
  """Leave out what cannot be decoded; the notes say what, and so do the results."""
  splits, skipped, scans = {}, {}, []
  for name, split in dataset.splits.items():
    scans.append(scan_images(split, say))
    bad = scans[-1].bad
    splits[name] = split.take(np.setdiff1d(np.arange(split.count), list(bad))) if bad else split
    if bad:
      skipped[name] = [split.name(i) for i in bad]
      first = next(iter(bad.values()))
      say(f'warning: {len(bad)} of {split.count:,} images of {name} are left out, the first: {first}')
    if not splits[name].count:
      raise UserError(f'no image of {name} can be decoded: {next(iter(bad.values()))}')
  for text in remarks(scans, dataset.decoding):
    say(f'warning: {text}')
  return dataset._replace(splits=splits, notes={**dataset.notes, 'skipped_images': skipped})


def say_changed(dataset: Dataset, say: Callable[[str], None]) -> None:
  """Say how many images have other pixels than for a run that was recorded before there was data.white."""
  scans = []
  for rows in dataset.table.parts.values() if dataset.table else ():

    def attempt(i: int, rows: Rows = rows) -> Scan:
      try:
        encoded = rows.read(i)
        if may_have_changed(encoded):
          pixels = decode(encoded, rows.names[i], decoding=dataset.decoding)
          return Scan(1, {}, changed=has_changed(encoded, pixels))
      except UserError:  # for who reads it
        pass
      return Scan(1, {})

    scans.append(together(_each(attempt, len(rows.names), say)))
  for text in remarks(scans, dataset.decoding):
    say(f'warning: {text}')
