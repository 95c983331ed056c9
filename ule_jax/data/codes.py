"""Integer codes of the values in a column of text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from ule_jax.data.csv_files import Listing
from ule_jax.data.words import WHOLE, is_missing, plain, spelling, visible
from ule_jax.errors import UserError, brief

SUSPICIOUS = {'none', 'na', 'unknown', 'missing'}

NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?', re.IGNORECASE)


class Numbered(NamedTuple):
  """A column as integer codes.

  Attributes:
    codes: of each row, from 0; -1 is missing.
    names: of the codes.
    missing: the words for missing that occur.
  """

  codes: Int32[np.ndarray, 'n']
  names: tuple[str, ...]
  missing: tuple[str, ...]


def refuse_alike(listing: Listing, column: str, values: Iterable[str], key: Callable[[str], str] = spelling) -> None:
  """Check that no two values of a column look alike.

  Args:
    key: equal for two values that look alike.

  Raises:
    UserError: two do; the error has a row of each.
  """
  seen: dict[str, str] = {}
  for value in values:
    other = seen.setdefault(key(value), value)
    if other != value:
      texts = listing.columns[column]
      first, second = texts.index(other), texts.index(value)
      raise UserError(
        f"{listing.at(first)} has the {column} '{plain(other)}' and {listing.place(second)} '{plain(value)}', which "
        'differ only by case, blanks, .0 or characters that are not seen: write them alike, or name them otherwise.'
      )


def codes(listing: Listing, column: str, known: Mapping[str, int], title: str = '') -> Int32[np.ndarray, 'n']:
  """Map the values of a column to codes.

  Args:
    known: value -> code.
    title: of the column, for messages; its name if empty.

  Raises:
    UserError: a value is not known, or two values look alike.
  """
  values = listing.columns[column]
  distinct = dict.fromkeys(values)
  refuse_alike(listing, column, distinct)
  as_whole = whole_number(distinct)
  code_of = {value: known.get(as_whole[value]) for value in distinct}
  for value, code in code_of.items():
    if code is None:
      row, choices = values.index(value), brief(', '.join(known), 300)
      raise UserError(f"{listing.at(row)} has {title or column} '{brief(value)}' instead of one of {choices}.")
  return np.array([code_of[value] for value in values], np.int32)


def number(listing: Listing, column: str, names: Sequence[str] = ()) -> Numbered:
  """Encode a column as codes 0..k-1, with -1 for missing values.

  Words for missing, and -1 itself, are missing. Whole numbers have to be 0..k-1 and are their own codes; other texts
  are encoded in sorted order. Names that are given, or that the listing declares, fix the order, and no other value
  may occur.

  Args:
    names: of the values in order; a word for missing among them is a name.

  Raises:
    UserError: a value is not in the names, whole numbers have a gap, or two values look alike.
  """
  values = listing.columns[column]
  declared = tuple(names) or tuple(name for name in listing.declared.get(column, ()) if not is_missing(name))
  distinct = dict.fromkeys(values)
  missing = {value for value in distinct if (is_missing(value) or spelling(value) == '-1') and value not in names}
  known = [value for value in distinct if value not in missing]
  for value in known:
    if len(value.splitlines()) > 1:
      raise UserError(f"{listing.at(values.index(value))} has the {column} '{brief(value)}': write it on one line.")
  # Declared names may differ by case, as the letters of an alphabet do.
  refuse_alike(listing, column, [value for value in known if value not in declared])
  as_whole = whole_number(known)
  if declared:
    order = list(declared)
    for value in known:
      if as_whole[value] not in order and value not in order:
        choices, row = brief(', '.join(order), 300), values.index(value)
        raise UserError(f"{listing.at(row)} has the {column} '{plain(value)}' instead of one of {choices}.")
  else:
    order = _ordered(listing, column, {as_whole[value]: value for value in known})
  index = {name: code for code, name in enumerate(order)}
  code = {value: index[value if value in index else as_whole[value]] for value in known} | dict.fromkeys(missing, -1)
  return Numbered(np.array([code[value] for value in values], np.int32), tuple(order), tuple(sorted(missing)))


def _ordered(listing: Listing, column: str, known: Mapping[str, str]) -> list[str]:
  """Sort values: whole numbers, which have to be 0..k-1, or names.

  Args:
    known: value -> its spelling in the file.
  """
  if not known or not all(WHOLE.fullmatch(value) for value in known):
    numbers = known and all(NUMBER.fullmatch(value) or value.casefold() in ('inf', '-inf') for value in known)
    if column == 'label' and numbers:
      value = next(value for value in known if not WHOLE.fullmatch(value))
      row = listing.columns[column].index(known[value])
      raise UserError(
        f'{listing.at(row)} has the label {brief(value)}, which is no whole number: number labels 0 to k-1, or use '
        'names.'
      )
    return sorted(known)
  order = sorted(known, key=int)
  for i, value in enumerate(order):
    if int(value) != i:
      row = listing.columns[column].index(known[value])
      raise UserError(
        f'{listing.at(row)} has the {column} {brief(value)}, but {i} is missing: number them 0 to k-1, or use names.'
      )
  return order


def written(words: Iterable[str]) -> str:
  """Format the spellings of missing values.

  >>> written(['', 'NA', 'nan']), written([''])
  ('written NA, nan, or left empty', 'left empty')
  """
  spellings = ', '.join(plain(word) for word in words if word)
  empty = 'left empty' if '' in words else ''
  return ', or '.join(filter(None, (f'written {spellings}' if spellings else '', empty)))


def refuse_same_look(path: Any, kind: str, names: Sequence[str], origins: Sequence[str] = ()) -> None:
  """Check that no two names of classes or groups look the same in a table; names may differ by case.

  Args:
    path: of the source, for messages.
    kind: classes or groups, for messages.
    origins: description of each name, for messages; the name itself if empty.

  Raises:
    UserError: two do.
  """
  seen: dict[str, int] = {}
  for i, name in enumerate(names):
    other = seen.setdefault(visible(name), i)
    if other != i:
      first, second = ((origins or names)[index] for index in (other, i))
      raise UserError(f"{path} has two {kind} that look alike, '{plain(first)}' and '{plain(second)}': rename one.")


def whole_number(values: Iterable[str]) -> dict[str, str]:
  """Map the values of a column of `1.0`, `2.0` to `1`, `2`; those of every other column to themselves."""
  values = list(values)
  known = [value for value in values if not is_missing(value)]
  if any('.' in value for value in known) and all(WHOLE.fullmatch(value) for value in known):
    return {value: value if is_missing(value) else str(int(value.split('.')[0])) for value in values}
  return {value: value for value in values}
