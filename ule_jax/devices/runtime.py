"""What is set in jax itself, for the whole process: the compilation cache, and what a run records of the rest."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.extend import backend

from ule_jax.errors import UserError
from ule_jax.paths import BUCKETS, local_path

# What of jax's own settings decides about the numbers, beside flags of the environment.
SETTINGS = (
  'jax_enable_x64',
  'jax_default_matmul_precision',
  'jax_default_prng_impl',
  'jax_threefry_partitionable',
  'jax_disable_jit',
  'jax_debug_nans',
  'jax_enable_compilation_cache',
  'jax_compilation_cache_dir',
)


GPUS = ('/dev/nvidia0', '/dev/nvidiactl')  # one of them is there, the second in containers


def user_cache() -> Path:
  """Return the folder of the user's cache for what can be made again."""
  return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'ule_jax'


def use_cache(choice: str, say: Callable[[str], None]) -> None:
  """Keep what is compiled on disk, so that the next start need not compile it; or do not.

  Args:
    choice: a folder, `default` (`$XDG_CACHE_HOME/ule_jax/xla`, or what jax was told), or `off`.
    say: is told if the folder cannot be written: then there is no cache.
  """
  folder = None
  if not jax.config.jax_enable_compilation_cache:
    choice = 'off'
  if choice == 'default':
    folder = os.environ.get('JAX_COMPILATION_CACHE_DIR') or f'{user_cache()}/xla'
  elif choice != 'off':
    folder = choice
  if folder and not folder.startswith(BUCKETS):
    try:
      folder = str(local_path(folder, 'compilation_cache'))
      Path(folder).mkdir(parents=True, exist_ok=True)
      if not os.access(folder, os.W_OK):
        raise PermissionError(13, 'Permission denied')
    except (OSError, ValueError, UserError) as error:
      say(f'warning: nothing compiled is kept, as {folder} cannot be written ({error})')
      folder = None
  if folder != jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', folder)
    compilation_cache.reset_cache()  # jax looks at the folder once, when it first compiles
  # Small programs, too: to read one takes a tenth of the time to compile it, and a run has a dozen.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def require_devices() -> None:
  """Refuse to compute on a CPU where something else was asked for, or is there and does not work.

  jax itself goes on where the first of several platforms is not there, and where it finds a GPU that its plugin cannot
  use.

  Raises:
    UserError: names what was asked for, or is there.
  """
  asked, reason, platform = jax.config.jax_platforms or '', 'there is none', ''
  try:
    platform = jax.default_backend()
  except (RuntimeError, AssertionError) as error:  # the second where there is no GPU for `cuda` (jax 0.10)
    reason = no_backend(error) or reason
  if not platform or (platform == 'cpu' and asked.split(',')[0] not in ('', 'cpu')):
    what = f'the device that JAX_PLATFORMS={asked} asks for' if asked else 'a device for which jax has a plugin'
    raise UserError(f'{what} is not here or does not work ({reason}): mend that, or set JAX_PLATFORMS=cpu.')
  if not asked and platform == 'cpu' and (plugin := unused_plugin()):
    raise UserError(
      f'there is a GPU, but jax does not use it although {plugin} is installed: see its warnings above, and mend that, '
      'or set JAX_PLATFORMS=cpu to compute on the CPU.'
    )


def no_backend(error: Exception) -> str:
  """Shorten what jax says of a platform that it cannot initialise."""
  text = ' '.join(str(error).partition(' (set JAX_PLATFORMS')[0].partition(' (you may need')[0].split())
  return text if len(text) <= 200 else f'{text[:200]} ...'


def unused_plugin() -> str:
  """Name the installed plugin of jax for a GPU that can be seen here, '' if there is none, or none is to be seen."""
  hidden = os.environ.get('CUDA_VISIBLE_DEVICES', '0').strip() in ('', '-1', 'NoDevFiles')
  if hidden or not any(os.path.exists(path) for path in GPUS):
    return ''
  names = [point.name for point in importlib.metadata.entry_points(group='jax_plugins')]
  return next((name for name in names if 'cuda' in name), '')


def keep_memory() -> bool:
  """Let a process that computes on its CPU keep what memory a step gave back, for the next step.

  XLA asks for a step's temporary memory at each step, and glibc takes blocks of that size from the system and returns
  them at once: that the system clears every page anew takes an eighth of a small network's step. The settings (see
  mallopt(3)) are: no blocks apart from the heap, nothing returned, one heap for all threads. Threads keep the heap that
  they started with, so this must be called before jax starts its own.

  Returns:
    Whether it was done: not where jax has another platform, and not without glibc.
  """
  platforms = (jax.config.jax_platforms or '').split(',')
  elsewhere = any(importlib.metadata.entry_points(group='jax_plugins')) or importlib.util.find_spec('libtpu')
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
  if mallopt is None or (platforms != ['cpu'] and (platforms != [''] or elsewhere)):
    return False
  trim_threshold, mmap_max, arena_max = -1, -4, -8
  return all([mallopt(mmap_max, 0), mallopt(trim_threshold, -1), mallopt(arena_max, 1)])


def describe() -> dict[str, Any]:
  """Describe the devices, the libraries under them and the settings, for env.json."""
  return {
    'devices': [str(device) for device in jax.devices()],
    'device_kinds': sorted({device.device_kind for device in jax.devices()}),
    'backend': backend.get_backend().platform_version,
    'determinism': {
      **{name: getattr(jax.config, name) for name in SETTINGS},
      # The CPU's compiled steps always give the same bits; a GPU's only with this flag.
      'xla_gpu_deterministic_ops': 'xla_gpu_deterministic_ops=true' in os.environ.get('XLA_FLAGS', ''),
    },
  }


def compiler_options() -> dict[str, str]:
  """Return what the compiler of this machine's devices needs to be told.

  The CPU's drops the barriers that keep it from undoing `remat` and from computing what a product of matrices takes
  again for that product's derivatives, unless told not to.
  """
  return {'xla_disable_hlo_passes': 'cse_barrier_expander'} if jax.default_backend() == 'cpu' else {}
