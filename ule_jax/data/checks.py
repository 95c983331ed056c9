"""Checks of a data set that loads: group counts of the release, labels, and images that cannot be decoded."""

from __future__ import annotations

import logging
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

log = logging.getLogger(__name__)

EVERY = 10.0  # seconds between lines of progress
QUARTER = 64  # a quarter of the levels of a uint8 pixel
SAMPLE = 256  # images of a split that are decoded where not all are

T = TypeVar('T')


def differences(dataset: Dataset) -> list[str]:
  """Compare the group counts with those of the release; return a clause for each difference."""
  official = {split: tuple(counts) for split, counts in dataset.official.items()}
  actual = {}
  for split, counts in official.items():
    total_only = len(counts) == 1
    actual[split] = (dataset.splits[split].count,) if total_only else tuple(dataset.group_counts(split).tolist())
  if official and actual != official:
    if official['val'] != official['test'] == actual['val'] and actual['test'] == official['val']:
      return ['val has the images of test, and test those of val: swap them back']
    sizes = {name: (sum(actual[name]), sum(official[name])) for name in ('val', 'test')}
    if sizes['val'][1] != sizes['test'][1] and sizes['val'] == sizes['test'][::-1]:
      return ["val and test have each other's sizes: swap them back"]
  different = []
  for split, counts in official.items():
    for i, (count, expected) in enumerate(zip(actual[split], counts, strict=True)):
      if count != expected:
        cell = f'{split} / {dataset.groups[i]}' if len(counts) > 1 else split
        different.append(f'{cell} has {count:,} instead of {expected:,}')
  return different


def refuse_unlabelled(dataset: Dataset) -> None:
  """Check that every label is the index of a class, and every group that of a group, or -1 (unknown).

  Raises:
    UserError: one is not; the error has the first such example.
  """
  for part, split in dataset.splits.items():
    for kind, codes, names, least in (
      ('label', split.label, dataset.classes, 0),
      ('group', split.group, dataset.groups, -1),
    ):
      bad = np.flatnonzero((codes < least) | (codes >= len(names)))
      if len(bad):
        raise UserError(
          f'{len(bad):,} examples of {part} have no {kind} of the {len(names)} that there are, the first is '
          f'{brief(split.name(int(bad[0])))} ({codes[bad[0]]}): label them, or take them out.'
        )


class Scan(NamedTuple):
  """Counts over a number of images.

  Attributes:
    count: of the images.
    bad: index of each image that cannot be decoded -> the error's sentence; only `count` includes these images.
    transparent: images with a transparent pixel.
    several: images whose file has further frames or pages.
    changed: images with other pixels than before there was `data.white`.
    low: smallest pixel value, 0 to 255.
    high: largest pixel value, 0 to 255.
  """

  count: int
  bad: dict[int, str]
  transparent: int = 0
  several: int = 0
  changed: int = 0
  low: int = 255
  high: int = 0


def scan_of(image: Decoded) -> Scan:
  """Return the scan of one image."""
  low, high = int(image.pixels.min()), int(image.pixels.max())
  return Scan(1, {}, image.transparent, image.several, image.changed, low, high)


def scan_images(split: Split) -> Scan:
  """Decode every image of a split, with its masks, and log progress every `EVERY` seconds."""

  def attempt(i: int) -> Scan:
    try:
      image = split.look(i) if split.look else Decoded(split.load(i))
      if split.masks:
        split.masks(i)
    except UserError as error:
      return Scan(1, {i: str(error)})
    return scan_of(image)

  return together(each(attempt, split.count))


def together(scans: Iterable[Scan]) -> Scan:
  """Merge the scans of disjoint images; their `bad` indices must not overlap."""
  total = Scan(0, {})
  for scan in scans:
    total = Scan(
      total.count + scan.count,
      total.bad | scan.bad if scan.bad else total.bad,
      total.transparent + scan.transparent,
      total.several + scan.several,
      total.changed + scan.changed,
      min(total.low, scan.low),
      max(total.high, scan.high),
    )
  return total


