"""Help of the verbs: plain text in two columns, from signatures and docstrings."""

from __future__ import annotations

import re

from cyclopts import App
from cyclopts.help import (
  ColumnSpec,
  DefaultFormatter,
  DescriptionRenderer,
  HelpEntry,
  HelpPanel,
  InlineText,
  NameRenderer,
  TableSpec,
)
from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.text import Text

WIDTH = 100  # columns, where the terminal has as many


class Columns(DefaultFormatter):
  """Layout of flags, or of verbs, in one column and their meaning in another, without boxes."""

  def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
    """Print one group of flags or verbs."""
    if panel.entries:
      names = ColumnSpec(renderer=NameRenderer(max_width=options.max_width // 3))
      table = TableSpec().build((names, ColumnSpec(renderer=_meaning, overflow='fold')), panel.entries)
      console.print(f'\n{panel.title}:', Padding(table, (0, 0, 0, 2)))


def _meaning(entry: HelpEntry) -> RenderableType:
  """Return a flag's description without the line breaks of its docstring, and its choices and default."""
  if isinstance(entry.description, InlineText) and isinstance(entry.description.primary_renderable, Text):
    entry = entry.copy(description=' '.join(entry.description.primary_renderable.plain.split()))
  return DescriptionRenderer()(entry)


def print_help(app: App, *verbs: str) -> None:
  """Print the help of a verb, or of all; without colour where the output is no terminal."""
  for name in () if verbs else app:
    app[name]  # imports the verb, for its docstring
  console = Console(highlight=False)
  console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
  with console.capture() as captured:
    app.help_print(verbs, console=console)
  print(re.sub(r' *\n( *\n)+', '\n\n', re.sub(r' +$', '', captured.get(), flags=re.M)).strip())
