"""Config files, overrides and recorded configs -> a complete, checked config."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ule_jax.errors import UserError, nearest_names, one_line
from ule_jax.paths import expand_home, local_path

# Fields of a config that name a file or a folder
PATHS = ('data.dir', 'first.workdir', 'model.feature_cache', 'model.weights', 'compilation_cache')


def _load(spec: str, overrides: list[tuple[str, str]]) -> tuple[Any, str]:
  """Load a config file with its argument and apply `config.FIELD=VALUE` overrides."""
  from ule_jax.config.fields import flatten

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
      raise UserError(f'unknown field --{name}{nearest_names(name, fields, "--")}')
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
  text = error.msg if isinstance(error, SyntaxError) else one_line(error)
  if near := re.search(r'Did you mean "(.+?)" instead of "(.+?)"', text):  # ml_collections' own words
    return f'there is no field {near[2]}: did you mean {near[1]}?'
  if key := re.search(r'Key "(.+?)" (?:does not exist|cannot be set)', text):
    base = importlib.import_module('configs.base')
    from ule_jax.config.fields import flatten

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
  from ule_jax.config.fields import flatten

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
      else f'there is no field {wrong[0]}' + nearest_names(wrong[0], list(due), '', 'configs/base.py has all fields.')
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
  from ule_jax.config.fields import flatten, with_added

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
    raise UserError(one_line(error)) from None


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
  raise UserError(f'config file {file} does not exist{nearest_names(given.stem, known)} Shipped: {", ".join(known)}.')


def configs_folder() -> Path:
  """Return the folder of the shipped configs, in an installed package or a source checkout."""
  inside = Path(__file__).parent.parent / 'configs'
  return inside if inside.is_dir() else Path(__file__).parent.parent.parent / 'configs'
