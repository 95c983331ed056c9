"""The train loop of a population."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from ule_jax.data import Dataset
from ule_jax.errors import Interrupted, UserError
from ule_jax.metrics import SELECTABLE
from ule_jax.runs import files, fingerprint, inputs, workdir
from ule_jax.runs.checkpoints import Checkpoints
from ule_jax.runs.log import MetricsLog
from ule_jax.runs.progress import Progress, say
from ule_jax.runs.results import arrange_results, header
from ule_jax.runs.signals import Signals
from ule_jax.sweep import population
from ule_jax.sweep.axes import Member, numbers_of
from ule_jax.sweep.compare import compare
from ule_jax.sweep.members import at, networks_of, read_log, save_networks, write_log
from ule_jax.train import selection, task
from ule_jax.train.assemble import assemble
from ule_jax.train.evaluate import of_broken, summary
from ule_jax.train.step import TrainState
from ule_jax.two_stage import contract

STEPS, FIRST = 100, 10  # of one call: at most, and of the first

CALL = 1.0  # seconds that a call should take: a signal waits for its end

SAVE_EVERY = 60.0  # seconds between checkpoints of the population


class Trained(NamedTuple):
  """What a checkpoint holds: the population, and the best of each member by each rule.

  `networks` has params and batch_stats for each rule. `step` and `score` are arrays [r s n]; `scored` is the last step
  that was evaluated.
  """

  state: TrainState
  networks: list[PyTree]
  step: np.ndarray
  score: np.ndarray
  scored: np.ndarray


class Sweep:
  """A population on the device with its data, from a checkpoint or the beginning."""

  def __init__(
    self,
    config: Any,
    members: list[Member],
    directory: Path,
    dataset: Dataset,
    rules: Sequence[str],
    begin: Callable[[TrainState], TrainState],
    checkpoints: Checkpoints,
  ):
    """Compile it and restore its newest checkpoint, or begin.

    Args:
      config: of any member.
      rules: by which a step can be selected.
      begin: changes the initial state.

    Raises:
      UserError: the data do not fit the device, or no checkpoint can be used.
    """
    self.config, self.members, self.directory = config, members, directory
    self.dataset, self.rules, self.checkpoints = dataset, rules, checkpoints
    self.training = task.training_data(config, dataset, contract.SecondStage())
    self.steps = task.total_steps(config, self.training)
    self.numbers = numbers_of(members)
    threads = config.loader.threads
    self.blocks = population.load(dataset, config.train.eval_batch_size, threads)
    train = self.blocks['train']
    if config.train.holdout:
      train = population.read(self.training, 'train', config.train.eval_batch_size, threads)
    self.graphs = population.compile_members(config, self.training, len(dataset.groups), self.numbers, train)
    state = begin(self.graphs.create())
    shape = (len(rules), len(self.numbers.seeds), self.numbers.settings)
    start = Trained(
      state=state,
      networks=[jax.tree.map(jnp.copy, networks_of(state)) for _ in rules],
      step=np.full(shape, -1, np.int32),
      score=np.full(shape, -1.0),
      scored=np.array(0),
    )
    self.first, self.trained = checkpoints.restore_newest(start, say)
    if self.first > self.steps:
      raise UserError(
        f'{directory} has a checkpoint of step {self.first}, beyond the {self.steps} steps asked for: '
        'raise train.steps, or choose another --workdir.'
      )

  def until_due(self, number: int, most: int) -> int:
    """Count the steps of the next call: up to where something is due, or fewer; 0 at the end."""
    train = self.config.train
    ends = [(number // every + 1) * every for every in (train.eval_every, train.log_every)]
    return min(*ends, number + most, self.steps) - number

  def train(self, signals: Signals) -> None:
    """Train to the end.

    Raises:
      UserError: no member is finite any more.
      Interrupted: a signal came; the population is saved.
    """
    config, steps, runs = self.config, self.steps, len(self.members)
    order = population.make_order(config, self.training, self.numbers.seeds)
    room = min(STEPS, config.train.eval_every, config.train.log_every, max(steps, 1))
    progress = Progress(steps, self.first, config.train.batch_size * runs)
    say(
      f'{config.method.name} on {config.data.name}: {runs} runs ({len(self.numbers.seeds)} seeds, '
      f'{self.numbers.settings} settings), {self.training.splits["train"].count:,} training examples, {steps:,} steps '
      f'of {config.train.batch_size}, in {self.directory}' + (f', from step {self.first:,}' if self.first else '')
    )
    saved, saved_step = time.monotonic(), self.first
    log = MetricsLog(self.directory, self.first)
    with contextlib.closing(log), signals.deferred():
      number, most = self.first, FIRST
      count = self.until_due(number, most)
      batches = order(number, count, room)
      # As in train.py: evaluate the state you have -> save it -> the next steps -> log their metrics.
      while True:
        due = number > 0 and (number % config.train.eval_every == 0 or number == steps)
        if due and number != self.trained.scored:
          log.write(number, self.validate(number))
        late = time.monotonic() - saved > SAVE_EVERY
        if number != saved_step and (signals.asked or late or number == steps):
          self.checkpoints.save(number, self.trained, {})
          saved, saved_step = time.monotonic(), number
        if signals.asked:
          self.checkpoints.wait()
          raise Interrupted(f'{signals.asked} at step {number:,} of {steps:,}; resumable by the same command.')
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
        if number % config.train.log_every == 0 or number == steps:
          shown = {name: middle(values) for name, values in metrics.items() if 'loss/' in name}
          progress.report(number, shown)
          found = {
            f'{member.name}/train/{name}': float(values[member.place])
            for member in self.members
            for name, values in metrics.items()
          }
          log.write(number, {name: value for name, value in found.items() if np.isfinite(value)})

  def failures(self) -> dict[tuple[int, int], str]:
    """Say of each member that is not finite since when."""
    found = {}
    for role, first in jax.device_get(self.trained.state.bad_step).items():
      for place in zip(*np.nonzero(first >= 0), strict=True):
        reason = f'the loss, the gradient, the update or a logit of {role} is not finite at step {first[place]}'
        found.setdefault(tuple(map(int, place)), reason)
    return found

  def mark_broken(self, number: int, counts: dict[str, Any]) -> None:
    """Count members whose logits are not finite among those whose steps are not.

    Args:
      counts: role -> counts of all members.
    """
    state = self.trained.state
    bad_step = {
      role: jnp.where((first < 0) & (counts[role].broken > 0), number, first) for role, first in state.bad_step.items()
    }
    self.trained = self.trained._replace(state=state.replace(bad_step=bad_step))

  def validate(self, number: int) -> dict[str, float]:
    """Score the finite members on the validation splits, and keep those that are the best by a rule so far.

    Raises:
      UserError: none is finite.
    """
    found_by_split = {}
    for split in filter(selection.is_validation, self.dataset.splits):
      found_by_split[split] = self.counts(networks_of(self.trained.state), split)
      self.mark_broken(number, found_by_split[split])
    failed = self.failures()
    self.refuse_all_failed(failed)
    trained, scores = self.trained, {}
    score = np.full(trained.score.shape, -1.0)
    for split, counts in found_by_split.items():
      for member in self.members:
        for role in self.graphs.roles if member.place not in failed else ():
          prefix = '' if role == self.graphs.roles[-1] else f'{role}/'
          found = summary(at(counts[role], member.place), self.dataset)
          for metric in SELECTABLE:
            if found[metric] is not None:
              scores[f'{member.name}/{prefix}{split}/{metric}'] = found[metric]
      for r, rule in enumerate(self.rules):
        for member in self.members:
          score[(r, *member.place)] = scores.get(f'{member.name}/{rule}', -1.0)
    better = (score >= trained.score) & (score >= 0)  # of equals the newest, as for a single run
    networks = [
      population.keep_better(one, networks_of(trained.state), old)
      for one, old in zip(better, trained.networks, strict=True)
    ]
    self.trained = trained._replace(
      networks=networks,
      step=np.where(better, np.int32(number), trained.step),
      score=np.where(better, score, trained.score),
      scored=np.array(number),
    )
    return scores

  def refuse_all_failed(self, failed: dict[tuple[int, int], str]) -> None:
    """End a sweep of which nothing is left.

    Raises:
      UserError: no member is finite.
    """
    if len(failed) == len(self.members):
      raise UserError(f'no member is finite; {self.members[0].name}: {failed[0, 0]}: lower optim.lr or the weights.')

  def counts(self, networks: PyTree, split: str) -> dict[str, Any]:
    """Count the right answers of all members on a split: role -> counts with the axes s n."""
    return jax.device_get(self.graphs.score(networks['params'], networks['batch_stats'], self.blocks[split]))

  def conclude(self) -> dict[str, Any]:
    """Evaluate every member at its last and its selected steps, write its folder, and compare the settings."""
    config, last, failed = self.config, networks_of(self.trained.state), self.failures()
    kept = dict(zip(self.rules, self.trained.networks, strict=True)) | {'last': last}
    chosen = kept[config.select]
    held_out = [split for split in self.dataset.splits if split != 'train']
    counts = {rule: {split: self.counts(networks, split) for split in held_out} for rule, networks in kept.items()}
    counts[config.select]['train'] = self.counts(chosen, 'train')
    failed = self.broken(counts) | failed
    self.refuse_all_failed(failed)
    method = assemble(config, self.training).method
    log, results = read_log(self.directory / 'metrics.jsonl'), {}
    for member in self.members:
      folder = self.directory / member.name
      folder.mkdir(exist_ok=True)
      (folder / 'done').unlink(missing_ok=True)
      if (folder / 'results.json').exists():
        old = files.read_json(folder / 'results.json')
        workdir.set_aside(folder, old['last']['step'] if 'last' in old else 0)
      for name in ('env.json', 'weights.json', 'features.json', fingerprint.NAME):
        if (self.directory / name).exists():
          shutil.copyfile(self.directory / name, folder / name)
      files.write_json(folder / 'config.json', member.config.to_dict())
      write_log(folder / 'metrics.jsonl', log, member.name)
      about = header(member.config, self.dataset, method, contract.SecondStage())
      about |= inputs.forced_changes(self.directory)
      if member.place in failed:
        files.write_json(folder / 'results.json', about | {'failed': failed[member.place]})
        continue
      results[member.name] = found = self.results_of(member.place, counts)
      save_networks(folder, found['step'], at(chosen, member.place))
      files.write_json(folder / 'results.json', about | found)
      (folder / 'done').touch()
    said = {member.name: failed[member.place] for member in self.members if member.place in failed}
    about = {'method': config.method.name, 'dataset': config.data.name, 'steps': self.steps, 'select': config.select}
    return about | compare(self.members, results, said)

  def broken(self, counts: dict[str, dict[str, dict[str, Any]]]) -> dict[tuple[int, int], str]:
    """Say of each member that has a logit which is not finite where; `counts` as in `results_of`."""
    found = {}
    for rule, splits in counts.items():
      step = self.trained.state.step if rule == 'last' else self.trained.step[self.rules.index(rule)]
      for split, role in itertools.product(splits, self.graphs.roles):
        number = splits[split][role].broken
        for place in zip(*np.nonzero(number), strict=True):
          reason = of_broken(role, int(number[place]), f'{split} at step {int(step[place]):,}')
          found.setdefault(tuple(map(int, place)), reason)
    return found

  def results_of(self, place: tuple[int, int], counts: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Lay out the results of a member as those of a single run.

    Args:
      counts: rule, or `last` -> split -> role -> counts of all members.
    """
    best = {rule: int(self.trained.step[(r, *place)]) for r, rule in enumerate(self.rules)}
    last = int(self.trained.state.step[place])
    found: dict[int, Any] = {}
    for rule, step in {**best, 'last': last}.items():
      of_roles = found.setdefault(step, {role: {} for role in self.graphs.roles})
      for split, of_split in counts[rule].items():
        for role, own in of_roles.items():
          own[split] = summary(at(of_split[role], place), self.dataset)
    return arrange_results(found, best, best.get(self.config.select, last), last, self.dataset)


def middle(values: Float[np.ndarray, 's n']) -> float:
  """Take the median of the members that are finite; NaN if none is."""
  finite = values[np.isfinite(values)]
  return float(np.median(finite)) if finite.size else float('nan')
