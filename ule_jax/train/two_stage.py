"""Methods of two stages are two runs: the config of the first run, and the inputs of the second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ule_jax import selection
from ule_jax.config import schema
from ule_jax.config.schema import Config
from ule_jax.config.validate import validate_config
from ule_jax.data import Dataset
from ule_jax.errors import UserError
from ule_jax.methods import METHODS
from ule_jax.runs.recorded import read_arrays
from ule_jax.train.training_data import held_out, is_fit, is_linear
from ule_jax.two_stage import TWO_STAGE
from ule_jax.two_stage.contract import FirstRun, SecondStage

FIRST_METHOD = 'erm'  # of every first run


def first_config(config: Config) -> Config:
  """Return the config of the first run: this one, with the values of `two_stage.*` in place of the run's own."""
  two_stage = config.two_stage
  changes: dict[str, Any] = {
    'method': schema.named(METHODS[FIRST_METHOD].options)(name=FIRST_METHOD),
    # Without the options of the second stage, so that second runs with other options can share this first run.
    'two_stage': schema.two_stage_options()(),
    'train.sampling': 'uniform',
    'select': selection.LAST,
  }
  if two_stage.steps or two_stage.epochs:
    changes |= {'train.steps': two_stage.steps, 'train.epochs': two_stage.epochs}
  if two_stage.lr:
    changes['optim.lr'] = two_stage.lr
  if two_stage.weight_decay >= 0:
    changes['optim.weight_decay'] = two_stage.weight_decay
  if two_stage.batch_norm != 'same':
    changes['model.batch_norm'] = two_stage.batch_norm
  return validate_config(config.replace(changes))


def make_second_stage(config: Config, dataset: Dataset, directory: Path, head: dict[str, np.ndarray]) -> SecondStage:
  """Return the inputs of a second run from a finished first run.

  Args:
    config: of the second run.
    dataset: that the first run was evaluated on.
    directory: of the first run.
    head: `kernel` [d k] and `bias` [k] of its last layer.

  Raises:
    UserError: its predictions cannot be read, or are of other data.
  """
  first = FirstRun(
    splits={split: _predictions(directory, split) | _inputs(config, dataset, split) for split in dataset.splits},
    kernel=np.asarray(head['kernel']),
    bias=np.asarray(head['bias']),
    held_out=held_out(config, dataset),
    classes=dataset.classes,
    seed=config.seed,
  )
  for split, predictions in first.splits.items():
    if not np.array_equal(predictions['label'], dataset.splits[split].label):
      raise UserError(f'{directory} is a first run on other data: its labels of {split} differ. Choose another one.')
  return TWO_STAGE[config.two_stage.rule].prepare(config.two_stage.options, first)


def check_first(config: Config, dataset: Dataset) -> None:
  """Check before a first run that the data have the splits, groups and classes that the second stage needs.

  Raises:
    UserError: a split, a group or a class is missing.
  """
  if check := TWO_STAGE[config.two_stage.rule].check:
    splits = {name: (split.label, split.group) for name, split in dataset.splits.items()}
    check(config.two_stage.options, splits, dataset.classes)


def _predictions(directory: Path, split: str) -> dict[str, np.ndarray]:
  """Return the predictions of a first run, whose only role is `model`, without the role in their names."""
  path = directory / 'predictions' / f'{split}.npz'
  arrays = read_arrays(path, "remove the first run's folder, to run it again")
  return {name.removesuffix('_model'): values for name, values in arrays.items()}


def _inputs(config: Config, dataset: Dataset, name: str) -> dict[str, np.ndarray]:
  """Return the features of a split for a refit of a linear head on features, whose first run did not write them."""
  split = dataset.splits[name]
  if not (is_fit(config) and is_linear(config, dataset) and split.load_rows):
    return {}
  mean, std = (np.asarray(values, np.float32) for values in (dataset.mean, dataset.std))
  return {'features': (split.load_rows(np.arange(split.count)) - mean) / std}
