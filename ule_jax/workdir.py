"""The folder of a run: whose it is, what was logged, and whether the run is done.

config.json env.json metrics.jsonl checkpoints/ predictions/ tensorboard/ results.json done, and lock while it runs
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ule_jax.errors import UserError

# A run may go on under other values of these: they do not change what a step computes.
MAY_CHANGE = (
  'train.steps',
  'train.epochs',
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

# Fields that runs were recorded without at first -> what stands for them there, in a run that has the second.
ADDED = {
  'model.head_init': ('lecun', 'model.name'),
  'model.fast_variance': (True, 'model.name'),
}

PACKAGES = (
  'ule_jax', 'jax', 'jaxlib', 'jax-cuda12-plugin', 'jax-cuda13-plugin', 'libtpu', 'flax', 'optax', 'orbax-checkpoint',
  'tensorstore', 'grain', 'ml_collections', 'clu', 'numpy', 'scikit-learn', 'pillow', 'simplejpeg',
  'opencv-python-headless', 'tensorflow-datasets',
)  # fmt: skip
# Prefixes of what may change a step, by the compiler or the libraries below it.
FLAGS = ('XLA_', 'JAX_', 'LIBTPU_', 'TF_CUDNN_', 'CUBLAS_', 'NVIDIA_TF32_OVERRIDE', 'CUDA_VISIBLE_DEVICES', 'OMP_')

LOCK = 'lock'
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def write_json(path: Path, content: Any) -> None:
  """Write a JSON file, all or nothing."""
  partial = path.with_suffix('.partial')
  partial.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
  partial.replace(path)


def read_json(path: Path, advice: str = 'choose another --workdir') -> dict[str, Any]:
  """Read a JSON file.

  Raises:
    UserError: it is not JSON; ends with the advice.
  """
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
    if not isinstance(content, dict):
      raise ValueError(f'a {type(content).__name__} where an object is due')
    return content
  except (ValueError, OSError) as error:
    raise UserError(f'{path} cannot be read ({error}): {advice}.') from None


def flatten(config: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Turn nested fields into dotted ones.

  >>> flatten({'optim': {'lr': 0.1}, 'seed': 0})
  {'optim.lr': 0.1, 'seed': 0}
  """
  flat = {}
  for name, value in config.items():
    flat |= flatten(value, f'{prefix}{name}.') if isinstance(value, dict) else {f'{prefix}{name}': value}
  return flat


def read_config(directory: Path) -> dict[str, Any]:
  """Read the fields of a recorded config, dotted, with those that were added since.

  Raises:
    UserError: it cannot be read.
  """
  return with_added(flatten(read_json(directory / 'config.json')))


def with_added(fields: dict[str, Any]) -> dict[str, Any]:
  """Add to a recorded config the fields that it was recorded without."""
  return {field: value for field, (value, beside) in ADDED.items() if beside in fields} | fields


def compare(workdir: Path, config: dict[str, Any], force: bool) -> bool:
  """Tell whether the folder holds a run of the same config; an empty one or none does not.

  Raises:
    UserError: it holds a run with another config and `force` is not set, or something else.
  """
  path = workdir / 'config.json'
  try:
    if not path.exists():
      if workdir.exists() and (not workdir.is_dir() or _foreign(workdir)):
        raise UserError(f'{workdir} is not empty and holds no run (no config.json): choose another --workdir.')
      return False
  except (OSError, ValueError) as error:  # a name too long, no permission, a null character
    raise UserError(f'{workdir} cannot be read ({error}): choose another --workdir.') from None
  old, new = read_config(workdir), flatten(json.loads(json.dumps(config)))  # tuples become lists, as in the file
  changed = [f for f in sorted(old.keys() | new.keys()) if old.get(f) != new.get(f) and f not in MAY_CHANGE]
  if changed and not force and _has_something(workdir):
    shown = ', '.join(f'{f} ({old.get(f)!r} there, {new.get(f)!r} here)' for f in changed)
    raise UserError(
      f'{workdir} holds a run with another config; these fields differ: {shown}. '
      'Choose another --workdir, or go on from its checkpoint with --force.'
    )
  return not changed


def _has_something(workdir: Path) -> bool:
  """Tell whether anything was trained; a start may also have come to nothing, as with a wrong data.dir."""
  folder = workdir / 'checkpoints'
  trained = folder.is_dir() and any(path.name.isdecimal() for path in folder.iterdir())
  return trained or (workdir / 'results.json').exists()


def _foreign(workdir: Path) -> bool:
  # A run that was killed before it had written its config leaves these.
  return any(path.name not in (LOCK, 'config.partial') for path in workdir.iterdir())


