"""The train loop of a population."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from ule_jax import selection
from ule_jax.errors import Interrupted, UserError
from ule_jax.runs.log import MetricsLog
from ule_jax.runs.progress import Progress, on_a_line
from ule_jax.runs.signals import Signals
from ule_jax.sweep import population
from ule_jax.sweep.axes import Member, overrides_of
from ule_jax.sweep.members import at, networks_of
from ule_jax.train.evaluate import scores_of, summary
from ule_jax.train.folder import Folder
from ule_jax.train.selection import warn_of_blind_rule
from ule_jax.train.step import TrainState
from ule_jax.train.task import Task
from ule_jax.train.weights import Begin

log = logging.getLogger(__name__)

STEPS, FIRST = 100, 10  # steps of one call of the compiled function: the most, and those of the first call
CALL = 1.0  # seconds that a call should take: a signal waits for its end
SAVE_EVERY = 60.0  # seconds between checkpoints of the population

Place = tuple[int, int]  # of a member: (seed, setting)


class Trained(NamedTuple):
  """The content of a checkpoint of a population: its state, and the best networks of each member by each rule.

  Attributes:
    state: of all members.
    networks: for each rule the params and batch_stats of all members.
    step: int32 [r s n], the steps that these are of; -1 before the first evaluation.
    score: float [r s n], their validation scores.
    scored: int [], the last step that was evaluated.
  """

  state: TrainState
  networks: list[PyTree]
  step: np.ndarray
  score: np.ndarray
  scored: np.ndarray


class Sweep:
  """A population on the device with its data, at the state of its newest checkpoint or at the first step."""

  def __init__(self, task: Task, members: list[Member], folder: Folder, begin: Begin):
    """Build the compiled functions and restore the newest checkpoint.

    Args:
      task: of any member.
      members: all of them.
      folder: of the sweep.
      begin: initial state -> the state that training starts from.

    Raises:
      UserError: the data do not fit the device, or no checkpoint can be used.
    """
    self.task, self.members, self.folder = task, members, folder
    config, dataset, rules = task.config, task.dataset, task.rules
    self.population = overrides_of(members)
    threads = config.loader.threads
    self.blocks = population.load(dataset, config.train.eval_batch_size, threads)
    train = self.blocks['train']
    if config.train.holdout:
      train = population.read(task.training, 'train', config.train.eval_batch_size, threads)
    self.graphs = population.compile_members(config, task.training, len(dataset.groups), self.population, train)
    state = begin(self.graphs.create())
    shape = (len(rules), len(self.population.seeds), self.population.settings)
    start = Trained(
      state=state,
      networks=[jax.tree.map(jnp.copy, networks_of(state)) for _ in rules],
      step=np.full(shape, -1, np.int32),
      score=np.full(shape, -1.0),
      scored=np.array(0),
    )
    self.first, self.trained = folder.checkpoints.restore_newest(start)

  def until_due(self, number: int, most: int) -> int:
    """Return the number of steps of the next call, up to `most` and the next evaluation or report; 0 at the end."""
    train = self.task.config.train
    ends = [(number // every + 1) * every for every in (train.eval_every, train.log_every)]
    return min(*ends, number + most, self.task.steps) - number

  def train(self, signals: Signals) -> None:
    """Train to the last step.

    Raises:
      UserError: no member is finite any more.
      Interrupted: a signal was received; the population is saved.
    """
    train, steps, checkpoints = self.task.config.train, self.task.steps, self.folder.checkpoints
    order = population.make_order(self.task.config, self.task.training, self.population.seeds)
    room = min(STEPS, train.eval_every, train.log_every, max(steps, 1))
    self.log_start()
    progress = Progress(steps, self.first, train.batch_size * len(self.members))
    saved, saved_step = time.monotonic(), self.first
    metrics_log = MetricsLog(self.folder.path, self.first)
    with contextlib.closing(metrics_log), contextlib.closing(progress), signals.deferred():
      number, most = self.first, FIRST
      count = self.until_due(number, most)
      batches = order(number, count, room)
      # As in train/loop.py: evaluate the state you have -> save it -> the next steps -> log their metrics.
      while True:
        is_evaluated = number > 0 and (number % train.eval_every == 0 or number == steps)
        if is_evaluated and number != self.trained.scored:
          metrics_log.write(number, self.validate(number))
        late = time.monotonic() - saved > SAVE_EVERY
        if number != saved_step and (signals.received or late or number == steps):
          checkpoints.save(number, self.trained, {})
          saved, saved_step = time.monotonic(), number
        if signals.received:
          checkpoints.wait()
          raise Interrupted(f'{signals.received} at step {number:,} of {steps:,}; resumable by the same command.')
        if not count:
          break
        began = time.monotonic()
        state, metrics = self.graphs.advance(self.trained.state, batches, count)
        self.trained = self.trained._replace(state=state)
        number, done = number + count, count
        count = self.until_due(number, most)
        batches = order(number, count, room)  # while the device works
        metrics = jax.device_get(metrics)
        progress.begin(number)
        most = int(np.clip(done * CALL / (time.monotonic() - began), 1, STEPS))
        if number % train.log_every == 0 or number == steps:
          progress.report(number, {name: median(values) for name, values in on_a_line(metrics).items()})
          metrics_log.write(number, self.by_member(metrics))

  def log_start(self) -> None:
    """Log the method, the data, the length and the folder of the sweep."""
    task, config = self.task, self.task.config
    log.info(
      f'{config.method.name} on {config.data.name}: {len(self.members)} runs ({len(self.population.seeds)} seeds, '
      f'{self.population.settings} settings), {task.examples:,} training examples, {task.steps:,} steps of '
      f'{config.train.batch_size}, in {self.folder.path}' + (f', from step {self.first:,}' if self.first else '')
    )
    if not self.first:
      warn_of_blind_rule(task.dataset, config.select)

  def by_member(self, metrics: dict[str, Float[np.ndarray, 's n']]) -> dict[str, float]:
    """Return the finite training metrics as a line of the log: `<member>/train/<metric>` -> value."""
    values = {
      f'{member.name}/train/{name}': float(of_all[member.place])
      for member in self.members
      for name, of_all in metrics.items()
    }
    return {name: value for name, value in values.items() if np.isfinite(value)}

  def failures(self) -> dict[Place, str]:
    """Return the place of each member that is not finite -> a clause with its first such step."""
    failed = {}
    for role, first in jax.device_get(self.trained.state.bad_step).items():
      for place in zip(*np.nonzero(first >= 0), strict=True):
        reason = f'the loss, the gradient, the update or a logit of {role} is not finite at step {first[place]}'
        failed.setdefault(tuple(map(int, place)), reason)
    return failed

  def mark_broken(self, number: int, counts: dict[str, Any]) -> None:
    """Record the members whose logits are not finite as failed at a step.

    Args:
      number: of the step.
      counts: role -> counts of all members.
    """
    state = self.trained.state
    bad_step = {
      role: jnp.where((first < 0) & (counts[role].broken > 0), number, first) for role, first in state.bad_step.items()
    }
    self.trained = self.trained._replace(state=state.replace(bad_step=bad_step))

  def validate(self, number: int) -> dict[str, float]:
    """Evaluate the finite members on the validation splits, and keep the networks that are the best by a rule so far.

    Returns:
      `<member>/<rule>` -> score; as a line of the log.

    Raises:
      UserError: no member is finite.
    """
    counts_by_split = {}
    for split in filter(selection.is_validation, self.task.dataset.splits):
      counts_by_split[split] = self.counts(networks_of(self.trained.state), split)
      self.mark_broken(number, counts_by_split[split])
    trained, failed = self.trained, self.failures()
    self.refuse_all_failed(failed)
    score, scores = np.full(trained.score.shape, -1.0), {}
    roles = self.graphs.roles
    for member in self.members:
      by_rule: dict[str, float] = {}
      for split, counts in counts_by_split.items() if member.place not in failed else ():
        for role in roles:
          by_rule |= scores_of(summary(at(counts[role], member.place), self.task.dataset), split, role, roles)
      scores |= {f'{member.name}/{name}': value for name, value in by_rule.items()}
      for r, rule in enumerate(self.task.rules):
        score[(r, *member.place)] = by_rule.get(rule, -1.0)
    better = (score >= trained.score) & (score >= 0)  # of equal scores the newest, as for a single run
    networks = [
      population.keep_better(mask, networks_of(trained.state), old)
      for mask, old in zip(better, trained.networks, strict=True)
    ]
    self.trained = trained._replace(
      networks=networks,
      step=np.where(better, np.int32(number), trained.step),
      score=np.where(better, score, trained.score),
      scored=np.array(number),
    )
    return scores

  def refuse_all_failed(self, failed: dict[Place, str]) -> None:
    """End a sweep of which no member is left.

    Raises:
      UserError: no member is finite.
    """
    if len(failed) == len(self.members):
      raise UserError(f'no member is finite; {self.members[0].name}: {failed[0, 0]}: lower optim.lr or the weights.')

  def counts(self, networks: PyTree, split: str) -> dict[str, Any]:
    """Return the counts of all members on a split: role -> counts with the axes s n before their own."""
    return jax.device_get(self.graphs.score(networks['params'], networks['batch_stats'], self.blocks[split]))


def median(values: Float[np.ndarray, 's n']) -> float:
  """Return the median of the finite members; NaN if none is finite."""
  finite = values[np.isfinite(values)]
  return float(np.median(finite)) if finite.size else float('nan')
