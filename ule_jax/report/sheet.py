"""Photographs as rows and networks as columns, with headings, captions and a legend, as one picture for slides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ule_jax.report.pictures import Pixels, colour_bar

RIGHT, WRONG = '#1a7f37', '#cf222e'
DARK, SOFT = '#1a1a1a', '#5a5a5a'
GAP = 10  # pixels between tiles
NARROWEST = 150  # pixels of a column, so that a caption fits
LEGEND = ('moves the answer little', 'much')


class Tile(NamedTuple):
  """A cell of the sheet: a picture, or None for an empty cell, and a caption of at most two lines below it."""

  pixels: Pixels | None
  caption: str
  right: bool | None = None

  @property
  def text(self) -> str:
    """The caption with a tick or a cross, where it is known whether the network is right."""
    return f'{mark(self.right)} {self.caption}'.strip()


def mark(right: bool | None) -> str:
  """Return a tick, a cross, or nothing where the label is unknown."""
  return {True: '✓', False: '✗', None: ''}[right]


def draw(headings: Sequence[str], rows: Sequence[Sequence[Tile]]) -> Pixels:
  """Draw rows of tiles below headings, with a legend of the maps' colours at the end.

  Args:
    headings: one for each column.
    rows: each with a tile for each column; all tiles of a row have one size.
  """
  sizes = [[(0, 0) if tile.pixels is None else tile.pixels.shape[:2] for tile in row] for row in rows]
  widths = [max([NARROWEST, *(row[i][1] for row in sizes)]) for i in range(len(headings))]
  fonts = {bold: _font(max(min(max(widths) // 14, 22), 13), bold) for bold in (False, True)}
  line = sum(fonts[True].getmetrics()) + 4
  lines = [max(len(tile.text.splitlines()) for tile in row) for row in rows]
  tops = [max(height for height, _ in row) for row in sizes]
  heights = [height + count * line + GAP for height, count in zip(tops, lines, strict=True)]
  page = Image.new('RGB', (sum(widths) + GAP * (len(widths) + 1), GAP + line + sum(heights) + 2 * line), 'white')
  pen, top, lefts = ImageDraw.Draw(page), GAP, np.cumsum([GAP, *(width + GAP for width in widths)])
  for left, width, heading in zip(lefts, widths, headings, strict=False):
    pen.text((left, top), _fitted(heading, width, fonts[True]), DARK, fonts[True])
  top += line
  for row, below, height in zip(rows, tops, heights, strict=True):
    for left, width, tile in zip(lefts, widths, row, strict=False):
      if tile.pixels is not None:
        page.paste(Image.fromarray(tile.pixels), (int(left), top))
      colour = {True: RIGHT, False: WRONG, None: SOFT}[tile.right]
      for i, text in enumerate(tile.text.splitlines()):
        pen.text((left, top + below + 2 + i * line), _fitted(text, width, fonts[False]), colour, fonts[False])
    top += height
  bar = colour_bar(90, line // 2)
  pen.text((GAP, top), LEGEND[0], SOFT, fonts[False])
  left = GAP + int(fonts[False].getlength(LEGEND[0])) + 8
  page.paste(Image.fromarray(bar), (left, top + line // 5))
  pen.text((left + bar.shape[1] + 8, top), LEGEND[1], SOFT, fonts[False])
  return np.asarray(page)


def one_line(name: str) -> str:
  """Replace the line ends in a file name."""
  return ' '.join(name.splitlines())


def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
  """Load the font that matplotlib ships."""
  name = 'DejaVuSans-Bold.ttf' if bold else 'DejaVuSans.ttf'
  return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / name), size)


def _fitted(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
  """Shorten a text to a width in pixels, in the middle, where file names and numbers are least distinct."""
  text = text.encode(errors='replace').decode()
  if font.getlength(text) <= width:
    return text
  for kept in range(len(text) - 1, 0, -1):
    shortened = f'{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}'
    if font.getlength(shortened) <= width:
      return shortened
  return ''
