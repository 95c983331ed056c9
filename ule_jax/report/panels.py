"""Saliency as pictures, from saliency/<split>.npz, which ule_jax.evaluate writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ule_jax.errors import UserError
from ule_jax.report import pictures, sheet
from ule_jax.report.pictures import Pixels, decode, overlay, scaled, signed
from ule_jax.report.sheet import Tile, one_line
from ule_jax.runs.recorded import FinishedRun

# (index, label) of an example -> arrays of saliency/<split>.npz, and its row
Others = dict[tuple[int, int], tuple[dict[str, np.ndarray], int]]

RANDOM = ('group', 'class')  # the categories of randomly drawn examples, over which numbers are averaged


class Panel(NamedTuple):
  """One example as a row: the photograph, and for each network its map over it and its answer.

  Attributes:
    category: hardest, typical, group, class, or only <role> right.
    name: of the example in its data set, such as its file.
    truth: its group, or its class.
    photograph: before the networks' transform where that was recorded, else their input.
    looks: heading -> tile; without a network that has no map of the example.
    disagree: whether the networks differ in being right.
  """

  category: str
  name: str
  truth: str
  photograph: Pixels
  looks: dict[str, Tile]
  disagree: bool


def splits(run: FinishedRun) -> list[str]:
  """List the splits of a run that have saliency, test first."""
  names = (path.stem for path in (run.directory / 'saliency').glob('*.npz'))
  return sorted(names, key=lambda split: (split != 'test', split))


def read(run: FinishedRun, split: str) -> dict[str, np.ndarray] | None:
  """Read the saliency arrays of a run; None without the file.

  Raises:
    UserError: the file is of another checkpoint than the results, or of another version of the package.
  """
  arrays = run.arrays('saliency', split, '')
  if arrays is None:
    return None
  wanted = ['step', 'category', 'image', *(f'{kind}_{role}' for kind in ('saliency', 'gradient') for role in run.roles)]
  lacking = [name for name in wanted if name not in arrays]
  if lacking or arrays['step'] != run.results.step:
    fault = f'has no {lacking[0]}' if lacking else f'is of step {arrays["step"]}, the results of {run.results.step}'
    path = run.directory / 'saliency' / f'{split}.npz'
    raise UserError(f'{path} {fault}: write it again with ule_jax.evaluate --saliency, or remove it.')
  return arrays


def panels(
  run: FinishedRun, split: str, longest: int, count: int, plain: FinishedRun | None = None, colours: bool = False
) -> list[Panel]:
  """Draw the panels of a run; none without saliency of the split.

  Args:
    longest: pixels of the longer side of a picture; larger photographs are shrunk.
    count: examples of a category, and of each group.
    plain: a run of plain training on the same data, whose maps stand first where it has them.
    colours: draw which change of colour raises the label's score, in place of the maps.
  """
  arrays, counts, rows = read(run, split), {}, []
  if arrays is None:
    return []
  for i, category in enumerate(arrays['category'].tolist()):
    key = (category, (int(arrays['group'][i]), int(arrays['label'][i])) if category in RANDOM else None)
    counts[key] = counts.get(key, 0) + 1
    if counts[key] <= count:
      rows.append(i)
  others = (plain.roles[-1], beside(plain, split)) if plain else None
  results = run.results
  return of_arrays(
    arrays, results.method, run.roles, run.classes, results.groups, split, longest, rows, others, colours
  )


def of_arrays(
  arrays: dict[str, np.ndarray],
  method: str,
  roles: Sequence[str],
  classes: Sequence[str],
  groups: Sequence[str],
  split: str,
  longest: int,
  rows: Iterable[int] | None = None,
  plain: tuple[str, Others] | None = None,
  colours: bool = False,
) -> list[Panel]:
  """Draw panels of the arrays of saliency/<split>.npz.

  Args:
    arrays: of the file.
    method: its name.
    roles: its networks.
    classes: names.
    groups: names.
    split: of the examples.
    longest: pixels of the longer side of a picture.
    rows: of the arrays; None for all.
    plain: role of plain training, and its saliency as of `beside`.
    colours: as in `panels`.
  """
  drawn = []
  for i in range(len(arrays['index'])) if rows is None else rows:
    label, group = int(arrays['label'][i]), int(arrays['group'][i])
    photograph, box = photograph_of(arrays, i)
    photograph = scaled(photograph, longest)
    sources = [(arrays, i, role, heading(method, roles, role)) for role in roles]
    if plain and (other := plain[1].get((int(arrays['index'][i]), label))) is not None:
      sources.insert(0, (*other, plain[0], 'ERM'))
    looks = {}
    for source, row, role, name in sources:
      picture = scaled(signed(source[f'gradient_{role}'][row]), longest) if colours else None
      looks[name] = tile(source, row, role, classes, photograph, box, picture)
    truth = groups[group] if group >= 0 else classes[label] if label >= 0 else 'no label'
    differ = len({look.right for look in looks.values()}) > 1
    drawn.append(Panel(str(arrays['category'][i]), name_of(arrays, i, split), truth, photograph, looks, differ))
  return drawn


def heading(method: str, roles: Sequence[str], role: str) -> str:
  """Return the heading of a network's column: its role, or the method where it has only one network.

  >>> heading('ule', ('student', 'teacher'), 'teacher'), heading('erm', ('model',), 'model')
  ('teacher', 'ERM')
  """
  return role if len(roles) > 1 else 'ERM' if method == 'erm' else method


def beside(plain: FinishedRun, split: str) -> Others:
  """Return (index, label) -> the arrays and the row of plain training's saliency of an example."""
  arrays = read(plain, split)
  if arrays is None:
    return {}
  return {(int(n), int(label)): (arrays, i) for i, (n, label) in enumerate(zip(arrays['index'], arrays['label']))}


