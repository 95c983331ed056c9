"""The folder of a run: comparison with a config, lock, and the files of a start that failed.

config.json env.json metrics.jsonl checkpoints/ predictions/ tensorboard/ results.json done, and lock while it runs
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ule_jax.config.fields import flatten, total_steps
from ule_jax.config.former import present_names
from ule_jax.config.schema import options_where
from ule_jax.config.validate import recorded_fields
from ule_jax.errors import UserError
from ule_jax.runs import lock
from ule_jax.runs.files import is_partial, read_json, write_json

# A run may resume with other values of these: they do not change the result of a step. tests/stale_test.py trains with
# each of them changed half-way.
MAY_CHANGE = options_where(resume=True)

# These as well under a constant schedule; under another one the learning rate of every step depends on them.
LENGTH = ('train.steps', 'train.epochs')

# And these, if the fingerprint shows that the data are the same.
PLACES = ('data.dir', 'data.file', 'data.table')

LOCK = 'lock'

BELOW = 400  # bytes of the longest path in a run: of a part of a checkpoint of a first run, or of a sweep's member

# The files that a start writes before anything is trained; a folder with only these and the lock holds no run.
START = ('config.json', 'env.json', 'weights.json', 'features.json', 'fingerprint.json', 'split.csv')

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def read_config(directory: Path) -> dict[str, Any]:
  """Return the fields of a recorded config, with dotted names and those that were added since.

  Raises:
    UserError: it cannot be read.
  """
  return recorded_fields(read_json(directory / 'config.json'))


def lacks(directory: Path, field: str) -> bool:
  """Return whether the folder holds a run that has trained and was recorded before an option existed.

  Raises:
    UserError: its config cannot be read.
  """
  if not (directory / 'config.json').exists() or not holds_training(directory):
    return False
  recorded = read_json(directory / 'config.json')
  return field not in present_names(flatten(recorded)) and field in recorded_fields(recorded)


def _free(old: Mapping[str, Any], new: Mapping[str, Any], workdir: Path, examples: int) -> tuple[str, ...]:
  """Return the fields in which two configs of one run may differ."""
  constant = all(fields.get('optim.schedule', 'constant') == 'constant' for fields in (old, new))
  known = all(field in fields for field in LENGTH for fields in (old, new))
  lasting = constant or (known and total_steps(old, examples) == total_steps(new, examples))
  return MAY_CHANGE + (LENGTH if lasting else ()) + (PLACES if (workdir / 'fingerprint.json').exists() else ())


def compare(workdir: Path, config: dict[str, Any], force: bool, examples: int = 1) -> bool:
  """Return whether the folder holds a run of the same config; False for an empty or missing one.

  Args:
    workdir: the folder.
    config: the nested config.
    force: return False for a run of another config.
    examples: number of training examples.

  Raises:
    UserError: it holds a run with another config and `force` is not set, or something else.
  """
  path = workdir / 'config.json'
  length = len(os.fsencode(workdir.absolute()))
  if length + BELOW > (longest := os.pathconf('/', 'PC_PATH_MAX')):
    raise UserError(
      f'the path of --workdir has {length:,} bytes, and files below it would exceed the {longest:,} that are possible: '
      'choose a shorter one.'
    )
  try:
    if not path.exists():
      if workdir.exists() and (not workdir.is_dir() or _foreign(workdir)):
        raise UserError(f'{workdir} is not empty and holds no run (no config.json): choose another --workdir.')
      return False
  except (OSError, ValueError) as error:  # a name too long, no permission, a null character
    raise UserError(f'{workdir} cannot be read ({error}): choose another --workdir.') from None
  old, new = (
    read_config(workdir),
    recorded_fields(json.loads(json.dumps(config))),
  )  # tuples become lists, as in the file
  free = _free(old, new, workdir, examples)
  changed = [f for f in sorted(old.keys() | new.keys()) if old.get(f) != new.get(f) and f not in free]
  if changed and not force and holds_training(workdir):
    fields = ', '.join(f'{f} ({old.get(f)!r} there, {new.get(f)!r} here)' for f in changed)
    long = f', and with optim.schedule={old.get("optim.schedule")} the length of a run changes all of its steps'
    raise UserError(
      f'{workdir} holds a run with another config; these fields differ: {fields}'
      f'{long if set(changed) & set(LENGTH) else ""}. '
      'Choose another --workdir, or continue from its checkpoint with --force.'
    )
  return not changed


def recorded_steps(workdir: Path, examples: int) -> int:
  """Return the number of steps in the config of a folder, 0 without a config."""
  path = workdir / 'config.json'
  return total_steps(flatten(read_json(path)), examples) if path.exists() else 0


def latest_step(workdir: Path) -> int:
  """Return the step of the newest checkpoint, 0 if there is none."""
  folder = workdir / 'checkpoints'
  names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
  return max((int(name) for name in names if name.isdecimal()), default=0)


def holds_training(workdir: Path) -> bool:
  """Return whether anything was trained; a start may have failed before, for example at a damaged image."""
  folder = workdir / 'checkpoints'
  trained = folder.is_dir() and any(path.name.isdecimal() for path in folder.iterdir())
  return trained or (workdir / 'results.json').exists()


def set_aside(workdir: Path, step: int, names: Iterable[str] = ('results.json', 'predictions')) -> list[str]:
  """Rename the results of a run that continues to names with their step; return the new names."""
  kept = []
  for old in (workdir / name for name in names):
    if old.exists():
      new, number = old.with_stem(f'{old.stem}-{step}'), 1
      while new.exists():  # the same step, on other data
        number += 1
        new = old.with_stem(f'{old.stem}-{step}.{number}')
      old.rename(new)
      kept.append(new.name)
  return kept


def _foreign(workdir: Path) -> bool:
  # A run that was killed before it had written its config leaves a lock and a partial file.
  return any(path.name != LOCK and not is_partial(path) for path in workdir.iterdir())


def _clear_start(workdir: Path) -> None:
  """Remove the files of a start that failed before training, unless the folder holds anything else."""
  left = [path for path in workdir.rglob('*') if path != workdir / LOCK]
  ours = {workdir / name for name in START}
  log = workdir / 'metrics.jsonl'  # and its twin, where no step was logged yet
  if not log.exists() or not log.stat().st_size:
    ours |= {log, *(workdir / 'tensorboard').glob('*')}
  if holds_training(workdir) or any(path not in ours and not path.is_dir() for path in left):
    return
  for path in sorted(left, reverse=True):  # what is in a folder before the folder
    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def owned(workdir: Path, config: dict[str, Any], force: bool, examples: int = 1) -> Iterator[bool]:
  """Lock the folder (lock.py) and write its config.json; yield whether it already held a run of this config.

  A block that ends with a UserError before anything was trained leaves no file.

  Args:
    workdir: created if it does not exist.
    config: the nested config.
    force: as in `compare`.
    examples: as in `compare`.

  Raises:
    UserError: as `compare`; another process has the lock; or the folder cannot be written.
  """
  created = not workdir.exists()
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    with lock.held(workdir / LOCK):
      same = compare(workdir, config, force, examples)
      write_json(workdir / 'config.json', config)
      try:
        yield same
      except UserError:
        _clear_start(workdir)
        raise
  except OSError as error:
    if error.errno not in NO_ROOM and (workdir / 'config.json').exists():
      raise
    raise UserError(
      f'{workdir} cannot be written ({error.strerror}): make room, or choose another --workdir; '
      'the same command continues from the last checkpoint.'
    ) from None
  except UserError:
    if created:
      with contextlib.suppress(OSError):  # it is not empty
        workdir.rmdir()
    raise
