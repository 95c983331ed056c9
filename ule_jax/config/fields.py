"""Dotted names of the fields of a config, and the fields that older runs were recorded without."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# Fields that runs were recorded without at first -> what stands for them there, in a run that has the second.
ADDED = {
  'data.white': (0.0, 'data.dir'),
  'data.background': ('white', 'data.dir'),
  'first.batch_norm': ('same', 'first.lr'),
  'first.spare.clusters': (0, 'first.spare.threshold'),
  'data.classes': ([], 'data.unlisted'),
  'model.head_init': ('lecun', 'model.name'),
  'model.fast_variance': (True, 'model.name'),
}


def flatten(config: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Turn nested fields into dotted ones.

  >>> flatten({'optim': {'lr': 0.1}, 'seed': 0})
  {'optim.lr': 0.1, 'seed': 0}
  """
  flat = {}
  for name, value in config.items():
    flat |= flatten(value, f'{prefix}{name}.') if isinstance(value, dict) else {f'{prefix}{name}': value}
  return flat


def with_added(fields: dict[str, Any]) -> dict[str, Any]:
  """Add to a recorded config the fields that it was recorded without."""
  return {field: value for field, (value, beside) in ADDED.items() if beside in fields} | fields


def total_steps(fields: Mapping[str, Any], examples: int) -> int:
  """Convert `train.epochs` to steps where `train.steps` is 0.

  Args:
    fields: of a config, dotted.
    examples: that are trained on.
  """
  return fields['train.steps'] or math.ceil(fields['train.epochs'] * examples / fields['train.batch_size'])
