"""Splits of table rows, and the transforms that the data sets of image files share."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from ule_jax.data.dataset import InputSpec, Split, Transform
from ule_jax.data.decoding import ADVICE, Decoded, Decoding, decode_mask, make_decoding, read
from ule_jax.data.options import Files
from ule_jax.data.tables import Rows
from ule_jax.data.transforms import Resize, center_crop, center_square, make_resize, random_flip, random_resized_crop
from ule_jax.errors import UserError


def split_of(rows: Rows, label: Int[np.ndarray, 'n'], group: Int[np.ndarray, 'n'], decoding: Decoding) -> Split:
  """Build a split of all rows of a table.

  Args:
    label: class index of each row; -1 is missing.
    group: group index of each row; -1 is unknown.
    decoding: white value and background.
  """

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
  """Check that a size is at least one pixel.

  Raises:
    UserError: it is not.
  """
  if size < 1:
    raise UserError(f'data.size is {size}: give the side of the image in pixels.')


def stretch(size: int, resize: Resize) -> Transform:
  """Return the transform that resizes to `size` x `size` pixels without keeping the aspect ratio."""
  check_size(size)
  return lambda image, rng: resize(image, (size, size))


def stretched(options: Files, size: int) -> InputSpec:
  """Return the input contract of images that are resized to `size` x `size` pixels without keeping the aspect ratio."""
  return InputSpec(
    (size, size, 3),
    stretch(size, make_resize(options.resize)),
    description=f'resize to {size} x {size}, whatever the aspect ratio ({options.resize})',
    decoding=make_decoding(options.white, options.background),
  )


def square(size: int, resize: Resize) -> Transform:
  """Return the transform that crops the largest centred square and resizes it to `size` x `size` pixels."""
  check_size(size)
  return lambda image, rng: resize(center_square(image), (size, size))


def shrink_and_center(size: int, resize: Resize) -> Transform:
  """Return the transform that resizes both sides to 256 / 224 of `size` and crops the centre.

  Source: group_DRO's data/cub_dataset.py.
  """
  check_size(size)
  larger = int(size * 256 / 224)
  return lambda image, rng: center_crop(resize(image, (larger, larger)), (size, size))


def random_crop_and_flip(
  size: int, scale: tuple[float, float], ratio: tuple[float, float], resize: Resize
) -> Transform:
  """Return the transform that resizes a random crop to `size` x `size` pixels and mirrors it half of the time.

  Args:
    scale: range of the crop's share of the area, in (0, 1].
    ratio: range of width / height.
  """
  check_size(size)

  def transform(image, rng):
    return random_flip(random_resized_crop(image, (size, size), rng, scale=scale, ratio=ratio, resize=resize), rng)

  return transform
