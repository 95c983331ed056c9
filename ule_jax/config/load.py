"""Config files and overrides -> a complete config."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ule_jax.errors import UserError, nearest_names, one_line
from ule_jax.paths import expand_home, local_path

if TYPE_CHECKING:
  from ml_collections import ConfigDict

# Options that name a file or a folder, in which a `~` is the home folder
PATHS = (
  'data.dir', 'data.file', 'data.table', 'two_stage.workdir', 'model.feature_cache', 'model.weights',
  'compilation_cache',
)  # fmt: skip


def load_config(spec: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> ConfigDict:
  """Return the config of a file with some of its values replaced; it may be changed further.

  Args:
    spec: as behind --config: a shipped config or the path of a file, `FILE[:METHOD[,VARIANT...]]`.
    overrides: values by dotted names, as `{'train.steps': 20}`.

  Raises:
    UserError: the file, a name or the type of a value is not right.
  """
  from ule_jax.config.former import present_names

  fields = present_names(overrides or {})
  config, _ = _load(os.fspath(spec), fields)
  for name, value in fields.items():
    if name in ('method.name', 'data.name'):
      continue
    try:
      config.update_from_flattened_dict({name: os.fspath(value) if isinstance(value, os.PathLike) else value})
    except (TypeError, ValueError) as error:
      raise UserError(f'{name}: {_mistake(error)}') from None
  return _with_paths(config)


def load_text(spec: str, overrides: Sequence[tuple[str, str]]) -> tuple[ConfigDict, str]:
  """Return the config of a command line, and a name for it.

  Args:
    spec: of --config, as in `load_config`.
    overrides: dotted name and text of each `--config.NAME=TEXT`, in order.

  Raises:
    UserError: the file, a name or a value is not right.
  """
  from ule_jax.config.former import present_names

  texts = present_names(dict(overrides))
  config, name = _load(spec, texts, '--config.')
  _override(config, {name: text for name, text in texts.items() if name != 'method.name'})
  return _with_paths(config), name


def _load(spec: str, overrides: Mapping[str, Any], prefix: str = '') -> tuple[ConfigDict, str]:
  """Run a config file for the method that is chosen, and check that the overridden fields exist.

  Args:
    prefix: of the names in messages.
  """
  from ule_jax.config.fields import flatten

  file, _, text = _parted(spec)
  method, *variants = text.split(',')
  # A method brings its own options with it, so that it has to be chosen when the config is made.
  method = overrides.get('method.name', method)
  if variants and not method:
    raise UserError(f'{spec} names a variant without a method: write it as {file}:ule,{",".join(variants)}.')
  if 'data.name' in overrides:
    raise UserError('data.name is what a config is for: choose another --config=FILE.')
  path = _find(file)
  config = _make(path, file, [','.join([method, *variants])] if method else [])
  fields = list(flatten(config.to_dict()))
  for name in overrides:
    if name not in fields:
      raise UserError(f'unknown field {prefix}{name}{nearest_names(name, fields, prefix)}')
  return config, '-'.join([path.stem, *variants])


def _with_paths(config: ConfigDict) -> ConfigDict:
  """Set the folder of the data where it is empty, and replace `~` by the home folder."""
  from ule_jax.config.fields import flatten

  if 'dir' in config.data and not config.data.dir:
    root = os.environ.get('ULE_DATA')
    if not root:
      folder = f'$ULE_DATA/{config.data.name}'
      raise UserError(f'no data folder: give --config.data.dir=DIR, or set ULE_DATA so that {folder} is it.')
    config.data.dir = f'{root.rstrip("/")}/{config.data.name}'
  written = {name: value for name, value in flatten(config.to_dict()).items() if name in PATHS}
  config.update_from_flattened_dict({name: expand_home(value) for name, value in written.items()})
  return config


def _parted(spec: str) -> tuple[str, str, str]:
  """Partition `FILE[:METHOD[,VARIANT...]]`; the name of a file and of its folder may have a colon."""
  whole = expand_home(spec)
  before, colon, behind = whole.rpartition(':')
  if os.path.isfile(whole):
    return whole, '', ''
  if os.path.isfile(before):
    return before, colon, behind
  if '://' in whole:
    local_path(whole, '--config')
  return whole.partition(':')


def _make(path: Path, file: str, arguments: Sequence[str]) -> ConfigDict:
  """Run a config file and return the config of its `get_config`, with every field under its present name.

  Args:
    file: as the user named it, for messages.

  Raises:
    UserError: any error in the file, with its line.
  """
  from ule_jax.config import build, validate

  try:
    get_config = getattr(_import(path), 'get_config', None)
    if not callable(get_config):
      raise UserError(f'{file} has no function get_config: write one that returns what base.make made.')
    config = get_config(*arguments)
  except UserError:
    raise
  except (Exception, SystemExit) as error:
    line = _line_in(path, error, bool(arguments))
    raise UserError(f'{file}{f":{line}" if line else ""}: {_mistake(error)}') from None
  if not hasattr(config, 'to_dict'):
    raise UserError(f'{file}: get_config returns {type(config).__name__} {config!r:.50}: return what base.make made.')
  try:
    return build.editable(validate.parse_config(config).to_dict()).lock()
  except UserError as error:
    raise UserError(f'{file}: {error}') from None


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
  """Return the error of a config file in one sentence; an unknown field gets the nearest known one."""
  text = (error.msg or '') if isinstance(error, SyntaxError) else one_line(error)
  if near := re.search(r'Did you mean "(.+?)" instead of "(.+?)"', text):  # ml_collections' own words
    return f'there is no field {near[2]}: did you mean {near[1]}?'
  if key := re.search(r'Key "(.+?)" (?:does not exist|cannot be set)', text):
    from ule_jax.config.schema import every_option

    near = difflib.get_close_matches(key[1], sorted(every_option()), n=1)
    advice = f'did you mean {near[0]}?' if near else 'docs/reference/config.md has all fields.'
    return f'there is no field {key[1]}: {advice}'
  if isinstance(error, (KeyError, AttributeError)) and re.fullmatch(r'\W*\w+\W*', text):
    return f'there is no {text}.'
  if isinstance(error, SystemExit):
    return f'it exits ({text}): let get_config return a config.'
  text = re.sub(r"<class '(?:.*?\.)?(\w+)'>", r'\1', text)
  return text[:300] or type(error).__name__


def _override(config: ConfigDict, texts: Mapping[str, str]) -> None:
  """Set fields to values in text form, with ml_collections' own parsers for their types."""
  from absl import flags as absl_flags
  from ml_collections import config_flags

  args = ['ule_jax', *(f'--config.{name}={text}' for name, text in texts.items())]
  parsed = absl_flags.FlagValues()
  config_flags.DEFINE_config_dict('config', config, flag_values=parsed, sys_argv=args)
  try:
    parsed(args)
  except (absl_flags.Error, ValueError, TypeError) as error:
    raise UserError(one_line(error)) from None


def _import(path: Path) -> Any:
  """Run a config file; `from configs import base` works in it from any folder."""
  if 'configs' not in sys.modules:
    folder = configs_folder()
    _run_module('configs', folder / '__init__.py', [str(folder)])
  return _run_module(f'configs.{path.stem}', path)


def _run_module(name: str, path: Path, locations: list[str] | None = None) -> Any:
  spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=locations)
  if spec is None or spec.loader is None:
    raise UserError(f'{path} cannot be imported: give a config as a .py file.')
  module = importlib.util.module_from_spec(spec)
  if locations:
    sys.modules[name] = module
  spec.loader.exec_module(module)
  return module


def _find(file: str) -> Path:
  """Return the path of a config that is given by path, or by bare name if it ships with the package."""
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
