"""Decisions that need no device: the training data and the number of steps of a config."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from jaxtyping import Bool

from ule_jax.config import fields
from ule_jax.data import Dataset
from ule_jax.errors import UserError
from ule_jax.train import task
from ule_jax.two_stage import REFITS
from ule_jax.two_stage.contract import SecondStage


def held_out(config: Any, dataset: Dataset) -> Bool[np.ndarray, 'n']:
  """Tell which training examples are not trained on: a share `train.holdout`, drawn by the seed."""
  count = dataset.splits['train'].count
  chosen = np.zeros(count, bool)
  order = np.random.default_rng((config.seed, zlib.crc32(b'holdout'))).permutation(count)
  chosen[order[: round(config.train.holdout * count)]] = True
  return chosen


def training_data(config: Any, dataset: Dataset, prepared: SecondStage) -> Dataset:
  """Make the data set that a run trains on; it is evaluated on the one that was loaded."""
  train = dataset.splits['train']
  if prepared.group is not None:
    train = train._replace(group=np.asarray(prepared.group, np.int32))
    dataset = dataset._replace(groups=prepared.groups)
  if prepared.chance is not None:
    train = train._replace(chance=np.asarray(prepared.chance, np.float64))
  if config.train.holdout:
    train = train.take(np.flatnonzero(~held_out(config, dataset)))
    if not train.count:
      raise UserError(f'train.holdout {config.train.holdout} leaves nothing to train on: lower it.')
  return dataset._replace(splits={**dataset.splits, 'train': train})


def is_fit(config: Any) -> bool:
  """Tell whether the method fits the first run's last layer, and takes no steps of its own."""
  return config.first.prepare in REFITS


def total_steps(config: Any, dataset: Dataset) -> int:
  """Convert `train.epochs` to steps where `train.steps` is 0; a fitted last layer takes none."""
  if task.is_fit(config):
    return 0
  return fields.total_steps(fields.flatten(config.to_dict()), dataset.splits['train'].count)
