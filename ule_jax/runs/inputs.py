"""Comparison of a run's recorded inputs with the present ones: data, weights, features, first run.

Each comparison returns a clause that names the differences, '' if there are none. Differences are refused, or with
`--force` go into the record and into results.json.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from ule_jax import data
from ule_jax.config.schema import Config
from ule_jax.data import Dataset
from ule_jax.devices import processes
from ule_jax.errors import UserError
from ule_jax.models.pretrained import sources
from ule_jax.runs import files, fingerprint, workdir
from ule_jax.runs.fingerprint import Fingerprint
from ule_jax.two_stage.contract import SecondStage

log = logging.getLogger(__name__)


def load_data(config: Config) -> Fingerprint:
  """Load the data of a config; the result compares them with those of a run.

  Raises:
    UserError: as `data.load`.
  """
  return Fingerprint(data.load(config.data.name, config.data))


def compare_inputs(config: Config, directory: Path, current: Fingerprint, force: bool) -> str:
  """Compare data and weights with those that a run was trained on; return the differences, which `force` allows.

  Args:
    config: names the weights.
    directory: of the run.
    current: the data as they are now.
    force: return differences instead of raising.

  Raises:
    UserError: there are differences, and `force` is not set.
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
  """Compare a file of weights with the one that a run started from; as `compare_inputs`.

  Args:
    directory: of the run.
    path: of the file.
    sha256: its digest.
    force: as in `compare_inputs`.
  """
  recorded = directory / 'weights.json'
  if not (workdir.holds_training(directory) and recorded.exists()):
    return ''
  if files.read_json(recorded).get('sha256', sha256) == sha256:
    return ''
  differs = f'{path} are other weights than those of {directory}'
  if not force:
    raise UserError(f'{differs}: restore them, choose another --workdir, or continue with --force.')
  return differs


def compare_features(directory: Path, dataset: Dataset, code: str, force: bool) -> str:
  """Compare the statistics of an encoder's features with those of the run; as `compare_inputs`.

  The tolerance is a hundredth of each feature's standard deviation, because other machines round differently.

  Args:
    directory: of the run.
    dataset: its `mean` and `std` are those of the features.
    code: digest of the code that computes features.
    force: as in `compare_inputs`.
  """
  path = directory / 'features.json'
  if not (workdir.holds_training(directory) and path.exists()):
    return ''
  recorded = files.read_json(path)
  old, new = ([np.asarray(values.get(name)) for name in ('mean', 'std')] for values in (recorded, dataset._asdict()))
  if old[0].shape == new[0].shape and all((abs(a - b) <= 0.01 * old[1]).all() for a, b in zip(old, new, strict=True)):
    return ''
  known = (fingerprint.read(directory) or {}).get('code', code)
  reason = ', as its code is another one' if known != code else ''
  differs = f'the encoder makes other features than those that {directory} was trained on{reason}'
  if not force:
    raise UserError(f'{differs}: choose another --workdir, or continue with --force.')
  return differs


def compare_first(directory: Path, second: SecondStage, force: bool) -> str:
  """Compare the result of a first run with the one when the second run began; as `compare_inputs`."""
  recorded = (fingerprint.read(directory) or {}).get('first')
  # A fitted last layer takes no steps: it is fitted again, and nothing is resumed.
  if recorded in (None, first_digest(second)) or second.head is not None or not workdir.holds_training(directory):
    return ''
  differs = f'the first run gives other groups or chances than {directory} began with'
  if not force:
    raise UserError(f'{differs}: restore its folder, choose another --workdir, or continue with --force.')
  return differs


def first_digest(second: SecondStage) -> str:
  """Return the digest of the groups and sampling weights from a first run; '' without a first run."""
  arrays = second.group, second.sampling_weight
  return '' if all(array is None for array in arrays) else fingerprint.digest(*arrays)


def record_inputs(directory: Path, current: Fingerprint, differs: str, code: str, second: SecondStage) -> None:
  """Record the inputs of a run; the other processes compare their own data with the record.

  Args:
    directory: of the run.
    current: the data.
    differs: the differences with which the run continues by `--force`, '' for none.
    code: as in `compare_features`; '' without a frozen encoder.
    second: the result of a first run.

  Raises:
    UserError: a process has other data than the first.
  """
  if processes.is_first():
    trained = workdir.holds_training(directory)
    recorded = fingerprint.read(directory) if trained else None
    if trained and recorded is None:
      log.info(f'{directory} has no fingerprint of its data: those that are there now are recorded')
    changed = (recorded or {}).get('changed', [])
    if differs:
      step = workdir.latest_step(directory)
      log.warning(
        f'{differs}; up to step {step:,}, and in the scores that select its checkpoints, {directory} is of the former '
        'ones'
      )
      changed = [*changed, {'step': step, 'what': differs}]
    fingerprint.write(directory, current, code=code, first=first_digest(second), changed=changed)
  processes.barrier('the fingerprint is written')
  with processes.raise_on_all('comparing the data'):
    if not processes.is_first():
      fingerprint.check(directory, current, False, 'All hosts need the same data')


def report_finished(directory: Path, current: Fingerprint) -> None:
  """Log that the results of a finished run are returned, and record the state of files that were touched or copied."""
  known = fingerprint.read(directory)
  unknown_data = '; it was recorded without a fingerprint of its data, which are not compared with those of now'
  log.info(f'already done, nothing trained: {directory} holds the results{"" if known else unknown_data}')
  if known and processes.is_first():
    with contextlib.suppress(OSError):  # the folder may belong to another user
      fingerprint.refresh(directory, current)


def forced_changes(directory: Path) -> dict[str, Any]:
  """Return `{'changed': ...}` for results.json, if the run continued with other inputs by `--force`; else {}."""
  changed = (fingerprint.read(directory) or {}).get('changed')
  return {'changed': changed} if changed else {}
