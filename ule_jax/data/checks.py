"""What can be wrong with a data set that loads: other counts than the release, images that do not decode."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ule_jax.data.dataset import Dataset, Split
from ule_jax.errors import UserError, brief

EVERY = 10.0  # seconds between lines of progress


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


def bad_images(split: Split, say: Callable[[str], None]) -> dict[int, str]:
  """Decode every image of a split: index -> what is wrong, for those that cannot be decoded."""

  def attempt(i: int) -> str:
    try:
      split.load(i)
      if split.masks:
        split.masks(i)
    except UserError as error:
      return str(error)
    return ''

  bad, began = {}, time.monotonic()
  told = began
  with ThreadPoolExecutor(os.cpu_count()) as pool:
    for i, reason in enumerate(pool.map(attempt, range(split.count))):
      if reason:
        bad[i] = reason
      if (now := time.monotonic()) - told > EVERY:
        rate = (i + 1) / (now - began)
        say(f'{i + 1:,} of {split.count:,} images read, {rate:,.0f} a second, {(split.count - i) / rate:.0f} s left')
        told = now
  return bad


def refuse_bad_images(dataset: Dataset, say: Callable[[str], None]) -> None:
  """Decode the images that are read only at the end of a run: all but those of train.

  Raises:
    UserError: the first that cannot be decoded.
  """
  for name, split in dataset.splits.items():
    if name != 'train' and (bad := bad_images(split, say)):
      more = f' {len(bad) - 1} more of {name} cannot.' if len(bad) > 1 else ''
      raise UserError(f'{next(iter(bad.values()))}{more}')


def without_bad_images(dataset: Dataset, say: Callable[[str], None]) -> Dataset:
  """Leave out what cannot be decoded; the notes say what, and so do the results."""
  splits, skipped = {}, {}
  for name, split in dataset.splits.items():
    bad = bad_images(split, say)
    splits[name] = split.take(np.setdiff1d(np.arange(split.count), list(bad))) if bad else split
    if bad:
      skipped[name] = [split.name(i) for i in bad]
      first = next(iter(bad.values()))
      say(f'warning: {len(bad)} of {split.count:,} images of {name} are left out, the first: {first}')
    if not splits[name].count:
      raise UserError(f'no image of {name} can be decoded: {next(iter(bad.values()))}')
  return dataset._replace(splits=splits, notes={**dataset.notes, 'skipped_images': skipped})
