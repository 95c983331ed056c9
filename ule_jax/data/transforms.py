"""Images from files, and what is done to them on the host; uint8 in, uint8 out.

Decoding, cropping and resizing happen here because files differ in size; normalisation happens in
the compiled step. Resizing antialiases, as torchvision's default does.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from ule_jax.errors import UserError

Pixels = UInt8[np.ndarray, 'h w 3']


def read_image(path: Path) -> Pixels:
  """Decode a file to RGB, whatever its mode, bit depth and EXIF orientation.

  Raises:
    UserError: the file is missing, truncated or not an image; the sentence names it.
  """
  try:
    with Image.open(path) as image:
      image = ImageOps.exif_transpose(image)
      if image.mode.startswith('I') or image.mode == 'F':  # 16-bit grey: PIL's own conversion clips at 255
        image = Image.fromarray((np.asarray(image, np.float64) / 257).clip(0, 255).astype(np.uint8))
      return np.asarray(image.convert('RGB'))
  except FileNotFoundError:
    raise UserError(f'image {path} is missing: restore it, or take its row out of the metadata.') from None
  except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
    raise UserError(
      f'image {path} cannot be decoded ({error}): replace it, or take its row out of the metadata.'
    ) from None


def resize(image: Pixels, size: tuple[int, int], box: tuple[int, int, int, int] | None = None) -> Pixels:
  """Resize to (height, width), bilinear with antialiasing, after cropping to (left, top, right, bottom)."""
  picture = Image.fromarray(image)
  return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR, box=box))


def center_square(image: Pixels) -> Pixels:
  """Crop the largest square from the middle."""
  height, width = image.shape[:2]
  side = min(height, width)
  # Halves are rounded to even as in torchvision's center_crop.
  top, left = round((height - side) / 2), round((width - side) / 2)
  return image[top : top + side, left : left + side]


def random_resized_crop(
  image: Pixels,
  size: tuple[int, int],
  rng: np.random.Generator,
  *,
  scale: tuple[float, float],
  ratio: tuple[float, float],
) -> Pixels:
  """Crop a random share of the area at a random aspect ratio and resize it.

  The distribution is that of torchvision's `RandomResizedCrop`: ten tries of a uniform area and a
  log-uniform ratio, then the largest centre crop whose ratio is allowed.

  Args:
    size: (height, width) of the result, pixels.
    scale: range of the share of the area, in (0, 1].
    ratio: range of width / height.
  """
  height, width = image.shape[:2]
  low, high = math.log(ratio[0]), math.log(ratio[1])
  for _ in range(10):
    area = height * width * rng.uniform(*scale)
    aspect = math.exp(rng.uniform(low, high))
    w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if 0 < w <= width and 0 < h <= height:
      top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
      break
  else:
    w, h = width, height
    if width / height < ratio[0]:
      h = round(width / ratio[0])
    elif width / height > ratio[1]:
      w = round(height * ratio[1])
    top, left = (height - h) // 2, (width - w) // 2
  return resize(np.ascontiguousarray(image[top : top + h, left : left + w]), size)


def random_flip(image: Pixels, rng: np.random.Generator) -> Pixels:
  """Mirror left and right with probability one half."""
  return image[:, ::-1] if rng.random() < 0.5 else image
