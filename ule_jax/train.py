"""The train step and the one loop around it.

`make_train_step` is everything that is compiled: a pure function of (state, batch) for any method
and any Flax module that returns `(logits, features)`. `run` is everything that is not.
"""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from ule_jax import backend, console, data, encoder, fingerprint, hosts, inputs, models, sharding, stages, workdir
from ule_jax.check import check, check_devices
from ule_jax.checkpoint import Checkpoints
from ule_jax.data import Dataset, Preparation, decoding, files, pipeline, transforms
from ule_jax.errors import Interrupted, UserError, is_out_of_memory, out_of_memory, unknown
from ule_jax.evaluate import evaluate, make_eval_step, summary, write_arrays
from ule_jax.fingerprint import Fingerprint
from ule_jax.methods import (
  CORRECTIONS,
  LABEL_FREE,
  METHODS,
  SEPARABLE,
  Aux,
  Batch,
  Method,
  Output,
  Prepared,
  Sizes,
  labelled,
)
from ule_jax.metrics import SELECTABLE
from ule_jax.models import make_model, make_network, pretrained
from ule_jax.optim import is_trained, make_optimizer
from ule_jax.paths import local_path
from ule_jax.signals import Signals


@flax.struct.dataclass
class TrainState:
  """All that a step reads and changes. There is no key in it: a step's key is `fold_in(key, step)`."""

  step: Int[Array, '']
  params: dict[str, PyTree]
  batch_stats: dict[str, PyTree]
  opt_state: PyTree
  method_state: PyTree
  bad_step: dict[str, Int[Array, '']]  # role -> the first step that was not finite (`is_finite`), or -1


Preprocess = Callable[[Array], Float[Array, 'b *shape']]


def make_preprocess(mean, std) -> Preprocess:
  """Make the part of the step that turns uint8 pixels, or float32 features, into normalised float32.

  It is in the step because uint8 is a quarter of the traffic to the device, and normalising on the
  host costs most of its throughput.

  Args:
    mean: of pixels in [0, 1], or of features as they are; `std` likewise.
  """
  mean, std = (jnp.asarray(v, jnp.float32) for v in (mean, std))

  def preprocess(image):
    offset, scale = (jnp.broadcast_to(v, (1,) * (image.ndim - 1) + v.shape) for v in (mean, std))
    unit = image.astype(jnp.float32) / 255 if image.dtype == jnp.uint8 else image
    return (unit - offset) / scale

  return preprocess


def role_key(key: Array, role: str) -> Array:
  """Derive a role's own key, from which it is initialised and its dropout drawn."""
  return jax.random.fold_in(key, zlib.crc32(role.encode()))


def create_state(method: Method, model, tx: optax.GradientTransformation, x: Array, key: Array) -> TrainState:
  """Initialise every role's network and the optimiser.

  Args:
    model: a Flax module whose call `(x, train)` returns `(logits, features)`.
    x: a prepared batch of any size, for the shapes.
  """
  params, batch_stats = {}, {}
  for role in method.roles:
    variables = model.init(role_key(key, role), x, train=False)
    params[role], batch_stats[role] = variables['params'], variables.get('batch_stats', {})
  never = {role: jnp.asarray(-1, jnp.int32) for role in method.roles}
  return TrainState(jnp.asarray(0, jnp.int32), params, batch_stats, tx.init(params), method.init(params), never)


