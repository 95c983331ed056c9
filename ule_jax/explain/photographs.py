"""Photographs as they were before a network's transform, and the part of each that the network sees."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ule_jax.data.dataset import Transform
from ule_jax.report.pictures import SMALL, encode, to_png

LONGEST = 640  # pixels, of the longer side of a photograph that is kept beside saliency
EDGE = 0.1  # share of a transformed ramp at each end that the antialiasing of a resize bends


class Box(NamedTuple):
  """A part of a photograph, in shares of its width and height in [0, 1]."""

  left: float
  top: float
  right: float
  bottom: float


WHOLE = Box(0.0, 0.0, 1.0, 1.0)


def visible_box(transform: Transform | None) -> Callable[[int, int], Box]:
  """Return the function from the height and width of a photograph to the part of it that a transform keeps.

  The transform is asked: it crops and resizes pictures whose brightness rises from left to right, and from top to
  bottom, and lines are fitted to the results.

  Args:
    transform: without randomness, from uint8 pixels to uint8 pixels; None keeps everything.
  """

  @functools.lru_cache(maxsize=256)
  def box(height: int, width: int) -> Box:
    if transform is None:
      return WHOLE
    ends = []
    for extent, axis in ((width, 1), (height, 0)):
      ramp = np.rint(255 * (np.arange(extent) + 0.5) / extent).astype(np.uint8)
      ramp = np.expand_dims(ramp, 1 - axis)[..., None]
      picture = transform(np.broadcast_to(ramp, (height, width, 3)).copy(), np.random.default_rng(0))
      begin, end = _ends(picture.astype(np.float64).mean((1 - axis, 2)) / 255)
      ends.append((round(begin * extent) / extent, round(end * extent) / extent))  # crops are of whole pixels
    (left, right), (top, bottom) = ends
    return Box(left, top, right, bottom)

  return box


def _ends(values: np.ndarray) -> tuple[float, float]:
  """Return where a line through values at the centres of equal cells begins and ends, clipped to [0, 1]."""
  count = len(values)
  inner = slice(int(EDGE * count), count - int(EDGE * count))
  centres = (np.arange(count) + 0.5) / count
  if count < 2:
    return 0.0, 1.0
  slope, start = np.polyfit(centres[inner], values[inner], 1)
  return float(np.clip(start, 0, 1)), float(np.clip(start + slope, 0, 1))


def shrunk(photograph: UInt8[np.ndarray, 'h w 3']) -> UInt8[np.ndarray, '_ _ 3']:
  """Resize a photograph whose longer side has more than LONGEST pixels to that many; return others as they are."""
  picture = Image.fromarray(photograph)
  picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
  return np.asarray(picture)


def joined(photographs: list[UInt8[np.ndarray, '_ _ 3']]) -> dict[str, np.ndarray]:
  """Encode photographs, each of its own size, as two arrays of an .npz: `photograph`, and `photograph_end`.

  Args:
    photographs: of which those above LONGEST are resized, and those that are enlarged for the eye are not compressed
      with loss.
  """
  files = [
    to_png(photograph) if max(photograph.shape) <= SMALL else encode(shrunk(photograph))[0]
    for photograph in photographs
  ]
  return {
    'photograph': np.frombuffer(b''.join(files), np.uint8),
    'photograph_end': np.cumsum([len(file) for file in files]),
  }
