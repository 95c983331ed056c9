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
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ule_jax.errors import (
  DEFECT,
  DONE,
  RESUMABLE,
  USAGE,
  Interrupted,
  UserError,
  is_out_of_memory,
  out_of_memory,
  unknown,
)
from ule_jax.paths import expand_home, local_path
from ule_jax.signals import Signals, tell

# verb -> the module that has its `main`
VERBS = {
  'main': 'ule_jax.main',
  'data': 'ule_jax.data.__main__',
  'prepare': 'ule_jax.prepare',
  'sweep': 'ule_jax.sweep',
  'evaluate': 'ule_jax.evaluate.__main__',
  'report': 'ule_jax.report.__main__',
  'predict': 'ule_jax.predict',
  'export': 'ule_jax.export',
  'diagnose': 'ule_jax.diagnose.__main__',
  'models.pretrained': 'ule_jax.models.pretrained',
}
USAGE_OF_ALL = """\
ule-jax VERB ... is python -m ule_jax.VERB ...; ule-jax VERB --help tells more.

  main                train and evaluate one config          ule-jax main --config=digits
  data                check a data set, draw its groups      ule-jax data --config=celeba --config.data.dir=DIR
  prepare             write it as few large files            ule-jax prepare --config=celeba --out=NEW
  sweep               many runs at once, in one graph        ule-jax sweep --config=digits --axis=seed=0,1
  evaluate            a finished run again, its saliency     ule-jax evaluate --run=DIR --saliency=4
  report              runs on one page                       ule-jax report runs --out=report
  predict             classify images                        ule-jax predict --run=DIR --input=PHOTOS
  export              the network without ule_jax            ule-jax export --run=DIR --out=model.stablehlo
  diagnose            is it taking a shortcut?               ule-jax diagnose --run=DIR
  models.pretrained   what becomes of a file of weights      ule-jax models.pretrained FILE --model=resnet50

Exit codes: 0 done, 2 usage or data, 75 stopped but resumable, 1 a defect of ule_jax."""


# Fields of a config that name a file or a folder
PATHS = ('data.dir', 'first.workdir', 'model.feature_cache', 'model.weights', 'compilation_cache')


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
  several = False
  if hasattr(sys.stdout, 'reconfigure'):
    sys.stdout.reconfigure(errors='backslashreplace')  # a name of a file may be no text, and a locale have no ±
  try:
    with Signals():
      try:
        verb(sys.argv[1:])
      finally:
        several = 'ule_jax.hosts' in sys.modules and sys.modules['ule_jax.hosts'].joined()
    code = DONE
  except UserError as error:
    code = _say(USAGE, f'error: {error}')
  except Interrupted as error:
    code = _say(RESUMABLE, f'stopped: {error}')
  except Exception as error:
    if known := _known(error):
      code = _say(USAGE, f'error: {known}')
    elif several:
      if type(error).__name__ == 'JaxRuntimeError':  # in the middle of what all hosts do together
        sys.modules['ule_jax.hosts'].lose(error)
      traceback.print_exc()
      code = DEFECT
    else:
      raise
  if several and code in (DONE, RESUMABLE):
    sys.modules['ule_jax.hosts'].leave()
  elif several:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an ordinary exit would wait for the other hosts, who wait for this one
  sys.exit(code)


def _known(error: Exception) -> str:
  """Say in a sentence what no verb is to blame for, '' of what is a defect."""
  if is_out_of_memory(error):
    remedy = 'take a device or a host with more memory, or train with a smaller train.eval_batch_size'
    return str(out_of_memory(error, remedy))
  if 'Unable to initialize backend' in str(error):
    return f'{_one_line(error)[:300]}: set JAX_PLATFORMS to a device that is here, for example cpu.'
  return ''


def _say(code: int, text: str) -> int:
  tell(re.sub(r'[\x00-\x1f\x7f]', lambda match: ascii(match[0])[1:-1], text))
  return code


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
  config, name = _load(files[0], [(n, v) for n, v in found.config if n != 'config'])
  return Flags(config, name, found.values)


