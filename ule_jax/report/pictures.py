"""Arrays to pictures: maps over photographs, resizing, PNG and JPEG."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from jaxtyping import Float, Int8, UInt8
from PIL import Image
from scipy import ndimage

COLORMAP = 'inferno'
SMALL = 96  # pixels: smaller pictures are enlarged by whole factors to about this many
BLUR = 1 / 40  # standard deviation of the blur of a map, in sides of the network's input; at least a pixel
STRONGEST = 0.85  # weight of the colour over the photograph where a map is largest
OUTSIDE = 0.75  # share of white over the part of a photograph that the network does not see

Pixels = UInt8[np.ndarray, 'h w 3']


def smooth(values: Float[np.ndarray, 'h w']) -> Float[np.ndarray, 'h w']:
  """Blur a map of values >= 0, and scale it to a maximum of 1; a map of zeros stays one."""
  blurred = ndimage.gaussian_filter(values.astype(np.float32), max(BLUR * max(values.shape), 1))
  return blurred / max(float(blurred.max()), float(np.finfo(np.float32).tiny))


def overlay(
  photograph: Pixels, values: Float[np.ndarray, 'h w'], box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
) -> Pixels:
  """Draw a map over a photograph, bright where the map is large, and fade the part outside the network's input.

  Args:
    photograph: of any size, which the result has.
    values: of the network's input, >= 0; it is blurred and scaled to [0, 1].
    box: the part of the photograph that is the network's input: left, top, right, bottom in [0, 1].
  """
  height, width = photograph.shape[:2]
  left, right = (round(share * width) for share in box[::2])
  top, bottom = (round(share * height) for share in box[1::2])
  right, bottom = max(right, left + 1), max(bottom, top + 1)
  size = (right - left, bottom - top)
  resized = Image.fromarray(smooth(values)).resize(size, Image.Resampling.BICUBIC)
  weight = np.asarray(resized).clip(0, 1)[..., None]
  inside = photograph[top:bottom, left:right].astype(np.float32)
  grey = inside.mean(-1, keepdims=True)
  quiet = 0.5 * (inside + grey)  # half of the colour, so that the map's colours stand out
  heat = 255 * matplotlib.colormaps[COLORMAP](weight[..., 0].astype(np.float64))[..., :3]
  drawn = 255 * OUTSIDE + (1 - OUTSIDE) * photograph.astype(np.float32)
  drawn[top:bottom, left:right] = (1 - STRONGEST * weight) * quiet + STRONGEST * weight * heat
  return np.rint(drawn).clip(0, 255).astype(np.uint8)


def signed(gradient: Int8[np.ndarray, 'h w c']) -> Pixels:
  """Draw a signed gradient in [-128, 127] as a change of colour from grey, which is 0."""
  return (gradient.astype(np.int16) + 128).clip(0, 255).astype(np.uint8)


def colour_bar(width: int, height: int) -> Pixels:
  """Draw the colours of maps from 0, at the left, to the maximum."""
  colours = matplotlib.colormaps[COLORMAP](np.linspace(0, 1, width))[:, :3]
  return np.repeat((255 * colours).astype(np.uint8)[None], height, axis=0)


def scaled(picture: Pixels, longest: int) -> Pixels:
  """Shrink a picture whose longer side has more pixels than `longest`; enlarge small ones by whole factors.

  Small ones, of less than half of SMALL pixels, are not blurred.
  """
  height, width = picture.shape[:2]
  if (factor := SMALL // max(height, width)) > 1:
    return picture.repeat(factor, 0).repeat(factor, 1)
  if max(height, width) <= longest:
    return picture
  size = (max(longest * width // max(height, width), 1), max(longest * height // max(height, width), 1))
  return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def to_png(pixels: Pixels) -> bytes:
  """Encode a picture as PNG."""
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'png')
  return buffer.getvalue()


def decode(file: bytes) -> Pixels:
  """Decode a picture that `encode` wrote."""
  return np.asarray(Image.open(io.BytesIO(file)).convert('RGB'))


def encode(pixels: np.ndarray) -> tuple[bytes, str]:
  """Encode a picture as PNG or JPEG, whichever is smaller; return the bytes and the MIME type."""
  encoded = []
  for kind, options in (('png', {}), ('jpeg', {'quality': 85, 'optimize': True})):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    encoded.append((buffer.getvalue(), f'image/{kind}'))
  return min(encoded, key=lambda pair: len(pair[0]))