def make_train_step(
  method: Method,
  model,
  tx: optax.GradientTransformation,
  key: Array,
  preprocess: Preprocess = lambda x: x,
  accumulate: int = 1,
  trainable: str = '.*',
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
  """Make the pure function `(state, batch) -> (state, metrics)` that does everything of one step.

  All networks' logits, parameter gradients and input gradients come out of it, in one graph. Jit it
  with `donate_argnums=0`.

  Args:
    model: as in `create_state`.
    key: of the run; the step folds in its number.
    preprocess: from the batch's images to what the networks see.
    accumulate: parts of a batch whose gradients are computed one after the other and averaged: the numbers of the
      whole batch, but for rounding and dropout, in less memory.
    trainable: as `optim.trainable`: what `tx` changes. The other parameters' gradients are not computed.

  Raises:
    UserError: the method's loss is not the mean of those of the parts.
  """
  if accumulate > 1 and SEPARABLE not in method.properties:
    raise UserError(
      'train.accumulate needs a loss that is a mean over examples, and the method with its options has another one: '
      'set train.accumulate=1, or, for ule, method.mistakes=none or weight and method.hold_back=0.'
    )

  def step(state: TrainState, batch: Batch):
    step_key = jax.random.fold_in(key, state.step)

    def loss(params, batch: Batch, dropout_key: Array):
      def forward(role: str, x: Array, train: bool = True) -> Output:
        variables = {'params': sharding.replicated(params[role]), 'batch_stats': state.batch_stats[role]}
        rngs = {'dropout': role_key(dropout_key, role)}
        (logits, features), updated = model.apply(variables, x, train=train, mutable=['batch_stats'], rngs=rngs)
        logits, features = sharding.everyone((logits, features))
        return Output(logits, features, updated.get('batch_stats', {}))

      batch = batch._replace(image=preprocess(batch.image))
      return method.loss(params, forward, state.method_state, batch, state.step, step_key)

    whole = labelled(sharding.everyone(batch._replace(image=None)))
    batch = whole._replace(image=batch.image)
    differentiate = jax.value_and_grad(loss, has_aux=True)
    if accumulate > 1:
      differentiate = in_parts(differentiate, accumulate)
    (_, aux), gradients = differentiate(state.params, batch, step_key)
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    trained = jax.tree.map(lambda own, g: g if own else None, is_trained(trainable, state.params), gradients)
    bad_step = {
      role: jnp.where(
        (first >= 0) | is_finite(aux.losses[role], trained[role], updates[role], aux.batch_stats[role]),
        first,
        state.step,
      )
      for role, first in state.bad_step.items()
    }
    metrics = {f'loss/{role}': value for role, value in aux.losses.items()} | aux.metrics
    return TrainState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=aux.batch_stats,
      opt_state=opt_state,
      method_state=aux.method_state,
      bad_step=bad_step,
    ), metrics

  return step


def is_finite(loss: Array, gradient: PyTree, update: PyTree, batch_stats: PyTree) -> Bool[Array, '']:
  """Tell whether a step leaves a network that may be used and trained on.

  Neither of gradient and update says it for the other: an optimiser turns a gradient whose square overflows into an
  update of 0, and a finite gradient times a large rate into an infinite update.

  Args:
    gradient: of the parameters that are trained only: one that nobody asks for is not computed.
    batch_stats: running statistics, which overflow where normalised activations do not.
  """
  statistics = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(batch_stats)]
  return jnp.stack([jnp.isfinite(loss + optax.tree.norm(gradient) + optax.tree.norm(update)), *statistics]).all()


def in_parts(differentiate: Callable, parts: int) -> Callable:
  """Make `(params, batch, key) -> ((loss, aux), gradients)` go through a batch in parts, each weighed by its weights.

  A part takes every n-th example: with the batch split over devices, each of them has its share of every part.
  """

  def through(params, batch: Batch, key: Array):
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
    whole = jnp.maximum(jnp.sum(batch.weight), 1e-16)

    def one(sums, turn):
      number, part = turn
      share = jnp.sum(part.weight) / whole
      sums, own = jax.lax.optimization_barrier((sums, params))  # where unrolled: one part after the other, for memory
      (value, aux), gradients = differentiate(own, part, jax.random.fold_in(key, number))
      found = value, aux.losses, aux.metrics, gradients
      return jax.tree.map(lambda s, f: s + share * f, sums, found), (aux.batch_stats, aux.method_state)

    first = jax.tree.map(lambda x: x[0], split)
    (value, aux), gradients = jax.eval_shape(differentiate, params, first, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (value, aux.losses, aux.metrics, gradients))
    unroll = jax.default_backend() == 'cpu'  # whose compiler has no fast convolutions in a loop: 20 times slower
    (value, losses, metrics, gradients), kept = jax.lax.scan(one, zeros, (jnp.arange(parts), split), unroll=unroll)
    batch_stats, method_state = jax.tree.map(lambda x: x[-1], kept)  # the same in every part
    return (value, Aux(losses, batch_stats, method_state, metrics)), gradients

  return through


