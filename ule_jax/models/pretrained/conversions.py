"""Conversions between tensors of other libraries and our parameters, and the form of a table of names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from etils import epy

with epy.lazy_imports():  # jax takes seconds to import, which --help and errors of the command line do not need
  import jax

Shapes = Sequence[tuple[int, ...]]


class Layout(NamedTuple):
  """Conversion between a tensor of a file and parameters of ours.

  Attributes:
    read: (tensor, shapes of our parameters) -> our parameters.
    write: the inverse.
    note: description for the table of the mapping.
  """

  read: Callable[[np.ndarray, Shapes], list[np.ndarray]]
  write: Callable[[list[np.ndarray]], np.ndarray]
  note: str


SAME = Layout(lambda t, _: [t], lambda ours: ours[0], '')

CONV = Layout(lambda t, _: [t.transpose(2, 3, 1, 0)], lambda ours: ours[0].transpose(3, 2, 0, 1), 'OIHW to HWIO')

DENSE = Layout(lambda t, _: [t.T], lambda ours: ours[0].T, 'transposed')


def _read_qkv(t, shapes):
  d, heads, size = shapes[0]
  return list(t.reshape(3, heads, size, d).transpose(0, 3, 1, 2))


def _write_qkv(ours):
  d = ours[0].shape[0]
  return np.stack(ours).transpose(0, 2, 3, 1).reshape(-1, d)


QKV = Layout(_read_qkv, _write_qkv, 'query, key, value in one, transposed')

QKV_BIAS = Layout(
  lambda t, shapes: list(t.reshape(3, *shapes[0])), lambda ours: np.stack(ours).reshape(-1), 'query, key, value in one'
)

HEADS = Layout(
  lambda t, shapes: [t.T.reshape(shapes[0])], lambda ours: ours[0].reshape(-1, ours[0].shape[-1]).T, 'split into heads'
)

POSITION = Layout(lambda t, shapes: [resample(t, shapes[0][1])], lambda ours: ours[0], 'resampled where sizes differ')

# (our path as a regular expression, name in the file, layout). The groups of the expression fill `{0}`, `{1}`, ...;
# `{0+1}` is the number of group 0 plus 1.
Names = Sequence[tuple[str, str, Layout]]


def batch_norm(ours: str, theirs: str) -> Names:
  """Return the names of the four arrays of a BatchNorm."""
  return [
    (rf'params/{ours}/scale', f'{theirs}.weight', SAME),
    (rf'params/{ours}/bias', f'{theirs}.bias', SAME),
    (rf'batch_stats/{ours}/mean', f'{theirs}.running_mean', SAME),
    (rf'batch_stats/{ours}/var', f'{theirs}.running_var', SAME),
  ]


def resample(position: np.ndarray, count: int) -> np.ndarray:
  """Resample the position embeddings of a square image to another size: cubic, antialiased.

  Source: timm's `resample_abs_pos_embed`.

  Args:
    position: 1 t d, the class token first.
    count: number of tokens of the result, with the class token.
  """
  if position.ndim != 3 or position.shape[1] == count:
    return position
  old, new = (round((n - 1) ** 0.5) for n in (position.shape[1], count))
  if (old**2, new**2) != (position.shape[1] - 1, count - 1):
    return position
  grid = position[:, 1:].reshape(1, old, old, -1)
  resized = jax.image.resize(grid, (1, new, new, grid.shape[-1]), method='cubic', antialias=True)
  return np.concatenate([position[:, :1], np.asarray(resized).reshape(1, new * new, -1)], axis=1)
