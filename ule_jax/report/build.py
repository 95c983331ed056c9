"""The report: runs and their comparison on one page."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etils import epy

from ule_jax.errors import UserError
from ule_jax.report import numbers
from ule_jax.report.colors import style
from ule_jax.report.page import data_uri, refuse_others, render, write
from ule_jax.report.runs import Found, find
from ule_jax.report.series import Series, gather

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  from ule_jax.report import figures, panels, pictures

LIMIT = 10 * 2**20  # bytes of the page

# (pixels of a picture, examples of a category), from the best to the last resort
SIZES = ((96, 4), (80, 3), (64, 2), (48, 1))

GENERATOR = 'ule_jax.report'

CATEGORIES = {
  'hardest': 'Hardest: the greatest losses of the deployed network',
  'typical': 'Typical: losses nearest to the median',
  'group': 'Each group, at random',
  'class': 'Each class, at random',
}

HIDDEN = ('seed', 'data.dir', 'first.workdir')  # of a config: what is not of all seeds, or of one machine

# data set -> why its images do not go onto a page that others get
RESTRICTED = {
  'celeba': 'CelebA is for non-commercial research, and its images may not be passed on',
  'waterbirds': 'Waterbirds is made of CUB and Places, photographs for non-commercial research and education',
  'urbancars': 'UrbanCars is made of Stanford Cars, Places and LVIS, and its authors may not pass it on',
}


def build(paths: Sequence[Path], out: Path, images: bool = True) -> list[str]:
  """Write the report of the runs in some folders; return what a reader of the terminal should know.

  Args:
    out: a folder that is empty, does not exist, or holds an older report.
    images: show examples of the data.

  Raises:
    UserError: there is no finished run, a file of one is damaged, or the folder cannot be used.
  """
  refuse_others(out, GENERATOR)
  found = find(paths)
  series, left_out = gather(found.runs)
  drawings = draw(series)
  for size in (*SIZES, None) if images else (None,):
    shown = show(series, *size) if size else {}
    page = render(Path(__file__).parent / 'page.html', context(found, left_out, series, drawings, shown, images))
    if len(page) <= LIMIT:
      break
  else:
    raise UserError(f'the page would have {len(page) / 2**20:.0f} MiB: give the report fewer runs.')
  files = {'index.html': page}
  for drawing in (drawing for of in drawings.values() for drawing in of):
    files |= {f'figures/{_slug(drawing.name)}.svg': drawing.svg, f'figures/{_slug(drawing.name)}.png': drawing.png}
  for one, (_, made) in shown.items():
    files[f'figures/{_slug(f"{one.dataset} {one.label} saliency")}.png'] = panels.sheet(made)
  files['results.csv'] = numbers.to_csv(numbers.RESULTS, numbers.result_rows(series)).encode(errors='surrogateescape')
  files['summary.csv'] = numbers.to_csv(numbers.SUMMARY, numbers.summary_rows(series)).encode(errors='surrogateescape')
  files['changes.csv'] = numbers.to_csv(numbers.CHANGES, numbers.change_rows(series)).encode(errors='surrogateescape')
  write(out, files)
  said = [f'unfinished, not in the numbers: {text}' for text in found.unfinished]
  said += [f'left out: {text}' for text in left_out]
  said += [f'warning: {text}' for text in found.changed]
  if images and not shown and any(panels.splits(run) for one in series for run in one.runs):
    said += [f'images are left out: the page would exceed {LIMIT / 2**20:.0f} MiB']
  said += [f'{text}: keep this page to yourself, or use --no-images.' for text in restricted(series) if shown]
  return [*said, f'{len(found.runs)} runs, {len(page) / 2**20:.1f} MiB: {out / "index.html"}']


def restricted(series: Sequence[Series]) -> list[str]:
  """Say which of the data sets have images that others may not be given."""
  names = dict.fromkeys(one.runs[0].results['dataset'] for one in series)
  return [RESTRICTED[name] for name in names if name in RESTRICTED]


def datasets(series: Sequence[Series]) -> dict[str, list[Series]]:
  """Sort series by their data set."""
  return {name: [one for one in series if one.dataset == name] for name in dict.fromkeys(s.dataset for s in series)}


def draw(series: Sequence[Series]) -> dict[str, list[figures.Drawing]]:
  """Make the drawings of each data set."""
  drawings = {}
  for name, members in datasets(series).items():
    bars = figures.group_bars(name, members, numbers.default_rule(numbers.rules(members)))
    drawings[name] = [*([bars] if bars else []), *figures.curves(name, members)]
  return drawings


def show(series: Sequence[Series], side: int, count: int) -> dict[Series, tuple[str, list[panels.Panel]]]:
  """Make the panels of the first run of each series that has saliency: series -> where it is from, panels."""
  shown = {}
  for one in series:
    for run in one.runs:
      if found := panels.splits(run):
        where = f'seed {run.seed}, {found[0]}, commit {run.commit}'
        shown[one] = where, list(panels.panels(run, found[0], side, count))
        break
  return shown


def context(found: Found, left_out, series, drawings, shown, images: bool) -> dict[str, Any]:
  """Collect what the page shows, as plain data."""
  sections = []
  for name, members in datasets(series).items():
    names, metric = numbers.rules(members), numbers.headline(members)
    main = [rule for rule in (numbers.default_rule(names), numbers.oracle_rule(names)) if rule]
    looked = {one: panels.splits(one.runs[0]) for one in members}
    looks = {one: panels.look(one, split[0]) for one, split in looked.items() if split}
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
        'changes': {one: rows for one in members if (rows := numbers.changes(one.runs[0]))},
        'looks': {one: look for one, look in looks.items() if look},
        'masks': sorted({mask for look in looks.values() if look for mask in look.area}),
        'scalar': ', '.join(sorted({look.scalar for look in looks.values() if look})),
        'panels': {one: (shown[one][0], _categories(shown[one][1])) for one in members if one in shown},
      }
    )
  methods = list(dict.fromkeys(one.label for one in series))
  return {
    'generator': GENERATOR,
    'found': found,
    'left_out': left_out,
    'series': series,
    'sections': sections,
    'methods': methods,
    'of': {(one.dataset, one.label): one for one in series},
    'styles': {one.label: style(one.method, one.variant) for one in series},
    'images': images,
    'has_saliency': any(panels.splits(run) for one in series for run in one.runs),
    'has_panels': bool(shown),
    'restricted': restricted(series),
    'cell': numbers.cell,
    'label_free': numbers.label_free,
    'needs_groups': numbers.needs_groups,
    'categories': CATEGORIES,
    'hidden': HIDDEN,
  }


def caption(series: Sequence[Series]) -> str:
  """Say what the runs of a table have in common: config, seeds, commit."""
  runs = [run for one in series for run in one.runs]

  def common(field: str) -> str:
    values = list(dict.fromkeys(str(run.fields.get(field)) for run in runs))
    return values[0] if len(values) == 1 else 'several'

  steps = list(dict.fromkeys(str(run.results['last']['step']) for run in runs))
  return (
    f'Model {common("model.name")}, {steps[0] if len(steps) == 1 else "several"} steps of '
    f'{common("train.batch_size")}, {common("optim.name")} at {common("optim.lr")}; '
    f'{seeds(series)}; {commits(series)}'
  )


def seeds(series: Sequence[Series]) -> str:
  """Name the seeds of some runs."""
  found = sorted({run.seed for one in series for run in one.runs})
  return f'seed{"s" if len(found) > 1 else ""} {", ".join(map(str, found))}'


def commits(series: Sequence[Series]) -> str:
  """Name the commits that some runs are of."""
  found = list(dict.fromkeys(run.commit for one in series for run in one.runs))
  return f'commit{"s" if len(found) > 1 else ""} {", ".join(found)}'


def _categories(made: Sequence[panels.Panel]) -> dict[str, list[tuple[str, str]]]:
  """Sort panels by category, as (text, data URI)."""
  sorted_: dict[str, list[tuple[str, str]]] = {}
  for panel in made:
    sorted_.setdefault(panel.category, []).append((panel.text, data_uri(*pictures.encode(panel.pixels))))
  return sorted_


def _slug(text: str) -> str:
  """Name a file or a place of the page after a text, and texts in other letters apart."""
  plain = re.sub(r'[^0-9a-zA-Z]+', '-', text).strip('-').lower()
  return plain if text.isascii() else f'{plain}-{zlib.crc32(text.encode(errors="backslashreplace")):08x}'
