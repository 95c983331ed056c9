"""ULE in JAX: image classifiers that do not take the shortcut. Names are loaded when first used."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
  'make_train_step': 'train.step',
  'create_state': 'train.step',
  'TrainState': 'train.step',
  'METHODS': 'methods',
  'Batch': 'methods',
  'Method': 'methods',
  'Output': 'methods',
  'Sizes': 'methods',
  'losses': 'losses',
  'MODELS': 'models',
  'load_config': 'config',
  'Config': 'config',
  'run': 'train.run',
  'load_run': 'deploy.finished',
  'fit': 'estimators',
  'estimators': 'estimators',
  'find_shortcuts': 'detect.find',
}
__all__ = [*_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll] the table has them once


def __getattr__(name: str) -> Any:
  if name not in _PUBLIC:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module = importlib.import_module(f'{__name__}.{_PUBLIC[name]}')
  return module if name == _PUBLIC[name] else getattr(module, name)


def __dir__() -> list[str]:
  return sorted(__all__)
