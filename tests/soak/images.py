"""Random damage of image files of every format: each is decoded, or is a bad image with its name, in one sentence.

  python -m tests.soak.images --cases=25000 [--seed=0] [--only=image:17]

A case is one of the files of `files()`, changed once to four times, decoded by the type of its values or with
data.white. Lines that decoders print themselves are counted, as `noise`.
"""

from __future__ import annotations

import functools
import io
import random
import struct
import traceback
import warnings
import zlib
from typing import Any

import cv2
import numpy as np
from PIL import Image

from . import runner

EXTREMES = (0, 1, 7, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def exif(rng: random.Random) -> bytes:
  """Return an EXIF block with an orientation, and tags of any type and count, also below GPS and Exif."""
  order = rng.choice('<>')

  def directory(tags: list[int], at: int) -> bytes:
    entries = b''
    for tag in sorted(tags):
      kind, count = rng.choice((1, 2, 3, 4, 5, 7, 9, 10, 11, 12, 0, 99)), rng.choice((0, 1, 1, 2, 3, 4, 100, 2**32 - 1))
      entries += struct.pack(f'{order}HHI', tag, kind, count) + rng.randbytes(4)
    entries += struct.pack(f'{order}HHIHH', 0x0112, 3, 1, rng.choice((1, 3, 6, 8, 0, 9)), 0)
    entries += struct.pack(f'{order}HHII', 0x8825, rng.choice((4, 4, 4, 2, 3)), 1, at + 200)
    return struct.pack(f'{order}H', len(tags) + 2) + entries + bytes(4)

  first = directory([rng.randrange(0x0112) for _ in range(rng.randrange(4))], 8)
  gps = directory([rng.randrange(32) for _ in range(rng.randrange(1, 6))], rng.choice((8, 208, 2**31)))
  head = (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(f'{order}I', 8)
  return b'Exif\0\0' + (head + first).ljust(208, b'\0') + gps + rng.randbytes(40)


@functools.cache
def files() -> dict[str, bytes]:
  """Return a small file of every format and mode that is read."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # PIL looks into the odd EXIF block
    return _files()


def _files() -> dict[str, bytes]:
  rng, odd = np.random.default_rng(0), exif(random.Random(0))
  smooth = cv2.resize(rng.random((5, 7, 4)).astype(np.float32), (44, 36), interpolation=cv2.INTER_CUBIC).clip(0, 1)
  rgba = Image.fromarray((smooth * 255).astype(np.uint8))
  rgb, grey, deep = rgba.convert('RGB'), rgba.convert('L'), (smooth * 65535).astype(np.uint16)
  palette = rgb.quantize(16)
  contents: dict[str, bytes] = {}

  def save(name: str, image: Image.Image, **options: Any) -> None:
    buffer = io.BytesIO()
    image.save(buffer, name.split()[0], **options)
    contents[name] = buffer.getvalue()

  for form in ('jpeg', 'png', 'webp', 'avif', 'tiff', 'jpeg2000', 'bmp', 'gif', 'ppm'):
    save(f'{form} rgb', rgb)
    save(f'{form} grey', grey)
  for form in ('jpeg', 'png', 'webp', 'avif'):
    save(f'{form} exif', rgb, exif=odd)
  for form in ('png', 'webp', 'avif', 'tiff', 'jpeg2000'):
    save(f'{form} rgba', rgba)
  for form in ('png', 'webp', 'avif', 'tiff', 'gif'):
    save(f'{form} frames', rgb, save_all=True, append_images=[rgb.rotate(90)])
  for form in ('png', 'gif'):
    save(f'{form} palette', palette, transparency=3)
  save('png palette bytes', palette, transparency=bytes(range(0, 256, 16)))
  save('png 1', grey.convert('1'))
  save('png grey alpha', rgba.convert('LA'))
  save('jpeg progressive', rgb, progressive=True)
  save('jpeg cmyk', rgb.convert('CMYK'))
  save('mpo', rgb, save_all=True, append_images=[rgb])
  save('webp lossless', rgba, lossless=True)
  for how in ('tiff_lzw', 'tiff_adobe_deflate', 'jpeg', 'packbits'):
    save(f'tiff {how}', rgb, compression=how)
  save('tiff group4', grey.convert('1'), compression='group4')
  save('tiff cmyk', rgb.convert('CMYK'))
  save('tiff float', Image.fromarray(smooth[..., 0]))
  save('tiff int32', Image.fromarray(deep[..., 0].astype(np.int32)))
  for form in ('png', 'tiff', 'jp2', 'ppm'):
    contents[f'{form} 16'] = cv2.imencode(f'.{form}'.replace('ppm', 'pgm'), deep[..., 0].copy())[1].tobytes()
    contents[f'{form} 16 rgb'] = cv2.imencode(f'.{form}', deep[..., :3].copy())[1].tobytes()
  for form in ('png', 'tiff'):
    contents[f'{form} 16 rgba'] = cv2.imencode(f'.{form}', deep)[1].tobytes()
  contents['pfm'] = cv2.imencode('.pfm', smooth[..., 0].copy())[1].tobytes()
  return contents


def _flip(data: bytearray, rng: random.Random) -> bytearray:
  for _ in range(rng.choice((1, 1, 2, 8, 40))):
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  return data


def _header(data: bytearray, rng: random.Random) -> bytearray:
  for _ in range(rng.choice((1, 1, 2, 4))):
    data[rng.randrange(min(len(data), 200))] = rng.randrange(256)
  return data


def _extreme(data: bytearray, rng: random.Random) -> bytearray:
  """Write a number that is the end of a range, of 2 or 4 bytes, mostly where headers are."""
  at, value = rng.randrange(min(len(data), rng.choice((32, 200, 10**9)))), rng.choice(EXTREMES)
  form = rng.choice(('<H', '>H', '<I', '>I'))
  raw = struct.pack(form, value & (0xFFFF if form[1] == 'H' else 0xFFFFFFFF))
  data[at : at + len(raw)] = raw
  return data


def _truncate(data: bytearray, rng: random.Random) -> bytearray:
  return data[: rng.randrange(len(data))]


def _duplicate(data: bytearray, rng: random.Random) -> bytearray:
  start, to = rng.randrange(len(data)), rng.randrange(len(data))
  return data[:to] + data[start : start + rng.choice((4, 12, 40, 400))] + data[to:]


def _delete(data: bytearray, rng: random.Random) -> bytearray:
  start = rng.randrange(len(data))
  return data[:start] + data[start + rng.choice((1, 2, 4, 40)) :]


def _splice(data: bytearray, rng: random.Random) -> bytearray:
  other = files()[rng.choice(sorted(files()))]
  return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def _append(data: bytearray, rng: random.Random) -> bytearray:
  return data + rng.choice((b'\0', rng.randbytes(50), files()[rng.choice(sorted(files()))]))


def _exif(data: bytearray, rng: random.Random) -> bytearray:
  """Insert an EXIF block where the format has one."""
  block = exif(rng)
  if data[:2] == b'\xff\xd8':
    return data[:2] + b'\xff\xe1' + struct.pack('>H', len(block) + 2) + block + data[2:]
  if data[:4] == b'\x89PNG':
    return data[:33] + _chunk(b'eXIf', block[6:]) + data[33:]
  if data[:4] == b'RIFF':
    return data + b'EXIF' + struct.pack('<I', len(block)) + block
  return data


def _chunk(kind: bytes, content: bytes) -> bytes:
  return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def _mend(data: bytearray) -> bytearray:
  """Correct the check sums of a PNG, so that its damage reaches the reader of the chunks."""
  at = 8
  while at + 12 <= len(data):
    length = int.from_bytes(data[at : at + 4], 'big')
    if at + 12 + length > len(data):
      break
    data[at + 8 + length : at + 12 + length] = struct.pack('>I', zlib.crc32(data[at + 4 : at + 8 + length]))
    at += 12 + length
  return data


MUTATIONS = (_flip, _header, _extreme, _truncate, _duplicate, _delete, _splice, _append, _exif)


def damaged(number: int) -> tuple[str, bytes, float]:
  """Return a case: the name of the file that it was, its bytes, and data.white."""
  rng = random.Random(number)
  name = rng.choice(sorted(files()))
  data = bytearray(files()[name])
  for mutate in rng.choices(MUTATIONS, weights=(4, 4, 4, 1, 2, 2, 1, 1, 2), k=rng.choice((1, 1, 2, 4))):
    data = mutate(data, rng) or bytearray(b'\0')
  if data[:4] == b'\x89PNG' and rng.random() < 0.7:
    data = _mend(data)
  return name, bytes(data), rng.choice((0.0, 0.0, 0.0, 4095.0, 65535.0, 200.0))


def attempt(kind: str, number: int) -> str:
  """Decode a case; return `image`, `bad`, or the error in how that ended."""
  from ule_jax.data import decoding
  from ule_jax.errors import UserError

  name, data, white = damaged(number)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      decoding.may_have_changed(data)
      try:
        pixels = decoding.read(data, 'some/x.img', 'replace it', decoding.Decoding(white)).pixels
      except UserError as error:
        text = str(error)
        right = text.startswith('image some/x.img cannot be decoded (') and text.endswith('): replace it.')
        return 'bad' if right and text.isprintable() and len(text) < 600 else f'a sentence {text!r}'
      decoding.has_changed(data, pixels)
  except BaseException:
    return f'{name}: {traceback.format_exc()}'
  right = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.nbytes <= decoding.LARGEST
  return 'image' if right and pixels.size else f'{name}: pixels {pixels.shape} {pixels.dtype}'


SUITE = runner.Suite(attempt, ('image', 'bad'), {'image': 1.0})

if __name__ == '__main__':
  runner.main(SUITE, __doc__, 25_000)
