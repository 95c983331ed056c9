"""The page of detect: the answer, the table of rules, and images that agree with a rule and contradict it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, UInt8

from ule_jax.data import Dataset
from ule_jax.detect.find import Findings
from ule_jax.detect.reading import Examples
from ule_jax.detect.verdict import GAIN, GAP, NONE, WIDE_GAP
from ule_jax.detect.wording import percent
from ule_jax.report import page, pictures
from ule_jax.report.numbers import to_csv

if TYPE_CHECKING:
  from ule_jax.detect.suspects import Suspect

GENERATOR = 'ule_jax.detect'
SIDE, SPACE, COLUMNS = (
  80,
  3,
  4,
)  # pixels of a picture and between two; pictures in a row: 329 pixels, a telephone's width
DRAWN, CLASSES = 4, 6  # rules and classes with pictures, at most


def content(
  result: Findings, examples: Examples, dataset: Dataset, title: str, count: int, licence: str
) -> dict[str, Any]:
  """Return the variables of page.html.

  Args:
    result: of `find_shortcuts`.
    examples: that it was found on.
    title: of the data.
    count: pictures of each kind, class and rule; 0 for none.
    licence: reason not to publish images, or ''.
  """
  drawn = [i for i in _worth_drawing(result) if count and examples.x.dtype == np.uint8]
  return {
    'generator': GENERATOR,
    'title': title,
    'result': result,
    'percent': percent,
    'pictures': {i: _pictures(result.suspects[i], examples, dataset.classes, count) for i in drawn},
    'grouped': any(finding.groups for finding in result.findings),
    'restricted': licence if drawn else '',
    'limits': {'gap': GAP, 'wide_gap': WIDE_GAP, 'gain': GAIN},
  }


def files(
  template: Path, variables: dict[str, Any], result: Findings, examples: Examples, dataset: Dataset
) -> dict[str, bytes]:
  """Return the files of the folder: the page, a row for each example, and the findings as JSON."""
  listed = [i for i, finding in enumerate(result.findings) if finding.gap is not None]
  columns = ('filename', 'label', *(result.findings[i].name for i in listed), 'group')
  words = [_words(result.suspects[i].agrees, result.suspects[i].contradicts) for i in listed]
  rows = [
    (name, dataset.classes[label], *(column[row] for column in words), dataset.groups[group] if group >= 0 else '')
    for row, (name, label, group) in enumerate(zip(examples.names, examples.label, examples.group, strict=True))
  ]
  findings = {
    'verdict': result.verdict,
    'answer': result.answer,
    'examples': result.examples,
    'learned': result.learned._asdict(),
    'findings': [
      finding._asdict() | {'groups': finding.groups and finding.groups._asdict()} for finding in result.findings
    ],
  }
  return {
    'index.html': page.render(template, variables),
    'images.csv': to_csv(columns, rows).encode(errors='surrogateescape'),
    'findings.json': json.dumps(findings, indent=1).encode(),
  }


def _words(agrees: Bool[np.ndarray, 'n'], contradicts: Bool[np.ndarray, 'n']) -> list[str]:
  return np.select([contradicts, agrees], ['contradicts', 'agrees'], '').tolist()


def _worth_drawing(result: Findings) -> list[int]:
  """Return the rules with a verdict; without any, the two that come nearest to it."""
  measured = [i for i, finding in enumerate(result.findings) if finding.gap is not None]
  strong = [i for i in measured if result.findings[i].verdict != NONE]
  return (strong or measured[:2])[:DRAWN]


def _pictures(suspect: Suspect, examples: Examples, classes: Sequence[str], count: int) -> list[tuple[str, str]]:
  """Return (caption, data URI) of a contact sheet for each class and kind: the clearest cases first."""
  sheets = []
  for k, name in enumerate(classes):
    for mask, text, sign in ((suspect.agrees, 'agree with the rule', -1), (suspect.contradicts, 'contradict it', 1)):
      members = np.flatnonzero(mask & (examples.label == k))
      chosen = members[np.argsort(sign * suspect.support[members], kind='stable')][:count]
      if len(chosen):
        caption = (
          f"'{name}': {len(members):,} images {text}; here {', '.join(examples.names[i] for i in chosen[:3])} ..."
        )
        sheets.append((caption, page.data_uri(*pictures.encode(_sheet([examples.x[i] for i in chosen])))))
  return sheets[: 2 * CLASSES]


def _sheet(images: Sequence[UInt8[np.ndarray, 'h w c']]) -> UInt8[np.ndarray, 'H W 3']:
  """Arrange pictures in rows of COLUMNS on white."""
  rows, pitch = -(-len(images) // COLUMNS), SIDE + SPACE
  sheet = np.full((rows * pitch - SPACE, min(len(images), COLUMNS) * pitch - SPACE, 3), 255, np.uint8)
  for place, image in enumerate(images):
    tile = pictures.scaled(image.repeat(3, -1) if image.shape[-1] == 1 else image[..., :3], SIDE)[:SIDE, :SIDE]
    top, left = (part * pitch for part in divmod(place, COLUMNS))
    sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
  return sheet
