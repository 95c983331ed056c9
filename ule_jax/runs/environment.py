"""Description of the environment of a run: versions, flags, commit."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from ule_jax.errors import UserError
from ule_jax.runs.files import read_json

PACKAGES = (
  'ule_jax', 'jax', 'jaxlib', 'jax-cuda12-plugin', 'jax-cuda13-plugin', 'libtpu', 'flax', 'optax', 'orbax-checkpoint',
  'tensorstore', 'grain', 'ml_collections', 'clu', 'numpy', 'scikit-learn', 'pillow', 'simplejpeg',
  'opencv-python-headless', 'tensorflow-datasets',
)  # fmt: skip

# Prefixes of environment variables that may change a step, through the compiler or the libraries below it.
FLAGS = ('XLA_', 'JAX_', 'LIBTPU_', 'TF_CUDNN_', 'CUBLAS_', 'NVIDIA_TF32_OVERRIDE', 'CUDA_VISIBLE_DEVICES', 'OMP_')


def describe_environment(devices: dict[str, Any]) -> dict[str, Any]:
  """Return the content of env.json: versions, flags, the commit of a source checkout, and the devices.

  Args:
    devices: as `devices.runtime.describe` returns them.
  """
  versions = {}
  for package in PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = None
  source = Path(__file__).parent.parent
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
    **devices,
    'versions': versions,
    'flags': {name: value for name, value in sorted(os.environ.items()) if name.startswith(FLAGS)},
  }


def recorded_correction(workdir: Path) -> str:
  """Return the correction of its method's loss that a run was trained with; '' if it recorded none."""
  with contextlib.suppress(UserError):
    return str(read_json(workdir / 'env.json').get('correction', ''))
  return ''
