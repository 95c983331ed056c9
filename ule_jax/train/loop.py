"""The train loop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from ule_jax.data import Dataset, pipeline
from ule_jax.devices import processes, runtime
from ule_jax.devices.mesh import compile_step, make_mesh
from ule_jax.errors import Interrupted, UserError
from ule_jax.methods import CORRECTIONS, Batch
from ule_jax.metrics import SELECTABLE
from ule_jax.runs import files, inputs
from ule_jax.runs.checkpoints import Checkpoints
from ule_jax.runs.environment import describe_environment, recorded_correction
from ule_jax.runs.log import MetricsLog, NoLog
from ule_jax.runs.progress import Progress, say
from ule_jax.runs.results import header
from ule_jax.runs.signals import Signals
from ule_jax.train.assemble import initialise
from ule_jax.train.evaluate import evaluate, evaluate_checkpoints, make_eval_step, summary
from ule_jax.train.selection import is_validation
from ule_jax.train.step import TrainState, make_train_step
from ule_jax.train.task import total_steps
from ule_jax.two_stage.contract import SecondStage


def train(
  config: Any,
  directory: Path,
  dataset: Dataset,
  training: Dataset,
  prepared: SecondStage,
  begin: Callable[[TrainState], TrainState],
  checkpoints: Checkpoints,
  signals: Signals,
) -> dict[str, Any]:
  """Train to the last step, evaluate the selected checkpoints, and write results.json."""
  mesh = make_mesh()
  correction, before = CORRECTIONS.get(config.method.name, ''), recorded_correction(directory)
  if processes.is_first():
    environment = describe_environment(runtime.describe()) | {'correction': correction}
    files.write_json(directory / 'env.json', environment)
  examples = training.splits['train'].count
  steps, batch_size = total_steps(config, training), config.train.batch_size
  method, model, tx, preprocess, key, state = initialise(config, training, mesh)
  step = make_train_step(method, model, tx, key, preprocess, config.train.accumulate, config.optim.trainable)
  places = jax.tree.map(lambda leaf: leaf.sharding, state)
  train_step = compile_step(step, mesh, config.parallel, places)
  eval_step = make_eval_step(model, preprocess, method.roles, len(dataset.groups), mesh)

  first, state = checkpoints.restore_newest(begin(state), say)
  if first > steps:
    raise UserError(
      f'{directory} has a checkpoint of step {first}, beyond the {steps} steps asked for: '
      'raise train.steps, or choose another --workdir.'
    )
  if first and correction != before:
    say(
      f'warning: the loss of {config.method.name} was corrected since this run began ({correction}); it goes on with '
      'the corrected one: for one loss in all steps, choose another --workdir.'
    )
  progress = Progress(steps, first, batch_size)
  say(
    f'{config.method.name} on {config.data.name}: {examples:,} training examples, {steps:,} steps of {batch_size}, '
    f'seed {config.seed}, {jax.device_count()} x {jax.devices()[0].platform}, in {directory}'
    + (f', from step {first:,}' if first else '')
  )

  def run_split(split: str, state: TrainState, collect: bool = False):
    batches = pipeline.eval_batches(
      dataset,
      split,
      batch_size=config.train.eval_batch_size,
      threads=config.loader.threads,
      **processes.process_slice(),
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
      refuse_non_finite(state, checkpoints)
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
    **processes.process_slice(),
  )
  # Do not reorder: evaluate the state you have -> save it (its step is the data position) -> next batch ->
  # step -> log the previous step's metrics. A checkpoint then always has its own metrics, and a
  # resumed run sees the batch that the interrupted one would have seen. A signal is looked at between two
  # steps: the state is then saved as it is, and evaluated, where that is due, by the run that goes on.
  log = MetricsLog(directory, first) if processes.is_first() else NoLog()
  with contextlib.closing(log), contextlib.closing(batches), signals.deferred():
    pending = None
    # The untrained network is no candidate, unless its last layer was fitted.
    settled = checkpoints.scored(first) if first else prepared.head is None
    for number in range(first, steps + 1):
      signals.asked = signals.asked or processes.preempted(number)
      due = (number % config.train.eval_every == 0 or number == steps) and not (number == first and settled)
      if due or (signals.asked and number != first):
        if pending:
          report(pending)
          pending = None
        refuse_non_finite(state, checkpoints)
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

  results = header(config, dataset, method, prepared) | inputs.forced_changes(directory)
  results |= evaluate_checkpoints(config, directory, dataset, checkpoints, state, method.roles, run_split)
  if processes.is_first():
    files.write_json(directory / 'results.json', results)
    (directory / 'done').touch()
  processes.barrier('the results are written')
  return results


def refuse_non_finite(state: TrainState, checkpoints: Checkpoints) -> None:
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
