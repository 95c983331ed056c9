"""Lists of labelled images as text: read strictly, and turned into numbers, with a place for every row.

A value is what stands in a field without the blanks around it. Words for "missing" are no values, and two values that
look alike are never two classes or groups.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from ule_jax.errors import UserError, brief

# As pandas reads them. `none` in other letters is a name, as in "no glasses"; `suspicious` says so.
MISSING = {'', 'None', 'NA', 'na', 'NaT', r'\N'}
MISSING_IN_ANY_CASE = {'nan', '-nan', 'null', 'n/a', '#n/a', '<na>'}
SUSPICIOUS = {'none', 'na', 'unknown', 'missing'}
WHOLE = re.compile(r'([+-]?\d{1,4000})(\.0*)?')
NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?', re.IGNORECASE)
INVISIBLE = {*map(chr, range(0xFE00, 0xFE10)), '\u034f', '\u115f', '\u1160', '\u2800', '\u3164'}
LOOKALIKES = str.maketrans('аеорсухіјѕԁο', 'aeopcyxijsdo')  # Cyrillic and Greek letters, as Latin ones
FIELD = r'(?:"(?:[^"]|"")*"|[^",]*)'
QUOTED = re.compile(rf'{FIELD}(?:,{FIELD})*')  # a line whose quotes are all around values, or doubled in them
SEPARATORS = {';': 'semicolons', '\t': 'tabs', '|': 'bars'}


class Listing(NamedTuple):
  """Images and what is said of each, as text.

  path: what was read, for messages.
  names: of the images.
  place: row -> where it stands, as `line 7`.
  columns: column -> its values, one a row.
  declared: column -> the names of its values in order, where what was read fixes them.
  """

  path: Any
  names: Sequence[str]
  place: Callable[[int], str]
  columns: Mapping[str, Sequence[str]]
  declared: Mapping[str, tuple[str, ...]] = {}

  def at(self, row: int) -> str:
    """Say which row: where it stands, and its image."""
    return f'{self.path}, {self.place(row)}: {brief(self.names[row])}'

  def take(self, order: Sequence[int]) -> Listing:
    """Return the rows in another order."""
    columns = {column: [values[i] for i in order] for column, values in self.columns.items()}
    return self._replace(names=[self.names[i] for i in order], place=lambda i: self.place(order[i]), columns=columns)


class Numbered(NamedTuple):
  """A column as codes, -1 where nothing is known; the names of the codes; and the words that stood for nothing."""

  codes: Int32[np.ndarray, 'n']
  names: tuple[str, ...]
  missing: tuple[str, ...]


# --- Reading ------------------------------------------------------------------------------------------


def read_csv(path: Path, key: str, required: Iterable[str] = (), optional: Iterable[str] = ()) -> Listing:
  """Read a comma-separated file with a header.

  Args:
    key: the column with the names of the images.
    required: further columns that it must have.
    optional: columns that it may have; one that is only nearly called so is refused.

  Raises:
    UserError: it is missing, not text, empty, or lacks a column or a value; names the line.
  """
  lines, rows, loose = _rows(path, read_text(path))
  header, *rows = rows or [[]]
  _check_header(path, header, (key, *required), optional)
  if not rows:
    raise UserError(f'{path} lists no image: restore the original.')
  lines = lines[1:]
  for line, row in zip(lines, rows, strict=True):
    if len(row) != len(header):
      raise UserError(
        f'{path}, line {line}: the row of {brief(row[0])} has {len(row)} values instead of {len(header)}.'
      )
  columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
  for column in (*required, *optional):
    for line, value in zip(lines, columns.get(column, ()), strict=False):
      if '"' in value and line in loose:  # in a column of notes it may be an inch; a file of such a name is missing
        raise UserError(f"{path}, line {line}: the {column} '{brief(value)}' has a quote too many: take it out.")
  if '' in columns and any(columns.pop('')):
    raise UserError(f'{path} has a column without a name: name it, or take it out.')
  return Listing(path, columns[key], lambda i: f'line {lines[i]}', columns)


def read_text(path: Path) -> str:
  """Read a list in UTF-8, with or without a byte order mark.

  Raises:
    UserError: it cannot be read, or is in another encoding; names the line.
  """
  wrong = f'{path} is not a comma-separated text file'
  try:
    content = path.read_bytes()
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}.') from None
  if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    raise UserError(f'{wrong} in UTF-8 but in UTF-16: save it as UTF-8.')
  if b'\0' in content:
    line = content.count(b'\n', 0, content.index(b'\0')) + 1
    raise UserError(f'{wrong}, as line {line} holds a null byte: restore the original, or save it as UTF-8.')
  try:
    return content.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    line = content.count(b'\n', 0, error.start) + 1
    byte = content[error.start]
    raise UserError(f'{wrong} in UTF-8, as line {line} holds the byte 0x{byte:02x}: save it as UTF-8.') from None


def _rows(path: Path, text: str) -> tuple[list[int], list[list[str]], set[int]]:
  """Split a text into rows of values, without the blanks around them and without empty rows.

  Returns:
    The line of each row, the rows, and the lines with a quote inside of a value that does not begin with one, which
    Python's reader takes for a part of the value, strict or not.
  """
  lines, rows, loose, line = [], [], set(), 1
  written = io.StringIO(text, newline='').readlines()
  reader = csv.reader(written, strict=True)
  other_breaks = re.search('[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]', text) is not None  # which end no row
  while True:
    try:
      row = next(reader, None)
    except csv.Error as error:
      reason = 'a quote is opened and not closed' if 'end of data' in str(error) else brief(error)
      raise UserError(f'{path}, line {line}: {reason}: mend the quotes of this line.') from None
    if row is None:
      return lines, rows, loose
    for value in row if reader.line_num > line or other_breaks else ():
      if len(value.splitlines()) > 1 or value.endswith(('\n', '\r')):
        raise UserError(
          f"{path}, line {line}: the value '{brief(value)}' holds a line break: mend the quotes of this line."
        )
    if '"' in (whole := written[line - 1].rstrip('\r\n')) and not QUOTED.fullmatch(whole):
      loose.add(line)
    if any(row := [value.strip() for value in row]):
      lines.append(line)
      rows.append(row)
    line = reader.line_num + 1


def _check_header(path: Path, header: Sequence[str], required: Sequence[str], optional: Iterable[str]) -> None:
  for wanted in (*required, *optional):
    for name in header:
      if name != wanted and wanted not in header and spelling(name) == spelling(wanted):
        raise UserError(f"{path} has the column '{_plain(name)}' where {wanted} is due: call it exactly that.")
  for wanted in required:
    if wanted not in header:
      shown = brief(', '.join(header) or 'none', 300)
      by = next((word for mark, word in SEPARATORS.items() if len(header) == 1 and mark in header[0]), '')
      hint = f'; it is separated by {by}, save it with commas' if by else ''
      raise UserError(f'{path} has no column {wanted}: its columns are {shown}{hint}.')
  seen: dict[str, str] = {}
  for name in filter(None, header):
    if (key := spelling(name)) in seen:
      both = f"'{_plain(seen[key])}' and '{_plain(name)}'"
      raise UserError(f'{path} has two columns of the same name, {both}: rename one.')
    seen[key] = name


# --- What a value means -------------------------------------------------------------------------------


def spelling(value: str) -> str:
  r"""Reduce a value to what two of them that look alike share: no case, blanks, invisible characters, or `.0`.

  >>> spelling('Dog') == spelling(' d\u200bog\xa0'), spelling('01'), spelling('1.0'), spelling('10')
  (True, '1', '1', '10')
  """
  text = ''.join(_look(value).split())
  text = unicodedata.normalize('NFC', text.casefold()).translate(LOOKALIKES)
  number = WHOLE.fullmatch(text)
  return str(int(number[1])) if number else text


def is_missing(value: str) -> bool:
  r"""Tell whether a value is a word for nothing.

  >>> [is_missing(word) for word in ('', 'NaN', 'None', '<NA>', '\u200b', 'none', 'Nan Hua')]
  [True, True, True, True, True, False, False]
  """
  seen = ''.join(c for c in value if unicodedata.category(c) != 'Cf').strip()
  return seen in MISSING or seen.casefold() in MISSING_IN_ANY_CASE


def refuse_alike(listing: Listing, column: str, values: Iterable[str], key: Callable[[str], str] = spelling) -> None:
  """Refuse two values of a column that look alike, with a row of each."""
  seen: dict[str, str] = {}
  for value in values:
    other = seen.setdefault(key(value), value)
    if other != value:
      texts = listing.columns[column]
      first, second = (texts.index(one) for one in (other, value))
      raise UserError(
        f"{listing.at(first)} has the {column} '{_plain(other)}' and {listing.place(second)} '{_plain(value)}', which "
        'differ only by case, blanks, .0 or characters that are not seen: write them alike, or name them otherwise.'
      )


def refuse_twice(listing: Listing, column: str = '') -> None:
  """Refuse an image, or a value of a column, that stands in two rows."""
  values = listing.columns[column] if column else listing.names
  first: dict[str, int] = {}
  for row, value in enumerate(values):
    if (other := first.setdefault(value, row)) != row:
      what = f'{column} {brief(value)}' if column else brief(value)
      places = f'{listing.place(other)} and {listing.place(row)}'
      raise UserError(f'{listing.path} lists {what} twice, in {places}: take one of the rows out.')


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
  as_whole = whole(distinct)
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
  as_whole = whole(rest)
  if declared:
    order = list(declared)
    for value in rest:
      if as_whole[value] not in order and value not in order:
        shown, row = brief(', '.join(order), 300), values.index(value)
        raise UserError(f"{listing.at(row)} has the {column} '{_plain(value)}' where one of {shown} is due.")
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
  shown = ', '.join(_plain(word) for word in words if word)
  empty = 'left empty' if '' in words else ''
  return ', or '.join(filter(None, (f'written {shown}' if shown else '', empty)))


def refuse_same_look(path: Any, what: str, names: Sequence[str], origins: Sequence[str] = ()) -> None:
  """Refuse two names of classes or groups that cannot be told apart in a table; case tells them apart.

  Args:
    origins: what each is made of, for the message; the name itself if empty.
  """
  seen: dict[str, int] = {}
  for i, name in enumerate(names):
    other = seen.setdefault(_look(name), i)
    if other != i:
      first, second = ((origins or names)[one] for one in (other, i))
      raise UserError(f"{path} has two {what} that look alike, '{_plain(first)}' and '{_plain(second)}': rename one.")


def _look(name: str) -> str:
  seen = (c for c in unicodedata.normalize('NFC', name) if unicodedata.category(c) not in ('Cf', 'Cc'))
  return ' '.join(''.join(c for c in seen if c not in INVISIBLE).split())


def whole(values: Iterable[str]) -> dict[str, str]:
  """Read a column of `1.0`, `2.0` as 1, 2: value -> what it is; as it is written in every other column."""
  values = list(values)
  known = [value for value in values if not is_missing(value)]
  if any('.' in value for value in known) and all(WHOLE.fullmatch(value) for value in known):
    return {value: value if is_missing(value) else str(int(value.split('.')[0])) for value in values}
  return {value: value for value in values}


def _plain(value: str) -> str:
  """Show a value so that one that looks like it is told from it."""
  return brief(value if value.isascii() else ascii(value)[1:-1])
