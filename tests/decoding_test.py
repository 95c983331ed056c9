"""Decoding of image files: the scale of values, transparency, orientation, and files that are no image."""

import io
import struct
import zlib
from typing import Literal

import cv2
import numpy as np
import pytest
from PIL import Image
from writers import photograph

from ule_jax.data import decoding
from ule_jax.data.decoding import Decoding, decode
from ule_jax.errors import UserError

RAMP = np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16)
COLORS = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], -1)
ALPHA = np.full((32, 48), 65535, np.uint16)
ALPHA[:16] = 0


def encoded(image: Image.Image, form: str, **options) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, form, **options)
  return buffer.getvalue()


def values(array: np.ndarray, form: str) -> bytes:
  """A file of values, which in OpenCV are blue, green, red."""
  swapped = array[..., [2, 1, 0, *range(3, array.shape[2])]] if array.ndim == 3 else array
  return cv2.imencode(f'.{form}', np.ascontiguousarray(swapped))[1].tobytes()


def tiff(
  array: np.ndarray, order: Literal['<', '>'] = '<', data: bytes | None = None, **tags: tuple[int, ...] | bytes | int
) -> bytes:
  """A TIFF of one strip with custom tags, `t<number>`: short numbers, text, or a signed one."""
  data = array.astype(array.dtype.newbyteorder(order)).tobytes() if data is None else data
  bands = array.shape[2] if array.ndim == 3 else 1
  sample = {'u': 1, 'i': 2, 'f': 3}[array.dtype.kind]
  known = {256: (array.shape[1],), 257: (array.shape[0],), 258: (array.dtype.itemsize * 8,) * bands, 259: (1,)}
  known |= {262: (2 if bands > 2 else 1,), 273: (8,), 277: (bands,), 278: (array.shape[0],), 279: (len(data),)}
  known |= {339: (sample,) * bands} | {int(name[1:]): value for name, value in tags.items()}
  directory, beside, end = b'', b'', 8 + len(data)
  for tag, value in sorted(known.items()):
    kind, count = {bytes: 2, tuple: 3, int: 9}[type(value)], 1 if isinstance(value, int) else len(value)
    if isinstance(value, int):
      raw = struct.pack(f'{order}i', value)
    else:
      raw = value if isinstance(value, bytes) else struct.pack(f'{order}{count}H', *value)
    if len(raw) > 4:
      raw, beside = struct.pack(f'{order}I', end + len(beside)), beside + raw
    directory += struct.pack(f'{order}HHI', tag, kind, count) + raw.ljust(4, b'\0')
  head = (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(f'{order}I', end + len(beside))
  return head + data + beside + struct.pack(f'{order}H', len(known)) + directory + bytes(4)


def chunk(kind: bytes, content: bytes) -> bytes:
  return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def packed(array: np.ndarray) -> bytes:
  """Two values of 12 bits in three bytes."""
  a, b = array.reshape(-1, 2).astype(np.uint32).T
  return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], -1).astype(np.uint8).tobytes()


