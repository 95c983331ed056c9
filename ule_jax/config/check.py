"""Check of a config against the devices of this process."""

from __future__ import annotations

from typing import Any

import jax

from ule_jax.errors import UserError


def check_devices(config: Any) -> None:
  """Check that batches divide over the devices.

  Raises:
    UserError: one does not.
  """
  for name in ('batch_size', 'eval_batch_size'):
    if getattr(config.train, name) % jax.device_count():
      raise UserError(f'train.{name} {getattr(config.train, name)} does not divide over {jax.device_count()} devices.')
  if config.train.batch_size % (config.train.accumulate * jax.device_count()):
    raise UserError(
      f'train.batch_size {config.train.batch_size} does not divide into train.accumulate={config.train.accumulate} '
      f'parts over {jax.device_count()} devices.'
    )
