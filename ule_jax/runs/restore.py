"""The networks of a finished run, for the verbs after training and for the second run of two stages."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ule_jax import data
from ule_jax.config.schema import Config
from ule_jax.config.validate import validate_config
from ule_jax.data import Dataset, InputSpec, embeddings
from ule_jax.devices import runtime
from ule_jax.devices.mesh import make_mesh, replicate
from ule_jax.errors import UserError
from ule_jax.models import make_model
from ule_jax.models.build import headless, make_preprocess, network_and_shapes, pixel_scale
from ule_jax.models.on_encoder import OnEncoder
from ule_jax.models.pretrained import mapping
from ule_jax.runs import files, fingerprint, inputs, workdir
from ule_jax.runs.checkpoints import Checkpoints
from ule_jax.runs.recorded import ADVICE, FinishedRun, read_run

log = logging.getLogger(__name__)


class Networks(NamedTuple):
  """Parameters and running statistics of the networks of a run, each by role."""

  params: dict[str, PyTree]
  batch_stats: dict[str, PyTree]


@dataclasses.dataclass(frozen=True, eq=False)
class Restored(FinishedRun):
  """A finished run with its networks on every device.

  Attributes:
    config: complete, with the fields of HOST_BOUND as they are on this host.
    input_spec: from image files to the uint8 images that `preprocess` takes, or the contract of features.
    model: the network from the preprocessed image on, a frozen encoder included.
    preprocess: uint8 images -> the input of `model`.
    networks: at the deployed step; the last role is deployed.
    mesh: of all devices.
  """

  config: Config
  input_spec: InputSpec
  model: nn.Module
  preprocess: Callable[[jax.Array], jax.Array]
  networks: Networks
  mesh: jax.sharding.Mesh

  @property
  def before_white(self) -> bool:
    """Whether the run was recorded before there was data.white: its images may have had other pixels."""
    return workdir.lacks(self.directory, 'data.white')

  @property
  def scalar(self) -> str:
    """The scalar whose input gradient the method takes; `margin` where it takes none."""
    return getattr(self.config.method, 'scalar', 'margin')

  def variables(self, role: str) -> dict[str, PyTree]:
    """Return the variables of a role's network, as `model.apply` takes them."""
    return {part: networks[role] for part, networks in self.networks._asdict().items()}

  def forward(self) -> Callable[[PyTree, jax.Array], jax.Array]:
    """Return the pure function `(variables, uint8 images [b h w c]) -> logits [b k]`."""
    return lambda variables, image: self.model.apply(variables, self.preprocess(image), train=False)[0]

  @property
  def batch_size(self) -> int:
    """The batch size of evaluation, rounded up to a multiple of the number of devices."""
    return -(-self.config.train.eval_batch_size // self.mesh.size) * self.mesh.size


def restore(directory: Path, threads: int = 2, compilation_cache: str = 'default') -> Restored:
  """Return a finished run with the networks of the checkpoint that its config selects.

  The weights of a frozen encoder are read from the path in the config.

  Args:
    directory: of the run.
    threads, compilation_cache: of this host, as in `recorded.read_run`.

  Raises:
    UserError: the folder holds no finished run, its checkpoint or the weights of its encoder are missing or damaged,
      or those weights differ from the ones in training.
  """
  config, results = read_run(directory, threads, compilation_cache)
  validate_config(config)
  runtime.require_devices()
  runtime.use_cache(config.compilation_cache)
  frozen, on_features = config.model.encoder == 'frozen', data.holds_features(config.data.name)
  statistics = read_features(directory) if frozen or on_features else {}
  if on_features:
    input_spec = embeddings.recorded_spec(statistics['mean'], statistics['std'])
  else:
    input_spec = data.input_spec(config.data.name, config.data)
  shape = (len(statistics['mean']),) if frozen else input_spec.image_shape
  folder, step = directory / 'checkpoints', results.step
  if not (folder / str(step)).is_dir():
    raise UserError(f'{folder} has no checkpoint of step {step}, of which results.json has the results: restore it.')
  model = make_model(config.model, len(results.classes))
  mesh = make_mesh()
  networks = replicate(read_networks(directory, model, shape, results.roles, step), mesh)
  if frozen:
    model, networks = on_encoder(directory, config, input_spec, model, networks, statistics, mesh)
  return Restored(
    name=directory.name,
    directory=directory,
    fields=config.flat(),
    results=results,
    config=config,
    input_spec=input_spec,
    model=model,
    preprocess=make_preprocess(*pixel_scale(config, input_spec)),
    networks=networks,
    mesh=mesh,
  )


def read_networks(
  directory: Path, model: nn.Module, shape: tuple[int, ...], roles: tuple[str, ...], step: int
) -> Networks:
  """Read the networks of a checkpoint as NumPy arrays; neither the method nor the optimiser has to be built.

  Args:
    directory: of the run.
    model: the network of each role; of a run on a frozen encoder its head.
    shape: of one input.
    roles: whose networks the checkpoint holds.
    step: of the checkpoint.

  Raises:
    UserError: the checkpoint is damaged, or of other networks.
  """
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False))
  like = {part: dict.fromkeys(roles, variables.get(part, {})) for part in Networks._fields}
  with closing(Checkpoints(directory / 'checkpoints', ())) as checkpoints:
    return Networks(**checkpoints.restore_parts(step, like))