GREY = np.repeat((RAMP // 257)[..., None], 3, -1)
SIXTEEN = {
  'png': (values(RAMP, 'png'), GREY),
  'tiff': (tiff(RAMP), GREY),
  'tiff of the other byte order': (tiff(RAMP, '>'), GREY),
  'tiff where 0 is white': (tiff(65535 - RAMP, t262=(0,)), 255 - np.repeat(((65535 - RAMP) // 257)[..., None], 3, -1)),
  'tiff of 12 bits': (tiff(RAMP // 16, data=packed(RAMP // 16), t258=(12,)), GREY),
  'pgm': (values(RAMP, 'pgm'), GREY),
  'png in color': (values(COLORS, 'png'), COLORS // 257),
  'tiff in color': (values(COLORS, 'tiff'), COLORS // 257),
  'turned tiff in color': (tiff(COLORS, t274=(6,)), np.rot90(COLORS // 257, -1)),
  'tiff with a fourth channel': (tiff(np.dstack([COLORS, RAMP]), t338=(0,)), COLORS // 257),
}


@pytest.mark.parametrize('name', SIXTEEN)
def test_sixteen_bits_are_divided_by_257_whatever_is_in_them(name):
  data, due = SIXTEEN[name]
  assert np.abs(decode(data, 'x').astype(int) - due).max() <= (1 if name == 'tiff of 12 bits' else 0)


@pytest.mark.parametrize('form', ['png', 'tiff', 'pgm'])
@pytest.mark.parametrize('brightest', [1, 255, 256, 4095, 65535])
def test_the_scale_does_not_follow_from_the_brightest_pixel(form, brightest):
  array = np.full((8, 8), 300, np.uint16).clip(0, brightest)
  array[0, 0] = brightest
  np.testing.assert_array_equal(decode(values(array, form), 'x')[..., 0], array // 257)


@pytest.mark.parametrize('order', '<>')
def test_floats_are_from_0_to_1(order):
  eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
  found = decode(tiff((eight / 255).astype(np.float32), order), 'x')
  np.testing.assert_array_equal(found, np.repeat(eight[..., None], 3, -1))
  assert decode(tiff(np.full((4, 4), 1.0005, np.float32), order), 'x').min() == 255  # rounding of who wrote it
  half = np.full((4, 4), 0.5, np.float32)
  assert set(decode(tiff(half, order), 'x').ravel().tolist()) == {128}  # also where nothing is white


TWELVE = {
  'png': values(RAMP // 16, 'png'),
  'png in color': values(COLORS // 16, 'png'),
  'png with alpha': values(np.dstack([COLORS // 16, np.full_like(RAMP, 65535)]), 'png'),
  'tiff': tiff(RAMP // 16, '>'),
  'tiff in color': tiff(COLORS // 16, '>'),
  'floats': tiff((RAMP / 65535 * 4095).astype(np.float32)),
  '32 bits': tiff((RAMP // 16).astype(np.uint32)),
  'signed': tiff((RAMP // 16).astype(np.int16)),
  'signed 32 bits': tiff((RAMP // 16).astype(np.int32), '>'),
}


@pytest.mark.parametrize('name', TWELVE)
def test_data_white_is_the_value_that_is_white(name):
  due = (
    (COLORS if 'color' in name or 'alpha' in name else np.repeat(RAMP[..., None], 3, -1)).astype(int)
    // 16
    * 255
    // 4095
  )
  found = decode(TWELVE[name], 'x', decoding=Decoding(4095.0))
  assert np.abs(found.astype(int) - due).max() <= (1 if name == 'floats' else 0)
  with pytest.raises(UserError, match=r'0 to 4\d+\.?\d*, and black is 0 and white 1000: set --config.data.white'):
    decode(TWELVE[name], 'x', decoding=Decoding(1000.0))


def test_data_white_is_of_types_that_have_the_value():
  eight = encoded(Image.fromarray((RAMP // 257).astype(np.uint8)), 'png')
  jpeg = encoded(Image.fromarray((RAMP // 257).astype(np.uint8)), 'jpeg')
  for data in (eight, jpeg):
    np.testing.assert_array_equal(decode(data, 'x', decoding=Decoding(4095.0)), decode(data, 'x'))
    with pytest.raises(UserError, match='white 15'):
      decode(data, 'x', decoding=Decoding(15.0))
  masks = Image.fromarray((RAMP > 30000).astype(np.uint8))
  assert set(decode(encoded(masks, 'png'), 'x', decoding=Decoding(1.0)).ravel().tolist()) == {0, 255}


@pytest.mark.parametrize(
  'array',
  [
    np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8),
    np.linspace(0, 1.1, 64, dtype=np.float32).reshape(8, 8),
    np.linspace(0, 255, 64, dtype=np.float32).reshape(8, 8),
    np.where(np.eye(8), np.nan, 0.5).astype(np.float32),
    np.where(np.eye(8), np.inf, 0.5).astype(np.float32),
    np.where(np.eye(8), -np.inf, 0.5).astype(np.float32),
    np.arange(64, dtype=np.int32).reshape(8, 8),
    np.arange(64, dtype=np.uint32).reshape(8, 8),
    np.arange(64, dtype=np.int16).reshape(8, 8),
  ],
)
def test_what_the_type_does_not_cover_is_refused_and_not_clipped(array):
  with pytest.raises(UserError, match=r'^image a/b.tif cannot be decoded \(its .*--config.data.white.*\): replace it'):
    decode(tiff(array), 'a/b.tif')


def test_kinds_that_are_not_read_say_so():
  with pytest.raises(UserError, match='a kind that is not read, as floats in several channels'):
    decode(tiff((COLORS / 65535).astype(np.float32)), 'x')
  with pytest.raises(UserError, match='16 bits of CMYK are read by their type alone'):
    decode(tiff(np.dstack([COLORS, RAMP]), t262=(5,)), 'x', decoding=Decoding(4095.0))


def below(color: int) -> Image.Image:
  """A gradient on what is transparent, below which lies a color that nobody sees."""
  array = np.dstack([COLORS // 257, ALPHA // 257]).astype(np.uint8)
  array[:16, :, :3] = color
  return Image.fromarray(array)


def keyed(color: int, mode: str) -> Image.Image:
  return Image.fromarray(np.where(ALPHA == 0, color, 77).astype(np.uint8)).convert(mode)


TRANSPARENT = {
  'png': lambda color: encoded(below(color), 'png'),
  'grey png': lambda color: encoded(below(color).convert('LA'), 'png'),
  'palette of one transparent color': lambda color: encoded(keyed(color, 'P'), 'png', transparency=color),
  'palette with alpha': lambda color: encoded(
    keyed(color, 'P'), 'png', transparency=bytes(0 if i == color else 255 for i in range(256))
  ),
  'color that is transparent': lambda color: encoded(keyed(color, 'RGB'), 'png', transparency=(color,) * 3),
  'grey that is transparent': lambda color: encoded(keyed(color, 'L'), 'png', transparency=color),
  'gif': lambda color: encoded(keyed(color, 'P'), 'gif', transparency=color),
  'webp': lambda color: encoded(below(color), 'webp', lossless=True, exact=True),
  'tiff': lambda color: encoded(below(color), 'tiff'),
  'png of 16 bits': lambda color: values(np.asarray(below(color)).astype(np.uint16) * 257, 'png'),
  'tiff of 16 bits': lambda color: tiff(np.asarray(below(color)).astype(np.uint16) * 257, t338=(2,)),
  'grey of 16 bits that is transparent': lambda color: (
    lambda data: data[:33] + chunk(b'tRNS', struct.pack('>H', color * 257)) + data[33:]
  )(values(np.asarray(keyed(color, 'L')).astype(np.uint16) * 257, 'png')),
}


@pytest.mark.parametrize('name', TRANSPARENT)
def test_what_is_below_transparency_is_not_seen(name):
  one, other = TRANSPARENT[name](0), TRANSPARENT[name](255)
  found = decoding.read(one, 'x')
  assert found.transparent
  np.testing.assert_array_equal(found.pixels, decode(other, 'x'))
  assert (found.pixels[:16] == 255).all()
  for background, color in (('black', (0, 0, 0)), ('#102030', (16, 32, 48))):
    assert (decode(one, 'x', decoding=Decoding(background=background))[:16] == color).all()
  assert found.pixels[16:].mean() < 160
  assert decoding.may_have_changed(one)
  assert decoding.has_changed(one, found.pixels)


def test_opaque_alpha_changes_nothing_and_half_alpha_blends():
  image = below(9).convert('RGB')
  image.putalpha(255)
  found = decoding.read(encoded(image, 'png'), 'x')
  assert not found.transparent
  np.testing.assert_array_equal(found.pixels, np.asarray(image.convert('RGB')))
  assert not decoding.has_changed(encoded(image, 'png'), found.pixels)
  half = encoded(Image.new('RGBA', (4, 4), (0, 100, 255, 128)), 'png')
  assert np.abs(decode(half, 'x') - np.array([127, 177, 255])).max() <= 1
  multiplied = np.broadcast_to(np.array([0, 100 * 128, 255 * 128, 255 * 128]) * 257 // 255, (4, 4, 4)).astype(np.uint16)
  assert np.abs(decode(tiff(multiplied, t338=(1,)), 'x').astype(int) - np.array([127, 177, 255])).max() <= 1


def test_masks_are_unmarked_where_they_are_transparent():
  mask = Image.new('RGBA', (4, 4), (255, 255, 255, 0))
  mask.putpixel((0, 0), (255, 255, 255, 255))
  assert decoding.decode_mask(encoded(mask, 'png'), 'x').sum() == 255


def test_the_first_of_several_frames_is_taken_and_said():
  one, other = (Image.fromarray(np.full((16, 16, 3), level, np.uint8)) for level in (40, 200))
  for form in ('gif', 'png', 'webp', 'tiff'):
    found = decoding.read(encoded(one, form, save_all=True, append_images=[other]), 'x')
    assert found.several, form
    assert np.abs(found.pixels.astype(int) - 40).max() < 8
    assert not decoding.read(encoded(one, form), 'x').several


def odd_exif(tag: int, kind: int, raw: bytes) -> bytes:
  """Orientation 6, and a GPS tag of a wrong type."""
  gps = struct.pack('<HHHI', 1, tag, kind, 1) + raw.ljust(4, b'\0') + bytes(4)
  entries = struct.pack('<HHIHH', 0x0112, 3, 1, 6, 0) + struct.pack('<HHII', 0x8825, 4, 1, 38)
  return b'Exif\0\0II*\0\x08\0\0\0' + struct.pack('<H', 2) + entries + bytes(4) + gps + b'\xff' * 8


@pytest.mark.parametrize('form', ['jpeg', 'png', 'webp', 'tiff'])
@pytest.mark.parametrize(
  ('tag', 'kind', 'raw'),
  [
    (0, 2, b'2'), (2, 2, b'48'), (5, 2, b'0'), (6, 10, struct.pack('<I', 60)), (7, 10, b'\xff'), (29, 3, b'\xff\xff'),
    (30, 2, b'1'), (31, 99, b''),
  ],
)  # fmt: skip
def test_an_odd_exif_block_turns_the_image_and_nothing_else(form, tag, kind, raw):
  image = Image.fromarray(np.r_[np.full((8, 32, 3), 250, np.uint8), np.zeros((8, 32, 3), np.uint8)])
  if form == 'tiff':
    data = tiff(np.asarray(image), t274=(6,), t34853=b'GPS\0' if kind == 2 else -1)  # where PIL alone fails
  else:
    data = encoded(image, form, exif=odd_exif(tag, kind, raw), quality=95)
  found = decode(data, 'x')
  assert found.shape == (32, 16, 3)
  assert found[:, 10:].mean() > 200 > 50 > found[:, :6].mean()


@pytest.mark.parametrize('orientation', range(1, 10))
@pytest.mark.parametrize('form', ['png', 'tiff', 'jpeg'])
def test_every_orientation_is_as_pil_turns_it(form, orientation):
  from PIL import ImageOps

  exif = Image.Exif()
  exif[0x0112] = orientation
  data = encoded(photograph(np.random.default_rng(0), 30, 20), form, exif=exif)
  with Image.open(io.BytesIO(data)) as image:
    np.testing.assert_array_equal(decode(data, 'x'), np.asarray(ImageOps.exif_transpose(image).convert('RGB')))


def test_a_broken_exif_block_does_not_make_an_image_bad():
  image = photograph(np.random.default_rng(0), 30, 20)
  for block in (b'Exif\0\0', b'Exif\0\0nothing', b'Exif\0\0II*\0\xff\xff\xff\xff', b'Exif\0\0MM\0*\0\0\0\x08\0\x03'):
    data = encoded(image, 'png')
    data = data[:33] + chunk(b'eXIf', block[6:]) + data[33:]
    np.testing.assert_array_equal(decode(data, 'x'), np.asarray(image))


@pytest.mark.parametrize(
  'error',
  [
    RuntimeError('Failed to decode image: Decoding failed'), struct.error('unpack requires 4 bytes'), TypeError(),
    KeyError(16), IndexError('x'), ZeroDivisionError(), OverflowError(), MemoryError(), SystemError('tile'),
    AttributeError('a\nb\x1b[31m'), AssertionError(), NotImplementedError(), RecursionError(), EOFError(),
    Image.DecompressionBombError('too large'),
  ],
)  # fmt: skip
@pytest.mark.parametrize('where', ['open', 'load', 'simplejpeg.decode_jpeg', 'simplejpeg.decode_jpeg_header'])
def test_whatever_a_decoder_raises_is_a_bad_image(error, where, monkeypatch):
  def broken(*args, **kwargs):
    raise error

  form = 'jpeg' if 'jpeg' in where else 'png'
  data = encoded(Image.new('RGB', (8, 8)), form)
  if where == 'open':
    monkeypatch.setattr(Image, 'open', broken)
  elif where == 'load':
    monkeypatch.setattr('PIL.PngImagePlugin.PngImageFile.load', broken)
  else:
    monkeypatch.setattr(f'ule_jax.data.decoding.{where}', broken)
  with pytest.raises(UserError, match=r'^image some/x.png cannot be decoded \(.+\): replace it.*\.$') as found:
    decode(data, 'some/x.png')
  assert str(found.value).isprintable()


def resized(form: str, width: int, height: int) -> bytes:
  """A small file whose header announces another size."""
  data = bytearray(encoded(Image.new('RGB', (16, 16)), form))
  if form == 'jpeg':
    at = data.index(b'\xff\xc0') + 5
    data[at : at + 4] = struct.pack('>HH', height, width)
  elif form == 'png':
    data[16:24] = struct.pack('>II', width, height)
    data[29:33] = struct.pack('>I', zlib.crc32(data[12:29]))
  elif form == 'bmp':
    data[18:26] = struct.pack('<ii', width, height)
  elif form == 'gif':
    data[6:10] = struct.pack('<HH', width, height)
  return bytes(data)


@pytest.mark.parametrize('form', ['jpeg', 'png', 'bmp', 'gif'])
@pytest.mark.parametrize('exif', [False, True])
def test_an_image_that_is_too_large_is_refused_by_its_header(form, exif, monkeypatch):
  monkeypatch.setattr(decoding.simplejpeg, 'decode_jpeg', lambda data: pytest.fail('decoded'))
  monkeypatch.setattr('PIL.ImageFile.ImageFile.load', lambda image: pytest.fail('loaded'))
  data = resized(form, 20_000, 20_000) + (b'Exif\0' if exif else b'')
  with pytest.raises(
    UserError, match=r'image x cannot be decoded \(.*(20,000 x 20,000|400000000).*(512 MiB|178956970)'
  ):
    decode(data, 'x')


def test_memory_is_counted_by_what_a_pixel_takes(monkeypatch):
  monkeypatch.setattr(decoding, 'LARGEST', 32 * 48 * 6)
  decode(values(COLORS, 'png'), 'x')
  with pytest.raises(UserError, match='48 x 32 pixels of 8 bytes'):
    decode(values(np.dstack([COLORS, RAMP]), 'png'), 'x')


def test_compressed_texts_are_no_bombs():
  data = encoded(Image.new('RGB', (8, 8)), 'png')
  for kind, head in ((b'zTXt', b'a\0\0'), (b'iCCP', b'a\0\0'), (b'iTXt', b'a\0\1\0\0\0')):
    bomb = chunk(kind, head + zlib.compress(bytes(80_000_000)))
    for broken in (data[:33] + bomb + data[33:], data[:-12] + bomb + data[-12:]):
      with pytest.raises(UserError, match='image x cannot be decoded'):
        decode(broken, 'x')


def test_postscript_is_no_image(monkeypatch):
  monkeypatch.setattr('PIL.EpsImagePlugin.Ghostscript', lambda *args, **kwargs: pytest.fail('a program was run'))
  with pytest.raises(UserError, match='no known image format'):
    decode(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n', 'x.jpg')


@pytest.mark.parametrize(
  ('white', 'background', 'field'),
  [(-1, 'white', 'white'), (float('nan'), 'white', 'white'), (0, 'whit', 'background')],
)
def test_options_out_of_range_are_named(white, background, field):
  with pytest.raises(UserError, match=f'data.{field} is'):
    decoding.make_decoding(white, background)
