"""The style of each method in all charts: a colour, and a marker and a dash that distinguish it without colour.

The colours are Okabe and Ito's and Paul Tol's, for colour-blind readers, without their yellow, which is faint on white.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

# method -> colour, in the order of tables and legends
METHODS = {
  'erm': '#4D4D4D',
  'ule': '#0072B2',
  'gradient_penalty': '#E69F00',
  'shuffled_student': '#56B4E9',
  'group_dro': '#009E73',
  'dfr': '#CC79A7',
  'jtt': '#D55E00',
  'afr': '#CCBB44',
  'lff': '#882255',
  'eiil': '#332288',
  'spare': '#AA4499',
  'cnc': '#CC6677',
  'rwg': '#117733',
  'subg': '#44AA99',
  'rwy': '#DDCC77',
  'suby': '#999933',
  'irm': '#66CCEE',
  'vrex': '#4477AA',
  'coral': '#EE6677',
  'mmd': '#AA3377',
  'mixup': '#999999',
  'lisa': '#228833',
}
OTHERS = ('#6699CC', '#994455', '#997700', '#004488', '#EE99AA', '#225522')  # Tol's high contrast, for new methods
MARKERS = 'osD^vPX<>*p'
DASHES = ((0, ()), (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))
HATCHES = ('', '///', '...', 'xxx')


class Style(NamedTuple):
  """Style of a method in charts. Variants of a method share its colour, and differ in marker, dash and hatch."""

  color: str
  marker: str
  dash: tuple
  hatch: str


def style(method: str, variant: int = 0) -> Style:
  """Return the style of a method; that of a method outside the table depends only on its name.

  Args:
    variant: index of the config among those of one method, from 0.

  >>> style('ule').color, style('mine') == style('mine')
  ('#0072B2', True)
  """
  number = zlib.crc32(method.encode())
  color = METHODS[method] if method in METHODS else OTHERS[number % len(OTHERS)]
  position = list(METHODS).index(method) if method in METHODS else number // len(OTHERS)
  return Style(
    color,
    MARKERS[(position + variant) % len(MARKERS)],
    DASHES[(position // len(MARKERS) + variant) % len(DASHES)],
    HATCHES[variant % len(HATCHES)],
  )
