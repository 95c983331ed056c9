"""The settings and rows of settings.toml and rows.toml as types."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
DEFAULT = 'ule_default'  # the row that the others are compared with


class Row(NamedTuple):
  """A method with its fixed and its tuned options; the keys are explained in rows.toml."""

  id: str
  heading: str
  method: str
  fields: dict[str, Any]
  grid: dict[str, dict[str, list[Any]]]
  needs_groups: str = ''
  archived: str = ''


class Setting(NamedTuple):
  """A data set with a network and a protocol; the keys are explained in settings.toml."""

  id: str
  table: str
  heading: str
  config: str
  fields: dict[str, Any]
  grids: list[str]
  tuning_seeds: list[int]
  fresh_seeds: list[int]
  oracle: str
  label_free: list[str]
  pick_at: str
  picks: list[str]
  single_runs: bool
  variant: str = ''
  data: str = ''
  sides: str = 'fixed'
  rate: float = 0.98
  rows: list[str] | None = None


def flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Return nested tables as fields of a config: {'method': {'q': 0.7}} as {'method.q': 0.7}."""
  fields: dict[str, Any] = {}
  for key, value in tree.items():
    fields |= flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {f'{prefix}{key}': value}
  return fields


def with_bundles(block: dict[str, Any], bundles: Mapping[str, Any]) -> dict[str, Any]:
  """Return a block whose `fields` contain those of the bundles it uses, its own last."""
  fields: dict[str, Any] = {}
  for name in block.pop('use', []):
    fields |= flatten(bundles[name])
  return block | {'fields': fields | flatten(block.get('fields', {}))}


def load_rows(path: Path = FOLDER / 'rows.toml') -> dict[str, Row]:
  """Return the rows in the order of the page."""
  page = tomllib.loads(path.read_text())
  rows = {}
  for name, block in page['rows'].items():
    block = with_bundles(block, page['bundles'])
    grids = {grid: flatten(axes) for grid, axes in block.pop('grid').items()}
    rows[name] = Row(id=name, grid=grids, **block)
  return rows


def load_settings(path: Path = FOLDER / 'settings.toml') -> dict[str, Setting]:
  """Return the settings in the order of the page."""
  page = tomllib.loads(path.read_text())
  blocks = {name: page['protocol'] | with_bundles(block, page['bundles']) for name, block in page['settings'].items()}
  return {name: Setting(id=name, **block) for name, block in blocks.items()}


def rows_of(setting: Setting, rows: Mapping[str, Row]) -> list[tuple[Row, dict[str, list[Any]]]]:
  """Return the rows that a setting has, each with its grid there."""
  pairs = [(row, row.grid[grid]) for row in rows.values() for grid in setting.grids if grid in row.grid]
  return [(row, grid) for row, grid in pairs if setting.rows is None or row.id in setting.rows]
