"""The train step and the one loop around it.

`make_train_step` is everything that is compiled: a pure function of (state, batch) for any method
and any Flax module that returns `(logits, features)`. `run` is everything that is not.
"""

from __future__ import annotations

import math
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from ule_jax import console, data, sharding, stages, workdir
from ule_jax.check import check
from ule_jax.checkpoint import Checkpoints
from ule_jax.data import Dataset, pipeline
from ule_jax.errors import UserError, unknown
from ule_jax.evaluate import evaluate, make_eval_step, summary, write_arrays
from ule_jax.methods import LABEL_FREE, METHODS, Batch, Method, Output, Prepared, Sizes
from ule_jax.metrics import SELECTABLE
from ule_jax.models import make_model
from ule_jax.optim import make_optimizer


@flax.struct.dataclass
class TrainState:
  """All that a step reads and changes. There is no key in it: a step's key is `fold_in(key, step)`."""

  step: Int[Array, '']
  params: dict[str, PyTree]
  batch_stats: dict[str, PyTree]
  opt_state: PyTree
  method_state: PyTree
  bad_step: dict[str, Int[Array, '']]  # role -> the first step whose loss or gradient was not finite, or -1


Preprocess = Callable[[Array], Float[Array, 'b *shape']]


def make_preprocess(mean, std) -> Preprocess:
  """Make the part of the step that turns uint8 pixels into normalised float32.

  It is in the step because uint8 is a quarter of the traffic to the device, and normalising on the
  host costs most of its throughput.
  """
  mean, std = (jnp.asarray(v, jnp.float32) for v in (mean, std))

  def preprocess(image):
    offset, scale = (jnp.broadcast_to(v, (1,) * (image.ndim - 1) + v.shape) for v in (mean, std))
    return (image.astype(jnp.float32) / 255 - offset) / scale

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
  method: Method, model, tx: optax.GradientTransformation, key: Array, preprocess: Preprocess = lambda x: x
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
  """Make the pure function `(state, batch) -> (state, metrics)` that does everything of one step.

  All networks' logits, parameter gradients and input gradients come out of it, in one graph. Jit it
  with `donate_argnums=0`.

  Args:
    model: as in `create_state`.
    key: of the run; the step folds in its number.
    preprocess: from the batch's images to what the networks see.
  """

  def step(state: TrainState, batch: Batch):
    step_key = jax.random.fold_in(key, state.step)
    batch = batch._replace(image=preprocess(batch.image))

    def loss(params):
      def forward(role: str, x: Array, train: bool = True) -> Output:
        variables = {'params': params[role], 'batch_stats': state.batch_stats[role]}
        rngs = {'dropout': role_key(step_key, role)}
        (logits, features), updated = model.apply(variables, x, train=train, mutable=['batch_stats'], rngs=rngs)
        return Output(logits, features, updated.get('batch_stats', {}))

      return method.loss(params, forward, state.method_state, batch, state.step, step_key)

    (_, aux), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    bad_step = {
      role: jnp.where(
        (first < 0) & ~jnp.isfinite(aux.losses[role] + optax.tree.norm(gradients[role])), state.step, first
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


def run(config: Any, directory: Path, force: bool = False) -> dict[str, Any]:
  """Train, evaluate and write the results of one config; go on where an earlier run stopped.

  Args:
    config: a ConfigDict of configs/base.py.
    directory: the workdir.
    force: go on although the workdir's config differs.

  Returns:
    The content of results.json.

  Raises:
    UserError: bad options, bad data, or a loss that is not finite.
  """
  check(config)
  options = dict(config.data)
  dataset = data.load(options.pop('name'), options, console.say)
  rules = selection_rules(dataset, config.select)
  if config.first.prepare == 'none':
    refuse_empty_groups(config, dataset)
  directory = Path(directory)
  unchanged = workdir.claim(directory, config.to_dict(), force)
  # The length of a fit is that of its first run: it is fitted again, which takes seconds.
  if stages.is_fit(config):
    shutil.rmtree(directory / 'checkpoints', ignore_errors=True)
  elif unchanged and (directory / 'done').exists():
    results = workdir.read_json(directory / 'results.json')
    if results['last']['step'] == total_steps(config, stages.training(config, dataset, Prepared())):
      return results
  (directory / 'done').unlink(missing_ok=True)
  start_state, prepared = None, Prepared()
  if config.first.prepare != 'none':
    start_state, prepared = run_first(config, directory, dataset, force)
  training = stages.training(config, dataset, prepared)
  with closing(Checkpoints(directory / 'checkpoints', rules)) as checkpoints:
    start = checkpoints.latest or 0
    if checkpoints.latest is None and start_state is None:
      data.check_images(dataset, config.data, console.say)
    if start > total_steps(config, training):
      raise UserError(
        f'{directory} has a checkpoint of step {start}, beyond the {total_steps(config, training)} steps asked for: '
        'raise train.steps, or choose another --workdir.'
      )
    batches = pipeline.train_batches(
      training,
      batch_size=config.train.batch_size,
      seed=config.seed,
      sampling=config.train.sampling,
      start=start,
      threads=config.loader.threads,
      workers=config.loader.workers,
      **sharding.hosts(),
    )
    with closing(workdir.MetricsLog(directory, start)) as log, closing(batches):
      return _train(config, directory, dataset, training, prepared, start_state, batches, checkpoints, log)


class Built(NamedTuple):
  """What a config makes of a data set before anything is trained."""

  method: Method
  model: Any
  tx: optax.GradientTransformation
  preprocess: Preprocess
  key: Array
  state: TrainState


def build(config: Any, training: Dataset, mesh: jax.sharding.Mesh) -> Built:
  """Make the networks of a config and their initial state, on every device."""
  counts = training.group_counts()
  sizes = Sizes(training.splits['train'].count, len(training.classes), len(training.groups), counts)
  method = make_method(config, sizes)
  model = make_model(SimpleNamespace(**config.model), len(training.classes))
  tx = make_optimizer(SimpleNamespace(**config.optim), method.roles, max(total_steps(config, training), 1))
  preprocess = make_preprocess(training.mean, training.std)
  key = jax.random.key(config.seed)
  sample = preprocess(jnp.zeros((1, *training.image_shape), jnp.uint8))
  state = sharding.replicate(jax.jit(lambda: create_state(method, model, tx, sample, key))(), mesh)
  return Built(method, model, tx, preprocess, key, state)


def run_first(config: Any, directory: Path, dataset: Dataset, force: bool) -> tuple[TrainState, Prepared]:
  """Do the first of two runs, or find it done; return its last state and what it gives to the second.

  Raises:
    UserError: as `run`; or its predictions are of no use to the method.
  """
  stages.check_first(config, dataset)
  first = stages.first_config(config)
  place = Path(config.first.workdir or directory / 'first')
  console.say(f'first run of {config.method.name}, in {place}:')
  run(first, place, force)
  state = build(first, stages.training(first, dataset, Prepared()), sharding.make_mesh()).state
  with closing(Checkpoints(place / 'checkpoints', selection_rules(dataset, 'last'))) as checkpoints:
    if checkpoints.latest is None:
      raise UserError(f'{place} has no checkpoint of the first run: remove that folder, to run it again.')
    state = checkpoints.restore(checkpoints.latest, state)
  return state, stages.prepare(config, dataset, place, state.params['model']['head'])


def _train(
  config: Any,
  directory: Path,
  dataset: Dataset,
  training: Dataset,
  prepared: Prepared,
  start_state: TrainState | None,
  batches: Iterator[dict[str, Any]],
  checkpoints: Checkpoints,
  log: workdir.MetricsLog,
) -> dict[str, Any]:
  mesh = sharding.make_mesh()
  workdir.write_json(directory / 'env.json', workdir.environment([str(d) for d in jax.devices()]))
  train = training.splits['train']
  steps, batch_size = total_steps(config, training), config.train.batch_size
  method, model, tx, preprocess, key, state = build(config, training, mesh)
  if prepared.head is not None:
    state = with_head(state, start_state, prepared.head)
  train_step = jax.jit(make_train_step(method, model, tx, key, preprocess), donate_argnums=0)
  eval_step = make_eval_step(model, preprocess, method.roles, len(dataset.groups))

  first = checkpoints.latest or 0
  if checkpoints.latest is not None:
    state = checkpoints.restore(first, state)
  progress = console.Progress(steps, first, batch_size)
  console.say(
    f'{config.method.name} on {config.data.name}: {train.count:,} training examples, {steps:,} steps of {batch_size}, '
    f'seed {config.seed}, {jax.device_count()} x {jax.devices()[0].platform}, in {directory}'
    + (f', from step {first:,}' if first else '')
  )

  def run_split(split: str, state: TrainState, collect: bool = False):
    batches = pipeline.eval_batches(
      dataset, split, batch_size=config.train.eval_batch_size, threads=config.loader.threads, **sharding.hosts()
    )
    return evaluate(eval_step, state, batches, mesh, collect)

  def report(pending) -> None:
    """Fetch and log the metrics of a step; called when a later step is already on its way."""
    number, metrics = pending
    if not all(math.isfinite(value) for value in jax.device_get(metrics).values()):
      refuse_bad(state, checkpoints)
    values = {f'train/{name}': float(value) for name, value in metrics.items()}
    shown = {name.removeprefix('train/'): value for name, value in values.items() if 'loss/' in name}
    log.write(number, values | {'train/examples_per_second': progress.report(number, shown)})

  # Do not reorder: evaluate the state you have -> save it (its step is the data position) -> next batch ->
  # step -> log the previous step's metrics. A checkpoint then always has its own metrics, and a
  # resumed run sees the batch that the interrupted one would have seen.
  pending = None
  for number in range(first, steps + 1):
    due = number % config.train.eval_every == 0 or number == steps
    # The untrained network is no candidate, unless its last layer was fitted; a restored one was scored.
    if due and (number != first or prepared.head is not None):
      if pending:
        report(pending)
        pending = None
      refuse_bad(state, checkpoints)
      scores = {}
      for split in (name for name in dataset.splits if is_validation(name)):
        for role, counts in run_split(split, state).counts.items():
          prefix = '' if role == method.roles[-1] else f'{role}/'
          found = summary(counts, dataset)
          scores |= {f'{prefix}{split}/{m}': found[m] for m in SELECTABLE if found[m] is not None}
      log.write(number, scores)
      checkpoints.save(number, state, {rule: scores[rule] for rule in checkpoints.rules})
    if number == steps:
      break
    batch = sharding.shard_batch(Batch(**next(batches)), mesh)
    state, metrics = train_step(state, batch)
    if pending:
      report(pending)
      pending = None
    if (number + 1) % config.train.log_every == 0 or number + 1 == steps:
      pending = (number + 1, metrics)

  results = {
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
  results |= conclude(config, directory, dataset, checkpoints, state, method.roles, run_split)
  workdir.write_json(directory / 'results.json', results)
  (directory / 'done').touch()
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
      if step == chosen:
        write_arrays(directory / 'predictions' / f'{split}.npz', evaluation.predictions)
      for role in roles:
        found[role][split] = summary(evaluation.counts[role], dataset)
    return found

  found = {step: at(step) for step in sorted({*best.values(), int(state.step)})}

  def entry(step: int, role: str) -> dict[str, Any]:
    return {'step': step, **{s: found[step][role][s] for s in dataset.splits if s != 'train'}}

  deployed = roles[-1]
  return {
    **entry(chosen, deployed),
    'train': found[chosen][deployed]['train'],
    'selected': {rule: entry(step, deployed) for rule, step in best.items()},
    'last': entry(int(state.step), deployed),
    'roles': {role: entry(chosen, role) for role in roles},
  }


def is_validation(split: str) -> bool:
  """Tell whether a split may select a checkpoint: `val`, or `val_<something>`."""
  return split == 'val' or split.startswith('val_')


def selection_rules(dataset: Dataset, wanted: str) -> tuple[str, ...]:
  """Name the rules by which a checkpoint can be selected, `<validation split>/<metric>`, as far as labels allow.

  Args:
    wanted: the rule that the config selects by; `last` is the last step.

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
  if config.train.steps:
    return config.train.steps
  return math.ceil(config.train.epochs * dataset.splits['train'].count / config.train.batch_size)


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
  params['head'] = {
    name: jax.device_put(jnp.asarray(value, params['head'][name].dtype), params['head'][name].sharding)
    for name, value in zip(('kernel', 'bias'), head, strict=True)
  }
  return state.replace(params={'model': params}, batch_stats=first.batch_stats)


def make_method(config: Any, sizes: Sizes) -> Method:
  """Build the method of a config."""
  return METHODS[config.method.name](SimpleNamespace(**config.method), sizes)


def refuse_bad(state: TrainState, checkpoints: Checkpoints) -> None:
  """End the run if a loss or a gradient was not finite at any step so far.

  Raises:
    UserError: names the step, the role and the last good checkpoint.
  """
  for role, first in jax.device_get(state.bad_step).items():
    if first >= 0:
      good = checkpoints.latest
      kept = 'there is no good checkpoint' if good is None else f'the last good checkpoint is step {good}'
      raise UserError(
        f'the loss or the gradient of {role} is not finite at step {first}; {kept}: '
        'lower optim.lr or method.weight, or set optim.clip.'
      )
