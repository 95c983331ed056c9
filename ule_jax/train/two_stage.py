"""Methods of two stages are two runs: the config of the first run, and the inputs of the second."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ule_jax.data import Dataset
from ule_jax.errors import UserError
from ule_jax.runs.recorded import read_arrays
from ule_jax.train.training_data import held_out
from ule_jax.two_stage import TWO_STAGE, dfr
from ule_jax.two_stage.contract import FirstRun, SecondStage


def first_config(config: Any) -> Any:
  """Return the config of the first run: this one, with the values of `first.*` in place of the run's own."""
  first = copy.deepcopy(config)
  with first.unlocked():
    first.method = copy.deepcopy(config.first.method)
    # Without the options of the second stage, so that second runs with other options can share this first run.
    first.first = type(config)(dict(prepare='none', workdir='', steps=0, epochs=0.0, method=config.first.method))
    first.train.sampling = 'uniform'
    first.select = 'last'
    if config.first.steps or config.first.epochs:
      first.train.steps, first.train.epochs = config.first.steps, config.first.epochs
    if config.first.lr:
      first.optim.lr = config.first.lr
    if config.first.weight_decay >= 0:
      first.optim.weight_decay = config.first.weight_decay
    if config.first.batch_norm != 'same':
      first.model.batch_norm = config.first.batch_norm
  return first


def make_second_stage(config: Any, dataset: Dataset, directory: Path, head: dict[str, np.ndarray]) -> SecondStage:
  """Return the inputs of a second run from a finished first run.

  Args:
    config: of the second run.
    dataset: that the first run was evaluated on.
    directory: of the first run.
    head: `kernel` [d k] and `bias` [k] of its last layer.

  Raises:
    UserError: its predictions cannot be read, or are of other data.
  """
  name = config.first.prepare
  first = FirstRun(
    splits={split: _predictions(directory, split) for split in dataset.splits},
    kernel=np.asarray(head['kernel']),
    bias=np.asarray(head['bias']),
    held_out=held_out(config, dataset),
    classes=dataset.classes,
    seed=config.seed,
  )
  for split, predictions in first.splits.items():
    if not np.array_equal(predictions['label'], dataset.splits[split].label):
      raise UserError(f'{directory} is a first run on other data: its labels of {split} differ. Choose another one.')
  return TWO_STAGE[name](_options(config), first)


def check_first(config: Any, dataset: Dataset) -> None:
  """Check before a first run that the data have the splits, groups and classes that the second stage needs.

  Raises:
    UserError: a split, a group or a class is missing.
  """
  if config.first.prepare == 'dfr':
    splits = {name: (split.label, split.group) for name, split in dataset.splits.items()}
    dfr.check(_options(config), splits, dataset.classes)


def _options(config: Any) -> SimpleNamespace:
  name = config.first.prepare
  return SimpleNamespace(**config.first[name].to_dict() if name in config.first else {})


def _predictions(directory: Path, split: str) -> dict[str, np.ndarray]:
  """Return the predictions of a first run, whose only role is `model`, without the role in their names."""
  path = directory / 'predictions' / f'{split}.npz'
  arrays = read_arrays(path, "remove the first run's folder, to run it again")
  return {name.removesuffix('_model'): values for name, values in arrays.items()}
