"""Process-wide settings of JAX: compilation cache, allocator, checks of the devices, and their description."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.extend import backend

from ule_jax.errors import UserError
from ule_jax.paths import BUCKETS, local_path

log = logging.getLogger(__name__)

# jax's settings that a result may depend on, beyond flags of the environment.
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


GPUS = ('/dev/nvidia0', '/dev/nvidiactl')  # either exists where a GPU does, in containers the second


def setting(name: str) -> Any:
  """Return one of jax's settings."""
  return getattr(jax.config, name)


def user_cache() -> Path:
  """Return the folder of the user's cache, whose content can be computed again."""
  return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'ule_jax'


def use_cache(choice: str) -> None:
  """Set the folder in which compiled programs are kept, so that the next process need not compile them.

  There is no cache, with a warning, if the folder cannot be written.

  Args:
    choice: a folder, `default` (`$XDG_CACHE_HOME/ule_jax/xla`, or `$JAX_COMPILATION_CACHE_DIR`), or `off`.
  """
  folder = None
  if not setting('jax_enable_compilation_cache'):
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
      log.warning(f'nothing compiled is kept, as {folder} cannot be written ({error})')
      folder = None
  if folder != setting('jax_compilation_cache_dir'):
    jax.config.update('jax_compilation_cache_dir', folder)
    compilation_cache.reset_cache()  # jax reads the setting once, when it first compiles
  # Small programs, too: reading one takes a tenth of the time of compiling it, and a run has a dozen.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def require_devices() -> None:
  """Refuse to compute on a CPU if another platform was asked for, or a GPU exists that jax cannot use.

  jax itself continues without the first of several platforms, and without a GPU that its plugin cannot use.

  Raises:
    UserError: names the platform or the plugin.
  """
  asked, reason, platform = setting('jax_platforms') or '', 'there is none', ''
  try:
    platform = jax.default_backend()
  except (RuntimeError, AssertionError) as error:  # the second where there is no GPU for `cuda` (jax 0.10)
    reason = no_backend(error) or reason
  if not platform or (platform == 'cpu' and asked.split(',')[0] not in ('', 'cpu')):
    what = f'the device that JAX_PLATFORMS={asked} asks for' if asked else 'a device for which jax has a plugin'
    raise UserError(f'{what} is not here or does not work ({reason}): fix that, or set JAX_PLATFORMS=cpu.')
  if not asked and platform == 'cpu' and (plugin := unused_plugin()):
    raise UserError(
      f'there is a GPU, but jax does not use it although {plugin} is installed: see its warnings above, and fix that, '
      'or set JAX_PLATFORMS=cpu to compute on the CPU.'
    )


def no_backend(error: Exception) -> str:
  """Return jax's error about a platform that it cannot initialise on one line of at most 200 characters."""
  text = ' '.join(str(error).partition(' (set JAX_PLATFORMS')[0].partition(' (you may need')[0].split())
  return text if len(text) <= 200 else f'{text[:200]} ...'


def unused_plugin() -> str:
  """Return the name of jax's installed plugin for a GPU that exists here; '' without a plugin or a visible GPU."""
  hidden = os.environ.get('CUDA_VISIBLE_DEVICES', '0').strip() in ('', '-1', 'NoDevFiles')
  if hidden or not any(os.path.exists(path) for path in GPUS):
    return ''
  names = [point.name for point in importlib.metadata.entry_points(group='jax_plugins')]
  return next((name for name in names if 'cuda' in name), '')


def keep_memory() -> bool:
  """Make a process that computes on the CPU keep freed memory for the next step instead of returning it to the system.

  XLA allocates the temporary memory of a step again at each step, and glibc maps blocks of that size and unmaps them at
  once: clearing the pages takes an eighth of a small network's step. The settings (see mallopt(3)) are: no mapped
  blocks, no trimming, one arena for all threads. Threads keep the arena that they started with, so this has to be
  called before jax starts its own.

  Returns:
    Whether it was done; False on other platforms than CPU and without glibc.
  """
  platforms = (setting('jax_platforms') or '').split(',')
  elsewhere = any(importlib.metadata.entry_points(group='jax_plugins')) or importlib.util.find_spec('libtpu')
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
  if mallopt is None or (platforms != ['cpu'] and (platforms != [''] or elsewhere)):
    return False
  trim_threshold, mmap_max, arena_max = -1, -4, -8
  return all([mallopt(mmap_max, 0), mallopt(trim_threshold, -1), mallopt(arena_max, 1)])


def describe() -> dict[str, Any]:
  """Return devices, their libraries and the settings of jax, for env.json."""
  return {
    'devices': [str(device) for device in jax.devices()],
    'device_kinds': sorted({device.device_kind for device in jax.devices()}),
    'backend': backend.get_backend().platform_version,
    'determinism': {
      **{name: setting(name) for name in SETTINGS},
      # Compiled steps are bitwise reproducible on a CPU; on a GPU only with this flag.
      'xla_gpu_deterministic_ops': 'xla_gpu_deterministic_ops=true' in os.environ.get('XLA_FLAGS', ''),
    },
  }


def compiler_options() -> dict[str, str]:
  """Return the compiler options for the devices of this machine.

  On a CPU: keep optimisation barriers, without which the compiler undoes `remat`, and computes the factors of a matrix
  product a second time for its derivatives.
  """
  return {'xla_disable_hlo_passes': 'cse_barrier_expander'} if jax.default_backend() == 'cpu' else {}