@contextlib.contextmanager
def owned(workdir: Path, config: dict[str, Any], force: bool) -> Iterator[bool]:
  """Keep the folder to this process and this config; yield whether it already was this config's.

  The kernel frees the lock of a process that died, so that nobody has to guess from its age. Only a lock from
  another host, where the file system may not tell, is left to the user.

  Raises:
    UserError: as `compare`; another process has the folder; it cannot be written.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    with _locked(workdir) as lock:
      same = compare(workdir, config, force)
      lock.truncate(0)
      lock.write(json.dumps({'host': platform.node(), 'pid': os.getpid(), 'started': time.time()}))
      lock.flush()
      write_json(workdir / 'config.json', config)
      yield same
  except OSError as error:
    if error.errno not in NO_ROOM and (workdir / 'config.json').exists():
      raise
    raise UserError(
      f'{workdir} cannot be written ({error.strerror}): make room, or choose another --workdir; '
      'the same command goes on from the last checkpoint.'
    ) from None


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[IO[str]]:
  path = workdir / LOCK
  while True:
    with path.open('a+', encoding='utf-8') as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise UserError(
          f'{workdir} is in use by {_owner(file)[1]}: wait for it, stop it, or choose another --workdir.'
        ) from None
      host, owner = _owner(file)
      if host not in ('', platform.node()):
        raise UserError(
          f'{workdir} was taken by {owner}, and from {platform.node()} nobody can see whether that still runs: '
          f'if it does not, remove {path}.'
        )
      # Its last owner may have removed the file between our opening and locking it.
      if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
        try:
          yield file
        finally:
          path.unlink(missing_ok=True)
        return


def _owner(file: IO[str]) -> tuple[str, str]:
  """Read a lock: the host, and who and since when in words."""
  file.seek(0)
  try:
    found = json.load(file)
    began = datetime.datetime.fromtimestamp(found['started'])
    age = datetime.timedelta(seconds=round(time.time() - found['started']))
    return found['host'], f'process {found["pid"]} on {found["host"]} since {began:%Y-%m-%d %H:%M:%S} ({age})'
  except (ValueError, KeyError, TypeError, OSError, OverflowError):
    return '', 'another process'


def environment(backend: dict[str, Any]) -> dict[str, Any]:
  """Describe where a run happens: versions, flags, the commit of a source checkout, and the backend's own words."""
  versions = {}
  for package in PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = None
  source = Path(__file__).parent
  git = (
    subprocess.run(
      ['git', '-C', str(source), 'describe', '--always', '--dirty', '--abbrev=12'],
      capture_output=True,
      text=True,
      check=False,
    )
    if (source.parent / '.git').exists()
    else None
  )
  return {
    'command': sys.argv,
    'commit': git.stdout.strip() or None if git else None,
    'python': platform.python_version(),
    'platform': platform.platform(),
    'cpus': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
    **backend,
    'versions': versions,
    'flags': {name: value for name, value in sorted(os.environ.items()) if name.startswith(FLAGS)},
  }


class MetricsLog:
  """metrics.jsonl, a line per report, and the same numbers as TensorBoard events."""

  def __init__(self, workdir: Path, start: int):
    """Open the log; what a killed run wrote after step `start` is cut off."""
    from tensorboardX.event_file_writer import EventsWriter  # 1 s of import that --help does not need

    path = workdir / 'metrics.jsonl'
    if path.exists():
      text = path.read_text(encoding='utf-8', errors='replace')
      kept = [line for line in text.splitlines() if _step_of(line) <= start]
      partial = path.with_suffix('.partial')
      partial.write_text(''.join(f'{line}\n' for line in kept), encoding='utf-8')
      partial.replace(path)
    self._file = path.open('a', encoding='utf-8')
    (workdir / 'tensorboard').mkdir(exist_ok=True)
    # Not tensorboardX's SummaryWriter: its thread dies on a full disk, and then its queue blocks for ever.
    self._events = EventsWriter(str(workdir / 'tensorboard' / 'events'), f'.{os.getpid()}')
    if start:
      self._event(start + 1, session_log={'status': 1})  # START: what was drawn from this step on is void

  def write(self, step: int, values: dict[str, float]) -> None:
    """Write the numbers that belong to the state at `step`."""
    self._file.write(json.dumps({'step': step, **values}) + '\n')
    self._file.flush()
    tags = [{'tag': name, 'simple_value': value} for name, value in values.items()]
    self._event(step, summary={'value': tags})
    self._events.flush()

  def _event(self, step: int, **content: Any) -> None:
    from tensorboardX.proto.event_pb2 import Event

    self._events.write_event(Event(step=step, wall_time=time.time(), **content))

  def close(self) -> None:
    """Write what is buffered."""
    self._file.close()
    self._events.close()


class NoLog:
  """A log that keeps nothing, for hosts that do not write."""

  def write(self, step: int, values: dict[str, float]) -> None:
    """Do nothing."""

  def close(self) -> None:
    """Do nothing."""


def _step_of(line: str) -> float:
  try:
    return json.loads(line)['step']
  except (ValueError, KeyError, TypeError):  # the last line of a killed run may be half written
    return float('inf')
