"""Saliency as numbers, from saliency/<split>.npz, which ule_jax.evaluate writes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from ule_jax.report.numbers import Cell, average
from ule_jax.report.panels import RANDOM, read
from ule_jax.report.series import Series


class Look(NamedTuple):
  """Numbers of a series' saliency: means over the randomly drawn examples, then over seeds.

  Attributes:
    examples: their number, over all seeds.
    scalar: the output whose input gradient is taken.
    agreement: rank correlation of the two roles' maps, in [-1, 1].
    cosine: absolute cosine of the two roles' gradients, in [0, 1].
    colour: role -> share of the squared gradient that is one change of colour at all pixels, in [0, 1].
    on_mask: mask -> role -> share of the map on the mask, in [0, 1].
    area: mask -> its share of the image, in [0, 1].
  """

  examples: int
  scalar: str
  agreement: Cell
  cosine: Cell
  colour: dict[str, Cell]
  on_mask: dict[str, dict[str, Cell]]
  area: dict[str, Cell]


def rank_correlation(a: Float[np.ndarray, 'h w'], b: Float[np.ndarray, 'h w']) -> float:
  """Compute Spearman's rank correlation of two maps, in [-1, 1]; 0 for a constant map.

  >>> float(round(rank_correlation(np.array([[1.0, 2.0, 4.0]]), np.array([[1.0, 3.0, 9.0]])), 6))
  1.0
  """
  a, b = (rankdata(v.ravel().astype(np.float64)) for v in (a, b))  # SciPy's ranks of float16 are float16
  a, b = a - a.mean(), b - b.mean()
  scale = np.sqrt((a @ a) * (b @ b))
  return float(a @ b / scale) if scale else 0.0


def one_colour(gradient: Float[np.ndarray, 'h w c']) -> float:
  """Compute the share of the squared gradient that is one change of colour at all pixels, as of a tint; in [0, 1].

  >>> one_colour(np.ones((2, 2, 3))), one_colour(np.array([[[1.0, 0, 0], [-1.0, 0, 0]]]))
  (1.0, 0.0)
  """
  pixels = gradient.shape[0] * gradient.shape[1]
  total = float((gradient**2).sum())
  return float(pixels * (gradient.mean((0, 1)) ** 2).sum() / total) if total else 0.0


def look(series: Series, split: str) -> Look | None:
  """Compute the saliency numbers of a series; None without saliency of the split."""
  saliency = [arrays for run in series.runs if (arrays := read(run, split)) is not None]
  if not saliency:
    return None
  roles = series.runs[0].roles

  def over_seeds(value) -> Cell:
    means = []
    for arrays in saliency:
      rows = np.flatnonzero(np.isin(arrays['category'], RANDOM))
      means.append(float(np.mean([value(arrays, i) for i in rows])))
    return average(means)

  def maps(arrays, i):
    return [arrays[f'saliency_{role}'][i].astype(np.float64) for role in roles]

  def on_mask(arrays, i, name, role):
    size, mask = arrays[f'saliency_{role}'][i].astype(np.float64), arrays[name][i] / 255
    return (size * mask).sum() / max(size.sum(), 1e-12)

  masks = [name for name in saliency[0] if name.startswith('mask_')]
  return Look(
    examples=sum(int(np.isin(arrays['category'], RANDOM).sum()) for arrays in saliency),
    scalar=str(saliency[0]['scalar']),
    agreement=over_seeds(lambda a, i: rank_correlation(*maps(a, i))) if len(roles) == 2 else Cell(reason='one role'),
    cosine=over_seeds(lambda a, i: abs(a['cosine'][i])) if len(roles) == 2 else Cell(reason='one role'),
    colour={r: over_seeds(lambda a, i, r=r: one_colour(a[f'gradient_{r}'][i].astype(np.float64))) for r in roles},
    on_mask={
      m.removeprefix('mask_'): {r: over_seeds(lambda a, i, m=m, r=r: on_mask(a, i, m, r)) for r in roles} for m in masks
    },
    area={m.removeprefix('mask_'): over_seeds(lambda a, i, m=m: a[m][i].mean() / 255) for m in masks},
  )
