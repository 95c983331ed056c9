"""One look for each method, everywhere: a colour, and a marker and a dash that tell it apart without colour.

The colours are Okabe and Ito's and Paul Tol's, made for colour-blind readers, without the yellow that white hides.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

# method -> colour; the order is that of tables and legends
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
  """How a method is drawn. Variants of a method have its colour, and markers, dashes and hatches of their own."""

  color: str
  marker: str
  dash: tuple
  hatch: str


def style(method: str, variant: int = 0) -> Style:
  """Look up how a method is drawn; one that is not in the table gets a look that depends on its name alone.

  >>> style('ule').color, style('mine') == style('mine')
  ('#0072B2', True)
  """
  number = zlib.crc32(method.encode())
  color = METHODS[method] if method in METHODS else OTHERS[number % len(OTHERS)]
  place = list(METHODS).index(method) if method in METHODS else number // len(OTHERS)
  return Style(
    color,
    MARKERS[(place + variant) % len(MARKERS)],
    DASHES[(place // len(MARKERS) + variant) % len(DASHES)],
    HATCHES[variant % len(HATCHES)],
  )
