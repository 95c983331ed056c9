"""Methods of two stages are two runs: the config of the first, and the inputs of the second."""

from __future__ import annotations

import copy
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ule_jax.data import Dataset
from ule_jax.errors import UserError
from ule_jax.train.task import held_out
from ule_jax.two_stage import TWO_STAGE, dfr
from ule_jax.two_stage.contract import FirstRun, SecondStage


def first_config(config: Any) -> Any:
  """Make the config of the first run: this one with `first.*` in the places it names."""
  first = copy.deepcopy(config)
  with first.unlocked():
    first.method = copy.deepcopy(config.first.method)
    # What is made of it later is not the first run's business, so that several second runs can share it.
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
  """Turn a finished first run into what the second one is given.

  Args:
    directory: the first run's.
    head: kernel and bias of its last layer.

  Raises:
    UserError: the first run left nothing that can be used.
  """
  name = config.first.prepare
  first = FirstRun(
    splits={split: _predictions(directory / 'predictions' / f'{split}.npz') for split in dataset.splits},
    kernel=np.asarray(head['kernel']),
    bias=np.asarray(head['bias']),
    held_out=held_out(config, dataset),
    classes=dataset.classes,
    seed=config.seed,
  )
  for split, found in first.splits.items():
    if not np.array_equal(found['label'], dataset.splits[split].label):
      raise UserError(f'{directory} is a first run on other data: its labels of {split} differ. Choose another one.')
  return TWO_STAGE[name](_options(config), first)


def check_first(config: Any, dataset: Dataset) -> None:
  """Check before a first run what the second one will need of the data.

  Raises:
    UserError: a split, a group or a class is missing.
  """
  if config.first.prepare == 'dfr':
    splits = {name: (split.label, split.group) for name, split in dataset.splits.items()}
    dfr.check(_options(config), splits, dataset.classes)


def _options(config: Any) -> SimpleNamespace:
  name = config.first.prepare
  return SimpleNamespace(**config.first[name].to_dict() if name in config.first else {})


def _predictions(path: Path) -> dict[str, np.ndarray]:
  try:
    with np.load(path, allow_pickle=False) as file:
      return {name.removesuffix('_model'): file[name] for name in file.files}
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise UserError(f'{path} of the first run cannot be read ({error}): remove its folder, to run it again.') from None
