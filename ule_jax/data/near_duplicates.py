"""Images that have to be in one split: near-duplicates by a perceptual hash, and files of one name.

The hash is the difference hash (N. Krawetz, "Kind of Like That", hackerfactor.com, 2013) in two directions: whether
each cell of a grid of grey means is darker than its neighbour, 64 bits along rows and 64 along columns. Copies that
were resized, recompressed or slightly recoloured differ in a few bits; crops, mirrored or turned copies, and another
photograph of the same scene usually in many. Images without detail (one colour, a white page) have alike hashes
whatever they show.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Int, UInt64
from PIL import Image, ImageOps

from ule_jax.data.checks import each
from ule_jax.data.decoding import BY_TYPE, Decoding, decode
from ule_jax.errors import UserError

DISTANCE = 10  # of 128 bits, up to which two images are near-duplicates
SIDE = 8  # cells of the grid
BLOCK = 2**22  # pairs that are compared at once

TOGETHER = ('none', 'names', 'near_duplicates', 'both')


def units(
  names: Sequence[str], together: str, read: Callable[[int], bytes], decoding: Decoding = BY_TYPE
) -> Int[np.ndarray, 'n'] | None:
  """Return the index of each image's unit, which has to be in one split; None if each image is its own.

  Args:
    names: paths of the images, with `/`.
    together: one of TOGETHER; `names` are equal without folder, ending and case.
    read: returns the bytes of image `i`.
    decoding: white value and background.
  """
  if together not in TOGETHER[1:]:
    return None
  from scipy.sparse import coo_array  # 0.2 s of import that other data do not need
  from scipy.sparse.csgraph import connected_components

  pairs = []
  if together in ('names', 'both'):
    first: dict[str, int] = {}
    stems = (PurePosixPath(name).stem.casefold() for name in names)
    pairs.append(np.array([(first.setdefault(stem, i), i) for i, stem in enumerate(stems)]))
  if together in ('near_duplicates', 'both'):
    hashes = list(each(lambda i: difference_hash(read(i), names[i], decoding), len(names)))
    usable = np.flatnonzero([value is not None for value in hashes])
    if len(usable):
      pairs.append(usable[near_pairs(np.array([hashes[i] for i in usable.tolist()], np.uint64))])
  edges = np.concatenate([np.zeros((0, 2), int), *pairs])
  graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(len(names),) * 2)
  return connected_components(graph, directed=False)[1]


def difference_hash(encoded: bytes, name: str, decoding: Decoding = BY_TYPE) -> tuple[int, int] | None:
  """Return the difference hash of an image file, along rows and along columns; None if it cannot be decoded.

  Args:
    encoded: the bytes of the file.
    name: of the image, for messages.
    decoding: white value and background.
  """
  try:
    grey = _grey(encoded, name, decoding)
  except UserError:  # which the check of all images reports
    return None
  resize = Image.Resampling.LANCZOS
  rows = np.asarray(grey.resize((SIDE + 1, SIDE), resize), np.int16)
  columns = np.asarray(grey.resize((SIDE, SIDE + 1), resize), np.int16)
  return _number(np.diff(rows, axis=1) > 0), _number(np.diff(columns, axis=0) > 0)


def near_pairs(hashes: UInt64[np.ndarray, 'n 2'], distance: int = DISTANCE) -> Int[np.ndarray, 'm 2']:
  """Return pairs of indices that connect all hashes that differ in at most `distance` bits.

  Of equal hashes each is paired with the first only.
  """
  distinct, first, which = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
  count = len(distinct)
  pairs = [np.stack([first[which.reshape(-1)], np.arange(len(hashes))], 1)]
  step = max(1, BLOCK // count)
  for start in range(0, count, step):
    block, others = distinct[start : start + step], distinct[start:]
    bits = sum(np.bitwise_count(block[:, None, word] ^ others[None, :, word]) for word in range(2))
    near = np.argwhere(bits <= distance) + start
    pairs.append(first[near[near[:, 0] < near[:, 1]]])
  return np.concatenate(pairs)


def _grey(encoded: bytes, name: str, decoding: Decoding) -> Image.Image:
  """Decode an image to grey; a JPEG at about the size of the hash, which takes a fraction of the time."""
  if encoded.startswith(b'\xff\xd8'):
    try:
      with Image.open(io.BytesIO(encoded)) as image:
        image.draft('L', (8 * SIDE, 8 * SIDE))
        return ImageOps.exif_transpose(image).convert('L')
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
      pass
  return Image.fromarray(decode(encoded, name, decoding=decoding)).convert('L')


def _number(bits: np.ndarray) -> int:
  return int.from_bytes(np.packbits(bits).tobytes(), 'big')
