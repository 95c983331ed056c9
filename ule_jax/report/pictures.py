"""Arrays to pictures: colour maps, resizing, tiling, PNG and JPEG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float, Int8, UInt8
from PIL import Image

GAP = 3  # pixels between tiles
COLORMAP = 'magma'

Pixels = UInt8[np.ndarray, 'h w 3']


def colored(size: Float[np.ndarray, 'h w']) -> Pixels:
  """Colour a map of values in [0, 1], from black (0) to bright (1)."""
  return (matplotlib.colormaps[COLORMAP](size.astype(np.float64))[..., :3] * 255).astype(np.uint8)


def signed(gradient: Int8[np.ndarray, 'h w c']) -> Pixels:
  """Draw a signed gradient in [-128, 127] as a change of colour from grey, which is 0."""
  return (gradient.astype(np.int16) + 128).clip(0, 255).astype(np.uint8)


def scaled(picture: Pixels, side: int) -> Pixels:
  """Resize a picture so that its longer side has about `side` pixels; small ones by whole factors, without blur."""
  height, width = picture.shape[:2]
  if factor := side // max(height, width):
    return picture.repeat(factor, 0).repeat(factor, 1)
  size = (max(side * width // max(height, width), 1), max(side * height // max(height, width), 1))
  return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def beside(pictures: Sequence[Pixels], gap: int = GAP) -> Pixels:
  """Join pictures of one height in a row, with white gaps of `gap` pixels."""
  white = np.full((len(pictures[0]), gap, 3), 255, np.uint8)
  return np.concatenate([tile for picture in pictures for tile in (picture, white)][:-1], axis=1)


def stack(rows: Sequence[Pixels]) -> Pixels:
  """Join pictures in a column, left-aligned on white."""
  height, width = sum(len(row) + GAP for row in rows), max(row.shape[1] for row in rows)
  page, top = np.full((height, width, 3), 255, np.uint8), 0
  for row in rows:
    page[top : top + len(row), : row.shape[1]] = row
    top += len(row) + GAP
  return page


def to_png(pixels: Pixels) -> bytes:
  """Encode a picture as PNG."""
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'png')
  return buffer.getvalue()


def encode(pixels: np.ndarray) -> tuple[bytes, str]:
  """Encode a picture as PNG or JPEG, whichever is smaller; return the bytes and the MIME type."""
  encoded = []
  for kind, options in (('png', {}), ('jpeg', {'quality': 85, 'optimize': True})):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    encoded.append((buffer.getvalue(), f'image/{kind}'))
  return min(encoded, key=lambda pair: len(pair[0]))
