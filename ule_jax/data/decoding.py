"""Images from encoded bytes, whatever the format: uint8 RGB.

How bright a value is follows from the type of the file and from two options, never from the other values of an image:

  8 bits a channel, 1 bit, a palette   255 is white
  16 bits (12 in some TIFFs)           65,535 (4,095) is white
  floats                               1 is white
  32-bit or signed integers            refused, unless `white` is given
  `white`                              the value that is white, in every file whose type has such a value
  transparency                         the image is put on a colour, `background`
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

from ule_jax.data.levels import BITS, CHANNELS, ORIENTATION, deep_values, scaled, to_levels
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
  """What config.data says of the values of a file: `white` (0: by the type) and `background`, a colour's name."""

  white: float = 0.0
  background: str = 'white'

  @property
  def words(self) -> str:
    """Say it."""
    by_type = 'white is 255 in 8 bits, 65535 in 16, 4095 in 12, 1 in floats'
    white = f'white is {self.white:g} in files that have that value, else: {by_type}' if self.white else by_type
    return f'{white}; transparent images are put on {self.background}; EXIF orientation is applied'


BY_TYPE = Decoding()

MASK = Decoding(background='black')  # where a mask is transparent, nothing is marked


class Decoded(NamedTuple):
  """An image; whether it was transparent somewhere, and whether its file holds more pictures than this first one.

  `changed` says that an older version gave other pixels, where somebody compared.
  """

  pixels: Pixels
  transparent: bool = False
  several: bool = False
  changed: bool = False


