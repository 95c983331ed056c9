"""A finished run's folder -> its config and selected networks: what every verb after training starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from ule_jax import data
from ule_jax.config.check import check
from ule_jax.data import Dataset, Preparation
from ule_jax.devices import runtime
from ule_jax.devices.mesh import make_mesh, replicate
from ule_jax.errors import UserError
from ule_jax.models import make_model
from ule_jax.models.build import headless, make_preprocess, network_and_shapes, pixel_scale
from ule_jax.models.on_encoder import OnEncoder
from ule_jax.models.pretrained import mapping
from ule_jax.runs import files, fingerprint, inputs, progress, workdir
from ule_jax.runs.checkpoints import Checkpoints
from ule_jax.runs.recorded import ADVICE, read_run


class Networks(NamedTuple):
  """The networks of a run by role, on every device."""

  params: dict[str, PyTree]
  batch_stats: dict[str, PyTree]


class Restored(NamedTuple):
  """A finished run, whose data need not be there.

  `model.apply` takes what `preprocess` makes of uint8 images, prepared as `preparation` says; it is the network from
  the image on, a frozen encoder included. The last role is deployed.
  """

  directory: Path
  config: ConfigDict
  results: dict[str, Any]
  preparation: Preparation
  model: nn.Module
  preprocess: Callable[[jax.Array], jax.Array]
  networks: Networks
  mesh: jax.sharding.Mesh

  @property
  def roles(self) -> tuple[str, ...]:
    return tuple(self.results['roles'])

  @property
  def classes(self) -> tuple[str, ...]:
    return tuple(self.results['classes'])

  @property
  def before_white(self) -> bool:
    """Whether it was recorded before there was data.white: its images may have had other pixels."""
    return workdir.lacks(self.directory, 'data.white')

  @property
  def scalar(self) -> str:
    """What the run differentiates with respect to its input; `margin` where its method does not."""
    return self.config.method.scalar if 'scalar' in self.config.method else 'margin'

  def variables(self, role: str) -> dict[str, PyTree]:
    """Return what `model.apply` needs of a role's network."""
    return {part: of[role] for part, of in self.networks._asdict().items()}

  def forward(self) -> Callable[[PyTree, jax.Array], jax.Array]:
    """Make the pure function `(variables, prepared uint8 images) -> logits`."""
    return lambda variables, image: self.model.apply(variables, self.preprocess(image), train=False)[0]

  @property
  def batch_size(self) -> int:
    """That of evaluation, made to divide over the devices that are here."""
    return -(-self.config.train.eval_batch_size // self.mesh.size) * self.mesh.size


def restore(directory: Path, host: Mapping[str, Any] | None = None) -> Restored:
  """Read a finished run and the checkpoint that its config selects.

  Weights of a frozen encoder are read from where the config says, and refused if they are others than in training.

  Args:
    host: as in `recorded.read_run`.

  Raises:
    UserError: the folder holds no finished run, or its checkpoint, or the weights of its encoder, are gone or damaged.
  """
  config, results = read_run(directory, host)
  check(config)
  runtime.require_devices()
  runtime.use_cache(config.compilation_cache, progress.say)
  preparation = data.preparation(config.data.name, config.data.to_dict())
  frozen, classes = config.model.encoder == 'frozen', len(results['classes'])
  model = make_model(SimpleNamespace(**config.model), classes)
  statistics = read_features(directory) if frozen else {}
  sample = jnp.zeros((1, len(statistics['mean'])) if frozen else (1, *preparation.image_shape))
  # The roles are in the results: neither the method nor the optimiser has to be made again.
  one = jax.eval_shape(lambda: model.init(jax.random.key(0), sample, train=False))
  like = {part: dict.fromkeys(results['roles'], one.get(part, {})) for part in Networks._fields}
  place, step = directory / 'checkpoints', results['step']
  if not (place / str(step)).is_dir():
    raise UserError(f'{place} has no checkpoint of step {step}, of which results.json has the results: restore it.')
  with closing(Checkpoints(place, ())) as checkpoints:
    networks = checkpoints.restore_parts(step, like)
  mesh = make_mesh()
  networks = replicate(networks, mesh)
  if frozen:
    model, networks = on_encoder(directory, config, preparation, model, networks, statistics, mesh)
  networks, preprocess = Networks(**networks), make_preprocess(*pixel_scale(config, preparation))
  return Restored(directory, config, results, preparation, model, preprocess, networks, mesh)


def load_data(run: Restored, force: bool = False) -> Dataset:
  """Load the data of a run as it did.

  Args:
    force: take them although they are not those that it was trained on.

  Raises:
    UserError: the data are not what they should be.
  """
  current = inputs.load_data(run.config)
  differs = fingerprint.check(run.directory, current, force, 'Restore them, or take them as they are with --force')
  if current.dataset.classes != run.classes:
    raise UserError(f'{run.directory} was trained on the classes {run.classes}, and its data now have others.')
  if differs:
    progress.say(f'warning: {run.directory} was trained on other data than these: {differs}')
  elif not fingerprint.read(run.directory):
    progress.say(f'{run.directory} was recorded without a fingerprint of its data, which are not compared')
  if run.before_white:
    data.say_changed(current.dataset, progress.say)
  return current.dataset


def on_encoder(
  directory: Path,
  config: ConfigDict,
  preparation: Preparation,
  head: nn.Module,
  heads: dict[str, PyTree],
  statistics: dict[str, Any],
  mesh: jax.sharding.Mesh,
) -> tuple[nn.Module, dict[str, PyTree]]:
  """Put heads on the frozen encoder that their features came from.

  Args:
    heads: `params` and `batch_stats` by role.
    statistics: mean and standard deviation of the features.

  Raises:
    UserError: the encoder's weights are not there, or others than in training.
  """
  encoder, template = network_and_shapes(config, 1, preparation.image_shape)
  weights = mapping.load_pretrained(config.model.weights, config.model.name, template)
  if weights.sha256 != files.read_json(directory / 'weights.json', ADVICE).get('sha256'):
    raise UserError(f'{weights.path} are other weights than those that {directory} was trained on: restore them.')
  one = replicate(headless(weights, template), mesh)  # for all roles
  model = OnEncoder(encoder, head, tuple(statistics['mean']), tuple(statistics['std']))
  parts = {
    role: {part: {'encoder': one[part], 'head': heads[part][role]} for part in heads} for role in heads['params']
  }
  return model, {part: {role: parts[role][part] for role in parts} for part in heads}


def read_features(directory: Path) -> dict[str, Any]:
  """Read mean and standard deviation of the features that the heads of a run were trained on.

  Raises:
    UserError: they are not there.
  """
  found = files.read_json(directory / 'features.json', ADVICE)
  if not all(isinstance(found.get(name), list) for name in ('mean', 'std')):
    raise UserError(f'{directory / "features.json"} has no mean and std: {ADVICE}.')
  return found
