"""The answer in words, and the table of findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int
from tabulate import tabulate

from ule_jax.detect.chance import LEVEL
from ule_jax.detect.verdict import NONE, WIDE_GAP, Finding, Learned

if TYPE_CHECKING:
  from ule_jax.detect.suspects import Suspect

ROWS = 10  # of the table
CLEAR = 0.7  # AUC from which a difference between images is worth a sentence


def different(
  contradicts: Bool[np.ndarray, 'n'], properties: Mapping[str, np.ndarray], label: Int[np.ndarray, 'n']
) -> tuple[str, float]:
  """Return the property in which contradicting examples differ most from the others of their class, and its AUC.

  Returns:
    The name and the mean over classes of max(AUC, 1 - AUC); '' and 0.5 without a number among the properties.
  """
  from sklearn.metrics import roc_auc_score

  best: tuple[str, float] = ('', 0.5)
  for name, values in properties.items():
    if values.dtype.kind not in 'fiu' or not np.isfinite(values).all():
      continue
    areas = []
    for k in np.unique(label):
      rows = label == k
      if contradicts[rows].any() and not contradicts[rows].all():
        areas.append(abs(float(roc_auc_score(contradicts[rows], values[rows])) - 0.5) + 0.5)
    if areas and np.mean(areas) > best[1]:
      best = (name, float(np.mean(areas)))
  return best


def percent(value: float | None) -> str:
  """Format a share in whole percent, '-' for None."""
  return '-' if value is None else f'{100 * value:.0f}'


def answer(
  findings: Sequence[Finding],
  suspects: Sequence[Suspect],
  properties: Mapping[str, np.ndarray],
  label: Int[np.ndarray, 'n'],
) -> str:
  """Return the answer in a few sentences, by the strongest finding; a single property is preferred to a rule.

  Args:
    findings: the strongest first.
    suspects: the rules of the findings, in their order.
    properties: name -> value of each example.
    label: class index.
  """
  if findings[0].verdict == NONE:
    return _no_evidence(findings)
  top = [i for i, finding in enumerate(findings) if finding.verdict == findings[0].verdict]
  i = next((i for i in top if findings[i].is_single), top[0])
  finding = findings[i]
  hint = ''
  if not finding.is_single:
    name, area = different(suspects[i].contradicts, properties, label)
    if area >= CLEAR:
      hint = f' These examples differ from the others of their class most in {name} (AUC {area:.2f}).'
  return (
    f'{finding.verdict.capitalize()} evidence of a shortcut: {finding.meaning}. A network is right on '
    f'{percent(finding.agree)} % of unseen examples where that agrees with the label and on '
    f'{percent(finding.against)} % where it contradicts it; with both counted alike in training, on '
    f'{percent(finding.agree_balanced)} % and {percent(finding.against_balanced)} %.{hint}'
  )


def _no_evidence(findings: Sequence[Finding]) -> str:
  beyond = sum(finding.p <= LEVEL for finding in findings)
  wide = [finding for finding in findings if finding.gap is not None and finding.gap >= WIDE_GAP]
  text = f'No evidence of a shortcut: {beyond} of {len(findings)} rules predict the label beyond chance'
  if not wide:
    return f'{text}, and a network is about as good where one contradicts it, or becomes no better by it.'
  worst = max(wide, key=lambda finding: (finding.is_single, finding.gap or 0))
  return (
    f'{text}. It stays open for {len(wide)} of them, such as {worst.meaning}: a network is right on '
    f'{percent(worst.agree)} % where that agrees with the label and on {percent(worst.against)} % where it contradicts '
    'it, and cannot do better. Either these examples are hard, or it cannot learn anything else: try embeddings of a '
    'pretrained network.'
  )


def table(findings: Sequence[Finding], learned: Learned | None = None, rows: int = ROWS) -> str:
  """Return the findings as a table of at most 100 columns, the first rows only, and a sentence about the students."""
  grouped = any(finding.groups for finding in findings)
  cells = []
  for finding in findings[:rows]:
    cell = [finding.name, percent(finding.effect), f'{finding.p:.3f}', f'{finding.against_count:,}']
    cell += [percent(finding.agree), percent(finding.against), _gain(finding), finding.verdict]
    cells.append(cell + [f'{finding.groups.auc:.2f}' if finding.groups else '-'] * grouped)
  headers = ['rule', 'predicts', 'p', 'against', 'right', 'if against', 'gain', 'verdict'] + ['groups'] * grouped
  align = ['left', *['right'] * 6, 'left', *['right'] * grouped]
  lines = [tabulate(cells, headers, tablefmt='simple', disable_numparse=True, colalign=align)]
  lines += [f'... and {len(findings) - rows} weaker rules'] if len(findings) > rows else []
  return '\n'.join([*lines, *([learned.sentence] if learned else [])])


def _gain(finding: Finding) -> str:
  if finding.gain is None or finding.gain_interval is None:
    return '-'
  low, high = finding.gain_interval
  return f'{100 * finding.gain:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}]'
