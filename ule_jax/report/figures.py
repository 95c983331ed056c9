"""The drawings of a report: curves over training and bars of groups, each as SVG and PNG."""

from __future__ import annotations

import io
import statistics
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

from ule_jax.report import numbers
from ule_jax.report.colors import Style, style
from ule_jax.report.series import Series

POINTS = 150  # of a curve at most
BARS = 96  # of a chart at most
WIDTH = 4.2  # inches: legible on a telephone, two beside each other on a desk
SETTINGS = {
  'font.size': 9,
  'font.family': 'sans-serif',
  'font.sans-serif': ['DejaVu Sans'],
  'svg.fonttype': 'none',
  'svg.hashsalt': 'ule_jax',  # the same page from the same runs
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'grid.alpha': 0.25,
  'legend.frameon': False,
}


class Drawing(NamedTuple):
  """A figure of the page; `alt` says what it shows to who cannot see it."""

  name: str
  caption: str
  alt: str
  svg: bytes
  png: bytes


def curves(dataset: str, series: Sequence[Series]) -> list[Drawing]:
  """Draw the worst group of each validation split, and each role's loss, over training."""
  logs = {one: [run.metrics() for run in one.runs] for one in series}
  keys = {key for runs in logs.values() for lines in runs for line in lines for key in line}
  drawings = []
  for metric in ('worst_group_accuracy', 'worst_class_accuracy'):
    # Without group labels the worst class has to do.
    for split in sorted({key.split('/')[-2] for key in keys if key.endswith(f'/{metric}')}):
      drawn = {
        (one, role): [_curve(lines, f'{role}/{split}/{metric}' if role else f'{split}/{metric}') for lines in runs]
        for one, runs in logs.items()
        for role in ('', *one.runs[0].roles[:-1])
      }
      what = f'{metric.replace("_", " ")} of {split}, %'
      drawings.append(_draw_curves(f'{dataset} {split} {metric}', what, drawn, 100))
    if drawings:
      break
  for role in dict.fromkeys(role for one in series for role in one.runs[0].roles):
    drawn = {
      (one, ''): [_curve(lines, f'train/loss/{role}') for lines in runs]
      for one, runs in logs.items()
      if role in one.runs[0].roles
    }
    drawings.append(_draw_curves(f'{dataset} loss {role}', f'training loss of the {role}', drawn, 1))
  return [drawing for drawing in drawings if drawing]


