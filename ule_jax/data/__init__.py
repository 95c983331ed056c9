"""Every data set, by the name that configs use, and the checks that all of them get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ule_jax.data import celeba, digits, folder, spawrious, urbancars, waterbirds
from ule_jax.data.checks import differences, without_bad_images
from ule_jax.data.dataset import Dataset, Split
from ule_jax.errors import UserError

DATASETS = {
  'digits': digits.load,
  'waterbirds': waterbirds.load,
  'celeba': celeba.load,
  'spawrious': spawrious.load,
  'urbancars': urbancars.load,
  'folder': folder.load,
}


def load(name: str, options: Mapping[str, Any], say=lambda text: None) -> Dataset:
  """Load a data set and check it.

  Args:
    options: of config.data. `official` (compare the group counts with the release) and `on_bad_image`
      (fail, or skip what cannot be decoded) are used here, the others by the data set.
    say: takes warnings and progress, a line each.

  Raises:
    UserError: the data are not what they should be.
  """
  options = dict(options)
  strict, on_bad_image = options.pop('official', True), options.pop('on_bad_image', 'fail')
  dataset = DATASETS[name](**options)
  if found := differences(dataset):
    more = f' and {len(found) - 3} more (python -m ule_jax.data lists them)' if len(found) > 3 else ''
    text = f'{options["dir"]} differs from the release of {name}: {"; ".join(found[:3])}{more}'
    if strict:
      raise UserError(f'{text}. Restore it, or, if it is meant to, set --config.data.official=False.')
    say(f'warning: {text}')
  if on_bad_image == 'skip':
    dataset = without_bad_images(dataset, say)
  return dataset


__all__ = ['DATASETS', 'Dataset', 'Split', 'load']
