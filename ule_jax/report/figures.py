"""The charts of a report: average against worst group, curves, bars of group accuracies, each as SVG and PNG."""

from __future__ import annotations

import io
import statistics
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from ule_jax.report.colors import Style, style
from ule_jax.report.series import Series

POINTS = 150  # at most in a curve
FEWEST = 20  # logged steps of a loss, each of one batch: fewer make no curve
WINDOW = 1 / 10  # share of the logged steps over which a loss is averaged
BARS = 96  # at most in a chart
WIDTH = 4.2  # inches: legible on a telephone, two next to each other on a desktop
SETTINGS: dict[Any, Any] = {  # keys: matplotlib lists its names as a type from 3.11 on
  'font.size': 9,
  'font.family': 'sans-serif',
  'font.sans-serif': ['DejaVu Sans'],
  'svg.fonttype': 'none',
  'svg.hashsalt': 'ule_jax',  # deterministic ids, so that the same runs give the same page
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'grid.alpha': 0.25,
  'legend.frameon': False,
}


class Drawing(NamedTuple):
  """A chart of the page; `alt` is its description for readers who cannot see it."""

  name: str
  caption: str
  alt: str
  svg: bytes
  png: bytes


def curves(dataset: str, series: Sequence[Series]) -> list[Drawing]:
  """Draw worst-group accuracy on each validation split, and each role's training loss, over training.

  Without group labels, worst-class accuracy takes the place of worst-group accuracy. A loss is logged of single
  batches: it is drawn as a running mean, or not at all if few were logged.
  """
  logs = {member: [run.metrics() for run in member.runs] for member in series}
  keys = {key for runs in logs.values() for lines in runs for line in lines for key in line}
  drawings = []
  for metric in ('worst_group_accuracy', 'worst_class_accuracy'):
    for split in sorted({key.split('/')[-2] for key in keys if key.endswith(f'/{metric}')}):
      drawn = {
        (member, role): [_curve(lines, f'{role}/{split}/{metric}' if role else f'{split}/{metric}') for lines in runs]
        for member, runs in logs.items()
        for role in ('', *member.runs[0].roles[:-1])
      }
      quantity = f'{metric.replace("_", " ")} of {split}, %'
      drawings.append(_draw_curves(f'{dataset} {split} {metric}', quantity, drawn, 100))
    if drawings:
      break
  for role in dict.fromkeys(role for member in series for role in member.runs[0].roles):
    drawn = {
      (member, ''): [_curve(_running_mean(lines, f'train/loss/{role}'), 'loss') for lines in runs]
      for member, runs in logs.items()
      if role in member.runs[0].roles
    }
    quantity = f'training loss of the {role}, running mean'
    drawings.append(_draw_curves(f'{dataset} loss {role}', quantity, drawn, 1))
  return [drawing for drawing in drawings if drawing]


def scatter(dataset: str, series: Sequence[Series], rule: str, metric: str, title: str) -> Drawing | None:
  """Draw accuracy against the worst group (or class) on the test split: a dot for each run.

  Args:
    rule: selection rule of the checkpoints.
    metric: of the vertical axis.
    title: name of that metric.

  Returns:
    None if no run has both metrics under the rule.
  """
  dots = {}
  for s in series:
    tests = [entry['test'] for run in s.runs if (entry := run.results.by_rule(rule))]
    pairs = [(test['accuracy'], test[metric]) for test in tests]
    values = [(100 * average, 100 * worst) for average, worst in pairs if average is not None and worst is not None]
    dots |= {s: values} if values else {}
  if not dots:
    return None

  def paint(axes):
    axes.plot([0, 100], [0, 100], color='#999999', linewidth=0.8, linestyle=(0, (3, 3)))
    axes.annotate(
      'worst = average', (97, 97), rotation=45, rotation_mode='anchor', ha='right', va='bottom', fontsize=8,
      color='#777777',
    )  # fmt: skip
    for s, values in dots.items():
      look = style(s.method, s.variant)
      x, y = zip(*values, strict=True)
      axes.plot(
        x, y, look.marker, color=look.color, markersize=7, markeredgecolor='white', label=s.label, clip_on=False
      )
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel='test accuracy, %', ylabel=f'test {title}, %', aspect='equal')

  each = '; '.join(f'{s.label}: ' + ', '.join(f'{x:.1f} and {y:.1f}' for x, y in dots[s]) for s in dots)
  caption = f'A dot is a run, under {rule}. The further below the line, the worse is its worst group than the average.'
  if 'class' in metric:
    caption = f'A dot is a run, under {rule}. No test example has a known group: classes take their place.'
  return _draw(f'{dataset} average and worst', caption, f'Accuracy and {title} of each run: {each}.', paint, 3.6)


