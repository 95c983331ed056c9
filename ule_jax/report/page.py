"""HTML pages: templates, embedded pictures, and the folder that they are written to."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2

from ule_jax.errors import UserError


def write(out: Path, files: dict[str, bytes]) -> None:
  """Write files into a folder, which is created.

  Args:
    files: path below the folder -> content.

  Raises:
    UserError: the folder cannot be written.
  """
  try:
    for name, content in files.items():
      (out / name).parent.mkdir(parents=True, exist_ok=True)
      (out / name).write_bytes(content)
  except OSError as error:
    raise UserError(f'{out} cannot be written ({error.strerror}): choose another --out.') from None


def refuse_others(out: Path, generator: str) -> None:
  """Check that a folder is empty, does not exist, or holds an older page, which may be replaced.

  Args:
    generator: the older page's `<meta name="generator">`.

  Raises:
    UserError: `out` is a file, or holds other content.
  """
  if not out.exists():
    return
  page = out / 'index.html'
  ours = page.is_file() and f'content="{generator}"' in page.read_text(encoding='utf-8', errors='replace')[:1000]
  if not out.is_dir() or (any(out.iterdir()) and not ours):
    raise UserError(f'{out} exists and is no page of {generator}: choose another --out.')


def render(page: Path, context: dict[str, Any]) -> bytes:
  """Render a Jinja template as UTF-8; includes are looked up beside it first, then in this folder."""
  loader = jinja2.FileSystemLoader([page.parent, Path(__file__).parent])
  environment = jinja2.Environment(
    loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
  )
  return environment.get_template(page.name).render(context).encode(errors='backslashreplace')


def data_uri(content: bytes, kind: str) -> str:
  """Encode a file as a data URI of the MIME type `kind`."""
  return f'data:{kind};base64,{base64.b64encode(content).decode()}'