def run(config: Any, directory: Path, force: bool = False) -> dict[str, Any]:
  """Train, evaluate and write the results of one config; go on where an earlier run stopped.

  Args:
    config: a ConfigDict of configs/base.py.
    directory: the workdir.
    force: go on although the workdir's config, data or weights differ.

  Returns:
    The content of results.json.

  Raises:
    UserError: bad options, bad data, a loss that is not finite, or a workdir that is not this run's to write.
    Interrupted: SIGTERM or SIGINT came; what was trained is saved.
  """
  try:
    with Signals(shared=hosts.several()) as signals:
      return _run(config, local_path(directory, '--workdir'), force, signals)
  except Exception as error:
    if not is_out_of_memory(error) or isinstance(error, UserError):
      raise
    raise out_of_memory(error, less_memory(config)) from None


def less_memory(config: Any) -> str:
  """Say what makes a config fit into less memory."""
  train = config.train
  return (
    f'lower train.batch_size ({train.batch_size}) or train.eval_batch_size ({train.eval_batch_size}), raise '
    f'train.accumulate ({train.accumulate}), or set model.remat=True (for resnets and vits); the last '
    'checkpoint stands'
  )


def _run(
  config: Any, directory: Path, force: bool, signals: Signals, current: Fingerprint | None = None
) -> dict[str, Any]:
  """Do what `run` says; `current` has the data if they were loaded for another run already."""
  check(config)
  backend.require_devices()
  check_devices(config)
  backend.use_cache(config.compilation_cache, console.say)
  current = current or inputs.load_data(config)
  dataset = current.dataset
  training = stages.training(config, dataset, Prepared())
  examples, steps = training.splits['train'].count, total_steps(config, training)
  # Not under a lock: several second runs may look at one first run that is done.
  unchanged = workdir.compare(directory, config.to_dict(), force, examples)
  differs = [inputs.compare_inputs(config, directory, current, force)]
  rules = selection_rules(dataset, config.select, trains_student(config, dataset))
  if config.first.prepare == 'none':
    refuse_empty_groups(config, dataset)
  if hosts.is_first() and workdir.lacks(directory, 'data.white'):
    data.say_changed(dataset, console.say)
  if hosts.agree(unchanged and not any(differs) and is_finished(config, directory, steps)):
    inputs.say_finished(directory, current)
    return workdir.read_json(directory / 'results.json')
  refuse_fewer_steps(config, directory, steps)
  with contextlib.ExitStack() as stack:
    reopen = partial(set_results_aside, config, directory, examples, any(differs) or not unchanged)
    if hosts.is_first():
      before = workdir.recorded_steps(directory, examples)
      stack.enter_context(workdir.owned(directory, config.to_dict(), force, examples, console.say))
      if stages.is_fit(config):
        reopen(before)
        shutil.rmtree(directory / 'checkpoints', ignore_errors=True)
    hosts.wait('the workdir is ours')
    if not (directory / 'config.json').exists():
      raise UserError(f'{directory} is not the folder that the first host has: give a --workdir that all hosts see.')
    with contextlib.closing(Checkpoints(directory / 'checkpoints', rules, config.checkpoint.keep)) as checkpoints:
      begin, prepared = lambda state: state, Prepared()
      if checkpoints.latest is None and config.first.prepare == 'none':
        data.check_images(dataset, config.data, console.say, sampled=config.model.encoder == 'frozen')
      code = feature_code() if config.model.encoder == 'frozen' else ''
      if checkpoints.latest is None or config.model.encoder == 'frozen':
        dataset, begin, other = start_from_weights(config, directory, current, force)
        differs.append(other)
      if config.first.prepare != 'none':
        first, prepared = run_first(config, directory, dataset, force, signals, current)
        differs.append(inputs.compare_first(directory, prepared, force))
        if prepared.head is not None:
          begin = partial(with_head, first=first, head=prepared.head)
      inputs.record_inputs(directory, current, '; '.join(filter(None, differs)), code, prepared)
      if hosts.is_first() and not stages.is_fit(config):
        reopen(before)
      training = stages.training(config, dataset, prepared)
      return _train(config, directory, dataset, training, prepared, begin, checkpoints, signals)


@functools.cache
def feature_code() -> str:
  """Make the digest of the code that the features of a frozen encoder depend on."""
  return fingerprint.code(models, decoding, transforms, files, encoder, make_preprocess)


