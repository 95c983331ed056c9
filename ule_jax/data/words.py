"""Words in the cells of a table: missing values, and values that look alike."""

from __future__ import annotations

import re
import unicodedata

from ule_jax.errors import brief

WHOLE = re.compile(r'([+-]?\d{1,4000})(\.0*)?')


def visible(name: str) -> str:
  """Return a name without its invisible characters, blanks reduced to one."""
  seen = (c for c in unicodedata.normalize('NFC', name) if unicodedata.category(c) not in ('Cf', 'Cc'))
  return ' '.join(''.join(c for c in seen if c not in INVISIBLE).split())


# As pandas reads them. `none` in other letters is a name, as in "no glasses"; `suspicious` says so.
MISSING = {'', 'None', 'NA', 'na', 'NaT', r'\N'}

MISSING_IN_ANY_CASE = {'nan', '-nan', 'null', 'n/a', '#n/a', '<na>'}


def is_missing(value: str) -> bool:
  r"""Tell whether a value is a word for nothing.

  >>> [is_missing(word) for word in ('', 'NaN', 'None', '<NA>', '\u200b', 'none', 'Nan Hua')]
  [True, True, True, True, True, False, False]
  """
  seen = ''.join(c for c in value if unicodedata.category(c) != 'Cf').strip()
  return seen in MISSING or seen.casefold() in MISSING_IN_ANY_CASE


INVISIBLE = {*map(chr, range(0xFE00, 0xFE10)), '\u034f', '\u115f', '\u1160', '\u2800', '\u3164'}

LOOKALIKES = str.maketrans('аеорсухіјѕԁο', 'aeopcyxijsdo')  # Cyrillic and Greek letters, as Latin ones


def spelling(value: str) -> str:
  r"""Reduce a value to what two of them that look alike share: no case, blanks, invisible characters, or `.0`.

  >>> spelling('Dog') == spelling(' d\u200bog\xa0'), spelling('01'), spelling('1.0'), spelling('10')
  (True, '1', '1', '10')
  """
  text = ''.join(visible(value).split())
  text = unicodedata.normalize('NFC', text.casefold()).translate(LOOKALIKES)
  number = WHOLE.fullmatch(text)
  return str(int(number[1])) if number else text


def plain(value: str) -> str:
  """Show a value so that one that looks like it is told from it."""
  return brief(value if value.isascii() else ascii(value)[1:-1])
