"""Words in the cells of a table: missing values, and values that look alike."""

from __future__ import annotations

import re
import unicodedata

from ule_jax.errors import brief

WHOLE = re.compile(r'([+-]?\d{1,4000})(\.0*)?')


def visible(name: str) -> str:
  """Return a name without invisible characters, and with single blanks."""
  seen = (c for c in unicodedata.normalize('NFC', name) if unicodedata.category(c) not in ('Cf', 'Cc'))
  return ' '.join(''.join(c for c in seen if c not in INVISIBLE).split())


# As in pandas. `none` in lower case is a name, as for "no glasses", of which `folder._suspicious` warns.
MISSING = {'', 'None', 'NA', 'na', 'NaT', r'\N'}

MISSING_IN_ANY_CASE = {'nan', '-nan', 'null', 'n/a', '#n/a', '<na>'}


def is_missing(value: str) -> bool:
  r"""Return whether a value is a word for missing.

  >>> [is_missing(word) for word in ('', 'NaN', 'None', '<NA>', '\u200b', 'none', 'Nan Hua')]
  [True, True, True, True, True, False, False]
  """
  seen = ''.join(c for c in value if unicodedata.category(c) != 'Cf').strip()
  return seen in MISSING or seen.casefold() in MISSING_IN_ANY_CASE


INVISIBLE = {*map(chr, range(0xFE00, 0xFE10)), '\u034f', '\u115f', '\u1160', '\u2800', '\u3164'}

LOOKALIKES = str.maketrans('аеорсухіјѕԁο', 'aeopcyxijsdo')  # Cyrillic and Greek letters, as Latin ones


def spelling(value: str) -> str:
  r"""Return a key that is equal for values that look alike: without case, blanks, invisible characters and `.0`.

  >>> spelling('Dog') == spelling(' d\u200bog\xa0'), spelling('01'), spelling('1.0'), spelling('10')
  (True, '1', '1', '10')
  """
  text = ''.join(visible(value).split())
  text = unicodedata.normalize('NFC', text.casefold()).translate(LOOKALIKES)
  number = WHOLE.fullmatch(text)
  return str(int(number[1])) if number else text


def plain(value: str) -> str:
  """Format a value so that it differs visibly from values that look like it: non-ASCII characters are escaped."""
  return brief(value if value.isascii() else ascii(value)[1:-1])
