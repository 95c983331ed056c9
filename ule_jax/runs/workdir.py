"""The folder of a run: whose it is, and whether it may be continued.

config.json env.json metrics.jsonl checkpoints/ predictions/ tensorboard/ results.json done, and lock while it runs
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ule_jax.config.fields import ADDED, flatten, total_steps, with_added
from ule_jax.errors import UserError
from ule_jax.runs import lock
from ule_jax.runs.files import read_json, write_json

# A run may go on under other values of these: they do not change what a step computes. tests/stale_test.py trains with
# each of them changed half-way.
MAY_CHANGE = (
  'train.eval_every',
  'train.log_every',
  'loader.threads',
  'loader.workers',
  'first.workdir',
  'model.feature_cache',
  'checkpoint.keep',
  'compilation_cache',
  'parallel',
  'fsdp',
)

# So it may under these with a constant schedule; under another one the rate of every step depends on them.
LENGTH = ('train.steps', 'train.epochs')

# And under this one, if the fingerprint says that the data there are the same.
PLACE = 'data.dir'

LOCK = 'lock'

BELOW = 400  # bytes of the longest path in a run: of a part of a checkpoint of a first run, or of a sweep's member

# What a start writes before anything is trained; a folder with no more than these and the lock is no run.
START = ('config.json', 'env.json', 'weights.json', 'features.json', 'fingerprint.json')

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def read_config(directory: Path) -> dict[str, Any]:
  """Read the fields of a recorded config, dotted, with those that were added since.

  Raises:
    UserError: it cannot be read.
  """
  return with_added(flatten(read_json(directory / 'config.json')))


def lacks(directory: Path, field: str) -> bool:
  """Tell whether the folder holds a run that has trained and was recorded before there was a field of ADDED.

  Raises:
    UserError: its config cannot be read.
  """
  if not (directory / 'config.json').exists() or not holds_training(directory):
    return False
  fields = flatten(read_json(directory / 'config.json'))
  return field not in fields and ADDED[field][1] in fields


def _free(old: Mapping[str, Any], new: Mapping[str, Any], workdir: Path, examples: int) -> tuple[str, ...]:
  """Name the fields in which two configs may differ and be one run."""
  constant = all(fields.get('optim.schedule', 'constant') == 'constant' for fields in (old, new))
  known = all(field in fields for field in LENGTH for fields in (old, new))
  lasting = constant or (known and total_steps(old, examples) == total_steps(new, examples))
  return MAY_CHANGE + (LENGTH if lasting else ()) + ((PLACE,) if (workdir / 'fingerprint.json').exists() else ())


def compare(workdir: Path, config: dict[str, Any], force: bool, examples: int = 1) -> bool:
  """Tell whether the folder holds a run of the same config; an empty one or none does not.

  Args:
    examples: that are trained on.

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
  old, new = read_config(workdir), flatten(json.loads(json.dumps(config)))  # tuples become lists, as in the file
  free = _free(old, new, workdir, examples)
  changed = [f for f in sorted(old.keys() | new.keys()) if old.get(f) != new.get(f) and f not in free]
  if changed and not force and holds_training(workdir):
    shown = ', '.join(f'{f} ({old.get(f)!r} there, {new.get(f)!r} here)' for f in changed)
    long = f', and with optim.schedule={old.get("optim.schedule")} the length of a run changes all of its steps'
    raise UserError(
      f'{workdir} holds a run with another config; these fields differ: {shown}'
      f'{long if set(changed) & set(LENGTH) else ""}. '
      'Choose another --workdir, or go on from its checkpoint with --force.'
    )
  return not changed


def recorded_steps(workdir: Path, examples: int) -> int:
  """Count the steps that the config of a folder asks for, 0 if it has none."""
  path = workdir / 'config.json'
  return total_steps(flatten(read_json(path)), examples) if path.exists() else 0


def latest_step(workdir: Path) -> int:
  """Return the step of the newest checkpoint, 0 if there is none."""
  folder = workdir / 'checkpoints'
  names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
  return max((int(name) for name in names if name.isdecimal()), default=0)


def holds_training(workdir: Path) -> bool:
  """Tell whether anything was trained; a start may also have come to nothing, as with images that are damaged."""
  folder = workdir / 'checkpoints'
  trained = folder.is_dir() and any(path.name.isdecimal() for path in folder.iterdir())
  return trained or (workdir / 'results.json').exists()


def set_aside(workdir: Path, step: int, names: Iterable[str] = ('results.json', 'predictions')) -> list[str]:
  """Keep the results of a run that goes on under names with their step; return these."""
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
  # A run that was killed before it had written its config leaves these.
  return any(path.name not in (LOCK, 'config.partial') for path in workdir.iterdir())


def _clear_start(workdir: Path) -> None:
  """Remove what a start that came to nothing has left; nothing, if there is anything else."""
  left = [path for path in workdir.rglob('*') if path != workdir / LOCK]
  ours = {workdir / name for name in START}
  log = workdir / 'metrics.jsonl'  # and its twin, where no step was logged yet
  if not log.exists() or not log.stat().st_size:
    ours |= {log, *(workdir / 'tensorboard').glob('*')}
  if holds_training(workdir) or any(path not in ours and not path.is_dir() for path in left):
    return
  for path in sorted(left, reverse=True):  # what is in a folder before the folder
    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def owned(
  workdir: Path, config: dict[str, Any], force: bool, examples: int = 1, say: Callable[[str], None] = _say
) -> Iterator[bool]:
  """Keep the folder to this process and this config (lock.py); yield whether it already was this config's.

  A block that is refused before anything was trained leaves nothing.

  Args:
    examples: as in `compare`.
    say: is told where the lock of another host is waited for.

  Raises:
    UserError: as `compare`; another process has the folder; it cannot be written.
  """
  made = not workdir.exists()
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    with lock.held(workdir / LOCK, say):
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
      'the same command goes on from the last checkpoint.'
    ) from None
  except UserError:
    if made:
      with contextlib.suppress(OSError):  # it is not empty
        workdir.rmdir()
    raise
