"""Examples of a data set, small enough for quick networks, with the properties of their files."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from ule_jax.data import Dataset
from ule_jax.data.transforms import antialias
from ule_jax.detect.properties import columns, measure
from ule_jax.errors import UserError, unknown

log = logging.getLogger(__name__)


class Examples(NamedTuple):
  """Examples of a split, in its order.

  Attributes:
    rows: their indices in the split.
    x: uint8 images [n h w c], or features [n d].
    label: class index.
    group: group index, -1 is unknown.
    properties: name -> value of each example; {} for features.
    names: of the examples.
  """

  rows: Int[np.ndarray, 'n']
  x: np.ndarray
  label: Int[np.ndarray, 'n']
  group: Int[np.ndarray, 'n']
  properties: dict[str, np.ndarray]
  names: list[str]


def read(dataset: Dataset, split: str, count: int, side: int, threads: int, seed: int) -> Examples:
  """Read examples of a split, as many as asked for; the choice keeps their order.

  Args:
    count: examples at most; 0 takes all.
    side: pixels to which larger images are reduced for the networks; properties are measured before.
    threads: that decode; 0 for the calling thread.
    seed: of the choice.

  Raises:
    UserError: there is no such split, or an image cannot be read.
  """
  if split not in dataset.splits:
    raise unknown('split', split, dataset.splits)
  content = dataset.splits[split]
  rows = np.random.default_rng((seed, 0)).permutation(content.count)
  rows = np.sort(rows[: count or None])
  is_image = dataset.dtype == np.uint8

  def example(i: int) -> tuple[np.ndarray, dict[str, float | str]]:
    image = content.load(i)
    if not is_image:
      return np.asarray(image), {}
    properties = measure(image, content.files(i)[0] if content.files else b'')
    if dataset.eval_transform:
      image = dataset.eval_transform(image, np.random.default_rng(0))
    height, width = image.shape[:2]
    if max(height, width) > side:
      factor = side / max(height, width)
      image = antialias(image, (max(1, round(height * factor)), max(1, round(width * factor))))
    return image, properties

  log.info(f'reading {len(rows):,} of {content.count:,} examples of {split}')
  indices = rows.tolist()
  if threads and content.files:
    with ThreadPoolExecutor(threads) as pool:
      examples = list(pool.map(example, indices))
  else:
    examples = [example(i) for i in indices]
  x = np.stack([image for image, _ in examples])
  properties = columns([entries for _, entries in examples]) if is_image else {}
  return Examples(rows, x, content.label[rows], content.group[rows], properties, [content.name(i) for i in indices])


def refuse_few(examples: Examples, classes: tuple[str, ...], split: str, fewest: int) -> None:
  """Check that every class has enough examples.

  Raises:
    UserError: one has fewer than `fewest`.
  """
  counts = np.bincount(examples.label, minlength=len(classes))
  if counts.min() < fewest:
    k = int(counts.argmin())
    raise UserError(
      f"the class '{classes[k]}' has {counts[k]} of the {len(examples.rows):,} examples of {split}, and detect needs "
      f'{fewest} of each: choose more with --examples, or another --split.'
    )