def make_decoding(white: float, background: str) -> Decoding:
  """Check the two options of config.data.

  Raises:
    UserError: a value that cannot be white, or no colour.
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
  """Decode an image file to RGB, whatever its format, mode, bit depth and EXIF orientation; takes what `read` does."""
  return read(encoded, name, advice, decoding).pixels


def decode_mask(encoded: bytes, name: str) -> UInt8[np.ndarray, 'h w']:
  """Decode a mask file to one channel, 0 to 255."""
  return np.asarray(Image.fromarray(decode(encoded, name, decoding=MASK)).convert('L'))


def read(encoded: bytes, name: str, advice: str = ADVICE, decoding: Decoding = BY_TYPE) -> Decoded:
  """Decode an image file, and say what became of it on the way.

  Plain JPEGs go through libjpeg-turbo (simplejpeg), which gives PIL's pixels in two thirds of the time.

  Args:
    name: of the image, for messages.
    advice: what to do about an image that cannot be decoded, at the end of the message.

  Raises:
    UserError: the bytes are truncated, no image, too large, or have values outside of black and white; the sentence
      names the image.
  """
  try:
    # An EXIF block may turn the image, and an unusual colour space needs converting: PIL knows how. It also
    # has the last word on a JPEG that libjpeg has doubts about, so that we read what its users read.
    if encoded[:2] == b'\xff\xd8' and b'Exif\0' not in encoded and not 0 < decoding.white < 255:
      height, width, space = _jpeg_header(encoded)
      refuse_large(width, height, 3)
      if space in ('YCbCr', 'Gray'):
        with contextlib.suppress(ValueError):
          return Decoded(simplejpeg.decode_jpeg(encoded))
    with _open(encoded) as image:
      return _convert(image, encoded, decoding)
  except Exception as error:  # decoders raise whatever they like: RuntimeError, struct.error, TypeError, KeyError ...
    raise UserError(f'image {name} cannot be decoded ({_reason(error, encoded)}): {advice}.') from None


def _open(encoded: bytes) -> Image.Image:
  return Image.open(io.BytesIO(encoded), formats=_formats())


@functools.cache
def _formats() -> list[str]:
  """List what PIL reads, without PostScript, which is a program that it hands to Ghostscript."""
  Image.init()
  return [name for name in Image.ID if name != 'EPS']


def _jpeg_header(encoded: bytes) -> tuple[int, int, str]:
  try:
    return simplejpeg.decode_jpeg_header(encoded)[:3]
  except ValueError:
    return 0, 0, 'unknown'


def has_changed(encoded: bytes, pixels: Pixels) -> bool:
  """Tell whether versions of ule_jax that had no data.white gave other pixels than these."""
  try:
    with _open(encoded) as image:
      image = ImageOps.exif_transpose(image)
      if image.mode.startswith('I') or image.mode == 'F':
        values = np.asarray(image, np.float64)
        scale = 257 if values.max(initial=0) > 255 else 1
        image = Image.fromarray((values / scale).clip(0, 255).astype(np.uint8))
      if image.has_transparency_data:
        image = image.convert('RGBA')  # whose colours are those below what is transparent
      return not np.array_equal(np.asarray(image.convert('RGB')), pixels)
  except Exception:  # whatever a decoder raises: there were no pixels
    return False


def may_have_changed(encoded: bytes) -> bool:
  """Tell from the header whether `has_changed` has to look: 0.1 ms, none for a JPEG."""
  if encoded[:2] == b'\xff\xd8':
    return False
  try:
    with _open(encoded) as image:
      return image.has_transparency_data or image.mode not in ('1', 'L', 'P', 'RGB') or depth_of(image, encoded) > 8
  except Exception:  # whatever a decoder raises: it is no image
    return False


def refuse_large(width: int, height: int, size: int) -> None:
  """Stop before memory is taken for an image.

  Args:
    size: bytes of a pixel.

  Raises:
    ValueError: it takes more than LARGEST.
  """
  if width * height * size > LARGEST:
    raise ValueError(
      f'{width:,} x {height:,} pixels of {size} bytes are {width * height * size / 2**20:,.0f} MiB, '
      f'more than the {LARGEST / 2**20:,.0f} MiB that are decoded'
    )


def _convert(image: Image.Image, encoded: bytes, decoding: Decoding) -> Decoded:
  """Bring an opened image to RGB, upright."""
  depth = depth_of(image, encoded)
  refuse_large(*image.size, max(3, len(image.getbands()) * -(-depth // 8)))
  several = _several(image)
  if image.format == 'TIFF':  # PIL turns these itself, but reads all EXIF tags first and fails at odd ones
    turned = {ORIENTATION: image.tag_v2.get(ORIENTATION, 1)}
    image.getexif = lambda: turned
  image.load()
  deep = deep_values(image, encoded, depth)
  if deep is not None:
    color, alpha = to_levels(image, deep, decoding.white)
  elif depth > 8 and decoding.white > 255:
    raise ValueError(f'its {depth} bits of {image.mode} are read by their type alone, and data.white is set')
  else:
    whole = image.convert('RGBA') if image.has_transparency_data else image
    color, alpha = whole.convert('RGB'), whole.getchannel('A') if whole is not image else None
    if 0 < decoding.white < 255 and image.mode in CHANNELS:
      color = Image.fromarray(scaled(np.asarray(color), decoding.white))
  transparent = alpha is not None and alpha.getextrema()[0] < 255
  if transparent:
    color = Image.composite(color, Image.new('RGB', color.size, decoding.background), alpha)
  turn = TURNS.get(_orientation(image))
  return Decoded(np.asarray(color if turn is None else color.transpose(turn)), transparent, several)


def depth_of(image: Image.Image, encoded: bytes) -> int:
  """Say how many bits a channel has in the file; PIL gives 8 of them where there are several channels of 16."""
  if image.format == 'PNG':
    return 16 if encoded[12:16] == b'IHDR' and encoded[24] == 16 else 8
  if image.format == 'TIFF':
    return max(8, *image.tag_v2.get(BITS, (1,)))
  return 32 if image.mode in 'IF' else 16 if image.mode.startswith('I;16') else 8


def _several(image: Image.Image) -> bool:
  """Tell whether there are further frames or pages; previews that cameras add to a JPEG are none."""
  try:
    return image.format in ('GIF', 'PNG', 'WEBP', 'AVIF', 'TIFF') and bool(image.is_animated)
  except Exception:  # whatever a decoder raises: the next one is damaged
    return False


def _orientation(image: Image.Image) -> int:
  """Read how the image is turned, and nothing else of its EXIF block, which may have anything in it."""
  try:
    return int(image.getexif().get(ORIENTATION, 1))
  except Exception:  # whatever PIL raises: the block says nothing
    return 1


def _reason(error: Exception, encoded: bytes) -> str:
  """Say in half a line what a decoder raised."""
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
