"""Decoding of image files of any format to uint8 RGB.

The scale of pixel values follows from the type of the file and two options, never from the other values of the image:

  8 bits a channel, 1 bit, a palette   255 is white
  16 bits (12 in some TIFFs)           65,535 (4,095) is white
  floats                               1 is white
  32-bit or signed integers            refused, unless `white` is given
  `white`                              the value that is white, in every file whose type has such a value
  transparency                         the image is composed on a colour, `background`
"""

from __future__ import annotations

import contextlib
import functools
import io
from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from ule_jax.data.levels import BITS, CHANNELS, ORIENTATION, deep_values, scaled, tags_of, to_levels
from ule_jax.errors import UserError

Pixels = UInt8[np.ndarray, 'h w 3']

ADVICE = 'replace it, take its row out, or leave such images out with --config.data.on_bad_image=skip'

LARGEST = 2**29  # bytes of one decoded image: 178,956,970 pixels in colour, at which Pillow stops, too

TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}


class Decoding(NamedTuple):
  """Options of decoding.

  Attributes:
    white: pixel value that becomes 255; 0 derives it from the type of the file.
    background: name of the colour below transparent pixels.
  """

  white: float = 0.0
  background: str = 'white'

  @property
  def description(self) -> str:
    """The options in words, for the metadata of an exported network."""
    by_type = 'white is 255 in 8 bits, 65535 in 16, 4095 in 12, 1 in floats'
    white = f'white is {self.white:g} in files that have that value, else: {by_type}' if self.white else by_type
    return f'{white}; transparent images are put on {self.background}; EXIF orientation is applied'


BY_TYPE = Decoding()

MASK = Decoding(background='black')  # transparent pixels of a mask are 0


class Decoded(NamedTuple):
  """A decoded image.

  Attributes:
    pixels: uint8 RGB.
    transparent: whether a pixel was transparent in the file.
    several: whether the file has further frames or pages.
    changed: whether versions before `data.white` decoded other pixels; False where that was not compared.
  """

  pixels: Pixels
  transparent: bool = False
  several: bool = False
  changed: bool = False


def make_decoding(white: float, background: str) -> Decoding:
  """Check the two options of config.data.

  Args:
    white: from 0 on; 0 derives it from the type of each file.
    background: a colour that PIL knows, such as white or #808080.

  Raises:
    UserError: a value is out of range, or no colour.
  """
  if not 0 <= white < np.inf:
    raise UserError(f'data.white is {white}: give the value that is white, or 0 for that of the type of each file.')
  try:
    color = ImageColor.getrgb(background)
  except ValueError:
    color = ()
  if len(color) != 3:
    raise UserError(f'data.background is {background!r}: give a colour, as white or #808080.')
  return Decoding(float(white), background)


def decode(encoded: bytes, name: str, advice: str = ADVICE, decoding: Decoding = BY_TYPE) -> Pixels:
  """Return the pixels of an image file; arguments and errors are those of `read`."""
  return read(encoded, name, advice, decoding).pixels


def decode_mask(encoded: bytes, name: str) -> UInt8[np.ndarray, 'h w']:
  """Decode a mask file to one channel, 0 to 255."""
  return np.asarray(Image.fromarray(decode(encoded, name, decoding=MASK)).convert('L'))


def read(encoded: bytes, name: str, advice: str = ADVICE, decoding: Decoding = BY_TYPE) -> Decoded:
  """Decode an image file of any format, mode and bit depth to upright RGB, with the properties its pixels do not show.

  Plain JPEGs are decoded by libjpeg-turbo (simplejpeg), which returns PIL's pixels in two thirds of the time.

  Args:
    name: of the image, for messages.
    advice: remedy for an image that cannot be decoded, for messages.

  Raises:
    UserError: the bytes are truncated, no image, too large, or have values below black or above white.
  """
  try:
    # JPEGs with EXIF (a rotation) or an unusual colour space need PIL. PIL also decodes JPEGs that libjpeg refuses, so
    # that every file that PIL can read is read.
    if encoded[:2] == b'\xff\xd8' and b'Exif\0' not in encoded and not 0 < decoding.white < 255:
      height, width, space = _jpeg_header(encoded)
      refuse_large(width, height, 3)
      if space in ('YCbCr', 'Gray'):
        with contextlib.suppress(ValueError):
          return Decoded(simplejpeg.decode_jpeg(encoded))
    with _open(encoded) as image:
      return _convert(image, encoded, decoding)
  except Exception as error:  # decoders raise any type: RuntimeError, struct.error, TypeError, KeyError ...
    raise UserError(f'image {name} cannot be decoded ({_reason(error, encoded)}): {advice}.') from None


def _open(encoded: bytes) -> Image.Image:
  return Image.open(io.BytesIO(encoded), formats=_formats())


@functools.cache
def _formats() -> list[str]:
  """List the formats that PIL reads, without PostScript, a program that PIL would run in Ghostscript."""
  Image.init()
  return [name for name in Image.ID if name != 'EPS']


def _jpeg_header(encoded: bytes) -> tuple[int, int, str]:
  try:
    height, width, color, _ = simplejpeg.decode_jpeg_header(encoded)
    return int(height), int(width), color
  except ValueError:
    return 0, 0, 'unknown'