def each(attempt: Callable[[int], T], count: int) -> Iterator[T]:
  """Map `attempt` over the indices of a split's images in threads, yield the results in order, and log progress."""
  began = logged = time.monotonic()
  with ThreadPoolExecutor(os.cpu_count()) as pool:
    for i, result in enumerate(pool.map(attempt, range(count))):
      yield result
      if (now := time.monotonic()) - logged > EVERY:
        rate = (i + 1) / (now - began)
        log.info(f'{i + 1:,} of {count:,} images read, {rate:,.0f} a second, {(count - i) / rate:.0f} s left')
        logged = now


def remarks(scans: Iterable[Scan], decoding: Decoding) -> list[str]:
  """Format a sentence for each property of the files that their pixels do not show, and for a small pixel range."""
  total = together(scan._replace(bad={}) for scan in scans)
  count, sentences = f'{total.count:,} images that were decoded', []
  if total.transparent:
    sentences.append(
      f'{total.transparent:,} of {count} are transparent in places and were put on {decoding.background} '
      '(data.background).'
    )
  if total.several:
    sentences.append(f'{total.several:,} of {count} hold several frames or pages, of which the first was taken.')
  if total.low <= total.high < total.low + QUARTER:
    white = f'data.white={decoding.white:g}' if decoding.white else 'the type of the files'
    sentences.append(
      f'the pixels of {count} use less than a quarter of their range, {total.low} to {total.high} of 255: if {white} '
      'is not their white, give the value that is with --config.data.white.'
    )
  if total.changed:
    sentences.append(
      f'{total.changed:,} of {count} have other pixels than when this run was recorded: white now follows from the '
      'type of a file alone, and transparent images are put on a colour; train again in another --workdir to have the '
      'same pixels throughout.'
    )
  return sentences


def look_at_images(dataset: Dataset, sampled: bool) -> None:
  """Decode all images except those of train, which a run reads only at its end, and a sample of train.

  Args:
    sampled: decode only a sample of the other splits, too.

  Raises:
    UserError: an image cannot be decoded.
  """
  scans = []
  for name, split in sorted(dataset.splits.items(), key=lambda item: item[0] == 'train'):
    if sampled or name == 'train':
      split = split.take(np.unique(np.linspace(0, split.count - 1, SAMPLE).astype(int)))
    scans.append(scan_images(split))
    if bad := scans[-1].bad:
      more = f' {len(bad) - 1} more of {name} cannot.' if len(bad) > 1 else ''
      raise UserError(f'{next(iter(bad.values()))}{more}')
  for text in remarks(scans, dataset.decoding):
    log.warning(text)


def without_bad_images(dataset: Dataset) -> Dataset:
  """Return the data set without the images that cannot be decoded; `notes['skipped_images']` lists them.

  Raises:
    UserError: no image of a split can be decoded.
  """
  splits, skipped, scans = {}, {}, []
  for name, split in dataset.splits.items():
    scans.append(scan_images(split))
    bad = scans[-1].bad
    splits[name] = split.take(np.setdiff1d(np.arange(split.count), list(bad))) if bad else split
    if bad:
      skipped[name] = [split.name(i) for i in bad]
      first = next(iter(bad.values()))
      log.warning(f'{len(bad)} of {split.count:,} images of {name} are left out, the first: {first}')
    if not splits[name].count:
      raise UserError(f'no image of {name} can be decoded: {next(iter(bad.values()))}')
  for text in remarks(scans, dataset.decoding):
    log.warning(text)
  return dataset._replace(splits=splits, notes={**dataset.notes, 'skipped_images': skipped})


def warn_of_changed_pixels(dataset: Dataset) -> None:
  """Warn of images whose pixels differ from those of runs recorded before there was `data.white`."""
  scans = []
  for rows in dataset.table.parts.values() if dataset.table else ():

    def attempt(i: int, rows: Rows = rows) -> Scan:
      try:
        encoded = rows.read(i)
        if may_have_changed(encoded):
          pixels = decode(encoded, rows.names[i], decoding=dataset.decoding)
          return Scan(1, {}, changed=has_changed(encoded, pixels))
      except UserError:  # the training loop reports it
        pass
      return Scan(1, {})

    scans.append(together(each(attempt, len(rows.names))))
  for text in remarks(scans, dataset.decoding):
    log.warning(text)