def is_finished(config: Any, directory: Path, steps: int) -> bool:
  """Tell whether a run has its results; a fit is as long as its first run, and fitted again, which takes seconds."""
  if stages.is_fit(config) or not (directory / 'done').exists():
    return False
  return workdir.read_json(directory / 'results.json')['last']['step'] == steps


def refuse_fewer_steps(config: Any, directory: Path, steps: int) -> None:
  """Refuse to go on to a step that is behind, before anything is touched.

  Raises:
    UserError: says where the run stands.
  """
  if not stages.is_fit(config) and (latest := workdir.latest_step(directory)) > steps:
    raise UserError(
      f'{directory} has a checkpoint of step {latest}, beyond the {steps} steps asked for: '
      'raise train.steps, or choose another --workdir.'
    )


def set_results_aside(config: Any, directory: Path, examples: int, forced: bool, before: int) -> None:
  """Make a finished run an unfinished one, whose results stay under another name.

  Args:
    before: steps that its config asked for; those of a fit are its first run's.
    forced: whether it goes on with other data or another config.
  """
  if not (directory / 'done').exists():
    return
  step = workdir.read_json(directory / 'results.json')['last']['step'] or before
  after = workdir.total_steps(workdir.flatten(config.to_dict()), examples)
  (directory / 'done').unlink()
  if forced or step != after:
    kept = ' and '.join(workdir.set_aside(directory, step))
    console.say(f'{directory} was done at step {step:,}: its results are kept as {kept}; going on to step {after:,}')


class Parts(NamedTuple):
  """What a config makes of a data set, without a seed."""

  method: Method
  model: Any
  tx: optax.GradientTransformation
  preprocess: Preprocess


def assemble(config: Any, training: Dataset, numbers: Mapping[str, Any] = MappingProxyType({})) -> Parts:
  """Make the method, the network and the optimiser of a config.

  Args:
    numbers: fields of `method` and `optim`, dotted, and what stands in their place; these may be traced.
  """
  method = make_method(config, sizes_of(config, training), numbers)
  model = make_model(SimpleNamespace(**config.model), len(training.classes))
  tx = make_optimizer(_options(config, 'optim', numbers), method.roles, max(total_steps(config, training), 1))
  return Parts(method, model, tx, make_preprocess(*pixel_scale(config, training)))


def sample_of(training: Dataset, preprocess: Preprocess) -> Array:
  """Make a batch of one empty image, as networks are shown it, to initialise them with."""
  return preprocess(jnp.zeros((1, *training.image_shape), training.dtype))


class Built(NamedTuple):
  """What a config makes of a data set before anything is trained."""

  method: Method
  model: Any
  tx: optax.GradientTransformation
  preprocess: Preprocess
  key: Array
  state: TrainState


def build(config: Any, training: Dataset, mesh: jax.sharding.Mesh) -> Built:
  """Make the networks of a config and their initial state, on the devices."""
  parts = assemble(config, training)
  key = jax.random.key(config.seed)
  sample = sample_of(training, parts.preprocess)

  def create() -> TrainState:
    return create_state(parts.method, parts.model, parts.tx, sample, key)

  places = sharding.placement(jax.eval_shape(create), mesh, config.fsdp)
  state = jax.jit(create, out_shardings=places)()
  return Built(*parts, key, state)