def has_changed(encoded: bytes, pixels: Pixels) -> bool:
  """Return whether versions of ule_jax without `data.white` decoded other pixels than these."""
  try:
    with _open(encoded) as image:
      image = ImageOps.exif_transpose(image)
      if image.mode.startswith('I') or image.mode == 'F':
        values = np.asarray(image, np.float64)
        scale = 257 if values.max(initial=0) > 255 else 1
        image = Image.fromarray((values / scale).clip(0, 255).astype(np.uint8))
      if image.has_transparency_data:
        image = image.convert('RGBA')  # keeps the colours below transparent pixels
      return not np.array_equal(np.asarray(image.convert('RGB')), pixels)
  except Exception:  # decoders raise any type; the older version failed, too
    return False


def may_have_changed(encoded: bytes) -> bool:
  """Return from the header whether `has_changed` has to decode the file: 0.1 ms, none for a JPEG."""
  if encoded[:2] == b'\xff\xd8':
    return False
  try:
    with _open(encoded) as image:
      return image.has_transparency_data or image.mode not in ('1', 'L', 'P', 'RGB') or depth_of(image, encoded) > 8
  except Exception:  # decoders raise any type for a file that is no image
    return False


def refuse_large(width: int, height: int, size: int) -> None:
  """Check the decoded size of an image before memory is allocated for it.

  Args:
    width: pixels.
    height: pixels.
    size: bytes of a pixel.

  Raises:
    ValueError: the image takes more than LARGEST bytes.
  """
  if width * height * size > LARGEST:
    raise ValueError(
      f'{width:,} x {height:,} pixels of {size} bytes are {width * height * size / 2**20:,.0f} MiB, '
      f'more than the {LARGEST / 2**20:,.0f} MiB that are decoded'
    )


def _convert(image: Image.Image, encoded: bytes, decoding: Decoding) -> Decoded:
  """Convert an opened image to upright RGB."""
  depth = depth_of(image, encoded)
  refuse_large(*image.size, max(3, len(image.getbands()) * -(-depth // 8)))
  several = _several(image)
  if image.format == 'TIFF':  # PIL rotates these itself, but parses all EXIF tags first and fails at odd ones
    turned = {ORIENTATION: tags_of(image).get(ORIENTATION, 1)}
    image.getexif = lambda: turned  # pyright: ignore[reportAttributeAccessIssue] PIL looks for this one tag only
  image.load()
  deep = deep_values(image, encoded, depth)
  if deep is not None:
    color, alpha = to_levels(image, deep, decoding.white)
  elif depth > 8 and decoding.white > 255:
    raise ValueError(f'its {depth} bits of {image.mode} are read by their type alone, and data.white is set')
  else:
    full = image.convert('RGBA') if image.has_transparency_data else image
    color, alpha = full.convert('RGB'), full.getchannel('A') if full is not image else None
    if 0 < decoding.white < 255 and image.mode in CHANNELS:
      color = Image.fromarray(scaled(np.asarray(color), decoding.white))
  transparent = False
  if alpha is not None and alpha.getextrema() != (255, 255):
    transparent = True
    color = Image.composite(color, Image.new('RGB', color.size, decoding.background), alpha)
  turn = TURNS.get(_orientation(image))
  return Decoded(np.asarray(color if turn is None else color.transpose(turn)), transparent, several)


def depth_of(image: Image.Image, encoded: bytes) -> int:
  """Return the bits of a channel in the file; PIL keeps 8 of them where there are several channels of 16."""
  if image.format == 'PNG':
    return 16 if encoded[12:16] == b'IHDR' and encoded[24] == 16 else 8
  if image.format == 'TIFF':
    return max(8, *tags_of(image).get(BITS, (1,)))
  return 32 if image.mode in 'IF' else 16 if image.mode.startswith('I;16') else 8


def _several(image: Image.Image) -> bool:
  """Return whether there are further frames or pages; a camera's previews in a JPEG do not count."""
  try:
    return image.format in ('GIF', 'PNG', 'WEBP', 'AVIF', 'TIFF') and bool(getattr(image, 'is_animated', False))
  except Exception:  # decoders raise any type for a damaged second frame
    return False


def _orientation(image: Image.Image) -> int:
  """Return the EXIF orientation, 1 to 8; other tags are not parsed, as they may be damaged."""
  try:
    return int(image.getexif().get(ORIENTATION, 1))
  except Exception:  # PIL raises any type for a damaged EXIF block
    return 1


def _reason(error: Exception, encoded: bytes) -> str:
  """Format a decoder's error as a clause of at most 300 characters."""
  if isinstance(error, UnidentifiedImageError):
    if encoded[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'):
      return 'a damaged TIFF, or of a kind that is not read, as floats in several channels or of 64 bits are'
    return 'no known image format'
  if isinstance(error, MemoryError):
    return 'out of memory'
  text = ''.join(c if c.isprintable() else ' ' for c in str(error))
  text = ' '.join(text.split())[:300].rstrip('.')
  if isinstance(error, (OSError, ValueError, SyntaxError, Image.DecompressionBombError)) and text:
    return text
  return f'{type(error).__name__}: {text}' if text else type(error).__name__
