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
  """A column as codes, -1 where nothing is known; the names of the codes; and the words that stood for nothing."""

  codes: Int32[np.ndarray, 'n']
  names: tuple[str, ...]
  missing: tuple[str, ...]


def refuse_alike(listing: Listing, column: str, values: Iterable[str], key: Callable[[str], str] = spelling) -> None:
  """Refuse two values of a column that look alike, with a row of each."""
  seen: dict[str, str] = {}
  for value in values:
    other = seen.setdefault(key(value), value)
    if other != value:
      texts = listing.columns[column]
      first, second = (texts.index(one) for one in (other, value))
      raise UserError(
        f"{listing.at(first)} has the {column} '{plain(other)}' and {listing.place(second)} '{plain(value)}', which "
        'differ only by case, blanks, .0 or characters that are not seen: write them alike, or name them otherwise.'
      )


def codes(listing: Listing, column: str, known: Mapping[str, int], title: str = '') -> Int32[np.ndarray, 'n']:
  """Turn a column into the codes of a table.

  Args:
    title: of the column, for messages; its name if empty.

  Raises:
    UserError: a value is not known.
  """
  values = listing.columns[column]
  distinct = dict.fromkeys(values)
  refuse_alike(listing, column, distinct)
  as_whole = whole_number(distinct)
  found = {value: known.get(as_whole[value]) for value in distinct}
  for value, code in found.items():
    if code is None:
      row, shown = values.index(value), brief(', '.join(known), 300)
      what = f"{title or column} '{brief(value)}'"
      raise UserError(f'{listing.at(row)} has {what} where one of {shown} is due.')
  return np.array([found[value] for value in values], np.int32)


def number(listing: Listing, column: str, names: Sequence[str] = ()) -> Numbered:
  """Number the values of a column and name them; what is missing becomes -1.

  Missing is -1, too. Whole numbers have to be 0..k-1 and stay what they are; other texts are numbered in sorted order.
  Names that are given, or that the listing declares, fix the order, and no other value may occur.

  Args:
    names: of the values; they may be words for missing, too.

  Raises:
    UserError: a value is not in the names, whole numbers have a gap, or two values look alike.
  """
  values = listing.columns[column]
  declared = tuple(names) or tuple(name for name in listing.declared.get(column, ()) if not is_missing(name))
  distinct = dict.fromkeys(values)
  missing = {value for value in distinct if (is_missing(value) or spelling(value) == '-1') and value not in names}
  rest = [value for value in distinct if value not in missing]
  for value in rest:
    if len(value.splitlines()) > 1:
      raise UserError(f"{listing.at(values.index(value))} has the {column} '{brief(value)}': write it on one line.")
  # Names that somebody has listed may differ by case: letters of an alphabet do.
  refuse_alike(listing, column, [value for value in rest if value not in declared])
  as_whole = whole_number(rest)
  if declared:
    order = list(declared)
    for value in rest:
      if as_whole[value] not in order and value not in order:
        shown, row = brief(', '.join(order), 300), values.index(value)
        raise UserError(f"{listing.at(row)} has the {column} '{plain(value)}' where one of {shown} is due.")
  else:
    order = _ordered(listing, column, {as_whole[value]: value for value in rest})
  place = {name: code for code, name in enumerate(order)}
  code = {value: place[value if value in place else as_whole[value]] for value in rest} | dict.fromkeys(missing, -1)
  return Numbered(np.array([code[value] for value in values], np.int32), tuple(order), tuple(sorted(missing)))


def _ordered(listing: Listing, column: str, known: Mapping[str, str]) -> list[str]:
  """Put values in order: whole numbers, which have to be 0..k-1, or names.

  Args:
    known: value -> how it is written.
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
  for due, value in enumerate(order):
    if int(value) != due:
      row = listing.columns[column].index(known[value])
      raise UserError(
        f'{listing.at(row)} has the {column} {brief(value)}, but {due} is missing: number them 0 to k-1, or use names.'
      )
  return order


def written(words: Iterable[str]) -> str:
  """Say how nothing was written.

  >>> written(['', 'NA', 'nan']), written([''])
  ('written NA, nan, or left empty', 'left empty')
  """
  shown = ', '.join(plain(word) for word in words if word)
  empty = 'left empty' if '' in words else ''
  return ', or '.join(filter(None, (f'written {shown}' if shown else '', empty)))


def refuse_same_look(path: Any, what: str, names: Sequence[str], origins: Sequence[str] = ()) -> None:
  """Refuse two names of classes or groups that cannot be told apart in a table; case tells them apart.

  Args:
    origins: what each is made of, for the message; the name itself if empty.
  """
  seen: dict[str, int] = {}
  for i, name in enumerate(names):
    other = seen.setdefault(visible(name), i)
    if other != i:
      first, second = ((origins or names)[one] for one in (other, i))
      raise UserError(f"{path} has two {what} that look alike, '{plain(first)}' and '{plain(second)}': rename one.")


def whole_number(values: Iterable[str]) -> dict[str, str]:
  """Read a column of `1.0`, `2.0` as 1, 2: value -> what it is; as it is written in every other column."""
  values = list(values)
  known = [value for value in values if not is_missing(value)]
  if any('.' in value for value in known) and all(WHOLE.fullmatch(value) for value in known):
    return {value: value if is_missing(value) else str(int(value.split('.')[0])) for value in values}
  return {value: value for value in values}
