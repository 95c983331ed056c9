"""What data sets of image files share: splits of table rows, and the usual ways to prepare an image."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from ule_jax.data.dataset import Split, Transform
from ule_jax.data.decoding import ADVICE, Decoded, Decoding, decode_mask, read
from ule_jax.data.tables import Rows
from ule_jax.data.transforms import Resize, center_crop, center_square, random_flip, random_resized_crop
from ule_jax.errors import UserError


def split_of(rows: Rows, label: Int[np.ndarray, 'n'], group: Int[np.ndarray, 'n'], decoding: Decoding) -> Split:
  """Make a split of all rows of a part."""

  def look(i: int) -> Decoded:
    return read(rows.read(i), rows.names[i], ADVICE, decoding)

  return Split(
    label=np.asarray(label, np.int32),
    group=np.asarray(group, np.int32),
    load=lambda i: look(i).pixels,
    name=lambda i: rows.names[i],
    version=rows.version,
    look=look,
    files=lambda i: (rows.read(i), *(read(i) for read in rows.masks.values())),
    masks=(lambda i: {m: decode_mask(read(i), f'{m} of {rows.names[i]}') for m, read in rows.masks.items()})
    if rows.masks
    else None,
  )


def check_size(size: int) -> None:
  """Refuse a size that is no number of pixels."""
  if size < 1:
    raise UserError(f'data.size is {size}: give the side of the image in pixels.')


def stretch(size: int, resize: Resize) -> Transform:
  """Resize both sides, whatever the aspect ratio."""
  check_size(size)
  return lambda image, rng: resize(image, (size, size))


def square(size: int, resize: Resize) -> Transform:
  """Crop the largest square from the middle and resize it."""
  check_size(size)
  return lambda image, rng: resize(center_square(image), (size, size))


def shrink_and_center(size: int, resize: Resize) -> Transform:
  """Resize both sides to 256 / 224 of `size` and crop the middle, as group_DRO does for Waterbirds."""
  check_size(size)
  larger = int(size * 256 / 224)
  return lambda image, rng: center_crop(resize(image, (larger, larger)), (size, size))


def random_crop_and_flip(
  size: int, scale: tuple[float, float], ratio: tuple[float, float], resize: Resize
) -> Transform:
  """Crop a random share of the area, resize it, and mirror it half of the time."""
  check_size(size)

  def transform(image, rng):
    return random_flip(random_resized_crop(image, (size, size), rng, scale=scale, ratio=ratio, resize=resize), rng)

  return transform
