"""Memory that is available on this host, for files that are read whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from ule_jax.errors import UserError

ADVICE = 'save it as .npy with a .csv, or as .safetensors with one, which are read row by row'


def refuse_too_large(path: Path, size: int) -> None:
  """Check that the memory that is available holds a file that is read whole.

  Args:
    size: bytes that it takes.

  Raises:
    UserError: it does not.
  """
  available = available_memory()
  if available is not None and size > available:
    raise UserError(
      f'{path} takes {size / 2**30:.1f} GiB of memory, of which {available / 2**30:.1f} GiB are available: {ADVICE}.'
    )


def available_memory() -> int | None:
  """Return the bytes of memory that this process may still take, by Linux and its control group; None if unknown."""
  sizes: list[int] = []
  with contextlib.suppress(OSError, ValueError):
    lines: Mapping[str, str] = dict(line.split(':') for line in Path('/proc/meminfo').read_text().splitlines())
    sizes.append(int(lines['MemAvailable'].split()[0]) * 1024)
  with contextlib.suppress(OSError, ValueError):
    group = Path('/sys/fs/cgroup')
    sizes.append(int((group / 'memory.max').read_text()) - int((group / 'memory.current').read_text()))
  if not sizes:
    with contextlib.suppress(OSError, ValueError):
      sizes.append(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))
  return min(sizes, default=None)