def name_of(arrays: dict[str, np.ndarray], i: int, split: str) -> str:
  """Return the name of an example; files of older versions have only its number."""
  return str(arrays['name'][i]) if 'name' in arrays else f'{split} {arrays["index"][i]}'


def photograph_of(arrays: dict[str, np.ndarray], i: int) -> tuple[Pixels, tuple[float, float, float, float]]:
  """Return the photograph of a row of saliency arrays, and the part of it that is the networks' input.

  Files of older versions have only that input.
  """
  if 'photograph' not in arrays:
    return arrays['image'][i], (0.0, 0.0, 1.0, 1.0)
  end = int(arrays['photograph_end'][i])
  begin = int(arrays['photograph_end'][i - 1]) if i else 0
  left, top, right, bottom = map(float, arrays['box'][i])
  return decode(arrays['photograph'][begin:end].tobytes()), (left, top, right, bottom)


def tile(
  arrays: dict[str, np.ndarray],
  i: int,
  role: str,
  classes: Sequence[str],
  photograph: Pixels,
  box: tuple[float, float, float, float],
  picture: Pixels | None = None,
) -> Tile:
  """Draw one network's map of an example over its photograph, with its answer.

  Args:
    arrays: of saliency/<split>.npz.
    i: the row.
    role: the network.
    classes: names.
    photograph: as large as it is drawn.
    box: as of `photograph_of`.
    picture: in place of the map.
  """
  answer, label = int(arrays[f'prediction_{role}'][i]), int(arrays['label'][i])
  caption = f'{classes[answer]}, {100 * arrays[f"probability_{role}"][i].max():.0f}\xa0%'
  drawn = overlay(photograph, arrays[f'saliency_{role}'][i], box) if picture is None else picture
  return Tile(drawn, caption, answer == label if label >= 0 else None)


def headings(examples: Sequence[Panel]) -> list[str]:
  """Return the columns of some panels: all networks that have a map of one of them, plain training first."""
  names = dict.fromkeys(name for panel in examples for name in panel.looks)
  return sorted(names, key=lambda name: name != 'ERM')


def to_png(examples: Sequence[Panel]) -> bytes:
  """Draw all panels of a run on a sheet, as PNG."""
  columns = headings(examples)
  nothing = Tile(None, 'no map')
  rows = [
    [
      Tile(panel.photograph, f'{one_line(panel.name)}\n{panel.truth}'),
      *(panel.looks.get(name, nothing) for name in columns),
    ]
    for panel in examples
  ]
  return pictures.to_png(sheet.draw(['photograph', *columns], rows))
