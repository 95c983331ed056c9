"""From a command line to a config, and from an exception to a sentence and an exit code.

Exit codes: 0 done, 2 usage or data, 75 stopped but resumable, 1 a defect of ours.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ule_jax.errors import Interrupted, UserError, unknown

DONE, DEFECT, USAGE, RESUMABLE = 0, 1, 2, 75

# verb -> the module that has its `main`
VERBS = {
  'main': 'ule_jax.main',
  'data': 'ule_jax.data.__main__',
  'prepare': 'ule_jax.prepare',
  'evaluate': 'ule_jax.evaluate.__main__',
  'report': 'ule_jax.report.__main__',
}


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


def main(verb: Callable[[Sequence[str]], None]) -> None:
  """Run a verb on the command line's arguments and exit with the code that its ending means."""
  try:
    verb(sys.argv[1:])
    code = DONE
  except UserError as error:
    code = _say(USAGE, f'error: {error}')
  except Interrupted as error:
    code = _say(RESUMABLE, f'stopped: {error}')
  except KeyboardInterrupt:
    code = _say(RESUMABLE, 'stopped: interrupted; the same command resumes from the last checkpoint.')
  sys.exit(code)


def _say(code: int, text: str) -> int:
  print(text, file=sys.stderr)
  return code


def read(
  argv: Sequence[str], usage: str, flags: dict[str, Any], *, positional: bool = False, config: bool = False
) -> Arguments:
  """Read a verb's flags; every error is one sentence.

  absl's own error paths end with a traceback, code 1, or an empty config and code 0.

  Args:
    usage: what --help, or nothing at all, prints.
    flags: name -> default; a bool makes `--name`, a string `--name=VALUE`, an int `--name=NUMBER`.
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
    if not is_config and name not in flags:
      raise UserError(f'unknown flag --{name}{_near(name, known)}')
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
  config, name = _load(files[0], [(n, v) for n, v in found.config if n != 'config'])
  return Flags(config, name, found.values)


def _load(spec: str, overrides: list[tuple[str, str]]) -> tuple[Any, str]:
  """Load a config file with its argument and apply `config.FIELD=VALUE` overrides."""
  from ule_jax.workdir import flatten

  file, _, method = spec.partition(':')
  # A method brings its own options with it, so that it has to be chosen when the config is made.
  method = next((value for name, value in overrides if name == 'config.method.name'), method)
  overrides = [(name, value) for name, value in overrides if name != 'config.method.name']
  if any(name == 'config.data.name' for name, _ in overrides):
    raise UserError('data.name is what a config is for: choose another --config=FILE.')
  path = _find(file)
  try:
    config = _import(path).get_config(*[method] if method else [])
  except UserError:
    raise
  except Exception as error:  # whatever a config file does wrong is the user's to mend
    raise UserError(f'{file}: {_one_line(error)}') from None
  fields = [f'config.{name}' for name in flatten(config.to_dict())]
  for name, _ in overrides:
    if name not in fields:
      raise UserError(f'unknown field --{name}{_near(name, fields, "--")}')
  _override(config, overrides)
  if hasattr(config.data, 'dir') and not config.data.dir:
    root = os.environ.get('ULE_DATA')
    if not root:
      folder = f'$ULE_DATA/{config.data.name}'
      raise UserError(f'no data folder: give --config.data.dir=DIR, or set ULE_DATA so that {folder} is it.')
    config.data.dir = f'{root.rstrip("/")}/{config.data.name}'
  return config, path.stem


def _override(config: Any, overrides: list[tuple[str, str]]) -> None:
  """Set fields to values in text form, with ml_collections' own parsers for their types."""
  from absl import flags as absl_flags
  from ml_collections import config_flags

  args = ['ule_jax', *(f'--{name}={value}' for name, value in overrides)]
  parsed = absl_flags.FlagValues()
  config_flags.DEFINE_config_dict('config', config, flag_values=parsed, sys_argv=args)
  try:
    parsed(args)
  except (absl_flags.Error, ValueError, TypeError) as error:
    raise UserError(_one_line(error)) from None


def _import(path: Path) -> Any:
  """Run a config file; `from configs import base` works in it from any folder."""
  folder = configs_folder()
  if 'configs' not in sys.modules:
    _run_module('configs', folder / '__init__.py', [str(folder)])
  return _run_module(f'configs.{path.stem}', path)


def _run_module(name: str, path: Path, locations: list[str] | None = None) -> Any:
  spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=locations)
  module = importlib.util.module_from_spec(spec)
  if locations:
    sys.modules[name] = module
  spec.loader.exec_module(module)
  return module


def _find(file: str) -> Path:
  """Find a config by path, or by bare name among those that ship with the package."""
  given = Path(file)
  if given.is_file():
    return given
  shipped = configs_folder()
  for name in (given.name, f'{given.name}.py'):
    if (shipped / name).is_file() and (given.parent in (Path('.'), Path('configs'))):
      return shipped / name
  known = sorted(p.stem for p in shipped.glob('*.py') if p.stem not in ('__init__', 'base'))
  raise UserError(f'config file {file} does not exist{_near(given.stem, known)} Shipped: {", ".join(known)}.')


def configs_folder() -> Path:
  """Return the folder of the shipped configs, in an installed package or a source checkout."""
  inside = Path(__file__).parent / 'configs'
  return inside if inside.is_dir() else Path(__file__).parent.parent / 'configs'


def _one_line(error: Exception) -> str:
  return re.sub(r'\s+', ' ', str(error)).strip('"')


def _near(name: str, known: Sequence[str], prefix: str = '') -> str:
  near = difflib.get_close_matches(name, known, n=2, cutoff=0.4)
  return f': did you mean {" or ".join(prefix + n for n in near)}?' if near else ': see --help.'


def console() -> None:
  """Run `ule-jax VERB ...`, which is `python -m ule_jax.VERB ...`."""
  verb = sys.argv[1] if len(sys.argv) > 1 else '--help'
  if verb in ('-h', '--help'):
    print(f'ule-jax VERB --help tells more. Verbs: {", ".join(VERBS)}.')
    return
  if verb not in VERBS:
    sys.exit(_say(USAGE, f'error: {unknown("verb", verb, VERBS)}'))
  sys.argv = [f'ule-jax {verb}', *sys.argv[2:]]
  main(importlib.import_module(VERBS[verb]).main)
