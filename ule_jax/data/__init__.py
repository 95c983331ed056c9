"""Every data set, by the name that configs use, and the checks that all of them get."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ule_jax.data import celeba, digits, folder, spawrious, urbancars, waterbirds
from ule_jax.data.checks import (
  differences,
  look_at_images,
  refuse_unlabelled,
  warn_of_changed_pixels,
  without_bad_images,
)
from ule_jax.data.dataset import Dataset, Preparation, Split
from ule_jax.errors import UserError, unknown

log = logging.getLogger(__name__)

ON_BAD_IMAGE = ('fail', 'skip')
DATASETS = {
  'digits': digits.load,
  'waterbirds': waterbirds.load,
  'celeba': celeba.load,
  'spawrious': spawrious.load,
  'urbancars': urbancars.load,
  'folder': folder.load,
}
_PREPARATIONS = {
  'digits': digits.preparation,
  'waterbirds': waterbirds.preparation,
  'celeba': celeba.preparation,
  'spawrious': spawrious.preparation,
  'urbancars': urbancars.preparation,
  'folder': folder.preparation,
}


def load(name: str, options: Mapping[str, Any]) -> Dataset:
  """Load a data set and check it.

  Args:
    options: of config.data. `official` (compare the group counts with the release) and `on_bad_image`
      (fail, or skip what cannot be decoded) are used here, the others by the data set.

  Raises:
    UserError: the data are not what they should be.
  """
  options = dict(options)
  strict, on_bad_image = options.pop('official', True), options.pop('on_bad_image', 'fail')
  if on_bad_image not in ON_BAD_IMAGE:
    raise unknown('data.on_bad_image', on_bad_image, ON_BAD_IMAGE)
  dataset = read(name, options)
  for remark in dataset.remarks:
    log.info(f'note: {remark}')
  if found := differences(dataset):
    more = f' and {len(found) - 3} more (python -m ule_jax.data lists them)' if len(found) > 3 else ''
    text = f'{options["dir"]} differs from the release of {name}: {"; ".join(found[:3])}{more}'
    if strict:
      raise UserError(f'{text}. Restore it, or, if it is meant to, set --config.data.official=False.')
    log.warning(text)
  if on_bad_image == 'skip':
    dataset = without_bad_images(dataset)
  return dataset


def read(name: str, options: Mapping[str, Any]) -> Dataset:
  """Read a data set that has examples in every split, all of them labelled.

  Args:
    options: of the data set alone.

  Raises:
    UserError: the data are not what they should be.
  """
  dataset = DATASETS[name](**options)
  for part, split in dataset.splits.items():
    if not split.count:
      raise UserError(
        f'{name} has no example for {part}: give it more images, or change the share that becomes {part}.'
      )
  refuse_unlabelled(dataset)
  return dataset


def preparation(name: str, options: Mapping[str, Any]) -> Preparation:
  """Say how the images of a data set are prepared in evaluation, without the data.

  Args:
    options: as in `load`.
  """
  return _PREPARATIONS[name](**{option: value for option, value in options.items() if option != 'name'})


def check_images(dataset: Dataset, options: Mapping[str, Any], sampled: bool = False) -> None:
  """Find what cannot be decoded before a run begins, where it would be read only at the end of it.

  Also says what pixels do not tell: that images are transparent, or use little of their range. Of prepared data, which
  were decoded when they were written, a sample is looked at.

  Args:
    sampled: look at a sample only, as all images are read at the beginning anyway.

  Raises:
    UserError: an image cannot be decoded.
  """
  if dataset.table is not None and options['on_bad_image'] == 'fail':
    look_at_images(dataset, sampled or dataset.table.prepared)


__all__ = [
  'DATASETS',
  'ON_BAD_IMAGE',
  'Dataset',
  'Preparation',
  'Split',
  'check_images',
  'load',
  'preparation',
  'read',
  'warn_of_changed_pixels',
]
