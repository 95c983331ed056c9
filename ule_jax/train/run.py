"""One run: train, evaluate and record a config; resume where an earlier run stopped."""

from __future__ import annotations

import contextlib
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from ule_jax import data
from ule_jax.config import fields
from ule_jax.config.check import check, check_devices
from ule_jax.data import Dataset
from ule_jax.devices import processes, runtime
from ule_jax.devices.mesh import make_mesh, replicate
from ule_jax.errors import UserError, is_out_of_memory, out_of_memory
from ule_jax.paths import local_path
from ule_jax.runs import files, inputs, workdir
from ule_jax.runs.checkpoints import Checkpoints
from ule_jax.runs.fingerprint import Fingerprint
from ule_jax.runs.progress import say
from ule_jax.runs.signals import Signals
from ule_jax.train import features, task, two_stage
from ule_jax.train.assemble import initialise
from ule_jax.train.loop import train
from ule_jax.train.selection import refuse_empty_groups, selection_rules, trains_student
from ule_jax.train.step import TrainState
from ule_jax.train.task import total_steps
from ule_jax.train.weights import start_from_weights, with_head
from ule_jax.two_stage.contract import SecondStage


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
    with Signals(shared=processes.is_distributed()) as signals:
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
  runtime.require_devices()
  check_devices(config)
  runtime.use_cache(config.compilation_cache, say)
  current = current or inputs.load_data(config)
  dataset = current.dataset
  training = task.training_data(config, dataset, SecondStage())
  examples, steps = training.splits['train'].count, total_steps(config, training)
  # Not under a lock: several second runs may look at one first run that is done.
  unchanged = workdir.compare(directory, config.to_dict(), force, examples)
  differs = [inputs.compare_inputs(config, directory, current, force)]
  rules = selection_rules(dataset, config.select, trains_student(config, dataset))
  if config.first.prepare == 'none':
    refuse_empty_groups(config, dataset)
  if processes.is_first() and workdir.lacks(directory, 'data.white'):
    data.say_changed(dataset, say)
  if processes.broadcast(unchanged and not any(differs) and is_finished(config, directory, steps)):
    inputs.say_finished(directory, current)
    return files.read_json(directory / 'results.json')
  refuse_fewer_steps(config, directory, steps)
  with contextlib.ExitStack() as stack:
    reopen = partial(set_results_aside, config, directory, examples, any(differs) or not unchanged)
    if processes.is_first():
      before = workdir.recorded_steps(directory, examples)
      stack.enter_context(workdir.owned(directory, config.to_dict(), force, examples, say))
      if task.is_fit(config):
        reopen(before)
        shutil.rmtree(directory / 'checkpoints', ignore_errors=True)
    processes.barrier('the workdir is ours')
    if not (directory / 'config.json').exists():
      raise UserError(f'{directory} is not the folder that the first host has: give a --workdir that all hosts see.')
    with contextlib.closing(Checkpoints(directory / 'checkpoints', rules, config.checkpoint.keep)) as checkpoints:
      begin, prepared = lambda state: state, SecondStage()
      if checkpoints.latest is None and config.first.prepare == 'none':
        data.check_images(dataset, config.data, say, sampled=config.model.encoder == 'frozen')
      code = features.feature_code() if config.model.encoder == 'frozen' else ''
      if checkpoints.latest is None or config.model.encoder == 'frozen':
        dataset, begin, other = start_from_weights(config, directory, current, force)
        differs.append(other)
      if config.first.prepare != 'none':
        first, prepared = run_first(config, directory, dataset, force, signals, current)
        differs.append(inputs.compare_first(directory, prepared, force))
        if prepared.head is not None:
          begin = partial(with_head, first=first, head=prepared.head)
      inputs.record_inputs(directory, current, '; '.join(filter(None, differs)), code, prepared)
      if processes.is_first() and not task.is_fit(config):
        reopen(before)
      training = task.training_data(config, dataset, prepared)
      return train(config, directory, dataset, training, prepared, begin, checkpoints, signals)


def is_finished(config: Any, directory: Path, steps: int) -> bool:
  """Tell whether a run has its results; a fit is as long as its first run, and fitted again, which takes seconds."""
  if task.is_fit(config) or not (directory / 'done').exists():
    return False
  return files.read_json(directory / 'results.json')['last']['step'] == steps


def refuse_fewer_steps(config: Any, directory: Path, steps: int) -> None:
  """Refuse to go on to a step that is behind, before anything is touched.

  Raises:
    UserError: says where the run stands.
  """
  if not task.is_fit(config) and (latest := workdir.latest_step(directory)) > steps:
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
  step = files.read_json(directory / 'results.json')['last']['step'] or before
  after = fields.total_steps(fields.flatten(config.to_dict()), examples)
  (directory / 'done').unlink()
  if forced or step != after:
    kept = ' and '.join(workdir.set_aside(directory, step))
    say(f'{directory} was done at step {step:,}: its results are kept as {kept}; going on to step {after:,}')


def run_first(
  config: Any, directory: Path, dataset: Dataset, force: bool, signals: Signals, current: Fingerprint
) -> tuple[TrainState, SecondStage]:
  """Do the first of two runs, or find it done; return its last state and what it gives to the second.

  Raises:
    UserError: as `run`; or its predictions are of no use to the method.
    Interrupted: as `run`.
  """
  two_stage.check_first(config, dataset)
  first = two_stage.first_config(config)
  place = local_path(config.first.workdir or directory / 'first', 'first.workdir')
  say(f'first run of {config.method.name}, in {place}:')
  last = _run(first, place, force, signals, current)['last']['step']
  mesh = make_mesh()
  state = initialise(first, task.training_data(first, dataset, SecondStage()), mesh).state
  with contextlib.closing(Checkpoints(place / 'checkpoints', selection_rules(dataset, 'last', False))) as checkpoints:
    if last not in checkpoints.steps:
      raise UserError(f'{place} has no checkpoint of the first run: remove that folder, to run it again.')
    state = checkpoints.restore(last, state)
  prepared = two_stage.make_second_stage(config, dataset, place, replicate(state.params['model']['head'], mesh))
  for message in prepared.messages:
    say(message)
  return state, prepared
