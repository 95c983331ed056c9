"""Transforms of decoded images on the host; uint8 in, uint8 out.

Cropping and resizing happen here because files differ in size; normalisation happens in
the compiled step. Distributions and arithmetic are torchvision's for PIL images, so that the recipes
of other repositories carry over.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image, ImageEnhance

from ule_jax.data.decoding import Pixels
from ule_jax.errors import unknown

cv2.setNumThreads(0)  # the pipeline has its own threads

Resize = Callable[[Pixels, tuple[int, int]], Pixels]


def antialias(image: Pixels, size: tuple[int, int]) -> Pixels:
  """Resize to (height, width) pixels, bilinear with antialiasing: torchvision's default."""
  if image.shape[:2] == size:
    return image
  return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def linear(image: Pixels, size: tuple[int, int]) -> Pixels:
  """Resize to (height, width) pixels, bilinear without antialiasing: seven times as fast, aliased when it shrinks."""
  return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


RESIZES: dict[str, Resize] = {'antialias': antialias, 'linear': linear}


def make_resize(name: str) -> Resize:
  """Look up the function of a `config.data.resize`.

  Raises:
    UserError: the name is unknown.
  """
  if name not in RESIZES:
    raise unknown('data.resize', name, RESIZES)
  return RESIZES[name]


def center_crop(image: Pixels, size: tuple[int, int]) -> Pixels:
  """Crop (height, width) pixels from the centre of an image that is at least as large."""
  # Halves are rounded to even, as in torchvision's center_crop.
  top, left = (round((extent - side) / 2) for extent, side in zip(image.shape, size, strict=False))
  return image[top : top + size[0], left : left + size[1]]


def center_square(image: Pixels) -> Pixels:
  """Crop the largest centred square."""
  side = min(image.shape[:2])
  return center_crop(image, (side, side))


def random_resized_crop(
  image: Pixels,
  size: tuple[int, int],
  rng: np.random.Generator,
  *,
  scale: tuple[float, float],
  ratio: tuple[float, float],
  resize: Resize = antialias,
) -> Pixels:
  """Crop a random share of the area at a random aspect ratio and resize it.

  The distribution is that of torchvision's `RandomResizedCrop`: ten tries of a uniform area and a
  log-uniform ratio, then the largest centre crop whose ratio is allowed.

  Args:
    size: (height, width) of the result in pixels.
    scale: range of the share of the area, in (0, 1].
    ratio: range of width / height, above 0.
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
  return resize(image[top : top + h, left : left + w], size)


def random_flip(image: Pixels, rng: np.random.Generator) -> Pixels:
  """Mirror left and right with probability 1/2."""
  return cv2.flip(image, 1) if rng.random() < 0.5 else image


def color_jitter(image: Pixels, rng: np.random.Generator, strength: float, hue: float) -> Pixels:
  """Change brightness, contrast, saturation and hue by random amounts in a random order.

  Source: torchvision's `ColorJitter(strength, strength, strength, hue)`.

  Args:
    strength: factors are uniform in [max(0, 1 - strength), 1 + strength].
    hue: the shift is uniform in [-hue, hue] turns of the colour circle, in [0, 0.5].
  """
  low, high = max(0.0, 1 - strength), 1 + strength
  factors = [float(rng.uniform(low, high)) for _ in range(3)] + [float(rng.uniform(-hue, hue))]
  picture = Image.fromarray(image)
  for i in rng.permutation(4):
    picture = ADJUSTMENTS[i](picture, factors[i])
  return np.asarray(picture)


def adjust_hue(picture: Image.Image, shift: float) -> Image.Image:
  """Rotate the hue by `shift` turns of the colour circle, in [-0.5, 0.5], in PIL's 256 steps a turn."""
  hue, saturation, value = picture.convert('HSV').split()
  turned = np.asarray(hue) + np.uint8(int(shift * 255) % 256)  # wraps around
  return Image.merge('HSV', (Image.fromarray(turned), saturation, value)).convert('RGB')


ADJUSTMENTS = (
  lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
  lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
  lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
  adjust_hue,
)


def random_grayscale(image: Pixels, rng: np.random.Generator, probability: float) -> Pixels:
  """Convert an image to greyscale with a probability, in three channels."""
  if rng.random() >= probability:
    return image
  return np.asarray(Image.fromarray(image).convert('L').convert('RGB'))
