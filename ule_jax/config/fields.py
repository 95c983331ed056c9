"""Dotted names of the fields of a config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def flatten(config: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Return nested fields by dotted names.

  >>> flatten({'optim': {'lr': 0.1}, 'seed': 0})
  {'optim.lr': 0.1, 'seed': 0}
  """
  flat = {}
  for name, value in config.items():
    flat |= flatten(value, f'{prefix}{name}.') if isinstance(value, dict) else {f'{prefix}{name}': value}
  return flat


def total_steps(fields: Mapping[str, Any], examples: int) -> int:
  """Convert `train.epochs` to steps where `train.steps` is 0.

  Args:
    fields: of a config, dotted.
    examples: that are trained on.
  """
  return fields['train.steps'] or math.ceil(fields['train.epochs'] * examples / fields['train.batch_size'])
