"""Train the members of a sweep as one graph; resume where an earlier sweep stopped."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

from ule_jax import data
from ule_jax.devices import runtime
from ule_jax.errors import UserError, is_out_of_memory, out_of_memory
from ule_jax.paths import local_path
from ule_jax.runs import environment, files, inputs, workdir
from ule_jax.runs.checkpoints import Checkpoints
from ule_jax.runs.progress import say
from ule_jax.runs.signals import Signals
from ule_jax.sweep.axes import NAME, Axes, expand
from ule_jax.sweep.loop import Sweep
from ule_jax.train import features, selection, task, weights
from ule_jax.train.run import less_memory, refuse_fewer_steps
from ule_jax.two_stage import contract


def run(config: Any, axes: Axes, directory: Path, force: bool = False) -> dict[str, Any]:
  """Train and evaluate all members and write their results; go on where an earlier sweep stopped.

  Args:
    config: a ConfigDict of configs/base.py.
    axes: as of `parse_axes`.
    directory: of the sweep; a member's is below it.
    force: go on although the config, the axes, the data or the weights differ from what the folder holds.

  Returns:
    The content of sweep.json.

  Raises:
    UserError: bad options, bad data, or no member whose loss is finite.
    Interrupted: SIGTERM or SIGINT came; what was trained is saved.
  """
  try:
    with Signals() as signals:
      return _run(config, axes, local_path(directory, '--workdir'), force, signals)
  except Exception as error:
    if not is_out_of_memory(error) or isinstance(error, UserError):
      raise
    members = math.prod(map(len, axes.values()))
    raise out_of_memory(error, f'give fewer than these {members:,} members at once, or {less_memory(config)}') from None


def _run(config: Any, axes: Axes, directory: Path, force: bool, signals: Signals) -> dict[str, Any]:
  if config.first.prepare != 'none':
    raise UserError(f'first.prepare is {config.first.prepare}: a sweep is of one-stage methods; use ule_jax.main.')
  if config.train.holdout and len(axes.get('seed', [])) > 1:
    raise UserError('train.holdout draws other training data for each seed: make a sweep for each of them.')
  members = expand(config, axes)
  longest = max((member.name for member in members), key=len)
  if len(longest) > NAME:
    raise UserError(
      f'{len(axes)} axes make folders of {len(longest)} letters, as {longest[:40]}..., and {NAME} are possible: make '
      'sweeps of fewer axes, and set the other fields in their configs.'
    )
  config = members[0].config
  runtime.require_devices()
  runtime.use_cache(config.compilation_cache, say)
  current = inputs.load_data(config)
  dataset = current.dataset
  training = task.training_data(config, dataset, contract.SecondStage())
  examples, steps = training.splits['train'].count, task.total_steps(config, training)
  about = config.to_dict() | {'axes': axes}
  unchanged = workdir.compare(directory, about, force, examples)
  differs = [inputs.compare_inputs(config, directory, current, force)]
  rules = selection.selection_rules(dataset, config.select, selection.trains_student(config, dataset))
  selection.refuse_empty_groups(config, dataset)
  if workdir.lacks(directory, 'data.white'):
    data.say_changed(dataset, say)
  if unchanged and not any(differs) and (directory / 'done').exists():
    found = files.read_json(directory / 'sweep.json')
    if found['steps'] == steps:
      inputs.say_finished(directory, current)
      return found
  refuse_fewer_steps(config, directory, steps)
  with (
    workdir.owned(directory, about, force, examples, say),
    contextlib.closing(Checkpoints(directory / 'checkpoints', (), config.checkpoint.keep)) as checkpoints,
  ):
    files.write_json(directory / 'env.json', environment.describe_environment(runtime.describe()))
    frozen = config.model.encoder == 'frozen'
    if checkpoints.latest is None:
      data.check_images(dataset, config.data, say, sampled=frozen)
    dataset, begin, other = weights.start_from_weights(config, directory, current, force)
    code = features.feature_code() if frozen else ''
    inputs.record_inputs(directory, current, '; '.join(filter(None, [*differs, other])), code)
    if (directory / 'done').exists():
      (directory / 'done').unlink()
      say(f'{directory} was done: going on to step {steps:,}; older results are kept under names with their step')
    sweep = Sweep(config, members, directory, dataset, rules, begin, checkpoints)
    sweep.train(signals)
    results = sweep.conclude() | {'axes': axes}
    if (directory / 'sweep.json').exists():
      workdir.set_aside(directory, files.read_json(directory / 'sweep.json')['steps'], ['sweep.json'])
    files.write_json(directory / 'sweep.json', results)
    (directory / 'done').touch()
  return results
