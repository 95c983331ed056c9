"""JSON files of a run, written atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ule_jax.errors import UserError


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
