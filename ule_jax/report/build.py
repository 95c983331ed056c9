"""The report: one self-contained page of finished runs with tables, curves, bars and saliency."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etils import epy

from ule_jax import selection
from ule_jax.data import DATASETS
from ule_jax.errors import UserError
from ule_jax.report import numbers
from ule_jax.report.colors import style
from ule_jax.report.page import data_uri, refuse_others, render, write
from ule_jax.report.runs import Found, find
from ule_jax.report.series import Series, gather

with epy.lazy_imports():  # matplotlib and scipy take a second to import, which --help does not need
  from ule_jax.report import figures, panels, pictures

LIMIT = 10 * 2**20  # bytes of the page

# (side of a picture in pixels, examples of a category), from the best to the smallest page
SIZES = ((96, 4), (80, 3), (64, 2), (48, 1))

GENERATOR = 'ule_jax.report'

CATEGORIES = {
  'hardest': 'Hardest: the greatest losses of the deployed network',
  'typical': 'Typical: losses nearest to the median',
  'group': 'Each group, at random',
  'class': 'Each class, at random',
}

# Config fields that differ between seeds or machines
HIDDEN = ('seed', 'data.dir', 'data.file', 'data.table', 'two_stage.workdir')


def build(paths: Sequence[Path], out: Path, images: bool = True) -> list[str]:
  """Write the report of all runs below some folders; return lines for the terminal.

  Args:
    paths: folders of runs, or folders that hold them at any depth.
    out: a folder that is empty, does not exist, or holds an older report.
    images: show examples of the data.

  Raises:
    UserError: there is no finished run, a file of one is damaged, or the folder cannot be used.
  """
  refuse_others(out, GENERATOR)
  listing = find(paths)
  series, left_out = gather(listing.runs)
  drawings = draw(series)
  for size in (*SIZES, None) if images else (None,):
    saliency = show(series, *size) if size else {}
    page = render(Path(__file__).parent / 'page.html', context(listing, left_out, series, drawings, saliency, images))
    if len(page) <= LIMIT:
      break
  else:
    raise UserError(f'the page would have {len(page) / 2**20:.0f} MiB: give the report fewer runs.')
  files = {'index.html': page}
  for drawing in (drawing for charts in drawings.values() for drawing in charts):
    files |= {f'figures/{_slug(drawing.name)}.svg': drawing.svg, f'figures/{_slug(drawing.name)}.png': drawing.png}
  for member, (_, examples) in saliency.items():
    files[f'figures/{_slug(f"{member.dataset} {member.label} saliency")}.png'] = panels.sheet(examples)
  files['results.csv'] = numbers.to_csv(numbers.RESULTS, numbers.result_rows(series)).encode(errors='surrogateescape')
  files['summary.csv'] = numbers.to_csv(numbers.SUMMARY, numbers.summary_rows(series)).encode(errors='surrogateescape')
  files['changes.csv'] = numbers.to_csv(numbers.CHANGES, numbers.change_rows(series)).encode(errors='surrogateescape')
  write(out, files)
  lines = [f'unfinished, not in the numbers: {text}' for text in listing.unfinished]
  lines += [f'left out: {text}' for text in left_out]
  lines += [f'warning: {text}' for text in listing.changed]
  if images and not saliency and any(panels.splits(run) for member in series for run in member.runs):
    lines += [f'images are left out: the page would exceed {LIMIT / 2**20:.0f} MiB']
  lines += [f'{text}: keep this page to yourself, or use --no-images.' for text in restricted(series) if saliency]
  return [*lines, f'{len(listing.runs)} runs, {len(page) / 2**20:.1f} MiB: {out / "index.html"}']


def restricted(series: Sequence[Series]) -> list[str]:
  """Return the reason for each data set whose images may not be published."""
  names = dict.fromkeys(member.runs[0].results.dataset for member in series)
  return [DATASETS[name].licence for name in names if name in DATASETS and DATASETS[name].licence]


def datasets(series: Sequence[Series]) -> dict[str, list[Series]]:
  """Group series by their data set."""
  return {name: [s for s in series if s.dataset == name] for name in dict.fromkeys(s.dataset for s in series)}


def draw(series: Sequence[Series]) -> dict[str, list[figures.Drawing]]:
  """Draw the charts of each data set."""
  drawings = {}
  for name, members in datasets(series).items():
    bars = figures.group_bars(name, members, selection.default_rule(numbers.rules(members)))
    drawings[name] = [*([bars] if bars else []), *figures.curves(name, members)]
  return drawings


def show(series: Sequence[Series], side: int, count: int) -> dict[Series, tuple[str, list[panels.Panel]]]:
  """Draw the panels of the first run of each series that has saliency; return series -> (source, panels).

  Args:
    side: approximate side of a picture in pixels.
    count: examples of a category, and of each group.
  """
  drawn = {}
  for member in series:
    for run in member.runs:
      if splits := panels.splits(run):
        source = f'seed {run.seed}, {splits[0]}, commit {run.commit}'
        drawn[member] = source, list(panels.panels(run, splits[0], side, count))
        break
  return drawn


def context(listing: Found, left_out, series, drawings, saliency, images: bool) -> dict[str, Any]:
  """Return the variables of page.html.

  Args:
    listing: the runs and their warnings.
    left_out: sentences on runs that are omitted.
    series: all series, in the order of the page.
    drawings: data set -> its charts.
    saliency: series -> (source, panels).
    images: whether examples of the data may be shown.
  """
  sections = []
  for name, members in datasets(series).items():
    names, metric = numbers.rules(members), numbers.headline(members)
    main = [rule for rule in (selection.default_rule(names), selection.oracle_rule(names)) if rule]
    splits = {member: panels.splits(member.runs[0]) for member in members}
    looks = {member: panels.look(member, names[0]) for member, names in splits.items() if names}
    sections.append(
      {
        'name': name,
        'slug': _slug(name),
        'series': members,
        'rules': names,
        'main': main,
        'metric': metric,
        'title': numbers.title(members, metric),
        'metrics': [(m, numbers.title(members, m)) for m in numbers.metrics(members)],
        'caption': caption(members),
        'drawings': [(d, data_uri(d.svg, 'image/svg+xml')) for d in drawings[name]],
        'changes': {member: rows for member in members if (rows := numbers.changes(member.runs[0]))},
        'looks': {member: look for member, look in looks.items() if look},
        'masks': sorted({mask for look in looks.values() if look for mask in look.area}),
        'scalar': ', '.join(sorted({look.scalar for look in looks.values() if look})),
        'panels': {m: (saliency[m][0], _categories(saliency[m][1])) for m in members if m in saliency},
      }
    )
  methods = list(dict.fromkeys(member.label for member in series))
  return {
    'generator': GENERATOR,
    'listing': listing,
    'left_out': left_out,
    'series': series,
    'sections': sections,
    'methods': methods,
    'series_of': {(member.dataset, member.label): member for member in series},
    'styles': {member.label: style(member.method, member.variant) for member in series},
    'images': images,
    'has_saliency': any(panels.splits(run) for member in series for run in member.runs),
    'has_panels': bool(saliency),
    'restricted': restricted(series),
    'cell': numbers.cell,
    'label_free': selection.is_label_free,
    'needs_groups': numbers.needs_groups,
    'categories': CATEGORIES,
    'hidden': HIDDEN,
  }


def caption(series: Sequence[Series]) -> str:
  """Format the model, steps, optimiser, seeds and commits of the runs in a table; "several" where they differ."""
  runs = [run for member in series for run in member.runs]

  def common(field: str) -> str:
    values = list(dict.fromkeys(str(run.fields.get(field)) for run in runs))
    return values[0] if len(values) == 1 else 'several'

  steps = list(dict.fromkeys(str(run.results.last['step']) for run in runs))
  return (
    f'Model {common("model.name")}, {steps[0] if len(steps) == 1 else "several"} steps of '
    f'{common("train.batch_size")}, {common("optim.name")} at {common("optim.lr")}; '
    f'{seeds(series)}; {commits(series)}'
  )


def seeds(series: Sequence[Series]) -> str:
  """Format the seeds of some runs as `seeds 0, 1`."""
  values = sorted({run.seed for member in series for run in member.runs})
  return f'seed{"s" if len(values) > 1 else ""} {", ".join(map(str, values))}'


def commits(series: Sequence[Series]) -> str:
  """Format the commits of some runs as `commits a, b`."""
  hashes = list(dict.fromkeys(run.commit for member in series for run in member.runs))
  return f'commit{"s" if len(hashes) > 1 else ""} {", ".join(hashes)}'


def _categories(examples: Sequence[panels.Panel]) -> dict[str, list[tuple[str, str]]]:
  """Group panels by category, as (caption, data URI)."""
  by_category: dict[str, list[tuple[str, str]]] = {}
  for panel in examples:
    by_category.setdefault(panel.category, []).append((panel.text, data_uri(*pictures.encode(panel.pixels))))
  return by_category


def _slug(text: str) -> str:
  """Convert a text to a file name or HTML id; a checksum keeps texts with non-ASCII letters distinct."""
  plain = re.sub(r'[^0-9a-zA-Z]+', '-', text).strip('-').lower()
  return plain if text.isascii() else f'{plain}-{zlib.crc32(text.encode(errors="backslashreplace")):08x}'
