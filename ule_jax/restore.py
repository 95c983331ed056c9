"""A finished run's folder -> its config, data and selected networks: what every verb after training starts from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from ule_jax import checkpoint, console, data, sharding, workdir
from ule_jax.check import check
from ule_jax.data import Dataset
from ule_jax.errors import UserError
from ule_jax.models import make_model
from ule_jax.train import make_preprocess


class Networks(NamedTuple):
  """The networks of a run by role, on every device."""

  params: dict[str, PyTree]
  batch_stats: dict[str, PyTree]


class Restored(NamedTuple):
  """A finished run. `model.apply` takes what `preprocess` makes of uint8 images; the last role is deployed."""

  config: ConfigDict
  results: dict[str, Any]
  dataset: Dataset
  model: nn.Module
  preprocess: Callable[[jax.Array], jax.Array]
  networks: Networks
  mesh: jax.sharding.Mesh

  @property
  def roles(self) -> tuple[str, ...]:
    return tuple(self.results['roles'])


def restore(directory: Path) -> Restored:
  """Read a finished run, load its data as it did, and restore the checkpoint that its config selects.

  Raises:
    UserError: the folder holds no finished run, its checkpoint is gone, or the data are not what they should be.
  """
  config, results = read_run(directory)
  check(config)
  options = dict(config.data)
  dataset = data.load(options.pop('name'), options, console.say)
  if list(dataset.classes) != results['classes']:
    raise UserError(f'{directory} was trained on the classes {results["classes"]}, and its data now have others.')
  model = make_model(SimpleNamespace(**config.model), len(dataset.classes))
  preprocess = make_preprocess(dataset.mean, dataset.std)
  sample = preprocess(jnp.zeros((1, *dataset.image_shape), jnp.uint8))
  # The roles are in the results: neither the method nor the optimiser has to be made again.
  one = jax.eval_shape(lambda: model.init(jax.random.key(0), sample, train=False))
  like = {part: dict.fromkeys(results['roles'], one.get(part, {})) for part in Networks._fields}
  checkpoints = directory / 'checkpoints'
  if not (checkpoints / str(results['step'])).is_dir():
    raise UserError(f'{checkpoints} has no checkpoint of step {results["step"]}, which results.json is of: restore it.')
  mesh = sharding.make_mesh()
  parts = checkpoint.read_parts(checkpoints, results['step'], like)
  return Restored(config, results, dataset, model, preprocess, Networks(**sharding.replicate(parts, mesh)), mesh)


def read_run(directory: Path) -> tuple[ConfigDict, dict[str, Any]]:
  """Read the config and the results of a finished run.

  Raises:
    UserError: there is none in the folder.
  """
  if not (directory / 'config.json').is_file():
    raise UserError(f'{directory} holds no run (no config.json): give the --workdir of one.')
  if not (directory / 'done').exists():
    raise UserError(f'{directory} holds a run that is not done: the command that started it goes on with it.')
  advice = 'the folder of the run is damaged'
  config, results = (workdir.read_json(directory / f'{name}.json', advice) for name in ('config', 'results'))
  return ConfigDict(_tuples(config)), results


def _tuples(value: Any) -> Any:
  """Turn JSON's lists into the tuples that they were in the config."""
  if isinstance(value, dict):
    return {name: _tuples(inner) for name, inner in value.items()}
  return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value
