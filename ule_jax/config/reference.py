"""Tables of all options, from their declarations: `python -m ule_jax.config.reference PAGE...` renews them in pages."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic.fields import FieldInfo
from tabulate import tabulate

from ule_jax.config import schema
from ule_jax.config.build import VARIANTS
from ule_jax.data import DATASETS
from ule_jax.methods import METHODS
from ule_jax.models import MODELS
from ule_jax.options import Options, bounds, meta
from ule_jax.two_stage import TWO_STAGE

SLOT = re.compile(r'(<!-- options: ([\w.]+) -->\n)(.*?)(<!-- end -->)', re.DOTALL)


def splice(text: str) -> str:
  """Return a page with the tables between its marks replaced.

  A mark names a part of a config, as `<!-- options: method.ule -->`, `<!-- options: optim -->` or, for the options
  outside of all parts, `<!-- options: config -->`; `<!-- options: all -->` is the whole reference.

  Raises:
    KeyError: a mark names a part that does not exist.
  """
  parts = classes()
  contents = {name: lambda kind=kind: table(kind) for name, kind in parts.items()} | {'all': reference}
  return SLOT.sub(lambda match: f'{match[1]}\n{contents[match[2]]()}\n\n{match[4]}', text)


def classes() -> dict[str, type[Options]]:
  """Return the class of every part of a config, by the name that a mark has for it."""
  fixed = {name: kind for name, kind in schema.sections('digits', 'erm').items() if name and '.' not in name}
  return {
    'config': schema.Config,
    **{f'data.{name}': source.options for name, source in DATASETS.items()},
    **{f'method.{name}': entry.options for name, entry in METHODS.items()},
    **{name: kind for name, kind in fixed.items() if name not in ('data', 'method')},
    **{f'two_stage.{name}': rule.options for name, rule in TWO_STAGE.items()},
  }


def table(kind: type[Options]) -> str:
  """Return the options of a class as a Markdown table."""
  rows = [
    (f'`{name}`', f'`{field.get_default()!r}`', _values(field), _meaning(name, field))
    for name, field in kind.model_fields.items()
    if not (isinstance(field.annotation, type) and issubclass(field.annotation, Options))
  ]
  return tabulate(rows, ('option', 'default', 'values', 'meaning'), tablefmt='pipe', disable_numparse=True)


def _values(field: FieldInfo) -> str:
  """Return the values that an option may have: names, bounds or a type."""
  if choices := meta(field).choices:
    return ' '.join(f'`{choice}`' for choice in choices)
  kind = getattr(field.annotation, '__name__', str(field.annotation))
  within = bounds(field).removeprefix('a number ')
  return f'{kind}, {within}' if within else kind


def _meaning(name: str, field: FieldInfo) -> str:
  """Return the meaning of an option, and whether it may differ on resume, with its former names."""
  facts = meta(field)
  notes = ['may differ on resume'] * facts.resume + [f'formerly `{old}`' for old in facts.former if old != name]
  text = (field.description or '').replace('|', '\\|')
  return f'{text} ({", ".join(notes)})' if notes else text


def _setting(fields: Mapping[str, object]) -> str:
  return ', '.join(f'`{name}={value}`' for name, value in fields.items())


def reference() -> str:
  """Return the tables of all parts of a config under headings."""
  parts = classes()
  lines = []

  def add(heading: str, part: str, *notes: str) -> None:
    text = [note for note in notes if note]
    rows = table(parts[part]) if parts[part].model_fields else 'No options.'
    lines.extend([heading, '', *(line for note in text for line in (note, '')), rows, ''])

  add('## Of the whole config', 'config')
  for part in ('train', 'optim', 'model', 'loader', 'checkpoint'):
    reads = [f'- `{name}`: {", ".join(f"`{option}`" for option in row[1])}' for name, row in MODELS.items()]
    notes = ('Of these each network reads, beside those of weights and encoder:\n\n' + '\n'.join(reads),)
    add(f'## `{part}`', part, *(notes if part == 'model' else ()))
  lines += ['## `method`', '']
  kinds: dict[type[Options], list[str]] = {}
  for name, entry in METHODS.items():
    kinds.setdefault(entry.options, []).append(name)
  for names in kinds.values():
    needs = [f'- `{name}` sets {_setting(METHODS[name].fields)}' for name in names if METHODS[name].fields]
    add(f'### {", ".join(f"`{name}`" for name in names)}', f'method.{names[0]}', '\n'.join(needs))
  add('## `two_stage`', 'two_stage', 'For methods of two runs; those of each rule are below its name.')
  for name, rule in TWO_STAGE.items():
    if rule.options.model_fields:
      add(f'### `two_stage.{name}`', f'two_stage.{name}')
  lines += ['## `data`', '']
  for name in DATASETS:
    add(f'### `{name}`', f'data.{name}')
  lines += ['## Variants', '', 'Behind a method, as in `--config=celeba:ule,frozen`.', '']
  lines += [f'- `{name}` sets {_setting(changes)}' for name, changes in VARIANTS.items()]
  return '\n'.join(lines)


def main(pages: list[str]) -> None:
  """Renew the tables of some pages."""
  for page in map(Path, pages):
    page.write_text(splice(page.read_text()))


if __name__ == '__main__':
  main(sys.argv[1:])
