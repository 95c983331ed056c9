"""Checksums of checkpoints, and the errors of the libraries that read and write them."""

from __future__ import annotations

import errno
import json
import logging
import os
import zlib
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ule_jax.errors import UserError, is_out_of_memory


def _keeps(record: logging.LogRecord) -> bool:
  return 'orbax' not in record.pathname and 'orbax' not in record.getMessage()


# orbax logs a traceback, often several, of every exception that it raises as well.
for _logger in ('absl', 'asyncio'):
  logging.getLogger(_logger).addFilter(_keeps)


def raise_if_not_damage(error: Exception) -> None:
  """Raise an error of the machine: a checkpoint that cannot be read for lack of memory or open files is not damaged.

  Raises:
    UserError: too many files are open.
  """
  if is_out_of_memory(error):
    raise error
  if os.strerror(errno.EMFILE) in str(error):
    raise UserError(f'a checkpoint cannot be opened ({reason(error)}): raise the limit (ulimit -n).') from None


def of_arrays(state: PyTree) -> list[int | None]:
  """Return the CRC-32 of every array; None for one of which this process has only a part."""

  def is_here(leaf):
    return isinstance(leaf, np.ndarray) or leaf.is_fully_addressable or leaf.is_fully_replicated

  return [zlib.crc32(np.asarray(leaf).tobytes()) if is_here(leaf) else None for leaf in jax.tree.leaves(state)]


def of_json(content: dict[str, Any]) -> int:
  """Return the CRC-32 of a dict as JSON with sorted keys."""
  return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def reason(error: Exception) -> str:
  """Return the text of an error on one line of at most 160 characters."""
  text = ' '.join(str(error).split()) or type(error).__name__
  return text if len(text) <= 160 else f'{text[:80]} ... {text[-70:]}'
