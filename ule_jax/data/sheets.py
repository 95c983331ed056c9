"""Contact sheets of a data set."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ule_jax.data.dataset import Dataset

PER_SPLIT, SIDE, BAR = 8, 112, 16  # images of a split on a sheet, side of an image and height of a caption in pixels


def contact_sheets(dataset: Dataset, out: Path, bad: dict[str, dict[int, str]]) -> list[Path]:
  """Write a contact sheet of each group (of each class without groups) with images after the evaluation transform.

  Args:
    out: the folder for the PNG files.
    bad: split -> index of each image that cannot be decoded -> the error's sentence.

  Returns:
    The paths of the files.
  """
  out.mkdir(parents=True, exist_ok=True)
  grouped = bool(dataset.groups)
  written = []
  for code, name in enumerate(dataset.groups if grouped else dataset.classes):
    strips = []
    for split, content in dataset.splits.items():
      members = np.flatnonzero((content.group if grouped else content.label) == code)
      chosen = np.random.default_rng(code).permutation(members)
      chosen = [i for i in chosen.tolist() if i not in bad.get(split, {})][:PER_SPLIT]
      if chosen:
        strips.append((f'{split}: {len(members):,}', [_tile(dataset, content.load(i)) for i in chosen]))
    if not strips:
      continue
    sheet = Image.new('RGB', (PER_SPLIT * SIDE, len(strips) * (SIDE + BAR) + BAR), 'white')
    draw = ImageDraw.Draw(sheet)
    draw.text((4, 2), name, fill='black')
    for row, (caption, tiles) in enumerate(strips):
      top = BAR + row * (SIDE + BAR)
      draw.text((4, top + 2), caption, fill='black')
      for column, tile in enumerate(tiles):
        sheet.paste(tile, (column * SIDE, top + BAR))
    written.append(out / f'{code:02}-{re.sub(r"[^0-9a-zA-Z]+", "-", name).strip("-")}.png')
    sheet.save(written[-1])
  return written


def _tile(dataset: Dataset, image: np.ndarray) -> Image.Image:
  """Apply the evaluation transform, and resize to the side of a tile."""
  if dataset.eval_transform:
    image = dataset.eval_transform(image, np.random.default_rng(0))
  return Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
