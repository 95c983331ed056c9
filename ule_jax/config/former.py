"""Former names of options: still read in users' files, on the command line and in recorded configs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

from ule_jax.config import schema
from ule_jax.errors import UserError
from ule_jax.options import meta

# A part that is gone: its name -> what each of its fields had to be.
REMOVED = {'two_stage.method': {'name': 'erm', 'loss': 'cross_entropy', 'q': 0.7, 'noise': 0.0}}

AXES = 'axes.'  # of a sweep, in its recorded config: the names of the fields that vary

_announced: set[str] = set()


@functools.cache
def former_names() -> dict[str, str]:
  """Return the present dotted name of every former one; both are below the present name of their part.

  `two_stage.prepare` -> `two_stage.rule`, and `first` -> `two_stage`.
  """
  names = {old: name for name, field in schema.Config.model_fields.items() for old in meta(field).former}
  for dotted, field in schema.every_option().items():
    part = dotted.rpartition('.')[0]
    names |= {f'{part}.{old}' if part else old: dotted for old in meta(field).former}
  return names


@functools.cache
def former_words() -> dict[str, tuple[str, str]]:
  """Return the last part of every former name -> the former and the present dotted name."""
  return {old.rpartition('.')[2]: (old, new) for old, new in former_names().items()}


def present_name(name: str) -> str:
  """Return the present name of an option, dotted; names that never changed are returned as they are.

  >>> present_name('first.prepare'), present_name('first.dfr.split'), present_name('seed')
  ('two_stage.rule', 'two_stage.dfr.split', 'seed')
  """
  if name.startswith(AXES):
    return AXES + present_name(name.removeprefix(AXES))
  names, parts, present = former_names(), name.split('.'), ''
  for part in parts:
    present = f'{present}.{part}' if present else part
    present = names.get(present, present)
  return present


def announce(old: str, new: str) -> None:
  """Print one line about a former name, the first time that it is met."""
  if old not in _announced:
    _announced.add(old)
    print(f'note: {old} is called {new} now; the former name still works.', file=sys.stderr, flush=True)


def present_names(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Return values by their present names, without those of removed parts; one line for each part that was renamed.

  Args:
    fields: by dotted names.

  Raises:
    UserError: a removed part has another value than the one that stayed, or a former name and the present one differ.
  """
  present = {}
  for name, value in fields.items():
    new = present_name(name)
    part, _, last = new.rpartition('.')
    if part in REMOVED:
      stayed = REMOVED[part].get(last)
      if value not in (stayed, str(stayed)):  # text on the command line
        raise UserError(f'{name} is {value!r}: a first run is erm with its defaults, and this field is gone.')
      continue
    if new != name:
      whole = name.partition('.')[0] != new.partition('.')[0] and name.rpartition('.')[2] == last
      announce(*(f'{path.partition(".")[0]}.*' for path in (name, new))) if whole else announce(name, new)
    if new in present and present[new] != value:
      raise UserError(f'{new} has two values, {present[new]!r} and {value!r}, one of them by a former name: give one.')
    present[new] = value
  return present
