"""From a command line to a config, and from an exception to a sentence and an exit code.

Exit codes: 0 done, 2 usage or data, 75 stopped but resumable, 1 a defect of ours.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ule_jax.errors import Interrupted, UserError, unknown

DONE, DEFECT, USAGE, RESUMABLE = 0, 1, 2, 75


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


def parse(argv: Sequence[str], usage: str, flags: dict[str, Any]) -> Flags:
  """Read `--config=FILE[:METHOD]`, `--config.FIELD=VALUE` and the verb's own flags.

  absl's own error paths end with a traceback, code 1, or an empty config and code 0; this reads the
  flags with ml_collections and turns every error into one sentence.

  Args:
    usage: what --help prints.
    flags: name -> default; a bool makes `--name`, a string makes `--name=VALUE`.

  Raises:
    UserError: a flag, field, file or value is not right.
  """
  if not argv or any(a in ('--help', '-h', '-help') for a in argv):
    print(usage)
    sys.exit(DONE)
  values, config_args = dict(flags), []
  rest = list(argv)
  while rest:
    name, has_value, value = rest.pop(0).partition('=')
    if not name.startswith('--'):
      raise UserError(f'unexpected argument {name!r}: flags look like --config=FILE and --config.FIELD=VALUE.')
    name = name[2:]
    if name == 'config' or name.startswith('config.'):
      if not has_value:
        if not rest:
          raise UserError(f'--{name} has no value: write --{name}=VALUE.')
        value = rest.pop(0)
      config_args.append((name, value))
    elif name not in flags:
      raise UserError(f'unknown flag --{name}{_near(name, [*flags, "config"])}')
    elif isinstance(flags[name], bool):
      if has_value and value.lower() not in ('true', 'false'):
        raise UserError(f'--{name} is true or false, not {value!r}.')
      values[name] = not has_value or value.lower() == 'true'
    else:
      values[name] = value if has_value else rest.pop(0) if rest else ''
      if not values[name]:
        raise UserError(f'--{name} has no value: write --{name}=VALUE.')
  files = [value for name, value in config_args if name == 'config']
  if len(files) != 1 or not files[0]:
    raise UserError('give one --config=FILE[:METHOD], for example --config=configs/digits.py.')
  config, name = _load(files[0], [(n, v) for n, v in config_args if n != 'config'])
  return Flags(config, name, values)


def _load(spec: str, overrides: list[tuple[str, str]]) -> tuple[Any, str]:
  """Load a config file with its argument and apply `config.FIELD=VALUE` overrides."""
  from absl import flags as absl_flags
  from ml_collections import config_flags

  file, colon, method = spec.partition(':')
  for field, value in [o for o in overrides if o[0] == 'config.method.name']:
    # A method brings its own options with it, so that it has to be chosen when the config is made.
    colon, method = ':', value
    overrides.remove((field, value))
  path = _find(file)
  _register_configs()
  args = ['ule_jax', f'--config={path}{colon}{method}', *(f'--{name}={value}' for name, value in overrides)]
  parsed = absl_flags.FlagValues()
  try:
    with contextlib.redirect_stderr(io.StringIO()):
      config_flags.DEFINE_config_file('config', flag_values=parsed, sys_argv=args)
      parsed(args)
    config = parsed.config
  except (AttributeError, KeyError) as error:
    raise _unknown_field(path, colon + method, overrides, error) from None
  except UserError:
    raise
  except (absl_flags.Error, ValueError, TypeError, SyntaxError, ImportError, OSError) as error:
    text = ' '.join(str(error).split()).removeprefix('flag --config=None: ')
    raise UserError(f'{file}: {text}' if text.startswith('unknown') else f'--config {spec}: {text}') from None
  if hasattr(config.data, 'dir') and not config.data.dir:
    root = os.environ.get('ULE_DATA')
    if not root:
      raise UserError(
        f'no data folder: give --config.data.dir=DIR, or set ULE_DATA so that $ULE_DATA/{config.data.name} is it.'
      )
    config.data.dir = str(Path(root) / config.data.name)
  return config, path.stem


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


def _register_configs() -> None:
  """Make `from configs import base` work from any folder."""
  if 'configs' in sys.modules:
    return
  folder = configs_folder()
  spec = importlib.util.spec_from_file_location(
    'configs', folder / '__init__.py', submodule_search_locations=[str(folder)]
  )
  module = importlib.util.module_from_spec(spec)
  sys.modules['configs'] = module
  spec.loader.exec_module(module)


def _unknown_field(path: Path, suffix: str, overrides: list[tuple[str, str]], error: Exception) -> UserError:
  """Make the sentence for a field that does not exist, or for whatever else was looked up in vain."""
  from absl import flags as absl_flags
  from ml_collections import config_flags

  from ule_jax.workdir import flatten

  parsed = absl_flags.FlagValues()
  args = ['ule_jax', f'--config={path}{suffix}']
  config_flags.DEFINE_config_file('config', flag_values=parsed, sys_argv=args)
  try:
    parsed(args)
    fields = [f'config.{name}' for name in flatten(parsed.config.to_dict())]
  except Exception as inner:  # the file itself looks up what is not there
    return UserError(f'{path}: {_one_line(inner)}')
  for name, _ in overrides:
    if name not in fields:
      return UserError(f'unknown field --{name}{_near(name, fields, "--")}')
  return UserError(f'{path}: {_one_line(error)}')


def _one_line(error: Exception) -> str:
  return re.sub(r'\s+', ' ', str(error)).strip('"')


def _near(name: str, known: Sequence[str], prefix: str = '') -> str:
  near = difflib.get_close_matches(name, known, n=2, cutoff=0.4)
  return f': did you mean {" or ".join(prefix + n for n in near)}?' if near else ': see --help.'


def console() -> None:
  """Run `ule-jax VERB ...`, which is `python -m ule_jax.VERB ...`."""
  verbs = {'main': 'ule_jax.main'}
  verb = sys.argv[1] if len(sys.argv) > 1 else '--help'
  if verb in ('-h', '--help'):
    print(f'ule-jax VERB --help tells more. Verbs: {", ".join(verbs)}.')
    return
  if verb not in verbs:
    sys.exit(_say(USAGE, f'error: {unknown("verb", verb, verbs)}'))
  sys.argv = [f'ule-jax {verb}', *sys.argv[2:]]
  main(importlib.import_module(verbs[verb]).main)
