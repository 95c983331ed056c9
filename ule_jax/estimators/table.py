"""The table that a notebook shows of a fitted estimator."""

from __future__ import annotations

from html import escape
from typing import Any

METRICS = {
  'accuracy': 'accuracy',
  'worst_class_accuracy': 'worst class',
  'worst_group_accuracy': 'worst group',
  'mistake_balanced_accuracy': 'mistake-balanced',
}


def html(estimator: Any) -> str:
  """Return a table of the validation at the selected step, with a column per network; metrics without a value are out.

  Args:
    estimator: fitted.
  """
  results = estimator.results_
  by_role = {role: entry['val'] for role, entry in results.by_role.items()}
  titles = {name: title for name, title in METRICS.items() if any(v[name] is not None for v in by_role.values())}
  head = ''.join(f'<th>{escape(role)}</th>' for role in by_role)
  body = ''
  for name, title in titles.items():
    cells = ''.join(f'<td>{_percent(values[name])}</td>' for values in by_role.values())
    body += f'<tr><th>{title}</th>{cells}</tr>'
  caption = (
    f'{escape(type(estimator).__name__)}: validation, %, at step {results.step:,} of {estimator.n_iter_:,}, chosen by '
    f'{escape(results.select)}'
  )
  return f'<table><caption>{caption}</caption><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>'


def _percent(value: float | None) -> str:
  return '–' if value is None else f'{100 * value:.1f}'
