"""Every data set, by the name that configs use, and the checks that all of them get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ule_jax.data import celeba, digits, folder, spawrious, urbancars, waterbirds
from ule_jax.data.checks import differences, look_at_images, refuse_unlabelled, say_changed, without_bad_images
from ule_jax.data.dataset import Dataset, Preparation, Split
from ule_jax.data.options import ON_BAD_IMAGE
from ule_jax.errors import UserError
from ule_jax.options import Options, validate


class Source(NamedTuple):
  """A row of the table of data sets.

  licence: what forbids to pass its images on, for the report; empty where nothing does.
  """

  load: Callable[..., Dataset]
  preparation: Callable[..., Preparation]
  options: type[Options]
  licence: str = ''


DATASETS = {
  'digits': Source(digits.load, digits.preparation, digits.Options),
  'waterbirds': Source(waterbirds.load, waterbirds.preparation, waterbirds.Options, waterbirds.LICENCE),
  'celeba': Source(celeba.load, celeba.preparation, celeba.Options, celeba.LICENCE),
  'spawrious': Source(spawrious.load, spawrious.preparation, spawrious.Options),
  'urbancars': Source(urbancars.load, urbancars.preparation, urbancars.Options, urbancars.LICENCE),
  'folder': Source(folder.load, folder.preparation, folder.Options),
}


def load(name: str, options: Options | Mapping[str, Any], say=lambda text: None) -> Dataset:
  """Load a data set and check it.

  Args:
    options: of config.data. `official` (compare the group counts with the release) and `on_bad_image`
      (fail, or skip what cannot be decoded) are used here, the others by the data set.
    say: takes warnings and progress, a line each.

  Raises:
    UserError: the data are not what they should be.
  """
  chosen = _options(name, options)
  dataset = read(name, chosen)
  for remark in dataset.remarks:
    say(f'note: {remark}')
  if found := differences(dataset):
    more = f' and {len(found) - 3} more (python -m ule_jax.data lists them)' if len(found) > 3 else ''
    text = f'{getattr(chosen, "dir", name)} differs from the release of {name}: {"; ".join(found[:3])}{more}'
    if getattr(chosen, 'official', True):
      raise UserError(f'{text}. Restore it, or, if it is meant to, set --config.data.official=False.')
    say(f'warning: {text}')
  if getattr(chosen, 'on_bad_image', 'fail') == 'skip':
    dataset = without_bad_images(dataset, say)
  return dataset


def _options(name: str, options: Options | Mapping[str, Any]) -> Options:
  """Return the options of a data set; those that a mapping lacks have their defaults."""
  if isinstance(options, Options):
    return options
  given = {option: value for option, value in options.items() if option != 'name'}
  return validate(DATASETS[name].options, given, 'data')


def read(name: str, options: Options | Mapping[str, Any]) -> Dataset:
  """Read a data set that has examples in every split, all of them labelled.

  Args:
    options: of the data set alone.

  Raises:
    UserError: the data are not what they should be.
  """
  given = _options(name, options).to_dict()
  dataset = DATASETS[name].load(
    **{option: given[option] for option in given.keys() - {'name', 'official', 'on_bad_image'}}
  )
  for part, split in dataset.splits.items():
    if not split.count:
      raise UserError(
        f'{name} has no example for {part}: give it more images, or change the share that becomes {part}.'
      )
  refuse_unlabelled(dataset)
  return dataset


def preparation(name: str, options: Options | Mapping[str, Any]) -> Preparation:
  """Say how the images of a data set are prepared in evaluation, without the data.

  Args:
    options: as in `load`.
  """
  given = _options(name, options).to_dict()
  return DATASETS[name].preparation(**{option: given[option] for option in given.keys() - {'name'}})


def check_images(dataset: Dataset, options: Any, say=lambda text: None, sampled: bool = False) -> None:
  """Find what cannot be decoded before a run begins, where it would be read only at the end of it.

  Also says what pixels do not tell: that images are transparent, or use little of their range. Of prepared data, which
  were decoded when they were written, a sample is looked at.

  Args:
    sampled: look at a sample only, as all images are read at the beginning anyway.

  Raises:
    UserError: an image cannot be decoded.
  """
  if dataset.table is not None and options.on_bad_image == 'fail':
    look_at_images(dataset, say, sampled or dataset.table.prepared)


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
  'say_changed',
]
