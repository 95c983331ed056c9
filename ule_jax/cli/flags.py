"""Command-line flags of the verbs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from ule_jax.config.load import load_text
from ule_jax.errors import DONE, UserError, nearest_names


class Arguments(NamedTuple):
  """A command line as it was read: the verb's flags, what is no flag, and what it says of a config, in order."""

  values: dict[str, Any]
  positional: list[str]
  config: list[tuple[str, str]]


class Flags(NamedTuple):
  """A parsed command line: the config with its overrides, the config's name, the other flags."""

  config: Any
  name: str
  values: dict[str, Any]


def read(
  argv: Sequence[str], usage: str, flags: dict[str, Any], *, positional: bool = False, config: bool = False
) -> Arguments:
  """Read a verb's flags; every error is one sentence.

  absl's own error paths end with a traceback, code 1, or an empty config and code 0.

  Args:
    usage: what --help, or nothing at all, prints.
    flags: name -> default; a bool makes `--name`, a string `--name=VALUE`, an int `--name=NUMBER`, a list any number
      of `--name=VALUE`.
    positional: the verb takes arguments that are no flags.
    config: the verb takes `--config=...` and `--config.FIELD=...`.

  Raises:
    UserError: a flag or its value is not right.
  """
  if not argv or any(a in ('--help', '-h', '-help') for a in argv):
    print(usage)
    sys.exit(DONE)
  known = [*flags, *(['config'] if config else [])]
  found = Arguments(dict(flags), [], [])
  rest = list(argv)
  while rest:
    argument = rest.pop(0)
    name, has_value, value = argument.partition('=')
    if not name.startswith('--'):
      if not positional or name.startswith('-'):
        like = '--config=FILE and --config.FIELD=VALUE' if config else f'--{known[0]}=VALUE'
        raise UserError(f'unexpected argument {name!r}: flags look like {like}.')
      found.positional.append(argument)
      continue
    name = name[2:]
    is_config = config and (name == 'config' or name.startswith('config.'))
    name = name if is_config else name.replace('_', '-')  # fields of a config have underscores, flags have dashes
    if not is_config and name not in flags:
      raise UserError(f'unknown flag --{name}{nearest_names(name, known)}')
    if not is_config and isinstance(flags[name], bool):
      if has_value and value.lower() not in ('true', 'false'):
        raise UserError(f'--{name} is true or false, not {value!r}.')
      found.values[name] = not has_value or value.lower() == 'true'
      continue
    if not has_value:
      value = rest.pop(0) if rest else ''
    if not value and not (is_config and has_value):  # a config's text may be empty
      raise UserError(f'--{name} has no value: write --{name}=VALUE.')
    if is_config:
      found.config.append((name, value))
    elif isinstance(flags[name], list):
      found.values[name] = [*found.values[name], value]
    elif isinstance(flags[name], int) and not value.isdecimal():
      raise UserError(f'--{name} is a whole number from 0 on, not {value!r}.')
    else:
      found.values[name] = type(flags[name])(value)
  return found


def parse(argv: Sequence[str], usage: str, flags: dict[str, Any]) -> Flags:
  """Read `--config=FILE[:METHOD]`, `--config.FIELD=VALUE` and the verb's own flags, as `read` does.

  Raises:
    UserError: a flag, field, file or value is not right.
  """
  found = read(argv, usage, flags, config=True)
  files = [value for name, value in found.config if name == 'config']
  if len(files) != 1 or not files[0]:
    raise UserError('give one --config=FILE[:METHOD], for example --config=configs/digits.py.')
  config, name = load_text(files[0], [(n.removeprefix('config.'), v) for n, v in found.config if n != 'config'])
  return Flags(config, name, found.values)