def group_bars(dataset: str, series: Sequence[Series], rule: str) -> Drawing | None:
  """Draw the test accuracy of each group: bars are means over seeds, dots seeds, lines the mean Wilson interval.

  Args:
    rule: selection rule of the checkpoints.

  Returns:
    None if no run has a group with examples under the rule.
  """
  tests = {s: [e['test']['groups'] for run in s.runs if (e := run.results.by_rule(rule))] for s in series}
  tests = {s: results for s, results in tests.items() if results}
  groups = {name: g['count'] for results in tests.values() for run in results for name, g in run.items() if g['count']}
  if not groups:
    return None

  def values(s: Series, group: str, read: Callable) -> list[float]:
    return [100 * read(run[group]) for run in tests[s] if run[group]['count']]

  def mean(s, group):
    return statistics.fmean(values(s, group, lambda g: g['accuracy']))

  order = sorted(groups, key=lambda group: min(mean(s, group) for s in tests))
  drawn = [group for group in groups if group in order[: max(BARS // len(tests), 1)]]
  height = 0.8 / len(tests)

  def paint(axes):
    for i, s in enumerate(tests):
      look = style(s.method, s.variant)
      positions = [row + (i - (len(tests) - 1) / 2) * height for row in range(len(drawn))]
      widths = [mean(s, group) for group in drawn]
      axes.barh(positions, widths, height * 0.9, color=look.color, hatch=look.hatch, edgecolor='white', label=s.label)
      for y, group in zip(positions, drawn, strict=True):
        low, high = (statistics.fmean(values(s, group, lambda g, end=end: g['interval'][end])) for end in (0, 1))
        axes.plot([low, high], [y, y], color='black', linewidth=0.8)
        dots = values(s, group, lambda g: g['accuracy'])
        if len(dots) > 1:
          axes.plot(dots, [y] * len(dots), '.', color='black', markersize=3)
    axes.set_yticks(range(len(drawn)), [_plain(f'{group}\nn = {groups[group]:,}') for group in drawn])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel('test accuracy, %')
    axes.grid(axis='y', visible=False)

  left_out = len(groups) - len(drawn)
  caption = f'Test accuracy of each group under {rule}: bars are means over seeds, dots seeds, lines 95 % Wilson '
  caption += 'intervals (mean of their ends over seeds), n examples.'
  caption += f' The {left_out} groups with higher accuracy are in results.csv.' if left_out else ''
  accuracies = '; '.join(f'{s.label}: ' + ', '.join(f'{g} {mean(s, g):.1f}' for g in drawn) for s in tests)
  alt = f'Accuracy of each group in percent. {accuracies}.'
  return _draw(f'{dataset} groups', caption, alt, paint, 1 + 0.16 * len(drawn) * max(len(tests), 2))


def _running_mean(lines: list[dict[str, float]], key: str) -> list[dict[str, float]]:
  """Return the mean of a metric over the last logged steps, as lines with the key `loss`; none of fewer than FEWEST."""
  logged = [line for line in lines if key in line]
  window = max(round(WINDOW * len(logged)), 5)
  if len(logged) < FEWEST:
    return []
  return [
    {'step': logged[i]['step'], 'loss': statistics.fmean(line[key] for line in logged[i + 1 - window : i + 1])}
    for i in range(window - 1, len(logged))
  ]


def _curve(lines: list[dict[str, float]], key: str) -> dict[int, float]:
  """Return step -> value of a metric, thinned to about POINTS steps; the last step is kept."""
  values = {int(line['step']): line[key] for line in lines if key in line}
  every = -(-len(values) // POINTS) or 1
  return {step: values[step] for i, step in enumerate(sorted(values)) if i % every == 0 or i == len(values) - 1}


def _draw_curves(
  name: str, quantity: str, drawn: dict[tuple[Series, str], list[dict[int, float]]], factor: float
) -> Drawing | None:
  """Draw a line per series, the mean over seeds, in a band from the smallest to the largest value of a seed.

  Args:
    quantity: label of the y axis.
    drawn: (series, role or '') -> the curve of each seed.
    factor: of the values; 100 for accuracies in percent.
  """
  lines = {}
  for key, curves in drawn.items():
    curves = [curve for curve in curves if curve]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    if steps:
      values = [[factor * curve[step] for curve in curves] for step in steps]
      lines[key] = (steps, [statistics.fmean(v) for v in values], [min(v) for v in values], [max(v) for v in values])
  if not lines:
    return None

  def paint(axes):
    for (s, role), (steps, means, low, high) in lines.items():
      look: Style = style(s.method, s.variant)
      line = (0, (1, 1)) if role else look.dash
      axes.plot(
        steps, means, color=look.color, linestyle=line, marker=look.marker, markersize=3.5,
        markevery=max(len(steps) // 6, 1), linewidth=1 if role else 1.6, markerfacecolor='white' if role else None,
        label=f'{s.label}, {role}' if role else s.label,
      )  # fmt: skip
      if max(h - l for h, l in zip(high, low, strict=True)) > 0:
        axes.fill_between(steps, low, high, color=look.color, alpha=0.15, linewidth=0)
    axes.set_xlabel('step')
    axes.set_ylabel(quantity)
    if factor == 100:
      axes.set_ylim(-2, 102)
    elif min(min(low) for _, _, low, _ in lines.values()) > 0:
      axes.set_yscale('log')

  ends = '; '.join(
    f'{s.label}{", " + role if role else ""} ends at {means[-1]:.3g}' for (s, role), (_, means, _, _) in lines.items()
  )
  title = quantity[0].upper() + quantity[1:]
  several = any(len(curves) > 1 for curves in drawn.values())
  caption = f'{title} over training' + (': mean over seeds, and their range.' if several else '.')
  caption += ' Dotted, hollow: the other role.' if any(role for _, role in lines) else ''
  return _draw(name, caption, f'{title} over training. {ends}.', paint, 2.8)


def _plain(text: str) -> str:
  """Escape dollar signs, which matplotlib reads as formulas."""
  return text.replace('$', r'\$')


def _draw(name: str, caption: str, alt: str, paint: Callable, height: float) -> Drawing:
  """Draw a chart, one pair of axes with a legend below, as SVG and PNG in memory.

  Args:
    paint: draws into matplotlib axes, with a label on at least one artist, for the legend.
    height: of the figure without its legend, in inches; the width is WIDTH.
  """
  with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Glyph')  # names in scripts that the PNG's font lacks; an SVG uses the browser's
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
