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

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Num, UInt8
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from ule_jax.errors import UserError

Pixels = UInt8[np.ndarray, 'h w 3']

ADVICE = 'replace it, take its row out, or leave such images out with --config.data.on_bad_image=skip'
LARGEST = 2**29  # bytes of one decoded image: 178,956,970 pixels in colour, at which Pillow stops, too
TOLERANCE = 1e-3  # of white: what values may lie outside of black and white, a quarter of a level
TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
ORIENTATION, BITS, PHOTOMETRIC, EXTRA_SAMPLES, SAMPLE_FORMAT = 274, 258, 262, 338, 339  # tags of TIFF
CHANNELS = ('L', 'LA', 'RGB', 'RGBA', 'RGBX')  # modes whose values are brightness


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


class _Values(NamedTuple):
  """Values of more than 8 bits a channel, as in the file; `white` by their type is 0 where that does not say."""

  values: Num[np.ndarray, 'h w *c']
  white: float
  most: float  # the largest that the type has


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
      return image.has_transparency_data or image.mode not in ('1', 'L', 'P', 'RGB') or _depth(image, encoded) > 8
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
  depth = _depth(image, encoded)
  refuse_large(*image.size, max(3, len(image.getbands()) * -(-depth // 8)))
  several = _several(image)
  if image.format == 'TIFF':  # PIL turns these itself, but reads all EXIF tags first and fails at odd ones
    turned = {ORIENTATION: image.tag_v2.get(ORIENTATION, 1)}
    image.getexif = lambda: turned
  image.load()
  deep = _values(image, encoded, depth)
  if deep is not None:
    color, alpha = _levels(image, deep, decoding.white)
  elif depth > 8 and decoding.white > 255:
    raise ValueError(f'its {depth} bits of {image.mode} are read by their type alone, and data.white is set')
  else:
    whole = image.convert('RGBA') if image.has_transparency_data else image
    color, alpha = whole.convert('RGB'), whole.getchannel('A') if whole is not image else None
    if 0 < decoding.white < 255 and image.mode in CHANNELS:
      color = Image.fromarray(_scaled(np.asarray(color), decoding.white))
  transparent = alpha is not None and alpha.getextrema()[0] < 255
  if transparent:
    color = Image.composite(color, Image.new('RGB', color.size, decoding.background), alpha)
  turn = TURNS.get(_orientation(image))
  return Decoded(np.asarray(color if turn is None else color.transpose(turn)), transparent, several)


def _depth(image: Image.Image, encoded: bytes) -> int:
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


def _values(image: Image.Image, encoded: bytes, depth: int) -> _Values | None:
  """Return the values of more than 8 bits; None where PIL has all there is to know in 8."""
  if image.mode.startswith('I;16'):
    most = float(2 ** (depth if depth in (12, 16) else 16) - 1)
    return _Values(np.asarray(image), most, most)
  if image.mode == 'I':
    values = np.asarray(image)
    if image.format != 'TIFF':  # PNG and PGM have at most 16 bits; PIL scales PGM's to these
      return _Values(values, 65535.0, np.inf)
    unsigned = tuple(image.tag_v2.get(SAMPLE_FORMAT, (1,))) == (1,) and depth == 32
    return _Values(values.view(np.uint32) if unsigned else values, 0.0, np.inf)
  if image.mode == 'F':
    return _Values(np.asarray(image), 1.0, np.inf)
  if depth != 16 or image.format not in ('PNG', 'TIFF') or image.mode not in CHANNELS:
    return None
  values = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)  # PIL drops the lower 8 bits
  if values is not None and values.ndim == 3:
    values = values[..., [2, 1, 0, *range(3, values.shape[2])]]
  if values is None or values.dtype != np.uint16 or not _agree(values, np.asarray(image), _premultiplied(image)):
    raise ValueError('its 16 bits a channel cannot be read: write it with 8')
  return _Values(values, 65535.0, 65535.0)


def _agree(values: Num[np.ndarray, 'h w *c'], upper: UInt8[np.ndarray, 'h w c'], alpha_only: bool) -> bool:
  """Tell whether these are the 16-bit values of which PIL has the upper halves."""
  if values.shape[:2] != upper.shape[:2] or values.ndim != 3:
    return False
  theirs = upper if upper.shape[2] > 2 else upper[..., [0, 0, 0, 1]]  # grey and alpha
  channels = [3] if alpha_only else range(min(values.shape[2], theirs.shape[2]))
  return all(np.array_equal(values[..., c] >> 8, theirs[..., c]) for c in channels)


def _premultiplied(image: Image.Image) -> bool:
  """Tell whether colours were multiplied by alpha in the file."""
  return image.format == 'TIFF' and tuple(image.tag_v2.get(EXTRA_SAMPLES, ())) == (1,)


def _levels(image: Image.Image, deep: _Values, given: float) -> tuple[Image.Image, Image.Image | None]:
  """Bring values of more than 8 bits to color and, where there is transparency, its alpha.

  Raises:
    ValueError: the type does not say what white is, or a value is outside of black and white.
  """
  values, alpha, white = deep.values, None, given if 0 < given <= deep.most else deep.white
  if not white:
    raise ValueError(
      'its integers are signed or have 32 bits, of which the type does not say what white is: '
      'set --config.data.white to the value that is'
    )
  if values.ndim == 3 and values.shape[2] == 4:
    values, alpha = values[..., :3], values[..., 3]
    if not image.has_transparency_data:  # a fourth channel of another meaning
      alpha = None
    elif _premultiplied(image):
      opaque = np.maximum(alpha, 1)[..., None].astype(np.uint32)
      values = np.minimum(values * np.uint32(65535) // opaque, 65535).astype(np.uint16)
  elif 'transparency' in image.info:  # the value that is transparent
    alpha = np.where(np.atleast_3d(values == image.info['transparency']).all(-1), 0, 65535).astype(np.uint16)
  levels = _scaled(values, white)
  if image.format == 'TIFF' and image.tag_v2.get(PHOTOMETRIC) == 0:  # 0 is white, which PIL knows of 8 bits only
    levels = 255 - levels
  return Image.fromarray(levels).convert('RGB'), None if alpha is None else Image.fromarray(_scaled(alpha, 65535.0))


def _scaled(values: Num[np.ndarray, 'h w *c'], white: float) -> UInt8[np.ndarray, 'h w *c']:
  """Bring values to 0 to 255, integers rounded down, as a 16-bit file is by those who keep its upper half.

  Raises:
    ValueError: one is outside of black and white, or no number.
  """
  low, high = (float(end(initial=0)) for end in (values.min, values.max))  # not a number, if one is
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
