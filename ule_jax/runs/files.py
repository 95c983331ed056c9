"""Files that are replaced as a whole or not at all, and JSON."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ule_jax.errors import UserError

_numbers = itertools.count()


def is_partial(path: Path) -> bool:
  """Return whether a process that was killed left this file in the middle of `write_atomic`."""
  return path.suffix == '.partial' and (path.name.startswith('.') or path.name == 'config.partial')  # of older versions


@contextlib.contextmanager
def write_atomic(path: Path) -> Iterator[IO[bytes]]:
  """Open a binary file whose content replaces that of `path` when the block ends; an error leaves `path` as it was.

  Several processes and hosts may write the same path: the last one wins.

  Raises:
    OSError: it cannot be written.
  """
  # Short, as the name of `path` itself may be as long as the file system allows.
  partial = path.with_name(f'.{platform.node()[:64]}.{os.getpid()}.{next(_numbers)}.partial')
  if path.is_dir():
    raise IsADirectoryError(None, 'it is a folder')
  try:
    with partial.open('wb') as file:
      yield file
    partial.replace(path)
  finally:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
  """Write a text file in UTF-8, as a whole or not at all."""
  with write_atomic(path) as file:
    file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
  """Write a JSON file, as a whole or not at all."""
  write_text(path, json.dumps(content, indent=2) + '\n')


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
  """Write a compressed .npz, as a whole or not at all, and create the folder that it is in."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with write_atomic(path) as file:
    np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType] no array has the name allow_pickle


def read_json(path: Path, advice: str = 'choose another --workdir') -> dict[str, Any]:
  """Read a JSON file that holds an object.

  Args:
    advice: the end of the error's sentence.

  Raises:
    UserError: it cannot be read, or holds something else.
  """
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
    if not isinstance(content, dict):
      raise ValueError(f'it holds a {type(content).__name__} instead of an object')
    return content
  except (ValueError, OSError) as error:
    raise UserError(f'{path} cannot be read ({error}): {advice}.') from None
