"""Methods of two stages are two runs: what the first one is, and what the second one takes from it."""

from __future__ import annotations

import copy
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from jaxtyping import Bool

from ule_jax.data import Dataset
from ule_jax.errors import UserError
from ule_jax.methods import HEADS, PREPARATIONS, First, Prepared, dfr


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


def held_out(config: Any, dataset: Dataset) -> Bool[np.ndarray, 'n']:
  """Tell which training examples are not trained on: a share `train.holdout`, drawn by the seed."""
  count = dataset.splits['train'].count
  chosen = np.zeros(count, bool)
  order = np.random.default_rng((config.seed, zlib.crc32(b'holdout'))).permutation(count)
  chosen[order[: round(config.train.holdout * count)]] = True
  return chosen


def prepare(config: Any, dataset: Dataset, directory: Path, head: dict[str, np.ndarray]) -> Prepared:
  """Turn a finished first run into what the second one is given.

  Args:
    directory: the first run's.
    head: kernel and bias of its last layer.

  Raises:
    UserError: the first run left nothing that can be used.
  """
  name = config.first.prepare
  first = First(
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
  return PREPARATIONS[name](_options(config), first)


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


def training(config: Any, dataset: Dataset, prepared: Prepared) -> Dataset:
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
  return config.first.prepare in HEADS


def _predictions(path: Path) -> dict[str, np.ndarray]:
  try:
    with np.load(path, allow_pickle=False) as file:
      return {name.removesuffix('_model'): file[name] for name in file.files}
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise UserError(f'{path} of the first run cannot be read ({error}): remove its folder, to run it again.') from None
