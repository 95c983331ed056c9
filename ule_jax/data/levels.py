"""Conversion of values of more than 8 bits a channel to 8-bit levels."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image, TiffImagePlugin

ORIENTATION, BITS, PHOTOMETRIC, EXTRA_SAMPLES, SAMPLE_FORMAT = 274, 258, 262, 338, 339  # tags of TIFF
CHANNELS = ('L', 'LA', 'RGB', 'RGBA', 'RGBX')  # modes whose values are brightness
TOLERANCE = 1e-3  # share of white by which floats may exceed black and white: a quarter of a level


class DeepValues(NamedTuple):
  """Values of more than 8 bits a channel, as in the file.

  Attributes:
    values: integers or floats.
    white: the white value of their type; 0 where the type does not define it.
    most: the largest value of the type.
  """

  values: Num[np.ndarray, 'h w *c']
  white: float
  most: float


def tags_of(image: Image.Image) -> Mapping[int, Any]:
  """Return the tags of an opened TIFF; {} for an image of another format."""
  return image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}


def deep_values(image: Image.Image, encoded: bytes, depth: int) -> DeepValues | None:
  """Return values of more than 8 bits; None for an image of 8 bits or fewer.

  Args:
    depth: bits of a channel in the file.

  Raises:
    ValueError: the values cannot be read in full depth.
  """
  if image.mode.startswith('I;16'):
    most = float(2 ** (depth if depth in (12, 16) else 16) - 1)
    return DeepValues(np.asarray(image), most, most)
  if image.mode == 'I':
    values = np.asarray(image)
    if image.format != 'TIFF':  # PNG and PGM have at most 16 bits; PIL scales PGM's to these
      return DeepValues(values, 65535.0, np.inf)
    unsigned = tuple(tags_of(image).get(SAMPLE_FORMAT, (1,))) == (1,) and depth == 32
    return DeepValues(values.view(np.uint32) if unsigned else values, 0.0, np.inf)
  if image.mode == 'F':
    return DeepValues(np.asarray(image), 1.0, np.inf)
  if depth != 16 or image.format not in ('PNG', 'TIFF') or image.mode not in CHANNELS:
    return None
  values = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)  # PIL drops the lower 8 bits
  if values is not None and values.ndim == 3:
    values = values[..., [2, 1, 0, *range(3, values.shape[2])]]
  if values is None or values.dtype != np.uint16 or not _agree(values, np.asarray(image), _premultiplied(image)):
    raise ValueError('its 16 bits a channel cannot be read: write it with 8')
  return DeepValues(values, 65535.0, 65535.0)


def _agree(values: Num[np.ndarray, 'h w *c'], upper: UInt8[np.ndarray, 'h w c'], alpha_only: bool) -> bool:
  """Return whether `upper` (PIL's 8 bits) are the upper halves of the 16-bit values."""
  if values.shape[:2] != upper.shape[:2] or values.ndim != 3:
    return False
  theirs = upper if upper.shape[2] > 2 else upper[..., [0, 0, 0, 1]]  # grey and alpha
  channels = [3] if alpha_only else range(min(values.shape[2], theirs.shape[2]))
  return all(np.array_equal(values[..., c] >> 8, theirs[..., c]) for c in channels)


def _premultiplied(image: Image.Image) -> bool:
  """Return whether the colours in the file are premultiplied by alpha."""
  return image.format == 'TIFF' and tuple(tags_of(image).get(EXTRA_SAMPLES, ())) == (1,)


def to_levels(image: Image.Image, deep: DeepValues, given: float) -> tuple[Image.Image, Image.Image | None]:
  """Convert values of more than 8 bits to an 8-bit colour image and its alpha channel (None: opaque).

  Args:
    given: `data.white`; 0 for the white of the type.

  Raises:
    ValueError: the type does not define white, or a value is below black or above white.
  """
  values, alpha, white = deep.values, None, given if 0 < given <= deep.most else deep.white
  if not white:
    raise ValueError(
      'its integers are signed or have 32 bits, a type without a white value: '
      'set --config.data.white to the value that is'
    )
  if values.ndim == 3 and values.shape[2] == 4:
    values, alpha = values[..., :3], values[..., 3]
    if not image.has_transparency_data:  # a fourth channel that is not alpha
      alpha = None
    elif _premultiplied(image):
      opaque = np.maximum(alpha, 1)[..., None].astype(np.uint32)
      values = np.minimum(values * np.uint32(65535) // opaque, 65535).astype(np.uint16)
  elif 'transparency' in image.info:  # the value that is transparent
    alpha = np.where(np.atleast_3d(values == image.info['transparency']).all(-1), 0, 65535).astype(np.uint16)
  levels = scaled(values, white)
  if image.format == 'TIFF' and tags_of(image).get(PHOTOMETRIC) == 0:  # 0 is white, which PIL handles for 8 bits only
    levels = 255 - levels
  return Image.fromarray(levels).convert('RGB'), None if alpha is None else Image.fromarray(scaled(alpha, 65535.0))


def scaled(values: Num[np.ndarray, 'h w *c'], white: float) -> UInt8[np.ndarray, 'h w *c']:
  """Scale values from [0, white] to 0 to 255; integers are rounded down, as by keeping the upper half of 16 bits.

  Raises:
    ValueError: a value is below 0, above white, or not a number.
  """
  low, high = (float(end(initial=0)) for end in (values.min, values.max))  # NaN if a value is NaN
  whole = np.issubdtype(values.dtype, np.integer)
  slack = 0.0 if whole else TOLERANCE * white
  if not (low >= -slack and high <= white + slack):
    raise ValueError(
      f'its values go from {low:g} to {high:g}, and black is 0 and white {white:g}: '
      'set --config.data.white to the value that is white, or bring them between the two'
    )
  if values.dtype in (np.uint8, np.uint16):
    return _table(white)[values]
  levels = np.multiply(values, 255 / white, dtype=np.float64)
  return (np.floor(levels + 1e-9) if whole else np.rint(levels)).clip(0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=8)
def _table(white: float) -> UInt8[np.ndarray, '65536']:
  return np.floor(np.arange(65536) * 255 / white).clip(0, 255).astype(np.uint8)
