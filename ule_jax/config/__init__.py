"""Configs: their schema, their files, and the configs that runs have recorded. Names are loaded when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from ule_jax.config.build import VARIANTS, make, split_spec, vary
  from ule_jax.config.load import load_config, load_text
  from ule_jax.config.schema import Config
  from ule_jax.config.validate import validate_config

_PUBLIC = {
  'make': 'build',
  'vary': 'build',
  'split_spec': 'build',
  'VARIANTS': 'build',
  'load_config': 'load',
  'load_text': 'load',
  'Config': 'schema',
  'validate_config': 'validate',
}
__all__ = ['VARIANTS', 'Config', 'load_config', 'load_text', 'make', 'split_spec', 'validate_config', 'vary']


def __getattr__(name: str) -> Any:
  if name not in _PUBLIC:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_PUBLIC[name]}'), name)