def load_data(run: Restored, force: bool = False) -> Dataset:
  """Load the data of a run as the run did.

  Args:
    run: whose config names the data.
    force: return them although they differ from those that it was trained on.

  Raises:
    UserError: they cannot be loaded, or differ.
  """
  current = inputs.load_data(run.config)
  differs = fingerprint.check(run.directory, current, force, 'Restore them, or take them as they are with --force')
  if current.dataset.classes != run.classes:
    raise UserError(f'{run.directory} was trained on the classes {run.classes}, and its data now have others.')
  if differs:
    log.warning(f'{run.directory} was trained on other data than these: {differs}')
  elif not run.data:
    log.info(f'{run.directory} was recorded without a fingerprint of its data, which are not compared')
  if run.before_white:
    data.warn_of_changed_pixels(current.dataset)
  return current.dataset


def on_encoder(
  directory: Path,
  config: Config,
  input_spec: InputSpec,
  head: nn.Module,
  heads: Networks,
  statistics: dict[str, Any],
  mesh: jax.sharding.Mesh,
) -> tuple[nn.Module, Networks]:
  """Return a network of frozen encoder and head, and its variables on every device.

  Args:
    directory: of the run.
    config: of the run.
    input_spec: of its images.
    head: the network that was trained on features.
    heads: its variables by role.
    statistics: `mean` and `std` of the features, by which they were standardised.
    mesh: of all devices.

  Raises:
    UserError: the encoder's weights are missing, or differ from those in training.
  """
  encoder, template = network_and_shapes(config, 1, input_spec.image_shape)
  weights = mapping.load_pretrained(config.model.weights, config.model.name, template)
  if weights.sha256 != files.read_json(directory / 'weights.json', ADVICE).get('sha256'):
    raise UserError(f'{weights.path} are other weights than those that {directory} was trained on: restore them.')
  variables = replicate(headless(weights, template), mesh)  # one copy for all roles

  def joined(part: str, of_heads: dict[str, PyTree]) -> dict[str, PyTree]:
    return {role: {'encoder': variables[part], 'head': of_heads[role]} for role in of_heads}

  model = OnEncoder(encoder, head, tuple(statistics['mean']), tuple(statistics['std']))
  return model, Networks(**{part: joined(part, of_heads) for part, of_heads in heads._asdict().items()})


def read_features(directory: Path) -> dict[str, Any]:
  """Return `mean` and `std`, by which the features of a run's frozen encoder were standardised.

  Raises:
    UserError: features.json is missing or damaged.
  """
  statistics = files.read_json(directory / 'features.json', ADVICE)
  if not all(isinstance(statistics.get(name), list) for name in ('mean', 'std')):
    raise UserError(f'{directory / "features.json"} has no mean and std: {ADVICE}.')
  return statistics
