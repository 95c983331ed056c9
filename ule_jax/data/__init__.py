"""The table of data sets, by the name that configs use, and the checks that apply to all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ule_jax.data import celeba, digits, folder, spawrious, urbancars, waterbirds
from ule_jax.data.checks import differences, look_at_images, refuse_unlabelled, say_changed, without_bad_images
from ule_jax.data.dataset import Dataset, InputSpec, Split
from ule_jax.errors import UserError, unknown

ON_BAD_IMAGE = ('fail', 'skip')
DATASETS = {
  'digits': digits.load,
  'waterbirds': waterbirds.load,
  'celeba': celeba.load,
  'spawrious': spawrious.load,
  'urbancars': urbancars.load,
  'folder': folder.load,
}
_INPUT_SPECS = {
  'digits': digits.input_spec,
  'waterbirds': waterbirds.input_spec,
  'celeba': celeba.input_spec,
  'spawrious': spawrious.input_spec,
  'urbancars': urbancars.input_spec,
  'folder': folder.input_spec,
}


def load(name: str, options: Mapping[str, Any], say=lambda text: None) -> Dataset:
  """Load a data set and check it.

  Args:
    name: a key of DATASETS.
    options: of config.data. `official` (compare the group counts with the release) and `on_bad_image`
      (fail, or skip images that cannot be decoded) are used here, the others by the data set.
    say: receives warnings and progress, a line each.

  Raises:
    UserError: a file is missing, malformed or differs from the release, or an option is unknown.
  """
  options = dict(options)
  strict, on_bad_image = options.pop('official', True), options.pop('on_bad_image', 'fail')
  if on_bad_image not in ON_BAD_IMAGE:
    raise unknown('data.on_bad_image', on_bad_image, ON_BAD_IMAGE)
  dataset = read(name, options)
  for remark in dataset.remarks:
    say(f'note: {remark}')
  if differing := differences(dataset):
    more = f' and {len(differing) - 3} more (python -m ule_jax.data lists them)' if len(differing) > 3 else ''
    text = f'{options["dir"]} differs from the release of {name}: {"; ".join(differing[:3])}{more}'
    if strict:
      raise UserError(f'{text}. Restore it, or, if it is meant to, set --config.data.official=False.')
    say(f'warning: {text}')
  if on_bad_image == 'skip':
    dataset = without_bad_images(dataset, say)
  return dataset


def read(name: str, options: Mapping[str, Any]) -> Dataset:
  """Read a data set, and check that every split has examples and every example a label.

  Args:
    name: a key of DATASETS.
    options: of the data set alone.

  Raises:
    UserError: a file is missing or malformed, a split is empty, or a label is missing.
  """
  dataset = DATASETS[name](**options)
  for part, split in dataset.splits.items():
    if not split.count:
      raise UserError(
        f'{name} has no example for {part}: give it more images, or change the share that becomes {part}.'
      )
  refuse_unlabelled(dataset)
  return dataset


def input_spec(name: str, options: Mapping[str, Any]) -> InputSpec:
  """Return the input contract of a data set without reading its data.

  Args:
    name: a key of DATASETS.
    options: as in `load`.
  """
  return _INPUT_SPECS[name](**{option: value for option, value in options.items() if option != 'name'})


def check_images(dataset: Dataset, options: Mapping[str, Any], say=lambda text: None, sampled: bool = False) -> None:
  """Decode all validation and test images before training starts, so that a corrupt file fails now.

  Also warns of images that are transparent, hold several frames, or use less than a quarter of the pixel range. Of
  array_record data, which were decoded when they were written, only a sample is decoded.

  Args:
    say: receives warnings and progress, a line each.
    sampled: decode a sample only, because the caller reads all images anyway.

  Raises:
    UserError: an image cannot be decoded.
  """
  if dataset.table is not None and options['on_bad_image'] == 'fail':
    look_at_images(dataset, say, sampled or dataset.table.is_array_record)


__all__ = [
  'DATASETS',
  'ON_BAD_IMAGE',
  'Dataset',
  'InputSpec',
  'Split',
  'check_images',
  'input_spec',
  'load',
  'read',
  'say_changed',
]
