"""Initial states: from pretrained weights, or from a first run with a refitted last layer."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree

from ule_jax.config.schema import Config
from ule_jax.data import Dataset
from ule_jax.devices import processes
from ule_jax.models.build import network_and_shapes
from ule_jax.models.pretrained import mapping
from ule_jax.runs import files, inputs
from ule_jax.runs.fingerprint import Fingerprint
from ule_jax.runs.restore import Networks
from ule_jax.train import features
from ule_jax.train.step import TrainState

log = logging.getLogger(__name__)

Begin = Callable[[TrainState], TrainState]  # initial state -> the state that training starts from


def start_from_weights(
  config: Config, directory: Path, current: Fingerprint, force: bool
) -> tuple[Dataset, Begin, str]:
  """Read `model.weights`, unless it is `none`.

  Args:
    config: of the run.
    directory: of the run.
    current: its data.
    force: as in `load_weights`.

  Returns:
    The data set, of a frozen encoder its features in place of images; the function that puts the weights into an
    initial state; and the differences from the weights that the run was trained with.

  Raises:
    UserError: the weights are missing or do not fit, an image cannot be read, or the run was trained with others.
  """
  dataset = current.dataset
  if config.model.weights == 'none':
    return dataset, lambda state: state, ''
  weights, differs = load_weights(config, dataset, directory, force)
  if config.model.encoder != 'frozen':
    return dataset, partial(with_weights, weights=weights), differs
  dataset = features.encode_dataset(config, current, weights)
  with processes.raise_on_all('comparing the features'):
    differs = differs or inputs.compare_features(directory, dataset, features.feature_code(), force)
  record_statistics(directory, dataset)
  return dataset, lambda state: state, differs


def record_statistics(directory: Path, dataset: Dataset) -> None:
  """Write features.json, the mean and standard deviation by which features are standardised.

  Readers of the run need them without its data.

  Args:
    directory: of the run.
    dataset: of features.
  """
  if processes.is_first():
    files.write_json(directory / 'features.json', {'mean': dataset.mean, 'std': dataset.std})


def load_weights(config: Config, dataset: Dataset, directory: Path, force: bool) -> tuple[mapping.Pretrained, str]:
  """Read `model.weights` for the config's network, and write weights.json: each tensor with its parameter.

  Args:
    config: of the run.
    dataset: of images.
    directory: of the run.
    force: return differences instead of raising.

  Returns:
    The weights, and their difference from those that the run started from; '' for none.

  Raises:
    UserError: they are missing or do not fit, or differ and `force` is not set.
  """
  _, template = network_and_shapes(config, len(dataset.classes), dataset.image_shape)
  weights = mapping.load_pretrained(config.model.weights, config.model.name, template, config.model.keep_head)
  rows = {row.theirs: list(row.ours) or row.note for row in weights.rows}
  with processes.raise_on_all('comparing the weights'):
    differs = inputs.compare_weights(directory, weights.path, weights.sha256, force)
  about = {
    'source': config.model.weights,
    'file': weights.path.name,
    'sha256': weights.sha256,
    'layout': weights.flavour,
  }
  about |= {'revision': weights.revision, 'network': weights.place}
  if weights.note:
    log.info(weights.note)
  if processes.is_first():
    files.write_json(directory / 'weights.json', about | {'tensors': rows})
  return weights, differs


def with_head(state: TrainState, first: Networks, head: tuple[np.ndarray, np.ndarray]) -> TrainState:
  """Return a state with the network of a first run and a refitted last layer.

  Args:
    state: the initial state of the second run.
    first: the networks of the first run.
    head: kernel [d k] and bias [k].
  """
  params = first.params['model'] | {'head': dict(zip(('kernel', 'bias'), head, strict=True))}
  return dataclasses.replace(
    state,
    params={'model': _placed(params, state.params['model'])},
    batch_stats=_placed(first.batch_stats, state.batch_stats),
  )


def with_weights(state: TrainState, weights: mapping.Pretrained) -> TrainState:
  """Return a state in which every role starts from the same weights; a last layer without weights stays as it is."""

  def merged(values: PyTree, tree: PyTree) -> PyTree:
    return {name: _placed(values[name], old) if name in values else old for name, old in tree.items()}

  return dataclasses.replace(
    state,
    params={role: merged(weights.params, tree) for role, tree in state.params.items()},
    batch_stats={role: merged(weights.batch_stats, tree) for role, tree in state.batch_stats.items()},
  )


def _placed(values: PyTree, like: PyTree) -> PyTree:
  """Copy `values` to the shardings, dtypes and shapes of `like`; a copy, because the step donates its state."""

  def place(value, old):
    value = np.broadcast_to(np.array(value, old.dtype), old.shape)  # of a population, one for all members
    # Not device_put: an array that it puts on the only device of a host cannot be saved (jax 0.10).
    return jax.make_array_from_callback(value.shape, old.sharding, lambda index: value[index])

  return jax.tree.map(place, values, like)
