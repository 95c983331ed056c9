"""CSV files of users: encodings, quotes, headers and rows."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ule_jax.data.words import plain, spelling
from ule_jax.errors import UserError, brief

FIELD = r'(?:"(?:[^"]|"")*"|[^",]*)'

QUOTED = re.compile(rf'{FIELD}(?:,{FIELD})*')  # a line in which quotes enclose values or are doubled

SEPARATORS = {';': 'semicolons', '\t': 'tabs', '|': 'bars'}


class Listing(NamedTuple):
  """A list of images with columns of text.

  Attributes:
    path: of the source, for messages.
    names: of the images.
    place: row -> its position in the source, such as `line 7`.
    columns: column -> the value of each row.
    declared: column -> the names of its values in order, where the source fixes them.
  """

  path: Any
  names: Sequence[str]
  place: Callable[[int], str]
  columns: Mapping[str, Sequence[str]]
  declared: Mapping[str, tuple[str, ...]] = {}

  def at(self, row: int) -> str:
    """Return the position and the image of a row, for messages."""
    return f'{self.path}, {self.place(row)}: {brief(self.names[row])}'

  def take(self, order: Sequence[int]) -> Listing:
    """Return the listing with its rows in another order."""
    columns = {column: [values[i] for i in order] for column, values in self.columns.items()}
    return self._replace(names=[self.names[i] for i in order], place=lambda i: self.place(order[i]), columns=columns)


def read_csv(
  path: Path, key: str, required: Iterable[str] = (), optional: Iterable[str] = (), alias: str = ''
) -> Listing:
  """Read a comma-separated file with a header.

  Args:
    key: the column with the names of the images.
    required: further columns that must exist.
    optional: columns that may exist; one of nearly that name is refused.
    alias: another name of the column `key`.

  Raises:
    UserError: the file is missing, not text or empty, or lacks a column or a value; the error has the line.
  """
  return parse_csv(path, read_text(path), key, required, optional, alias)


def parse_csv(
  path: Path, text: str, key: str, required: Iterable[str] = (), optional: Iterable[str] = (), alias: str = ''
) -> Listing:
  """Read the text of a comma-separated file with a header, as `read_csv`.

  Args:
    path: of the file, for messages.
    text: its content.
    key, required, optional, alias: as in `read_csv`.
  """
  lines, rows, loose = _rows(path, text)
  header, *rows = rows or [[]]
  if alias and alias in header:
    if key in header:
      raise UserError(f'{path} has both a column {key} and a column {alias}: keep one.')
    header = [key if name == alias else name for name in header]
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
      if '"' in value and line in loose:  # in other columns a quote may mean inches
        raise UserError(f"{path}, line {line}: the {column} '{brief(value)}' has a quote too many: take it out.")
  columns.pop('', None)
  for at in (at for at, name in enumerate(header) if not name):
    values = [row[at] for row in rows]
    is_index = at == 0 and all(value.isdecimal() for value in values)  # as pandas writes it
    if any(values) and not is_index:
      raise UserError(f'{path} has a column without a name: name it, or take it out.')
  return Listing(path, columns[key], lambda i: f'line {lines[i]}', columns)


def read_text(path: Path) -> str:
  """Read a list in UTF-8, with or without a byte order mark.

  Raises:
    UserError: the file cannot be read, or is in another encoding; the error has the line.
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
  """Split a text into rows of stripped values, and skip empty rows.

  Returns:
    The line of each row, the rows, and the lines with a quote inside an unquoted value, which Python's reader keeps as
    a part of the value, strict or not.
  """
  lines, rows, loose, line = [], [], set(), 1
  written = io.StringIO(text, newline='').readlines()
  reader = csv.reader(written, strict=True)
  other_breaks = re.search('[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]', text) is not None  # line breaks that end no row
  while True:
    try:
      row = next(reader, None)
    except csv.Error as error:
      reason = 'a quote is opened and not closed' if 'end of data' in str(error) else brief(error)
      raise UserError(f'{path}, line {line}: {reason}: fix the quotes of this line.') from None
    if row is None:
      return lines, rows, loose
    for value in row if reader.line_num > line or other_breaks else ():
      if len(value.splitlines()) > 1 or value.endswith(('\n', '\r')):
        raise UserError(
          f"{path}, line {line}: the value '{brief(value)}' holds a line break: fix the quotes of this line."
        )
    if '"' in (physical := written[line - 1].rstrip('\r\n')) and not QUOTED.fullmatch(physical):
      loose.add(line)
    if any(row := [value.strip() for value in row]):
      lines.append(line)
      rows.append(row)
    line = reader.line_num + 1


def _check_header(path: Path, header: Sequence[str], required: Sequence[str], optional: Iterable[str]) -> None:
  """Check that required columns exist, and that no two names look alike or differ slightly from an expected one."""
  for wanted in (*required, *optional):
    for name in header:
      if name != wanted and wanted not in header and spelling(name) == spelling(wanted):
        raise UserError(f"{path} has the column '{plain(name)}' instead of {wanted}: rename it to exactly that.")
  for wanted in required:
    if wanted not in header:
      names = brief(', '.join(header) or 'none', 300)
      separator = next((word for mark, word in SEPARATORS.items() if len(header) == 1 and mark in header[0]), '')
      hint = f'; it is separated by {separator}, save it with commas' if separator else ''
      raise UserError(f'{path} has no column {wanted}: its columns are {names}{hint}.')
  seen: dict[str, str] = {}
  for name in filter(None, header):
    if (key := spelling(name)) in seen:
      both = f"'{plain(seen[key])}' and '{plain(name)}'"
      raise UserError(f'{path} has two columns of the same name, {both}: rename one.')
    seen[key] = name


def refuse_twice(listing: Listing, column: str = '') -> None:
  """Check that no image, or no value of a column, is listed twice.

  Raises:
    UserError: one is; the error has both rows.
  """
  values = listing.columns[column] if column else listing.names
  first: dict[str, int] = {}
  for row, value in enumerate(values):
    if (other := first.setdefault(value, row)) != row:
      item = f'{column} {brief(value)}' if column else brief(value)
      rows = f'{listing.place(other)} and {listing.place(row)}'
      raise UserError(f'{listing.path} lists {item} twice, in {rows}: take one of the rows out.')
