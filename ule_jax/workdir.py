"""The folder of a run: whose it is, what was logged, and whether the run is done.

config.json env.json metrics.jsonl checkpoints/ predictions/ tensorboard/ results.json done
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

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
)

PACKAGES = ('ule_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'ml_collections', 'clu', 'numpy')


def write_json(path: Path, content: Any) -> None:
  """Write a JSON file, all or nothing."""
  partial = path.with_suffix('.partial')
  partial.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
  partial.replace(path)


def read_json(path: Path, advice: str = 'choose another --workdir') -> Any:
  """Read a JSON file.

  Raises:
    UserError: it is not JSON; ends with the advice.
  """
  try:
    return json.loads(path.read_text(encoding='utf-8'))
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


def claim(workdir: Path, config: dict[str, Any], force: bool) -> bool:
  """Make the folder this run's; tell whether it already was, with the same config.

  Raises:
    UserError: it holds a run with another config and `force` is not set, or something else.
  """
  path = workdir / 'config.json'
  same = False
  config = json.loads(json.dumps(config))  # tuples become lists, as in the file
  if path.exists():
    old, new = flatten(read_json(path)), flatten(config)
    changed = [f for f in sorted(old.keys() | new.keys()) if old.get(f) != new.get(f) and f not in MAY_CHANGE]
    same = not changed
    if changed and not force:
      shown = ', '.join(f'{f} ({old.get(f)!r} there, {new.get(f)!r} here)' for f in changed)
      raise UserError(
        f'{workdir} holds a run with another config; these fields differ: {shown}. '
        'Choose another --workdir, or go on from its checkpoint with --force.'
      )
  elif workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
    raise UserError(f'{workdir} is not empty and holds no run (no config.json): choose another --workdir.')
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(path, config)
  except OSError as error:
    raise UserError(f'{workdir} cannot be written ({error.strerror}): choose another --workdir.') from None
  return same


def environment(devices: list[str]) -> dict[str, Any]:
  """Describe where a run happens: versions, devices, flags, the commit of a source checkout."""
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
    'devices': devices,
    'versions': versions,
    'flags': {
      name: os.environ[name] for name in ('XLA_FLAGS', 'JAX_PLATFORMS', 'JAX_ENABLE_X64') if name in os.environ
    },
  }


class MetricsLog:
  """metrics.jsonl, a line per report, and the same numbers as TensorBoard events."""

  def __init__(self, workdir: Path, start: int):
    """Open the log; what a killed run wrote after step `start` is cut off."""
    from tensorboardX import SummaryWriter  # 1 s of import that --help does not need

    path = workdir / 'metrics.jsonl'
    if path.exists():
      kept = [line for line in path.read_text(encoding='utf-8').splitlines() if _step_of(line) <= start]
      partial = path.with_suffix('.partial')
      partial.write_text(''.join(f'{line}\n' for line in kept), encoding='utf-8')
      partial.replace(path)
    self._file = path.open('a', encoding='utf-8')
    purge = {'purge_step': start + 1} if start else {}
    self._events = SummaryWriter(str(workdir / 'tensorboard'), **purge)

  def write(self, step: int, values: dict[str, float]) -> None:
    """Write the numbers that belong to the state at `step`."""
    self._file.write(json.dumps({'step': step, **values}) + '\n')
    self._file.flush()
    for name, value in values.items():
      self._events.add_scalar(name, value, step)

  def close(self) -> None:
    """Write what is buffered."""
    self._file.close()
    self._events.close()


def _step_of(line: str) -> float:
  try:
    return json.loads(line)['step']
  except (ValueError, KeyError, TypeError):  # the last line of a killed run may be half written
    return float('inf')