def pixel_scale(config: Any, dataset: Dataset | Preparation) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Return the mean and standard deviation that images are normalised with: what weights expect, or the data say.

  Features of a frozen encoder were made of such images, and have their own.
  """
  wanted = config.model.pixels
  if wanted == 'default' and config.model.weights == 'default':
    _, wanted = pretrained.default(config.model.name)
  if wanted == 'default' or dataset.dtype != np.uint8:
    return dataset.mean, dataset.std
  return pretrained.PIXELS[wanted]


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
  dataset = encode(config, current, weights)
  with hosts.together('comparing the features'):
    differs = differs or inputs.compare_features(directory, dataset, feature_code(), force)
  # For who has the run and not its data: heads are trained on standardised features.
  if hosts.is_first():
    workdir.write_json(directory / 'features.json', {'mean': dataset.mean, 'std': dataset.std})
  return dataset, lambda state: state, differs


def load_weights(config: Any, dataset: Dataset, directory: Path, force: bool) -> tuple[pretrained.Pretrained, str]:
  """Read `model.weights` for the config's network; weights.json says what became of each tensor.

  Returns:
    The weights, and how they differ from those of the run, which `force` allows.

  Raises:
    UserError: they are not there, do not fit, or are not those that the run began with.
  """
  _, template = network_and_shapes(config, len(dataset.classes), dataset.image_shape)
  found = pretrained.load(config.model.weights, config.model.name, template, config.model.keep_head)
  rows = {row.theirs: list(row.ours) or row.note for row in found.rows}
  with hosts.together('comparing the weights'):
    differs = inputs.compare_weights(directory, found.path, found.sha256, force)
  about = {'source': config.model.weights, 'file': found.path.name, 'sha256': found.sha256, 'layout': found.flavour}
  about |= {'revision': found.revision, 'network': found.place}
  if found.note:
    console.say(found.note)
  if hosts.is_first():
    workdir.write_json(directory / 'weights.json', about | {'tensors': rows})
  return found, differs


def encode(config: Any, current: Fingerprint, weights: pretrained.Pretrained) -> Dataset:
  """Replace images by what the config's frozen encoder makes of them, from the cache where they are in it.

  Raises:
    UserError: an image cannot be read, or the cache cannot be written.
  """
  dataset = current.dataset
  scale, mesh = pixel_scale(config, dataset), sharding.local_mesh()
  preprocess = make_preprocess(*scale)
  network, template = network_and_shapes(config, len(dataset.classes), dataset.image_shape)
  variables = sharding.replicate(headless(weights, template), mesh)
  apply = jax.jit(lambda variables, image: network.apply(variables, preprocess(image), train=False)[1])
  with hosts.first_before_others('features'):  # who find them in the cache, if it is one for all
    return encoder.encode(
      dataset,
      lambda image: apply(variables, sharding.shard_batch(image, mesh)),
      encoder=f'{weights.sha256} {config.model.name} {config.model.precision} {scale} {feature_code()}',
      contents={name: current.content(name)['content'] for name in dataset.splits},
      cache=local_path(config.model.feature_cache or backend.user_cache() / 'features', 'model.feature_cache'),
      batch_size=config.train.eval_batch_size,
      threads=config.loader.threads,
      say=console.say,
    )


def network_and_shapes(config: Any, classes: int, image_shape: tuple[int, ...]) -> tuple[Any, PyTree]:
  """Make the network from the image on, and the shapes of its parameters and statistics."""
  network = make_network(SimpleNamespace(**config.model), classes)
  sample = jnp.zeros((1, *image_shape))
  return network, jax.eval_shape(lambda: network.init(jax.random.key(0), sample, train=False))


def headless(weights: pretrained.Pretrained, template: PyTree) -> PyTree:
  """Make the variables of a network of which only the features are used: its last layer is zero."""
  unused = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template['params']['head'])
  return {'params': weights.params | {'head': unused}, 'batch_stats': weights.batch_stats}


def run_first(
  config: Any, directory: Path, dataset: Dataset, force: bool, signals: Signals, current: Fingerprint
) -> tuple[TrainState, Prepared]:
  """Do the first of two runs, or find it done; return its last state and what it gives to the second.

  Raises:
    UserError: as `run`; or its predictions are of no use to the method.
    Interrupted: as `run`.
  """
  stages.check_first(config, dataset)
  first = stages.first_config(config)
  place = local_path(config.first.workdir or directory / 'first', 'first.workdir')
  console.say(f'first run of {config.method.name}, in {place}:')
  last = _run(first, place, force, signals, current)['last']['step']
  mesh = sharding.make_mesh()
  state = build(first, stages.training(first, dataset, Prepared()), mesh).state
  with contextlib.closing(Checkpoints(place / 'checkpoints', selection_rules(dataset, 'last', False))) as checkpoints:
    if last not in checkpoints.steps:
      raise UserError(f'{place} has no checkpoint of the first run: remove that folder, to run it again.')
    state = checkpoints.restore(last, state)
  prepared = stages.prepare(config, dataset, place, sharding.replicate(state.params['model']['head'], mesh))
  for message in prepared.messages:
    console.say(message)
  return state, prepared


def _train(
  config: Any,
  directory: Path,
  dataset: Dataset,
  training: Dataset,
  prepared: Prepared,
  begin: Callable[[TrainState], TrainState],
  checkpoints: Checkpoints,
  signals: Signals,
) -> dict[str, Any]:
  mesh = sharding.make_mesh()
  correction, before = CORRECTIONS.get(config.method.name, ''), workdir.recorded_correction(directory)
  if hosts.is_first():
    environment = workdir.environment(backend.describe()) | {'correction': correction}
    workdir.write_json(directory / 'env.json', environment)
  train = training.splits['train']
  steps, batch_size = total_steps(config, training), config.train.batch_size
  method, model, tx, preprocess, key, state = build(config, training, mesh)
  step = make_train_step(method, model, tx, key, preprocess, config.train.accumulate, config.optim.trainable)
  places = jax.tree.map(lambda leaf: leaf.sharding, state)
  train_step = sharding.compile_step(step, mesh, config.parallel, places)
  eval_step = make_eval_step(model, preprocess, method.roles, len(dataset.groups), mesh)

  first, state = checkpoints.restore_newest(begin(state), console.say)
  if first > steps:
    raise UserError(
      f'{directory} has a checkpoint of step {first}, beyond the {steps} steps asked for: '
      'raise train.steps, or choose another --workdir.'
    )
  if first and correction != before:
    console.say(
      f'warning: the loss of {config.method.name} was corrected since this run began ({correction}); it goes on with '
      'the corrected one: for one loss in all steps, choose another --workdir.'
    )
  progress = console.Progress(steps, first, batch_size)
  console.say(
    f'{config.method.name} on {config.data.name}: {train.count:,} training examples, {steps:,} steps of {batch_size}, '
    f'seed {config.seed}, {jax.device_count()} x {jax.devices()[0].platform}, in {directory}'
    + (f', from step {first:,}' if first else '')
  )

  def run_split(split: str, state: TrainState, collect: bool = False):
    batches = pipeline.eval_batches(
      dataset, split, batch_size=config.train.eval_batch_size, threads=config.loader.threads, **hosts.which()
    )
    where = f'{split} at step {int(state.step):,}'
    return evaluate(eval_step, state, signals.heeded(batches), mesh, collect, where)

  def validate() -> dict[str, float]:
    """Score the state on the validation splits; nothing if a signal comes: what was trained is worth saving first."""
    scores = {}
    try:
      for split in filter(is_validation, dataset.splits):
        for role, counts in run_split(split, state).counts.items():
          prefix = '' if role == method.roles[-1] else f'{role}/'
          found = summary(counts, dataset)
          scores |= {f'{prefix}{split}/{m}': found[m] for m in SELECTABLE if found[m] is not None}
    except Interrupted:
      return {}
    return scores

  def report(pending) -> None:
    """Fetch and log the metrics of a step; called when a later step is already on its way."""
    number, metrics = pending
    if not all(math.isfinite(value) for value in jax.device_get(metrics).values()):
      refuse_bad(state, checkpoints)
    values = {f'train/{name}': float(value) for name, value in metrics.items()}
    shown = {name.removeprefix('train/'): value for name, value in values.items() if 'loss/' in name}
    rate = progress.report(number, shown)
    log.write(number, values | ({'train/examples_per_second': rate} if math.isfinite(rate) else {}))

  batches = pipeline.train_batches(
    training,
    batch_size=batch_size,
    seed=config.seed,
    sampling=config.train.sampling,
    start=first,
    threads=config.loader.threads,
    workers=config.loader.workers,
    lost=signals.ask,
    **hosts.which(),
  )
  # Do not reorder: evaluate the state you have -> save it (its step is the data position) -> next batch ->
  # step -> log the previous step's metrics. A checkpoint then always has its own metrics, and a
  # resumed run sees the batch that the interrupted one would have seen. A signal is looked at between two
  # steps: the state is then saved as it is, and evaluated, where that is due, by the run that goes on.
  log = workdir.MetricsLog(directory, first) if hosts.is_first() else workdir.NoLog()
  with contextlib.closing(log), contextlib.closing(batches), signals.deferred():
    pending = None
    # The untrained network is no candidate, unless its last layer was fitted.
    settled = checkpoints.scored(first) if first else prepared.head is None
    for number in range(first, steps + 1):
      signals.asked = signals.asked or hosts.preempted(number)
      due = (number % config.train.eval_every == 0 or number == steps) and not (number == first and settled)
      if due or (signals.asked and number != first):
        if pending:
          report(pending)
          pending = None
        refuse_bad(state, checkpoints)
        if scores := validate() if due else {}:
          log.write(number, scores)
        checkpoints.save(number, state, {rule: scores[rule] for rule in checkpoints.rules if scores})
      if signals.asked:
        checkpoints.wait()
        raise Interrupted(f'{signals.asked} at step {number:,} of {steps:,}; resumable by the same command.')
      if number == steps:
        break
      state, metrics = train_step(state, Batch(**next(batches)))
      if number == first:
        jax.block_until_ready(metrics)
        progress.begin(number + 1)
      if pending:
        report(pending)
        pending = None
      if (number + 1) % config.train.log_every == 0 or number + 1 == steps:
        pending = (number + 1, metrics)

  results = heading(config, dataset, method, prepared) | inputs.forced_changes(directory)
  results |= conclude(config, directory, dataset, checkpoints, state, method.roles, run_split)
  if hosts.is_first():
    workdir.write_json(directory / 'results.json', results)
    (directory / 'done').touch()
  hosts.wait('the results are written')
  return results


def conclude(config, directory, dataset, checkpoints, state, roles, run_split) -> dict[str, Any]:
  """Evaluate the last and every selected checkpoint; write the predictions of the one that is deployed."""
  best = checkpoints.best()
  chosen = int(state.step) if config.select == 'last' else best[config.select]

  def at(step: int) -> dict[str, Any]:
    """Evaluate the checkpoint of a step: role -> split -> metrics."""
    restored = state if step == int(state.step) else checkpoints.restore(step, state)
    found: dict[str, Any] = {role: {} for role in roles}
    for split in dataset.splits:
      if split == 'train' and step != chosen:
        continue
      evaluation = run_split(split, restored, collect=step == chosen)
      if step == chosen and hosts.is_first():
        write_arrays(directory / 'predictions' / f'{split}.npz', evaluation.predictions)
      for role in roles:
        found[role][split] = summary(evaluation.counts[role], dataset)
    return found

  found = {step: at(step) for step in sorted({*best.values(), int(state.step)})}

  return arrange(found, best, chosen, int(state.step), dataset)


def heading(config: Any, dataset: Dataset, method: Method, prepared: Prepared) -> dict[str, Any]:
  """Say in results.json what was run on what."""
  return {
    'method': config.method.name,
    'dataset': config.data.name,
    'seed': config.seed,
    'select': config.select,
    'sampling': config.train.sampling,
    'needs_groups': needs_groups(config, method, prepared),
    'first': {'prepare': config.first.prepare, **prepared.notes},
    'data': dict(dataset.notes),
    'model': config.model.name,
    'classes': list(dataset.classes),
    'groups': list(dataset.groups),
    'titles': dict(dataset.titles),
  }


def arrange(
  found: dict[int, dict[str, dict[str, Any]]], best: dict[str, int], chosen: int, last: int, dataset: Dataset
) -> dict[str, Any]:
  """Lay out the metrics of a run as results.json has them.

  Args:
    found: step -> role -> split -> metrics; roles in their order, the last is deployed; `train` at the chosen step.
    best: rule -> the step that it selects.
    chosen: the step that the config selects; `last` is that of the last state.
  """

  def entry(step: int, role: str) -> dict[str, Any]:
    return {'step': step, **{s: found[step][role][s] for s in dataset.splits if s != 'train'}}

  roles = list(found[chosen])
  deployed = roles[-1]
  return {
    **entry(chosen, deployed),
    'train': found[chosen][deployed]['train'],
    'selected': {rule: entry(step, deployed) for rule, step in best.items()},
    'last': entry(last, deployed),
    'roles': {role: entry(chosen, role) for role in roles},
  }


def is_validation(split: str) -> bool:
  """Tell whether a split may select a checkpoint: `val`, or `val_<something>`."""
  return split == 'val' or split.startswith('val_')


def trains_student(config: Any, dataset: Dataset) -> bool:
  """Tell whether a method trains a network beside the one that it deploys."""
  return len(make_method(config, sizes_of(config, dataset)).roles) > 1


def selection_rules(dataset: Dataset, wanted: str, student: bool) -> tuple[str, ...]:
  """Name the rules by which a checkpoint can be selected, `<validation split>/<metric>`, as far as labels allow.

  Args:
    wanted: the rule that the config selects by; `last` is the last step.
    student: whether there is one to compare with.

  Raises:
    UserError: `wanted` is not one of them; says why.
  """
  rules, refused = [], {}
  for name, split in dataset.splits.items():
    if not is_validation(name):
      continue
    unlabelled = int((split.group < 0).sum())
    unseen = np.flatnonzero((dataset.group_counts() > 0) & (dataset.group_counts(name) == 0))
    reason = ''
    if unlabelled:
      reason = f'{unlabelled} examples of {name} have no group'
    elif len(unseen):
      reason = f'{name} has no example of the group {dataset.groups[unseen[0]]!r}'
    for metric in SELECTABLE:
      if 'group' in metric and reason:
        refused[f'{name}/{metric}'] = reason
      elif 'mistake' in metric and not student:
        refused[f'{name}/{metric}'] = 'the method trains no student'
      else:
        rules.append(f'{name}/{metric}')
  if wanted in refused:
    raise UserError(f'select {wanted} is not possible, as {refused[wanted]}: choose one of {", ".join(rules)}.')
  if wanted not in (*rules, 'last'):
    raise unknown('selection rule', wanted, [*rules, 'last'])
  return tuple(rules)


def refuse_empty_groups(config: Any, dataset: Dataset) -> None:
  """Refuse to balance over groups where train lacks one that validation has.

  Raises:
    UserError: names the group.
  """
  if not config.train.sampling.startswith('group'):
    return
  for name in filter(is_validation, dataset.splits):
    lacking = np.flatnonzero((dataset.group_counts(name) > 0) & (dataset.group_counts() == 0))
    if len(lacking):
      raise UserError(
        f'train.sampling is {config.train.sampling}, but train has no example of the group '
        f'{dataset.groups[lacking[0]]!r}, which {name} has: add some, or use class_balanced.'
      )


def total_steps(config: Any, dataset: Dataset) -> int:
  """Convert `train.epochs` to steps where `train.steps` is 0; a fitted last layer takes none."""
  if stages.is_fit(config):
    return 0
  return workdir.total_steps(workdir.flatten(config.to_dict()), dataset.splits['train'].count)


def needs_groups(config: Any, method: Method, prepared: Prepared) -> dict[str, bool]:
  """Tell where group labels were used: in training, and in validation by the selection rule or the method."""
  fits_on_train = config.first.prepare == 'dfr' and config.first.dfr.split == 'train'
  uses = config.train.sampling.startswith('group') or LABEL_FREE not in method.properties
  return {
    'train': (uses and prepared.group is None) or fits_on_train,
    'validation': 'group' in config.select or (config.first.prepare == 'dfr' and not fits_on_train),
  }


def with_head(state: TrainState, first: TrainState, head: tuple[np.ndarray, np.ndarray]) -> TrainState:
  """Take a first run's network, with another last layer."""
  params = dict(first.params['model'])
  params['head'] = _placed(dict(zip(('kernel', 'bias'), head, strict=True)), params['head'])
  return state.replace(params={'model': params}, batch_stats=first.batch_stats)


def with_weights(state: TrainState, weights: pretrained.Pretrained) -> TrainState:
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


def refuse_bad(state: TrainState, checkpoints: Checkpoints) -> None:
  """End the run if a loss, a gradient, an update or a statistic was not finite at any step so far.

  Raises:
    UserError: names the step, the role and the last good checkpoint.
  """
  for role, first in jax.device_get(state.bad_step).items():
    if first >= 0:
      good = checkpoints.latest
      kept = 'there is no good checkpoint' if good is None else f'the last good checkpoint is step {good}'
      raise UserError(
        f'the loss, the gradient or the update of {role} is not finite at step {first}; {kept}: '
        'lower optim.lr or method.weight, or set optim.clip.'
      )