def _load(spec: str, overrides: list[tuple[str, str]]) -> tuple[Any, str]:
  """Load a config file with its argument and apply `config.FIELD=VALUE` overrides."""
  from ule_jax.workdir import flatten

  file, behind = _parted(spec)
  method, *variants = behind.split(',')
  # A method brings its own options with it, so that it has to be chosen when the config is made.
  method = next((value for name, value in overrides if name == 'config.method.name'), method)
  if variants and not method:
    raise UserError(f'{spec} names a variant without a method: write it as {file}:ule,{",".join(variants)}.')
  overrides = [(name, value) for name, value in overrides if name != 'config.method.name']
  if any(name == 'config.data.name' for name, _ in overrides):
    raise UserError('data.name is what a config is for: choose another --config=FILE.')
  path = _find(file)
  config = _make(path, file, [','.join([method, *variants])] if method else [])
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
  written = {name: value for name, value in flatten(config.to_dict()).items() if name in PATHS}
  config.update_from_flattened_dict({name: expand_home(value) for name, value in written.items()})
  return config, '-'.join([path.stem, *variants])


def _parted(spec: str) -> tuple[str, str]:
  """Part `FILE[:METHOD[,VARIANT...]]`; a file, and a folder that it is in, may have a colon in its name."""
  whole = expand_home(spec)
  before, _, behind = whole.rpartition(':')
  if os.path.isfile(whole):
    return whole, ''
  if os.path.isfile(before):
    return before, behind
  if '://' in whole:
    local_path(whole, '--config')
  file, _, behind = whole.partition(':')
  return file, behind


def _make(path: Path, file: str, arguments: Sequence[str]) -> Any:
  """Run a config file and check what its `get_config` returns.

  Args:
    file: as the user named it, for messages.

  Raises:
    UserError: whatever the file does wrong, with its line.
  """
  try:
    get_config = getattr(_import(path), 'get_config', None)
    if not callable(get_config):
      raise UserError(f'{file} has no function get_config: write one that returns what base.make made.')
    config = get_config(*arguments)
    conform(config)
  except UserError:
    raise
  except (Exception, SystemExit) as error:
    line = _line_in(path, error, bool(arguments))
    raise UserError(f'{file}{f":{line}" if line else ""}: {_mistake(error)}') from None
  return config


def _line_in(path: Path, error: BaseException, named: bool) -> int | None:
  """Return the line of a config file that an error comes from, or None.

  Args:
    named: the command line names a method, which the file only passes on.
  """
  file = os.path.abspath(path)
  if isinstance(error, SyntaxError):
    return error.lineno if error.filename == file else None
  frames = traceback.extract_tb(error.__traceback__)
  if named and frames[-1].name == '_look_up':
    return None
  return next((frame.lineno for frame in reversed(frames) if frame.filename == file), None)


def _mistake(error: BaseException) -> str:
  """Say in one sentence what a config file does wrong; a field that does not exist gets the nearest that does."""
  text = error.msg if isinstance(error, SyntaxError) else _one_line(error)
  if near := re.search(r'Did you mean "(.+?)" instead of "(.+?)"', text):  # ml_collections' own words
    return f'there is no field {near[2]}: did you mean {near[1]}?'
  if key := re.search(r'Key "(.+?)" (?:does not exist|cannot be set)', text):
    base = importlib.import_module('configs.base')
    from ule_jax.workdir import flatten

    known = {field for data in base.DATA for field in flatten(base.make(data, 'ule').to_dict())}
    near = difflib.get_close_matches(key[1], sorted(known), n=1)
    return f'there is no field {key[1]}: ' + (f'did you mean {near[0]}?' if near else 'configs/base.py has all fields.')
  if isinstance(error, (KeyError, AttributeError)) and re.fullmatch(r'\W*\w+\W*', text):
    return f'there is no {text}.'
  if isinstance(error, SystemExit):
    return f'it exits ({text}): let get_config return a config.'
  text = re.sub(r"<class '(?:.*?\.)?(\w+)'>", r'\1', text)
  return text[:300] or type(error).__name__


