"""Photographs of a report: which run's, which examples first, and the tables that the page draws of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ule_jax.report import panels
from ule_jax.report.page import data_uri
from ule_jax.report.panels import Panel
from ule_jax.report.pictures import colour_bar, encode
from ule_jax.report.series import Series
from ule_jax.report.sheet import LEGEND
from ule_jax.runs.recorded import FinishedRun

FIRST = 6  # examples that are shown before the others of a method
SLIDE = 4  # of them on the PNG

CATEGORIES = {
  'hardest': 'Hardest: the greatest losses of the deployed network',
  'typical': 'Typical: losses nearest to the median',
  'group': 'Each group, at random',
  'class': 'Each class, at random',
}


class Look(NamedTuple):
  """A cell of a table of photographs: heading, picture as a data URI, caption, and whether the network is right."""

  heading: str
  uri: str
  text: str
  right: bool | None


class Row(NamedTuple):
  """A row: the photograph as a data URI, its name, its true group or class, and a cell or None for each network."""

  uri: str
  name: str
  truth: str
  looks: list[Look | None]

  @property
  def parts(self) -> list[str]:
    """The name, cut where a line may end."""
    return re.split(r'(?<=[/_-])', self.name)


class Table(NamedTuple):
  """Photographs as rows, networks as columns."""

  title: str
  headings: list[str]
  rows: list[Row]


class Pictures(NamedTuple):
  """The pictures of a method.

  Attributes:
    source: the run and the split.
    first: examples that are shown first, of all categories.
    rest: category -> its examples.
    colours: the examples of `first` with the change of colour in place of the maps.
  """

  source: str
  first: list[Panel]
  rest: dict[str, list[Panel]]
  colours: list[Panel]


def collect(series: Sequence[Series], longest: int, count: int) -> dict[Series, Pictures]:
  """Draw the examples of the first run of each series that has saliency.

  Args:
    longest: pixels of the longer side of a picture.
    count: examples of a category, and of each group.
  """
  drawn = {}
  for member in sorted(series, key=lambda member: member.method == 'erm'):  # which is a column beside the others
    run = next((run for run in member.runs if panels.splits(run)), None)
    if run is None:
      continue
    split = panels.splits(run)[0]
    plain = plain_run(series, member, run, split)
    examples = panels.panels(run, split, longest, count, plain)
    colours = panels.panels(run, split, longest, count, plain, colours=True)
    has_column = any(other.method != 'erm' and other.dataset == member.dataset for other in drawn)
    deployed = panels.heading(run.results.method, run.roles, run.roles[-1])
    first = [] if member.method == 'erm' and has_column else lead(examples, deployed)
    rest: dict[str, list[Panel]] = {}
    for panel in examples:
      rest.setdefault(panel.category, []).append(panel)
    source = f'seed {run.seed}, {split}'
    drawn[member] = Pictures(source, [examples[i] for i in first], rest, [colours[i] for i in first])
  return drawn


def plain_run(series: Sequence[Series], member: Series, run: FinishedRun, split: str) -> FinishedRun | None:
  """Return a run of plain training on the same data with saliency of the split, of the same seed if there is one."""
  if member.method == 'erm':
    return None
  plain = [other for other in series if other.method == 'erm' and other.dataset == member.dataset]
  others = [run for other in plain for run in other.runs]
  others = [other for other in others if split in panels.splits(other)]
  return min(others, key=lambda other: other.seed != run.seed, default=None)


def lead(examples: Sequence[Panel], deployed: str) -> list[int]:
  """Choose the examples that are shown first: those with the most maps, and of these where the networks differ.

  Args:
    examples: of a run.
    deployed: heading of the deployed network; examples that only it has right come first.
  """

  def order(i: int) -> tuple[int, bool, bool]:
    panel = examples[i]
    alone = panel.disagree and bool(panel.looks[deployed].right)
    return -len(panel.looks), not alone, not panel.disagree

  numbers: dict[str, int] = {}
  for i in sorted(range(len(examples)), key=order):
    if examples[i].category not in ('hardest', 'typical'):  # which are chosen by the loss of one network
      numbers.setdefault(examples[i].name, i)
  turns: Counter[tuple[object, ...]] = Counter()  # of examples of one rank, the groups take turns
  keys = {}
  for i in numbers.values():
    rank = (*order(i), examples[i].truth)
    keys[i] = (*order(i), turns[rank])
    turns[rank] += 1
  return sorted(keys, key=keys.__getitem__)[:FIRST]


def table(title: str, examples: Sequence[Panel]) -> Table:
  """Encode the pictures of some examples for the page."""
  headings = panels.headings(examples)

  def look(panel: Panel, name: str) -> Look | None:
    if name not in panel.looks:
      return None
    tile = panel.looks[name]
    uri = '' if tile.pixels is None else data_uri(*encode(tile.pixels))
    return Look(name, uri, tile.text, tile.right)

  rows = [
    Row(data_uri(*encode(panel.photograph)), panel.name, panel.truth, [look(panel, name) for name in headings])
    for panel in examples
  ]
  return Table(title, headings, rows)


def tables(pictures: Pictures) -> tuple[Table | None, list[Table]]:
  """Return the table that is shown first, and those of the other categories and of the changes of colour."""
  first = table('Where the networks look', pictures.first) if pictures.first else None
  rest = [table(CATEGORIES.get(c, c[0].upper() + c[1:]), examples) for c, examples in pictures.rest.items()]
  return first, rest


def legend() -> tuple[str, str, str]:
  """Return the colours of the maps as a data URI, and the words at their ends."""
  return data_uri(*encode(colour_bar(90, 10))), *LEGEND