def group_bars(dataset: str, series: Sequence[Series], rule: str) -> Drawing | None:
  """Draw the test accuracy of each group: a bar is a mean over seeds, a dot a seed, a line the mean interval."""
  tests = {one: [e['test']['groups'] for run in one.runs if (e := numbers.entry(run, rule))] for one in series}
  tests = {one: found for one, found in tests.items() if found}
  groups = {name: g['count'] for found in tests.values() for one in found for name, g in one.items() if g['count']}
  if not groups:
    return None

  def values(one: Series, group: str, read: Callable) -> list[float]:
    return [100 * read(found[group]) for found in tests[one] if found[group]['count']]

  def mean(one, group):
    return statistics.fmean(values(one, group, lambda g: g['accuracy']))

  order = sorted(groups, key=lambda group: min(mean(one, group) for one in tests))
  shown = [group for group in groups if group in order[: max(BARS // len(tests), 1)]]
  height = 0.8 / len(tests)

  def paint(axes):
    for i, one in enumerate(tests):
      look = style(one.method, one.variant)
      places = [row + (i - (len(tests) - 1) / 2) * height for row in range(len(shown))]
      widths = [mean(one, group) for group in shown]
      axes.barh(places, widths, height * 0.9, color=look.color, hatch=look.hatch, edgecolor='white', label=one.label)
      for place, group in zip(places, shown, strict=True):
        low, high = (statistics.fmean(values(one, group, lambda g, end=end: g['interval'][end])) for end in (0, 1))
        axes.plot([low, high], [place, place], color='black', linewidth=0.8)
        dots = values(one, group, lambda g: g['accuracy'])
        if len(dots) > 1:
          axes.plot(dots, [place] * len(dots), '.', color='black', markersize=3)
    axes.set_yticks(range(len(shown)), [_plain(f'{group}\nn = {groups[group]:,}') for group in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel('test accuracy, %')
    axes.grid(axis='y', visible=False)

  left_out = len(groups) - len(shown)
  caption = f'Test accuracy of each group under {rule}: bars are means over seeds, dots seeds, lines 95 % Wilson '
  caption += 'intervals (mean of their ends over seeds), n examples.'
  caption += f' The {left_out} groups with higher accuracy are in results.csv.' if left_out else ''
  said = '; '.join(f'{one.label}: ' + ', '.join(f'{g} {mean(one, g):.1f}' for g in shown) for one in tests)
  alt = f'Accuracy of each group in percent. {said}.'
  return _draw(f'{dataset} groups', caption, alt, paint, 1 + 0.16 * len(shown) * max(len(tests), 2))


def _curve(lines: list[dict[str, float]], key: str) -> dict[int, float]:
  found = {line['step']: line[key] for line in lines if key in line}
  every = -(-len(found) // POINTS) or 1
  return {step: found[step] for i, step in enumerate(sorted(found)) if i % every == 0 or i == len(found) - 1}


def _draw_curves(
  name: str, what: str, drawn: dict[tuple[Series, str], list[dict[int, float]]], factor: float
) -> Drawing | None:
  """Draw a line per series, the mean over seeds in a band from their least to their greatest."""
  lines = {}
  for key, curves in drawn.items():
    curves = [curve for curve in curves if curve]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    if steps:
      at = [[factor * curve[step] for curve in curves] for step in steps]
      lines[key] = (steps, [statistics.fmean(v) for v in at], [min(v) for v in at], [max(v) for v in at])
  if not lines:
    return None

  def paint(axes):
    for (one, role), (steps, means, low, high) in lines.items():
      look: Style = style(one.method, one.variant)
      line = (0, (1, 1)) if role else look.dash
      axes.plot(
        steps, means, color=look.color, linestyle=line, marker=look.marker, markersize=3.5,
        markevery=max(len(steps) // 6, 1), linewidth=1 if role else 1.6, markerfacecolor='white' if role else None,
        label=f'{one.label}, {role}' if role else one.label,
      )  # fmt: skip
      if max(h - l for h, l in zip(high, low, strict=True)) > 0:
        axes.fill_between(steps, low, high, color=look.color, alpha=0.15, linewidth=0)
    axes.set_xlabel('step')
    axes.set_ylabel(what)
    if factor == 100:
      axes.set_ylim(-2, 102)
    elif min(min(low) for _, _, low, _ in lines.values()) > 0:
      axes.set_yscale('log')

  ends = '; '.join(
    f'{one.label}{", " + role if role else ""} ends at {means[-1]:.3g}'
    for (one, role), (_, means, _, _) in lines.items()
  )
  first = what[0].upper() + what[1:]
  caption = f'{first} over training: mean over seeds, and their range.'
  caption += ' Dotted, hollow: the other role.' if any(role for _, role in lines) else ''
  return _draw(name, caption, f'{first} over training. {ends}.', paint, 2.8)


def _plain(text: str) -> str:
  """Keep matplotlib from reading dollars as formulas."""
  return text.replace('$', r'\$')


def _draw(name: str, caption: str, alt: str, paint: Callable, height: float) -> Drawing:
  with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Glyph')  # names in scripts that the PNG's font lacks; the SVG has the reader's
    figure = Figure(figsize=(WIDTH, height), layout='constrained')
    axes = figure.subplots()
    paint(axes)
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if max(map(len, labels)) < 28 else 1
    figure.set_figheight(height + 0.2 * -(-len(labels) // columns))
    figure.legend(handles, map(_plain, labels), loc='outside lower center', ncols=columns)
    files = []
    for kind, metadata in (('svg', {'Date': None, 'Creator': None}), ('png', {'Software': None})):
      buffer = io.BytesIO()
      figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
      files.append(buffer.getvalue())
  return Drawing(name, caption, alt, *files)
