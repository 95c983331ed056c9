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
  from ule_jax.report import examples, figures, looks, panels, verdict

LIMIT = 10 * 2**20  # bytes of the page

# (longer side of a picture in pixels, examples of a category), from the best to the smallest page
SIZES = ((640, 4), (320, 3), (160, 2), (96, 1))

GENERATOR = 'ule_jax.report'

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
    saliency = examples.collect(series, *size) if size else {}
    page = render(Path(__file__).parent / 'page.html', context(listing, left_out, series, drawings, saliency, images))
    if len(page) <= LIMIT:
      break
  else:
    raise UserError(f'the page would have {len(page) / 2**20:.0f} MiB: give the report fewer runs.')
  files = {'index.html': page}
  for drawing in (drawing for charts in drawings.values() for drawing in charts):
    files |= {f'figures/{_slug(drawing.name)}.svg': drawing.svg, f'figures/{_slug(drawing.name)}.png': drawing.png}
  for member, pictures in saliency.items():
    if slide := pictures.first[: examples.SLIDE]:
      files[f'figures/{_slug(f"{member.dataset} {member.label} saliency")}.png'] = panels.to_png(slide)
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
  return [*lines, f'{_count(len(listing.runs), "run")}, {len(page) / 2**20:.1f} MiB: {out / "index.html"}']


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
    rule, metric = selection.default_rule(numbers.rules(members)), numbers.headline(members)
    charts = [
      figures.scatter(name, members, rule, metric, numbers.title(members, metric)),
      figures.group_bars(name, members, rule),
      *figures.curves(name, members),
    ]
    drawings[name] = [chart for chart in charts if chart]
  return drawings


def context(listing: Found, left_out, series, drawings, saliency, images: bool) -> dict[str, Any]:
  """Return the variables of page.html.

  Args:
    listing: the runs and their warnings.
    left_out: sentences on runs that are omitted.
    series: all series, in the order of the page.
    drawings: data set -> its charts.
    saliency: series -> its `examples.Pictures`.
    images: whether examples of the data may be pictures.
  """
  sections = [
    section(name, members, drawings[name], {m: saliency[m] for m in members if m in saliency})
    for name, members in datasets(series).items()
  ]
  methods = list(dict.fromkeys(member.label for member in series))
  commits = list(dict.fromkeys(run.commit for member in series for run in member.runs))
  return {
    'generator': GENERATOR,
    'listing': listing,
    'left_out': left_out,
    'series': series,
    'sections': sections,
    'methods': methods,
    'size': f'{_count(len(listing.runs), "run")} of {_count(len(methods), "method")}',
    'commits': commits,
    'trusted': any(run.results.get('trust') for run in listing.runs),
    'series_of': {(member.dataset, member.label): member for member in series},
    'styles': {member.label: style(member.method, member.variant) for member in series},
    'images': images,
    'has_saliency': any(panels.splits(run) for member in series for run in member.runs),
    'has_panels': bool(saliency),
    'restricted': restricted(series),
    'cell': numbers.cell,
    'label_free': selection.is_label_free,
    'needs_groups': numbers.needs_groups,
    'bar': examples.legend(),
    'hidden': HIDDEN,
  }


def section(name: str, members: list[Series], drawings, saliency) -> dict[str, Any]:
  """Return the variables of a data set's part of page.html.

  Args:
    name: of the data set.
    members: its series.
    drawings: its charts.
    saliency: series -> its `examples.Pictures`.
  """
  names, metric = numbers.rules(members), numbers.headline(members)
  main = [rule for rule in (selection.default_rule(names), selection.oracle_rule(names)) if rule]
  splits = {member: panels.splits(member.runs[0]) for member in members}
  summaries = {member: looks.look(member, names[0]) for member, names in splits.items() if names}
  charts = [(drawing, data_uri(drawing.svg, 'image/svg+xml')) for drawing in drawings]
  answers = [number for number, (drawing, _) in enumerate(charts) if drawing.name.endswith('average and worst')]
  return {
    'name': name,
    'slug': _slug(name),
    'series': members,
    'verdicts': verdict.verdicts(members, main[0]),
    'cannot': verdict.cannot(members, main[0]),
    'remarks': verdict.remarks(members, main[0]),
    'rules': names,
    'main': main,
    'metric': metric,
    'title': numbers.title(members, metric),
    'metrics': [(m, numbers.title(members, m)) for m in numbers.metrics(members)],
    'caption': caption(members),
    'chart': charts.pop(answers[0]) if answers else None,
    'drawings': charts,
    'changes': {member: rows for member in members if (rows := numbers.changes(member.runs[0]))},
    'looks': {member: look for member, look in summaries.items() if look},
    'masks': sorted({mask for look in summaries.values() if look for mask in look.area}),
    'scalar': ', '.join(sorted({look.scalar for look in summaries.values() if look})),
    'pictures': {member: (pictures.source, *examples.tables(pictures)) for member, pictures in saliency.items()},
    'colours': {
      member: examples.table('Which change of the pixels raises the score of the label', pictures.colours)
      for member, pictures in saliency.items()
      if pictures.colours
    },
  }


def caption(series: Sequence[Series]) -> str:
  """Format the model, steps, optimiser and seeds of the runs of a data set; "several" where they differ."""
  runs = [run for member in series for run in member.runs]

  def common(field: str) -> str:
    values = list(dict.fromkeys(str(run.fields.get(field)) for run in runs))
    return values[0] if len(values) == 1 else 'several'

  steps = list(dict.fromkeys(str(run.results.last['step']) for run in runs))
  return (
    f'Model {common("model.name")}, {steps[0] if len(steps) == 1 else "several"} steps of '
    f'{common("train.batch_size")}, {common("optim.name")} at {common("optim.lr")}; '
    f'{seeds(series)}'
  )


def seeds(series: Sequence[Series]) -> str:
  """Format the seeds of some runs as `seeds 0, 1`."""
  values = sorted({run.seed for member in series for run in member.runs})
  return f'seed{"s" if len(values) > 1 else ""} {", ".join(map(str, values))}'


def _count(number: int, noun: str) -> str:
  """Format a number with its noun.

  >>> _count(1, 'run'), _count(1200, 'run')
  ('1 run', '1,200 runs')
  """
  return f'{number:,} {noun}{"" if number == 1 else "s"}'


def _slug(text: str) -> str:
  """Convert a text to a file name or HTML id; a checksum keeps texts with non-ASCII letters distinct."""
  plain = re.sub(r'[^0-9a-zA-Z]+', '-', text).strip('-').lower()
  return plain if text.isascii() else f'{plain}-{zlib.crc32(text.encode(errors="backslashreplace")):08x}'