def conform(config: Any) -> None:
  """Check that a config has the fields of configs/base.py and no others, with values of their types.

  Raises:
    ValueError: it has not.
  """
  from ule_jax.workdir import flatten

  _import_configs()
  base = importlib.import_module('configs.base')
  if not hasattr(config, 'to_dict'):
    raise ValueError(f'get_config returns {type(config).__name__} {config!r:.50}: return what base.make made.')
  found = flatten(config.to_dict())
  for name, table in (('data.name', base.DATA), ('method.name', base.METHODS)):
    if not isinstance(found.setdefault(name), str) or found[name] not in table:
      raise ValueError(f'{name} is {found[name]!r}: it is one of {", ".join(sorted(table))}.')
  due = flatten(base.make(found['data.name'], found['method.name']).to_dict())
  if wrong := sorted(due.keys() ^ found.keys()):
    raise ValueError(
      f'the config lacks {wrong[0]}: return what base.make made.'
      if wrong[0] in due
      else f'there is no field {wrong[0]}{_near(wrong[0], list(due), otherwise="configs/base.py has all fields.")}'
    )
  allowed = {float: (float, int), tuple: (tuple, list)}
  for name, value in found.items():
    kind = type(due[name])
    if not isinstance(value, allowed.get(kind, kind)) or (isinstance(value, bool) and kind is not bool):
      raise ValueError(f'{name} is {value!r:.50}: it has to be of type {kind.__name__}.')


def complete(recorded: dict[str, Any], without: Sequence[str] = ()) -> Any:
  """Make the config of a run that was recorded, maybe by an older version.

  What it lacks has what stood for it then, or its default.

  Args:
    without: fields that have their defaults, whatever is recorded.

  Raises:
    ValueError, KeyError or TypeError: it has something else in it.
  """
  from ule_jax.workdir import flatten, with_added

  _import_configs()
  base = importlib.import_module('configs.base')
  found = with_added(flatten(recorded))
  config = base.make(found['data.name'], found['method.name'])
  if unknown_fields := sorted(found.keys() - flatten(config.to_dict()).keys()):
    raise ValueError(f'there is no {unknown_fields[0]}')
  config.update_from_flattened_dict({name: value for name, value in found.items() if name not in without})
  conform(config)
  return config


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
  _import_configs()
  return _run_module(f'configs.{path.stem}', path)


def _import_configs() -> None:
  if 'configs' not in sys.modules:
    folder = configs_folder()
    _run_module('configs', folder / '__init__.py', [str(folder)])


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
  if given.suffix == '.py' and os.path.isfile(file):  # False, too, for a name no file can have
    return given
  shipped = configs_folder()
  for name in (given.name, f'{given.name}.py'):
    if os.path.isfile(shipped / name) and (given.parent in (Path('.'), Path('configs'))):
      return shipped / name
  known = sorted(p.stem for p in shipped.glob('*.py') if p.stem not in ('__init__', 'base'))
  if os.path.exists(file):
    kind = 'a folder' if os.path.isdir(file) else 'no Python file'
    raise UserError(f'--config={file} is {kind}: give a config as a .py file, or a shipped one: {", ".join(known)}.')
  raise UserError(f'config file {file} does not exist{_near(given.stem, known)} Shipped: {", ".join(known)}.')


def configs_folder() -> Path:
  """Return the folder of the shipped configs, in an installed package or a source checkout."""
  inside = Path(__file__).parent / 'configs'
  return inside if inside.is_dir() else Path(__file__).parent.parent / 'configs'


def _one_line(error: BaseException) -> str:
  return re.sub(r'\s+', ' ', str(error)).strip('"')


def _near(name: str, known: Sequence[str], prefix: str = '', otherwise: str = 'see --help.') -> str:
  near = difflib.get_close_matches(name, known, n=2, cutoff=0.4)
  return f': did you mean {" or ".join(prefix + n for n in near)}?' if near else f': {otherwise}'


def console() -> None:
  """Run `ule-jax VERB ...`, which is `python -m ule_jax.VERB ...`."""
  verb = sys.argv[1] if len(sys.argv) > 1 else '--help'
  if verb in ('-h', '--help'):
    print(USAGE_OF_ALL)
    return
  if verb not in VERBS:
    sys.exit(_say(USAGE, f'error: {unknown("verb", verb, VERBS)}'))
  sys.argv = [f'ule-jax {verb}', *sys.argv[2:]]
  main(lambda argv: importlib.import_module(VERBS[verb]).main(argv))  # signals are caught before the imports
