"""What a run was trained on against what is there when it goes on or is reused: data, weights, features, first run.

Each comparison returns a sentence part that says what differs, '' if nothing does. What differs is refused, or with
`--force` goes into the record and into results.json.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from ule_jax import data
from ule_jax.data import Dataset
from ule_jax.devices import processes
from ule_jax.errors import UserError
from ule_jax.models.pretrained import sources
from ule_jax.runs import files, fingerprint, progress, workdir
from ule_jax.runs.fingerprint import Fingerprint
from ule_jax.two_stage.contract import SecondStage

NOTHING = SecondStage()  # of a run without a first one


def load_data(config: Any) -> Fingerprint:
  """Load the data of a config, to be compared with those of a run."""
  options = dict(config.data)
  return Fingerprint(data.load(options.pop('name'), options, progress.say), progress.say)


def compare_inputs(config: Any, directory: Path, current: Fingerprint, force: bool) -> str:
  """Compare data and weights with those that a run was trained on; return what differs, which `force` allows.

  Raises:
    UserError: they differ, and `force` is not set.
  """
  differs = []
  with processes.raise_on_all('comparing the data'):
    if workdir.holds_training(directory):
      differs.append(fingerprint.check(directory, current, force))
      path = Path(sources.split_source(config.model.weights)[0]).expanduser()
      if config.model.weights not in ('none', 'default') and path.is_file():
        differs.append(compare_weights(directory, path, fingerprint.file_digest(path), force))
  return '; '.join(filter(None, differs))


def compare_weights(directory: Path, path: Path, sha256: str, force: bool) -> str:
  """Compare a file of weights with the one that a run began with, as `compare_inputs`."""
  recorded = directory / 'weights.json'
  if not (workdir.holds_training(directory) and recorded.exists()):
    return ''
  if files.read_json(recorded).get('sha256', sha256) == sha256:
    return ''
  differs = f'{path} are other weights than those of {directory}'
  if not force:
    raise UserError(f'{differs}: restore them, choose another --workdir, or go on with --force.')
  return differs


def compare_features(directory: Path, dataset: Dataset, code: str, force: bool) -> str:
  """Compare what an encoder makes of the images with what it made for the run, as `compare_inputs`.

  Another machine rounds in another way: what counts is a hundredth of a feature's deviation.

  Args:
    code: the digest of what features are made with.
  """
  path = directory / 'features.json'
  if not (workdir.holds_training(directory) and path.exists()):
    return ''
  recorded = files.read_json(path)
  old, new = ([np.asarray(of.get(name)) for name in ('mean', 'std')] for of in (recorded, dataset._asdict()))
  if old[0].shape == new[0].shape and all((abs(a - b) <= 0.01 * old[1]).all() for a, b in zip(old, new, strict=True)):
    return ''
  known = (fingerprint.read(directory) or {}).get('code', code)
  reason = ', as its code is another one' if known != code else ''
  differs = f'the encoder makes other features than those that {directory} was trained on{reason}'
  if not force:
    raise UserError(f'{differs}: choose another --workdir, or go on with --force.')
  return differs


def compare_first(directory: Path, prepared: SecondStage, force: bool) -> str:
  """Compare what the first run gives with what it gave when this one began, as `compare_inputs`."""
  recorded = (fingerprint.read(directory) or {}).get('first')
  # A last layer that was fitted is not gone on with.
  if recorded in (None, first_digest(prepared)) or prepared.head is not None or not workdir.holds_training(directory):
    return ''
  differs = f'the first run gives other groups or chances than {directory} began with'
  if not force:
    raise UserError(f'{differs}: restore its folder, choose another --workdir, or go on with --force.')
  return differs


def first_digest(prepared: SecondStage) -> str:
  """Make the digest of what a second run is given; '' for a run that has no first one."""
  given = prepared.group, prepared.chance
  return '' if all(array is None for array in given) else fingerprint.digest(*given)


def record_inputs(
  directory: Path, current: Fingerprint, differs: str, code: str = '', prepared: SecondStage = NOTHING
) -> None:
  """Record what a run is trained on; other hosts compare their own data with it.

  Args:
    differs: what `--force` lets the run go on with, although it was trained on something else.
    code: as in `compare_features`; '' without a frozen encoder.
    prepared: what a first run gave.

  Raises:
    UserError: a host has other data than the first.
  """
  if processes.is_first():
    trained = workdir.holds_training(directory)
    recorded = fingerprint.read(directory) if trained else None
    if trained and recorded is None:
      progress.say(f'{directory} has no fingerprint of its data: those that are there now are recorded')
    changed = (recorded or {}).get('changed', [])
    if differs:
      step = workdir.latest_step(directory)
      progress.say(
        f'warning: {differs}; up to step {step:,}, and in the scores that select its checkpoints, {directory} is of '
        'the former ones'
      )
      changed = [*changed, {'step': step, 'what': differs}]
    fingerprint.write(directory, current, code=code, first=first_digest(prepared), changed=changed)
  processes.barrier('the fingerprint is written')
  with processes.raise_on_all('comparing the data'):
    if not processes.is_first():
      fingerprint.check(directory, current, False, 'All hosts need the same data')


def say_finished(directory: Path, current: Fingerprint) -> None:
  """Say that an old result is shown."""
  known = fingerprint.read(directory)
  unknown_data = '; it was recorded without a fingerprint of its data, which are not compared with those of now'
  progress.say(f'already done, nothing trained: {directory} holds the results{"" if known else unknown_data}')
  if known and processes.is_first():
    with contextlib.suppress(OSError):  # somebody else's folder
      fingerprint.refresh(directory, current)


def forced_changes(directory: Path) -> dict[str, Any]:
  """Say in results.json from which step on a run was trained on something else, by `--force`."""
  changed = (fingerprint.read(directory) or {}).get('changed')
  return {'changed': changed} if changed else {}
