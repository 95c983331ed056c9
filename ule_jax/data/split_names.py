"""Names of splits, as columns and folders have them."""

from __future__ import annotations

import re

from ule_jax.data.codes import refuse_alike, whole_number
from ule_jax.data.csv_files import Listing
from ule_jax.errors import UserError, brief

CODES = {'0': 'train', '1': 'val', '2': 'test', 'valid': 'val', 'validation': 'val'}
NAMES = re.compile(r'train|val|test|val_\w+')


def of_column(listing: Listing) -> list[str]:
  """Return the split of each row of a list with a column `split`.

  Raises:
    UserError: a value is no name of a split.
  """
  values = listing.columns['split']
  refuse_alike(listing, 'split', dict.fromkeys(values))
  as_whole = whole_number(dict.fromkeys(values))
  parts = {value: CODES.get(as_whole[value], value) for value in as_whole}
  for value, part in parts.items():
    if not NAMES.fullmatch(part):
      given = f"the split '{brief(value)}'" if value else 'no split'
      raise UserError(f'{listing.at(values.index(value))} has {given} instead of train, val, test or val_<something>.')
  return [parts[value] for value in values]


def of_folder(name: str) -> str:
  """Return the split that a folder is named for, in any case; '' if it is none.

  >>> [of_folder(name) for name in ('Train', 'valid', 'val_night', 'cats', '0')]
  ['train', 'val', 'val_night', '', '']
  """
  lower = name.casefold()
  part = lower if lower.isdecimal() else CODES.get(lower, lower)
  return part if NAMES.fullmatch(part) else ''
