"""The data set that a run trains on, and the number of steps."""

from __future__ import annotations

import zlib

import numpy as np
from jaxtyping import Bool

from ule_jax.config import fields
from ule_jax.config.schema import Config
from ule_jax.data import Dataset
from ule_jax.errors import UserError
from ule_jax.two_stage import REFITS
from ule_jax.two_stage.contract import SecondStage


def held_out(config: Config, dataset: Dataset) -> Bool[np.ndarray, 'n']:
  """Return a mask of the training examples that are not trained on: a share `train.holdout`, drawn by the seed."""
  count = dataset.splits['train'].count
  mask = np.zeros(count, bool)
  order = np.random.default_rng((config.seed, zlib.crc32(b'holdout'))).permutation(count)
  mask[order[: round(config.train.holdout * count)]] = True
  return mask


def of_stage(config: Config, dataset: Dataset, second: SecondStage) -> Dataset:
  """Return the data set that one of the stages of a method trains on.

  Args:
    config: says which share is held out.
    dataset: as it was loaded, or with the features of a frozen encoder.
    second: the groups from a first run replace those of the data, and its sampling weights multiply them.

  Raises:
    UserError: nothing is left to train on, or the data have sampling weights that the sampling does not read.
  """
  train = dataset.splits['train']
  sampling = config.train.sampling
  if train.sampling_weight is not None and sampling != 'uniform':
    raise UserError(
      f'train.sampling is {sampling}, which reads no weights, and the data have weights of train: take the column '
      'weight out, or set train.sampling=uniform.'
    )
  if second.group is not None:
    train = train._replace(group=np.asarray(second.group, np.int32))
    dataset = dataset._replace(groups=second.groups)
  if second.sampling_weight is not None:
    before = 1.0 if train.sampling_weight is None else train.sampling_weight
    train = train._replace(sampling_weight=before * np.asarray(second.sampling_weight, np.float64))
  if config.train.holdout:
    train = train.take(np.flatnonzero(~held_out(config, dataset)))
    if not train.count:
      raise UserError(f'train.holdout {config.train.holdout} leaves nothing to train on: lower it.')
  return dataset._replace(splits={**dataset.splits, 'train': train})


def is_fit(config: Config) -> bool:
  """Return whether the method fits the last layer of its first run, without steps of its own."""
  return config.two_stage.rule in REFITS


def is_linear(config: Config, dataset: Dataset) -> bool:
  """Return whether the networks of a config are linear on data that are features."""
  model = config.model
  return dataset.is_features and (model.name == 'linear' or (model.name == 'mlp' and model.depth == 0))


def total_steps(config: Config, dataset: Dataset) -> int:
  """Return the number of steps of a run, from `train.steps` or else `train.epochs`; 0 where a last layer is fitted.

  Args:
    config: of the run.
    dataset: that is trained on.
  """
  if is_fit(config):
    return 0
  return fields.total_steps(config.flat(), dataset.splits['train'].count)
