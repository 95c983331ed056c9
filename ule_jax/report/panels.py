"""What networks look at, as pictures and numbers: from saliency/<split>.npz, which ule_jax.evaluate writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from ule_jax.errors import UserError
from ule_jax.report.numbers import Cell, average
from ule_jax.report.pictures import GAP, beside, colored, scaled, signed, stack, to_png
from ule_jax.report.runs import Run
from ule_jax.report.series import Series

RANDOM = ('group', 'class')  # the categories that are drawn at random: numbers are of these


class Panel(NamedTuple):
  """One example: its picture, and where and in which direction each role's output changes."""

  category: str
  text: str
  pixels: np.ndarray  # uint8 h w 3


class Look(NamedTuple):
  """Numbers of a series' saliency, means over the examples drawn at random and then over seeds."""

  examples: int
  scalar: str
  agreement: Cell
  cosine: Cell
  colour: dict[str, Cell]  # by role
  on_mask: dict[str, dict[str, Cell]]  # by mask and role
  area: dict[str, Cell]  # by mask


def splits(run: Run) -> list[str]:
  """Name the splits that have saliency, test first."""
  found = sorted(path.stem for path in (run.directory / 'saliency').glob('*.npz'))
  return sorted(found, key=lambda split: (split != 'test', split))


def read(run: Run, split: str) -> dict[str, np.ndarray] | None:
  """Read the saliency of a run; None without it.

  Raises:
    UserError: it is of another checkpoint than the results, or of another version of the package.
  """
  arrays = run.arrays('saliency', split, '')
  if arrays is None:
    return None
  wanted = ['step', 'category', 'image', *(f'{part}_{role}' for part in ('saliency', 'gradient') for role in run.roles)]
  lacking = [name for name in wanted if name not in arrays]
  if lacking or arrays['step'] != run.results['step']:
    what = f'has no {lacking[0]}' if lacking else f'is of step {arrays["step"]}, the results of {run.results["step"]}'
    path = run.directory / 'saliency' / f'{split}.npz'
    raise UserError(f'{path} {what}: write it again with ule_jax.evaluate --saliency, or remove it.')
  return arrays


def rank_correlation(a: Float[np.ndarray, 'h w'], b: Float[np.ndarray, 'h w']) -> float:
  """Correlate two maps by rank (Spearman): 1 is the same order of pixels, 0 none; 0 for a constant map.

  >>> float(round(rank_correlation(np.array([[1.0, 2.0, 4.0]]), np.array([[1.0, 3.0, 9.0]])), 6))
  1.0
  """
  a, b = (rankdata(v.ravel()) for v in (a, b))
  a, b = a - a.mean(), b - b.mean()
  scale = np.sqrt((a @ a) * (b @ b))
  return float(a @ b / scale) if scale else 0.0


def one_colour(gradient: Float[np.ndarray, 'h w c']) -> float:
  """Compute the share of a squared gradient that is one and the same change of colour at all pixels.

  >>> one_colour(np.ones((2, 2, 3))), one_colour(np.array([[[1.0, 0, 0], [-1.0, 0, 0]]]))
  (1.0, 0.0)
  """
  pixels = gradient.shape[0] * gradient.shape[1]
  total = float((gradient**2).sum())
  return float(pixels * (gradient.mean((0, 1)) ** 2).sum() / total) if total else 0.0


def look(series: Series, split: str) -> Look | None:
  """Compute the numbers of a series; None without saliency of the split."""
  found = [a for run in series.runs if (a := read(run, split)) is not None]
  if not found:
    return None
  roles = series.runs[0].roles

  def over_seeds(value) -> Cell:
    means = []
    for arrays in found:
      rows = np.flatnonzero(np.isin(arrays['category'], RANDOM))
      means.append(float(np.mean([value(arrays, i) for i in rows])))
    return average(means)

  def maps(arrays, i):
    return [arrays[f'saliency_{role}'][i].astype(np.float64) for role in roles]

  def on_mask(arrays, i, name, role):
    size, mask = arrays[f'saliency_{role}'][i].astype(np.float64), arrays[name][i] / 255
    return (size * mask).sum() / max(size.sum(), 1e-12)

  masks = [name for name in found[0] if name.startswith('mask_')]
  return Look(
    examples=sum(int(np.isin(arrays['category'], RANDOM).sum()) for arrays in found),
    scalar=str(found[0]['scalar']),
    agreement=over_seeds(lambda a, i: rank_correlation(*maps(a, i))) if len(roles) == 2 else Cell(reason='one role'),
    cosine=over_seeds(lambda a, i: abs(a['cosine'][i])) if len(roles) == 2 else Cell(reason='one role'),
    colour={r: over_seeds(lambda a, i, r=r: one_colour(a[f'gradient_{r}'][i].astype(np.float64))) for r in roles},
    on_mask={
      m.removeprefix('mask_'): {r: over_seeds(lambda a, i, m=m, r=r: on_mask(a, i, m, r)) for r in roles} for m in masks
    },
    area={m.removeprefix('mask_'): over_seeds(lambda a, i, m=m: a[m][i].mean() / 255) for m in masks},
  )


def panels(run: Run, split: str, side: int, count: int) -> Iterator[Panel]:
  """Make the panels of a run.

  Args:
    side: pixels of each picture, about.
    count: examples of a category, and of each group.
  """
  arrays = read(run, split)
  classes, groups, made = run.results['classes'], run.results['groups'], {}
  for i, category in enumerate(arrays['category'].tolist()):
    label, group = int(arrays['label'][i]), int(arrays['group'][i])
    key = (category, (group, label) if category in RANDOM else None)
    made[key] = made.get(key, 0) + 1
    if made[key] > count:
      continue
    said = [
      f'{role}: {classes[arrays[f"prediction_{role}"][i]]} ({100 * arrays[f"probability_{role}"][i].max():.0f}\xa0%)'
      for role in run.roles
    ]
    if len(run.roles) == 2:
      said.append(f'rank correlation {rank_correlation(*(arrays[f"saliency_{role}"][i] for role in run.roles)):.2f}')
    of = groups[group] if group >= 0 else classes[label] if label >= 0 else 'no label'
    text = f'{split} {arrays["index"][i]}, {of}. {", ".join(said)}'
    yield Panel(category, text, picture(arrays, i, run.roles, side))


def picture(arrays: dict[str, np.ndarray], i: int, roles: Sequence[str], side: int) -> np.ndarray:
  """Draw one row of saliency arrays: the image, each role's map, each role's gradient with its signs.

  Args:
    side: pixels of each part, about.
  """
  parts = [arrays['image'][i]]
  parts += [colored(arrays[f'saliency_{role}'][i]) for role in roles]
  parts += [signed(arrays[f'gradient_{role}'][i]) for role in roles]
  return beside([scaled(part, side) for part in parts])


def sheet(made: Sequence[Panel]) -> bytes:
  """Put all panels of a run on one PNG."""
  return to_png(stack([beside([p.pixels for p in made[i : i + 4]], 4 * GAP) for i in range(0, len(made), 4)]))
