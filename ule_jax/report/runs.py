"""Finished runs: searched at any depth of some folders, and read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ule_jax import data
from ule_jax.config.validate import complete_config, recorded_fields
from ule_jax.errors import UserError
from ule_jax.runs.files import read_json
from ule_jax.runs.fingerprint import Fingerprint
from ule_jax.runs.recorded import FinishedRun, read_log
from ule_jax.runs.results import Results
from ule_jax.runs.workdir import LOCK, holds_training

ADVICE = 'restore it, or keep the folder out of the report'


class Found(NamedTuple):
  """The runs below some folders.

  Attributes:
    runs: finished ones.
    unfinished: a clause for each unfinished one.
    changed: a clause for each run whose data have changed since, or that resumed with changed data by `--force`.
  """

  runs: list[FinishedRun]
  unfinished: list[str]
  changed: list[str]


def find(paths: Sequence[Path]) -> Found:
  """Find the runs in some folders, at any depth, except the first stages of two-stage methods.

  Args:
    paths: folders of runs, or folders that hold them.

  Raises:
    UserError: a folder does not exist, or there is no finished run.
  """
  folders: dict[Path, str] = {}
  for path in paths:
    if not path.is_dir():
      raise UserError(f'{path} is no folder: give the folders of runs, or one that holds them.')
    for folder in _folders(path):
      below = folder.relative_to(path)
      # Names on the page are relative, so that it does not publish paths of the machine.
      parts = (path.resolve().name, *below.parts) if len(paths) > 1 or not below.parts else below.parts
      name = '/'.join(parts)
      same = sum(other == name or other.startswith(f'{name} (') for other in folders.values())
      folders.setdefault(folder.resolve(), f'{name} ({same + 1})' if same else name)
  configs = {folder: recorded_fields(_config(folder)) for folder in folders}
  elsewhere = {config['two_stage.workdir'] for config in configs.values() if 'two_stage.workdir' in config}
  shared = {Path(folder).resolve() for folder in elsewhere if folder}
  runs, unfinished = [], []
  for folder, name in folders.items():
    axes = any(field.startswith('axes.') for field in configs[folder])
    if folder in shared or ((folder / 'done').exists() and axes):  # of a sweep, its members are the runs
      continue
    if (folder / 'done').exists():
      runs.append(FinishedRun(name, folder, configs[folder], Results.read(folder, ADVICE)))
    elif _began(folder):
      unfinished.append(_unfinished(folder, name, configs[folder]))
  if not runs:
    where = ', '.join(map(str, paths))
    content = 'only failed starts' if folders else 'no run (no config.json)'
    content = f'only unfinished runs, the first is {unfinished[0]}' if unfinished else content
    raise UserError(f'{where} holds {content}: give --workdir folders of runs that are done.')
  return Found(runs, unfinished, _changed(runs))


def _began(folder: Path) -> bool:
  """Return whether a run is in progress or was interrupted, as opposed to a failed start."""
  return holds_training(folder) or any((folder / name).exists() for name in ('metrics.jsonl', LOCK, 'first'))


def _unfinished(folder: Path, name: str, config: dict[str, Any]) -> str:
  """Format the state of an unfinished run: its method, the reason of a failure, its last logged step."""
  results = read_json(folder / 'results.json', ADVICE) if (folder / 'results.json').exists() else {}
  steps = [line['step'] for line in read_log(folder / 'metrics.jsonl')]
  at = f'its last logged step is {max(steps):,}' if steps else 'it has logged no step'
  axes = ', '.join(field.removeprefix('axes.') for field in config if field.startswith('axes.'))
  kind = f'sweep of {axes}, ' if axes else ''
  reason = f'{results["failed"]}; ' if 'failed' in results else ''  # as a member of a sweep
  return f'{name} ({kind}{config["method.name"]} on {config["data.name"]}): {reason}{at}'


def _changed(runs: Sequence[FinishedRun]) -> list[str]:
  """Compare the data of runs, where they exist, with their fingerprints; return a clause for each difference."""
  known: dict[str, Fingerprint | str | None] = {}
  clauses = []
  for run in runs:
    for change in run.results.changed:
      clauses.append(f'{run.name} resumed with --force at step {change["step"]:,}, although {change["what"]}')
    if run.data is None:
      continue
    skipped = run.results.skipped_images
    key = json.dumps([{f: v for f, v in run.fields.items() if f.startswith('data.')}, skipped], sort_keys=True)
    if key not in known:
      known[key] = _load(run, skipped)
    if isinstance(current := known[key], str):
      clauses.append(f'{run.name} was trained on data that cannot be loaded any more: {current}')
    elif current and (differs := current.differences(run.data)):
      clauses.append(f'{run.name} was trained on other data than its folder holds now: {differs}')
  return clauses


def _load(run: FinishedRun, skipped: dict[str, list[str]]) -> Fingerprint | str | None:
  """Load the data of a run.

  Args:
    skipped: split -> the images that the run skipped, because they could not be decoded.

  Returns:
    Their fingerprint; an error's sentence if they are damaged; None if they are absent or not files.
  """
  if not (os.path.isdir(run.fields.get('data.dir') or '') or os.path.isfile(run.fields.get('data.file') or '')):
    return None
  try:
    options = complete_config(_config(run.directory), {}).data
  except (UserError, AttributeError):  # a run of another version of ule_jax
    return None
  lenient = {'on_bad_image': 'fail'} | ({'official': False} if hasattr(options, 'official') else {})
  try:
    dataset = data.load(options.name, options.model_copy(update=lenient))
  except UserError as error:
    return str(error)
  splits = {
    name: split.take(np.array([i for i in range(split.count) if split.name(i) not in set(skipped.get(name, ()))], int))
    for name, split in dataset.splits.items()
  }
  return Fingerprint(dataset._replace(splits=splits))


def _folders(root: Path) -> Iterator[Path]:
  """Yield the folders of runs below `root`, without descending into a run."""
  for folder, below, files in os.walk(root):
    below.sort()
    if 'config.json' in files and _is_run(content := _config(Path(folder))):
      if 'axes' not in content:  # a sweep has its members below it
        below.clear()
      yield Path(folder)
    # Only links to a run are followed: others may form a loop, or lead to a disk full of images.
    for link in (Path(folder) / name for name in below):
      if link.is_symlink() and (link / 'config.json').is_file() and _is_run(_config(link)):
        yield link


def _config(folder: Path) -> dict[str, Any]:
  return read_json(folder / 'config.json', ADVICE)


def _is_run(content: Any) -> bool:
  """Return whether a config.json is of a run or sweep, as many other programs use that file name."""
  return all(isinstance(content.get(part), dict) for part in ('method', 'data', 'train'))
