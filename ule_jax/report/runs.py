"""Finished runs below some folders."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ule_jax.config import load
from ule_jax.config.fields import flatten, with_added
from ule_jax.errors import UserError
from ule_jax.runs import fingerprint
from ule_jax.runs.files import read_json
from ule_jax.runs.fingerprint import Fingerprint
from ule_jax.runs.workdir import LOCK, holds_training

ADVICE = 'restore it, or keep the folder out of the report'

NEEDED = (
  'method',
  'dataset',
  'seed',
  'select',
  'needs_groups',
  'classes',
  'groups',
  'test',
  'selected',
  'last',
  'roles',
)


@dataclasses.dataclass(frozen=True, eq=False)  # a key of dictionaries, as it is itself
class Run:
  """One finished run; `fields` are those of its config, dotted."""

  name: str
  directory: Path
  fields: dict[str, Any]
  results: dict[str, Any]
  commit: str
  data: dict[str, Any] | None = None  # its fingerprint.json

  @property
  def seed(self) -> int:
    return self.results['seed']

  @property
  def roles(self) -> tuple[str, ...]:
    return tuple(self.results['roles'])

  def metrics(self) -> list[dict[str, float]]:
    """Read metrics.jsonl; a half-written line is left out."""
    return list(_lines(self.directory / 'metrics.jsonl'))

  def arrays(self, kind: str, split: str, *names: str) -> dict[str, np.ndarray] | None:
    """Read arrays of `<kind>/<split>.npz` whose names begin with one of `names`; None without the file.

    Raises:
      UserError: the file cannot be read.
    """
    path = self.directory / kind / f'{split}.npz'
    if not path.is_file():
      return None
    try:
      with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name.startswith(names)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
      raise UserError(f'{path} cannot be read ({error}): {ADVICE}.') from None


class Found(NamedTuple):
  """Everything under the given folders, and what of it is not in the numbers, as sentences.

  `changed` says which runs are of other data than lie there now, or were changed on the way by `--force`.
  """

  runs: list[Run]
  unfinished: list[str]
  changed: list[str]


def find(paths: Sequence[Path]) -> Found:
  """Find the runs in some folders, at any depth; the first runs of two-stage methods are no runs of their own.

  Raises:
    UserError: a folder does not exist, or there is no finished run.
  """
  folders: dict[Path, str] = {}
  for path in paths:
    if not path.is_dir():
      raise UserError(f'{path} is no folder: give the folders of runs, or one that holds them.')
    for folder in _folders(path):
      below = folder.relative_to(path)
      # Names on the page are relative: where a run lies on a machine is nobody's business.
      parts = (path.resolve().name, *below.parts) if len(paths) > 1 or not below.parts else below.parts
      name = '/'.join(parts)
      again = sum(other == name or other.startswith(f'{name} (') for other in folders.values())
      folders.setdefault(folder.resolve(), f'{name} ({again + 1})' if again else name)
  configs = {folder: with_added(flatten(_config(folder))) for folder in folders}
  elsewhere = {config['first.workdir'] for config in configs.values() if 'first.workdir' in config}
  shared = {Path(folder).resolve() for folder in elsewhere if folder}
  runs, unfinished = [], []
  for folder, name in folders.items():
    axes = any(field.startswith('axes.') for field in configs[folder])
    if folder in shared or ((folder / 'done').exists() and axes):  # the runs of a sweep are its members
      continue
    if (folder / 'done').exists():
      runs.append(_read(folder, name, configs[folder]))
    elif _began(folder):
      unfinished.append(_unfinished(folder, name, configs[folder]))
  if not runs:
    where = ', '.join(map(str, paths))
    what = 'only starts that came to nothing' if folders else 'no run (no config.json)'
    what = f'only unfinished runs, the first is {unfinished[0]}' if unfinished else what
    raise UserError(f'{where} holds {what}: give --workdir folders of runs that are done.')
  return Found(runs, unfinished, _changed(runs))


def _began(folder: Path) -> bool:
  """Tell a run that is under way, or was stopped, from a start that came to nothing."""
  return holds_training(folder) or any((folder / name).exists() for name in ('metrics.jsonl', LOCK, 'first'))


def _unfinished(folder: Path, name: str, config: dict[str, Any]) -> str:
  """Say where a run stands that is not done."""
  results = read_json(folder / 'results.json', ADVICE) if (folder / 'results.json').exists() else {}
  steps = [line['step'] for line in _lines(folder / 'metrics.jsonl')]
  at = f'its last logged step is {max(steps):,}' if steps else 'it has logged no step'
  axes = ', '.join(field.removeprefix('axes.') for field in config if field.startswith('axes.'))
  kind = f'sweep of {axes}, ' if axes else ''
  reason = f'{results["failed"]}; ' if 'failed' in results else ''  # as a member of a sweep
  return f'{name} ({kind}{config["method.name"]} on {config["data.name"]}): {reason}{at}'


def _changed(runs: Sequence[Run]) -> list[str]:
  """Compare the data of runs, where they are there, with those that the runs were trained on."""
  known: dict[str, Fingerprint | str | None] = {}
  told = []
  for run in runs:
    for one in run.results.get('changed', []):
      told.append(f'{run.name} went on by --force at step {one["step"]:,}, although {one["what"]}')
    if run.data is None:
      continue
    skipped = run.results.get('data', {}).get('skipped_images', {})
    key = json.dumps([{f: v for f, v in run.fields.items() if f.startswith('data.')}, skipped], sort_keys=True)
    if key not in known:
      known[key] = _load(run, skipped)
    if isinstance(current := known[key], str):
      told.append(f'{run.name} was trained on data that cannot be loaded any more: {current}')
    elif current and (differs := current.differences(run.data)):
      told.append(f'{run.name} was trained on other data than its folder holds now: {differs}')
  return told


def _load(run: Run, skipped: dict[str, list[str]]) -> Fingerprint | str | None:
  """Load the data of a run; None where they are not there, or not files, and what is wrong where they are damaged.

  Args:
    skipped: split -> the images that the run left out, as they could not be decoded.
  """
  if not os.path.isdir(run.fields.get('data.dir') or ''):
    return None
  try:
    options = load.complete(_config(run.directory)).data.to_dict() | {'on_bad_image': 'fail'}
    options |= {'official': False} if 'official' in options else {}
    dataset = load(options.pop('name'), options)
  except UserError as error:
    return str(error)
  except (ValueError, KeyError, TypeError):  # a run of another version of ule_jax
    return None
  splits = {
    name: split.take(np.array([i for i in range(split.count) if split.name(i) not in set(skipped.get(name, ()))], int))
    for name, split in dataset.splits.items()
  }
  return Fingerprint(dataset._replace(splits=splits))


def _folders(root: Path) -> Iterator[Path]:
  """Yield the folders of runs, without a look inside of a run."""
  for folder, below, files in os.walk(root):
    below.sort()
    if 'config.json' in files and _is_run(content := _config(Path(folder))):
      if 'axes' not in content:  # a sweep has its members below it
        below.clear()
      yield Path(folder)
    # Of links only those to a run: others may lead back, or to a disk full of images.
    for link in (Path(folder) / name for name in below):
      if link.is_symlink() and (link / 'config.json').is_file() and _is_run(_config(link)):
        yield link


def _config(folder: Path) -> dict[str, Any]:
  return read_json(folder / 'config.json', ADVICE)


def _is_run(content: Any) -> bool:
  """Tell the config of a run, or of a sweep, from the many other files of that name."""
  return all(isinstance(content.get(part), dict) for part in ('method', 'data', 'train'))


def _read(folder: Path, name: str, config: dict[str, Any]) -> Run:
  results = read_json(folder / 'results.json', ADVICE)
  missing = [key for key in NEEDED if key not in results]
  if missing:
    raise UserError(f'{folder / "results.json"} has no {missing[0]!r}: {ADVICE}.')
  environment = read_json(folder / 'env.json', ADVICE) if (folder / 'env.json').exists() else {}
  return Run(name, folder, config, results, environment.get('commit') or 'unknown', fingerprint.read(folder))


def _lines(path: Path) -> Iterator[dict[str, float]]:
  if path.is_file():
    for line in path.read_text(encoding='utf-8').splitlines():
      try:
        values = json.loads(line)
      except ValueError:
        continue
      if isinstance(values, dict) and 'step' in values:
        yield values
