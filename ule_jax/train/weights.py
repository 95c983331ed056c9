"""Initial states from pretrained weights, and from a first run with another last layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ule_jax.data import Dataset
from ule_jax.devices import processes
from ule_jax.models.build import network_and_shapes
from ule_jax.models.pretrained import mapping
from ule_jax.runs import files, inputs
from ule_jax.runs.fingerprint import Fingerprint
from ule_jax.runs.progress import say
from ule_jax.train import features
from ule_jax.train.step import TrainState


def start_from_weights(
  config: Any, directory: Path, current: Fingerprint, force: bool
) -> tuple[Dataset, Callable[[TrainState], TrainState], str]:
  """Read `model.weights`, if there are any.

  Returns:
    The data set, with the features of a frozen encoder for its images; what turns an initial state into one that
    starts from the weights; and what differs from what the run was trained on, which `force` allows.

  Raises:
    UserError: the weights are not there or do not fit, an image cannot be read, or the run was trained on others.
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
  # For who has the run and not its data: heads are trained on standardised features.
  if processes.is_first():
    files.write_json(directory / 'features.json', {'mean': dataset.mean, 'std': dataset.std})
  return dataset, lambda state: state, differs


def load_weights(config: Any, dataset: Dataset, directory: Path, force: bool) -> tuple[mapping.Pretrained, str]:
  """Read `model.weights` for the config's network; weights.json says what became of each tensor.

  Returns:
    The weights, and how they differ from those of the run, which `force` allows.

  Raises:
    UserError: they are not there, do not fit, or are not those that the run began with.
  """
  _, template = network_and_shapes(config, len(dataset.classes), dataset.image_shape)
  found = mapping.load_pretrained(config.model.weights, config.model.name, template, config.model.keep_head)
  rows = {row.theirs: list(row.ours) or row.note for row in found.rows}
  with processes.raise_on_all('comparing the weights'):
    differs = inputs.compare_weights(directory, found.path, found.sha256, force)
  about = {'source': config.model.weights, 'file': found.path.name, 'sha256': found.sha256, 'layout': found.flavour}
  about |= {'revision': found.revision, 'network': found.place}
  if found.note:
    say(found.note)
  if processes.is_first():
    files.write_json(directory / 'weights.json', about | {'tensors': rows})
  return found, differs


def with_head(state: TrainState, first: TrainState, head: tuple[np.ndarray, np.ndarray]) -> TrainState:
  """Take a first run's network, with another last layer."""
  params = dict(first.params['model'])
  params['head'] = _placed(dict(zip(('kernel', 'bias'), head, strict=True)), params['head'])
  return state.replace(params={'model': params}, batch_stats=first.batch_stats)


def with_weights(state: TrainState, weights: mapping.Pretrained) -> TrainState:
  """Start every role from the same weights; a last layer that they lack stays as it is."""

  def merged(found: PyTree, tree: PyTree) -> PyTree:
    return {name: _placed(found[name], own) if name in found else own for name, own in tree.items()}

  return state.replace(
    params={role: merged(weights.params, own) for role, own in state.params.items()},
    batch_stats={role: merged(weights.batch_stats, own) for role, own in state.batch_stats.items()},
  )


def _placed(values: PyTree, like: PyTree) -> PyTree:
  """Copy arrays to where others are, in their types and shapes; a copy, as the step donates what it is given."""

  def place(value, old):
    value = np.broadcast_to(np.array(value, old.dtype), old.shape)  # a population has axes before those of a network
    # Not device_put: what it puts on the only device of a host cannot be saved (jax 0.10).
    return jax.make_array_from_callback(value.shape, old.sharding, lambda index: value[index])

  return jax.tree.map(place, values, like)
