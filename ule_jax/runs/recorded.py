"""A finished run as its folder has it: config, results, logs and arrays. Without jax, which takes seconds to import."""

from __future__ import annotations

import dataclasses
import functools
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ule_jax.config import schema, validate
from ule_jax.config.schema import Config
from ule_jax.errors import UserError
from ule_jax.runs import fingerprint
from ule_jax.runs.files import read_json
from ule_jax.runs.results import Results

ADVICE = 'the folder of the run is damaged'
# These belong to the host that reads a run, not to the run: a folder that somebody passes on must not name the caches
# from which executables and features are loaded here, or the number of threads here.
HOST_BOUND = ('compilation_cache', 'model.feature_cache', 'two_stage.workdir', 'loader.threads', 'loader.workers')


@dataclasses.dataclass(frozen=True, eq=False)  # eq=False: hashed by identity, so that runs can be keys of dicts
class FinishedRun:
  """A finished run, whose data need not be there.

  Attributes:
    name: of the run in a report; the name of its folder elsewhere.
    directory: its folder.
    fields: its recorded config by dotted names; options that were added since have their defaults.
    results: its results.json.
  """

  name: str
  directory: Path
  fields: dict[str, Any]
  results: Results

  @property
  def seed(self) -> int:
    """The seed of the run."""
    return self.results.seed

  @property
  def roles(self) -> tuple[str, ...]:
    """The names of its networks; the last one is deployed."""
    return self.results.roles

  @property
  def classes(self) -> tuple[str, ...]:
    """The names of the classes, in the order of the logits."""
    return self.results.classes

  @functools.cached_property
  def commit(self) -> str:
    """The commit of ule_jax that trained it, or `unknown`."""
    path = self.directory / 'env.json'
    return (read_json(path, ADVICE) if path.exists() else {}).get('commit') or 'unknown'

  @functools.cached_property
  def data(self) -> dict[str, Any] | None:
    """The fingerprint of its data; None if it was recorded without one."""
    return fingerprint.read(self.directory)

  def metrics(self) -> list[dict[str, float]]:
    """Return the lines of metrics.jsonl without half-written ones."""
    return list(read_log(self.directory / 'metrics.jsonl'))

  def arrays(self, kind: str, split: str, *names: str) -> dict[str, np.ndarray] | None:
    """Return the arrays of `<kind>/<split>.npz` whose names start with one of `names`; None without the file.

    Args:
      kind: `predictions` or `saliency`.
      split: of the data set.
      names: prefixes.

    Raises:
      UserError: the file cannot be read.
    """
    path = self.directory / kind / f'{split}.npz'
    return read_arrays(path, 'restore it, or keep the folder out of the report', names) if path.is_file() else None


def read_arrays(path: Path, advice: str, names: tuple[str, ...] = ('',)) -> dict[str, np.ndarray]:
  """Return the arrays of an .npz whose names start with one of `names`.

  Args:
    path: of the file.
    advice: the end of the error's sentence.
    names: prefixes.

  Raises:
    UserError: the file cannot be read.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name] for name in file.files if name.startswith(names)}
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise UserError(f'{path} cannot be read ({error}): {advice}.') from None


def read_log(path: Path) -> Iterator[dict[str, float]]:
  """Yield the lines of a metrics.jsonl; a half-written one is left out, and a missing file has none."""
  for line in path.read_text(encoding='utf-8').splitlines() if path.is_file() else ():
    try:
      values = json.loads(line)
    except ValueError:
      continue
    if isinstance(values, dict) and 'step' in values:
      yield values


def read_run(directory: Path, threads: int = 2, compilation_cache: str = 'default') -> tuple[Config, Results]:
  """Return the config and the results of a finished run.

  Args:
    directory: of the run.
    threads, compilation_cache: of this host; the other fields of HOST_BOUND have their defaults, whatever the run
      recorded.

  Raises:
    UserError: the folder holds no finished run, or one of another version of ule_jax.
  """
  if not (directory / 'config.json').is_file():
    raise UserError(f'{directory} holds no run (no config.json): give the --workdir of one.')
  if not (directory / 'done').exists():
    raise UserError(f'{directory} holds a run that is not done: the command that started it continues it.')
  recorded = read_json(directory / 'config.json', ADVICE)
  if 'axes' in recorded:
    raise UserError(f'{directory} is a sweep, not a run: give the folder of one of its members.')
  results = Results.read(directory, ADVICE)
  defaults = schema.defaults('digits', 'erm')
  values = {name: defaults[name] for name in HOST_BOUND}
  values |= {'loader.threads': threads, 'compilation_cache': compilation_cache}
  try:
    return validate.complete_config(recorded, values), results
  except UserError as error:
    raise UserError(f'{directory} is a run of another version of ule_jax ({error}).') from None
