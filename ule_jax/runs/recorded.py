"""The config and the results of a finished run, as its folder has them; without jax, which takes seconds to import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ule_jax.config import load
from ule_jax.errors import UserError
from ule_jax.runs import files

ADVICE = 'the folder of the run is damaged'
# What belongs to the host that reads a run, not to the run: a folder that somebody passes on must not name the caches
# from which executables and features are loaded here, or how many threads work here.
HOST_BOUND = ('compilation_cache', 'model.feature_cache', 'first.workdir', 'loader.threads', 'loader.workers')

# The flags for these of the verbs that read a run, and their lines of a USAGE; export decodes no image.
CACHE_FLAG = {'compilation-cache': 'default'}
FLAGS = {'threads': 2, **CACHE_FLAG}
CACHE_USAGE = """\
  --compilation-cache=DIR
                   where compiled programs are kept: a folder, default or off; never the one that the run names"""
FLAGS_USAGE = f"""\
  --threads=N      that read and decode images (default 2)
{CACHE_USAGE}"""


def read_run(directory: Path, host: Mapping[str, Any] | None = None) -> tuple[ConfigDict, dict[str, Any]]:
  """Read the config and the results of a finished run.

  Args:
    host: values of FLAGS; the other fields of HOST_BOUND have their defaults, whatever the run says.

  Raises:
    UserError: there is none in the folder, or it is of another version.
  """
  if not (directory / 'config.json').is_file():
    raise UserError(f'{directory} holds no run (no config.json): give the --workdir of one.')
  if not (directory / 'done').exists():
    raise UserError(f'{directory} holds a run that is not done: the command that started it goes on with it.')
  if 'axes' in files.read_json(directory / 'config.json', ADVICE):
    raise UserError(f'{directory} is a sweep, not a run: give the folder of one of its members.')
  config, results = (files.read_json(directory / f'{name}.json', ADVICE) for name in ('config', 'results'))
  if missing := sorted({'step', 'classes', 'roles'} - results.keys()):
    raise UserError(f'{directory / "results.json"} lacks {", ".join(missing)}: {ADVICE}.')
  host = {**FLAGS, **(host or {})}
  try:
    complete = load.complete(_tuples(config), without=HOST_BOUND)
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'{directory} is a run of another version of ule_jax ({error}).') from None
  complete.loader.threads, complete.compilation_cache = host['threads'], host['compilation-cache']
  return complete, results


def _tuples(value: Any) -> Any:
  """Turn JSON's lists into the tuples that they were in the config."""
  if isinstance(value, dict):
    return {name: _tuples(inner) for name, inner in value.items()}
  return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value
