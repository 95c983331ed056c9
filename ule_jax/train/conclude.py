"""From the trained states of a run to its results: evaluation of the selected checkpoints, and results.json."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from ule_jax import selection
from ule_jax.config.schema import Config
from ule_jax.data import Dataset
from ule_jax.devices import processes
from ule_jax.methods import LABEL_FREE, Method
from ule_jax.runs import inputs
from ule_jax.runs.files import write_arrays
from ule_jax.runs.progress import ABOUT_TERM
from ule_jax.runs.recorded import read_log
from ule_jax.runs.results import Results
from ule_jax.runs.verdicts import chance
from ule_jax.train.evaluate import Evaluator, summary
from ule_jax.train.folder import Folder
from ule_jax.train.selection import classes_of_groups, counter_examples
from ule_jax.train.step import TrainState
from ule_jax.train.task import Task
from ule_jax.two_stage.contract import SecondStage


def evaluate_checkpoints(task: Task, folder: Folder, evaluator: Evaluator, state: TrainState) -> dict[str, Any]:
  """Evaluate the last and every selected checkpoint, and write the predictions of the deployed one.

  Args:
    task: of the run.
    folder: of the run.
    evaluator: of the run.
    state: the last one.

  Returns:
    The metrics, as `arrange` returns them.

  Raises:
    UserError: a checkpoint cannot be read, or a logit is not finite.
    Interrupted: a signal was received.
  """
  best, last = folder.checkpoints.best(), int(state.step)
  deployed = last if task.config.select == selection.LAST else best[task.config.select]

  def at(step: int) -> dict[str, Any]:
    """Evaluate the checkpoint of a step: role -> split -> metrics."""
    restored = state if step == last else folder.checkpoints.restore(step, state)
    by_role: dict[str, Any] = {role: {} for role in evaluator.roles}
    for split in task.dataset.splits:
      if split == 'train' and step != deployed:
        continue
      evaluation = evaluator.split(split, restored, collect=step == deployed)
      if step == deployed and processes.is_first():
        write_arrays(folder.path / 'predictions' / f'{split}.npz', evaluation.predictions)
      for role, by_split in by_role.items():
        by_split[split] = summary(evaluation.counts[role], task.dataset)
    return by_role

  by_step = {step: at(step) for step in sorted({*best.values(), last})}
  return arrange(by_step, best, deployed, last, task.dataset)


def header(config: Config, dataset: Dataset, method: Method, second: SecondStage) -> dict[str, Any]:
  """Return the part of results.json about the method, the data and the selection.

  Args:
    config: of the run.
    dataset: that was evaluated on.
    method: of the config.
    second: the result of a first run.
  """
  return {
    'method': config.method.name,
    'dataset': config.data.name,
    'seed': config.seed,
    'select': config.select,
    'sampling': config.train.sampling,
    'needs_groups': needs_groups(config, method, second),
    'first': {'prepare': config.two_stage.rule, **second.notes},
    'data': dict(dataset.notes),
    'model': config.model.name,
    'classes': list(dataset.classes),
    'groups': list(dataset.groups),
    'titles': dict(dataset.titles),
    'class_of_group': classes_of_groups(dataset),
    'counter_examples': {name: counter_examples(split) for name, split in dataset.splits.items()},
  }


def arrange(
  by_step: Mapping[int, Mapping[str, Mapping[str, Any]]], best: dict[str, int], deployed: int, last: int, data: Dataset
) -> dict[str, Any]:
  """Return the metrics of a run in the order of results.json.

  Args:
    by_step: step -> role -> split -> metrics; the last role is deployed; `train` is there at the deployed step.
    best: rule -> the step that it selects.
    deployed: the step that the config's rule selects.
    last: the last step.
    data: names the splits.
  """

  def entry(step: int, role: str) -> dict[str, Any]:
    return {'step': step, **{split: by_step[step][role][split] for split in data.splits if split != 'train'}}

  roles = list(by_step[deployed])
  return {
    **entry(deployed, roles[-1]),
    'train': by_step[deployed][roles[-1]]['train'],
    'selected': {rule: entry(step, roles[-1]) for rule, step in best.items()},
    'last': entry(last, roles[-1]),
    'roles': {role: entry(deployed, role) | {'train': by_step[deployed][role]['train']} for role in roles},
    'chance': {split: chance(by_step[deployed][roles[-1]][split]) for split in data.splits},
  }


def training_means(log: Iterable[Mapping[str, float]], every: int, last: int) -> dict[str, dict[str, float]]:
  """Return `trust` and `term_share`, as far as a method logs them, each with its mean and last value.

  Args:
    log: the lines of metrics.jsonl.
    every: steps between reports, `train.log_every`. Other lines, as of the end of a run that was made longer, are left
      out: the results would depend on where it ended.
    last: the last step.
  """
  lines = [line for line in log if line['step'] % every == 0 or line['step'] == last]
  series = {name: [line[f'train/{name}'] for line in lines if f'train/{name}' in line] for name in ABOUT_TERM}
  # Three digits: the rounding of machines, and of sweeps, is below them.
  return {
    name: {'mean': float(f'{statistics.fmean(values):.3g}'), 'last': float(f'{values[-1]:.3g}')}
    for name, values in series.items()
    if values
  }


def needs_groups(config: Config, method: Method, second: SecondStage) -> dict[str, bool]:
  """Return whether group labels were used in `train`, and in `validation`, by the selection rule or the method."""
  fits_on = config.two_stage.options.split if config.two_stage.rule == 'dfr' else ''
  uses_groups = config.train.sampling.startswith('group') or LABEL_FREE not in method.properties
  return {
    'train': (uses_groups and second.group is None) or fits_on == 'train',
    'validation': selection.needs_group_labels(config.select) or fits_on not in ('', 'train'),
  }


def results_of(task: Task, folder: Folder, method: Method, values: dict[str, Any]) -> Results:
  """Return the results of a run.

  Args:
    task: of the run.
    folder: of the run, whose record has the changes by `--force`.
    method: of the config.
    values: of `evaluate_checkpoints`.
  """
  about = header(task.config, task.dataset, method, task.second) | inputs.forced_changes(folder.path)
  log = read_log(folder.path / 'metrics.jsonl')
  return Results(about | values | training_means(log, task.config.train.log_every, task.steps))
