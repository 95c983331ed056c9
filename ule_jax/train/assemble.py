"""From a config and its data to method, network, optimiser and initial state."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from ule_jax.config.schema import Config
from ule_jax.data import Dataset
from ule_jax.devices.mesh import placement
from ule_jax.methods import METHODS, Method, Sizes
from ule_jax.models import make_model
from ule_jax.models.build import Preprocess, make_preprocess, pixel_scale
from ule_jax.optim import make_optimizer
from ule_jax.train import programs, training_data
from ule_jax.train.step import TrainState, create_state

NONE: Mapping[str, Any] = MappingProxyType({})


class Components(NamedTuple):
  """The parts of a run that do not depend on its seed."""

  method: Method
  model: Any  # a Flax module whose call `(x, train)` returns `(logits, features)`
  tx: optax.GradientTransformation
  preprocess: Preprocess


class Trainer(NamedTuple):
  """The parts of a run, its key and its initial state on the devices; `identity` is that of its functions."""

  method: Method
  model: Any
  tx: optax.GradientTransformation
  preprocess: Preprocess
  key: Array
  state: TrainState
  identity: Hashable


def assemble(config: Config, training: Dataset, overrides: Mapping[str, Any] = NONE) -> Components:
  """Build the method, the network and the optimiser of a config.

  Args:
    config: of the run.
    training: the data set that is trained on.
    overrides: dotted fields of `method` and `optim` -> values in their place, which may be traced.
  """
  config = config.replace(overrides)
  method = make_method(config, sizes_of(config, training))
  model = make_model(config.model, len(training.classes))
  steps = max(training_data.total_steps(config, training), 1)
  tx = make_optimizer(config.optim, method.roles, steps)
  return Components(method, model, tx, make_preprocess(*pixel_scale(config, training)))


def sample_of(training: Dataset, preprocess: Preprocess) -> Array:
  """Return a preprocessed batch of one empty image, from which networks are initialised."""
  return preprocess(jnp.zeros((1, *training.image_shape), training.dtype))


def initialise(config: Config, training: Dataset, mesh: jax.sharding.Mesh) -> Trainer:
  """Build the components of a config and their initial state on the devices.

  Args:
    config: of the run.
    training: the data set that is trained on.
    mesh: of all devices.
  """
  identity, key = programs.identity(config, training, mesh), jax.random.key(config.seed)

  def build() -> tuple[Components, Callable[[Array], TrainState]]:
    components = assemble(config, training)
    sample = sample_of(training, components.preprocess)

    def create(key: Array) -> TrainState:  # an argument: as a constant, every seed would compile it again
      return create_state(components.method, components.model, components.tx, sample, key)

    shardings = placement(jax.eval_shape(create, key), mesh, config.fsdp)
    return components, jax.jit(create, out_shardings=shardings)

  components, create = programs.remembered(('create', identity), build)
  return Trainer(*components, key, create(key), identity)


def sizes_of(config: Config, dataset: Dataset) -> Sizes:
  """Return the facts about the training data and the network that a method may use."""
  counts, couples_examples = dataset.group_counts(), config.model.batch_norm == 'batch'
  return Sizes(dataset.splits['train'].count, len(dataset.classes), len(dataset.groups), counts, couples_examples)


def make_method(config: Config, sizes: Sizes) -> Method:
  """Build the method of a config."""
  return METHODS[config.method.name].make(config.method, sizes)
