"""The train loop."""

from __future__ import annotations

import contextlib
import logging
import math
from typing import Any

import jax

from ule_jax.data import pipeline
from ule_jax.devices import processes
from ule_jax.devices.mesh import compile_step, make_mesh
from ule_jax.errors import Interrupted, UserError
from ule_jax.methods import Batch
from ule_jax.runs.log import MetricsLog, NoLog
from ule_jax.runs.progress import Best, Progress, on_a_line
from ule_jax.runs.results import Results
from ule_jax.runs.signals import Signals
from ule_jax.train import programs
from ule_jax.train.assemble import initialise
from ule_jax.train.conclude import evaluate_checkpoints, results_of
from ule_jax.train.evaluate import Evaluator
from ule_jax.train.folder import Folder
from ule_jax.train.selection import warn_of_blind_rule
from ule_jax.train.step import TrainState, make_train_step
from ule_jax.train.task import Task
from ule_jax.train.weights import Begin

log = logging.getLogger(__name__)


def train(task: Task, begin: Begin, folder: Folder, signals: Signals) -> Results:
  """Train to the last step, evaluate the selected checkpoints, and write results.json.

  Args:
    task: to be trained.
    begin: initial state -> the state that training starts from.
    folder: of the run; training continues from its newest checkpoint.
    signals: stop the run.

  Raises:
    UserError: a loss or a logit is not finite, an image cannot be read, or a checkpoint cannot be read or written.
    Interrupted: a signal was received; the state is saved.
  """
  loop = Loop(task, begin, folder, signals)
  with contextlib.closing(loop.progress):
    state = loop.train()
    loop.progress.note('evaluating')
    values = evaluate_checkpoints(task, folder, loop.evaluator, state)
  results = results_of(task, folder, loop.method, values)
  if processes.is_first():
    results.write(folder.path)
  processes.barrier('the results are written')
  return results


class Loop:
  """A run on the devices, at the state of its newest checkpoint or at the first step."""

  def __init__(self, task: Task, begin: Begin, folder: Folder, signals: Signals):
    """Build the compiled functions and restore the newest checkpoint; as `train`."""
    self.task, self.folder, self.signals = task, folder, signals
    self.checkpoints = folder.checkpoints
    config, mesh = task.config, make_mesh()
    trainer = initialise(config, task.training, mesh)
    self.method = trainer.method
    method, model, tx, preprocess, *_ = trainer
    options = preprocess, config.train.accumulate, config.optim.trainable

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
      return make_train_step(method, model, tx, key, *options)(state, batch)

    shared = programs.remembered(('step', trainer.identity), lambda: step)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, trainer.state)
    self.step = compile_step(shared, mesh, config.parallel, shardings, trainer.key)
    self.evaluator = Evaluator(task, trainer, mesh, signals)
    self.first, self.state = self.checkpoints.restore_newest(begin(trainer.state))
    self.progress = Progress(task.steps, self.first, config.train.batch_size)

  def train(self) -> TrainState:
    """Train to the last step and return its state; raises as the function `train`."""
    train, steps, first, signals = self.task.config.train, self.task.steps, self.first, self.signals
    self.log_start()
    batches = self.batches()
    # Do not reorder: evaluate the state you have -> save it (its step is the data position) -> next batch ->
    # step -> log the previous step's metrics. A checkpoint then always has its own metrics, and a
    # resumed run sees the batch that the interrupted one would have seen. Signals are checked between two
    # steps: the state is then saved as it is, and the resumed run evaluates it if it has to be.
    metrics_log = MetricsLog(self.folder.path, first) if processes.is_first() else NoLog()
    with contextlib.closing(metrics_log), contextlib.closing(batches), signals.deferred():
      pending = None
      # The initial state is not evaluated, unless its last layer was fitted.
      settled = self.checkpoints.scored(first) if first else self.task.second.head is None
      for number in range(first, steps + 1):
        signals.received = signals.received or processes.preempted()
        is_evaluated = (number % train.eval_every == 0 or number == steps) and not (number == first and settled)
        if is_evaluated or (signals.received and number != first):
          self.report(pending, metrics_log)
          pending = None
          refuse_non_finite(self.state, self.checkpoints.latest)
          if scores := self.evaluator.validate(self.state) if is_evaluated else {}:
            metrics_log.write(number, scores)
          self.checkpoints.save(number, self.state, {rule: scores[rule] for rule in self.checkpoints.rules if scores})
        if signals.received:
          self.checkpoints.wait()
          raise Interrupted(f'{signals.received} at step {number:,} of {steps:,}; resumable by the same command.')
        if number == steps:
          break
        self.state, metrics = self.step(self.state, Batch(**next(batches)))
        if number == first:
          jax.block_until_ready(metrics)
          self.progress.begin(number + 1)
        self.report(pending, metrics_log)
        is_reported = (number + 1) % train.log_every == 0 or number + 1 == steps
        pending = (number + 1, metrics) if is_reported else None
    return self.state

  def log_start(self) -> None:
    """Log the method, the data, the length, the devices and the folder of the run."""
    task, config = self.task, self.task.config
    log.info(
      f'{config.method.name} on {config.data.name}: {task.examples:,} training examples, {task.steps:,} steps of '
      f'{config.train.batch_size}, seed {config.seed}, {jax.device_count()} x {jax.devices()[0].platform}, in '
      f'{self.folder.path}' + (f', from step {self.first:,}' if self.first else '')
    )
    if not self.first and not task.is_fit:
      warn_of_blind_rule(task.dataset, config.select)

  def batches(self) -> Any:
    """Return an iterator over this process's part of the training batches from the first step on, to be closed."""
    config = self.task.config
    return pipeline.train_batches(
      self.task.training,
      batch_size=config.train.batch_size,
      seed=config.seed,
      sampling=config.train.sampling,
      start=self.first,
      threads=config.loader.threads,
      workers=config.loader.workers,
      lost=self.signals.ask,
      **processes.process_slice(),
    )

  def best(self) -> Best | None:
    """Return the best validation score so far by the run's rule, None before there is one and for `last`."""
    rule = self.task.config.select
    best = self.checkpoints.best_score(rule)
    return best and Best(rule, *best)

  def report(self, pending: tuple[int, dict[str, jax.Array]] | None, metrics_log: MetricsLog | NoLog) -> None:
    """Fetch and log the metrics of a step, if there are any; called when a later step is already on its way."""
    if pending is None:
      return
    number, metrics = pending
    if not all(math.isfinite(value) for value in jax.device_get(metrics).values()):
      refuse_non_finite(self.state, self.checkpoints.latest)
    numbers = {name: float(value) for name, value in metrics.items()}
    values = {f'train/{name}': value for name, value in numbers.items()}
    rate = self.progress.report(number, on_a_line(numbers), self.best())
    metrics_log.write(number, values | ({'train/examples_per_second': rate} if math.isfinite(rate) else {}))


def refuse_non_finite(state: TrainState, last_good: int | None) -> None:
  """End the run if a loss, a gradient, an update or a statistic was not finite at any step so far.

  Args:
    state: has the first such step of each role.
    last_good: step of the newest checkpoint, if there is one.

  Raises:
    UserError: names the step, the role and the last good checkpoint.
  """
  for role, first in jax.device_get(state.bad_step).items():
    if first >= 0:
      kept = 'there is no good checkpoint' if last_good is None else f'the last good checkpoint is step {last_good}'
      raise UserError(
        f'the loss, the gradient or the update of {role} is not finite at step {first}; {kept}: '
        'lower optim.lr or method.weight, or set optim.clip.'
      )
