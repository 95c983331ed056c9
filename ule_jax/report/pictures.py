"""Arrays to pictures: maps in colour, pictures of one size beside each other, PNG and JPEG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float, Int8, UInt8
from PIL import Image

GAP = 3  # pixels between pictures
COLORMAP = 'magma'

Pixels = UInt8[np.ndarray, 'h w 3']


def colored(size: Float[np.ndarray, 'h w']) -> Pixels:
  """Colour a map of values in [0, 1]: bright is much."""
  return (matplotlib.colormaps[COLORMAP](size.astype(np.float64))[..., :3] * 255).astype(np.uint8)


def signed(gradient: Int8[np.ndarray, 'h w c']) -> Pixels:
  """Show a gradient with its signs as a change of colour: grey is none."""
  return (gradient.astype(np.int16) + 128).clip(0, 255).astype(np.uint8)


def scaled(picture: Pixels, side: int) -> Pixels:
  """Bring a picture to about `side` pixels; small ones by whole factors, so that their pixels stay pixels."""
  height, width = picture.shape[:2]
  if factor := side // max(height, width):
    return picture.repeat(factor, 0).repeat(factor, 1)
  size = (max(side * width // max(height, width), 1), max(side * height // max(height, width), 1))
  return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def beside(pictures: Sequence[Pixels], gap: int = GAP) -> Pixels:
  """Put pictures of one height beside each other."""
  white = np.full((len(pictures[0]), gap, 3), 255, np.uint8)
  return np.concatenate([part for picture in pictures for part in (picture, white)][:-1], axis=1)


def stack(rows: Sequence[Pixels]) -> Pixels:
  """Put pictures below each other."""
  height, width = sum(len(row) + GAP for row in rows), max(row.shape[1] for row in rows)
  page, top = np.full((height, width, 3), 255, np.uint8), 0
  for row in rows:
    page[top : top + len(row), : row.shape[1]] = row
    top += len(row) + GAP
  return page


def to_png(pixels: Pixels) -> bytes:
  """Compress a picture as PNG."""
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'png')
  return buffer.getvalue()


def encode(pixels: np.ndarray) -> tuple[bytes, str]:
  """Compress a picture, as PNG or as JPEG, whichever is smaller; return the MIME type, too."""
  made = []
  for kind, options in (('png', {}), ('jpeg', {'quality': 85, 'optimize': True})):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    made.append((buffer.getvalue(), f'image/{kind}'))
  return min(made, key=lambda one: len(one[0]))
