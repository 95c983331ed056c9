"""From a config and its data to method, network, optimiser and initial state."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from ule_jax.data import Dataset
from ule_jax.devices.mesh import placement
from ule_jax.methods import METHODS, Method, Sizes
from ule_jax.models import make_model
from ule_jax.models.build import Preprocess, make_preprocess, pixel_scale
from ule_jax.optim import make_optimizer
from ule_jax.train.step import TrainState, create_state
from ule_jax.train.task import total_steps


class Components(NamedTuple):
  """What a config makes of a data set, without a seed."""

  method: Method
  model: Any
  tx: optax.GradientTransformation
  preprocess: Preprocess


def assemble(config: Any, training: Dataset, numbers: Mapping[str, Any] = MappingProxyType({})) -> Components:
  """Make the method, the network and the optimiser of a config.

  Args:
    numbers: fields of `method` and `optim`, dotted, and what stands in their place; these may be traced.
  """
  method = make_method(config, sizes_of(config, training), numbers)
  model = make_model(SimpleNamespace(**config.model), len(training.classes))
  tx = make_optimizer(_options(config, 'optim', numbers), method.roles, max(total_steps(config, training), 1))
  return Components(method, model, tx, make_preprocess(*pixel_scale(config, training)))


def sample_of(training: Dataset, preprocess: Preprocess) -> Array:
  """Make a batch of one empty image, as networks are shown it, to initialise them with."""
  return preprocess(jnp.zeros((1, *training.image_shape), training.dtype))


class Trainer(NamedTuple):
  """What a config makes of a data set before anything is trained."""

  method: Method
  model: Any
  tx: optax.GradientTransformation
  preprocess: Preprocess
  key: Array
  state: TrainState


def initialise(config: Any, training: Dataset, mesh: jax.sharding.Mesh) -> Trainer:
  """Make the networks of a config and their initial state, on the devices."""
  parts = assemble(config, training)
  key = jax.random.key(config.seed)
  sample = sample_of(training, parts.preprocess)

  def create() -> TrainState:
    return create_state(parts.method, parts.model, parts.tx, sample, key)

  places = placement(jax.eval_shape(create), mesh, config.fsdp)
  state = jax.jit(create, out_shardings=places)()
  return Trainer(*parts, key, state)


def sizes_of(config: Any, dataset: Dataset) -> Sizes:
  """Say what a method may know of the data it is trained on, and of the network."""
  counts, mixing = dataset.group_counts(), config.model.batch_norm == 'batch'
  return Sizes(dataset.splits['train'].count, len(dataset.classes), len(dataset.groups), counts, mixing)


def make_method(config: Any, sizes: Sizes, numbers: Mapping[str, Any] = MappingProxyType({})) -> Method:
  """Build the method of a config; `numbers` as in `assemble`."""
  return METHODS[config.method.name](_options(config, 'method', numbers), sizes)


def _options(config: Any, part: str, numbers: Mapping[str, Any]) -> SimpleNamespace:
  changed = {name.removeprefix(f'{part}.'): v for name, v in numbers.items() if name.startswith(f'{part}.')}
  return SimpleNamespace(**{**config[part], **changed})
