"""Train the members of a sweep as one graph; resume where an earlier sweep stopped."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from ule_jax.config.schema import NO_RULE, Config
from ule_jax.config.validate import validate_config
from ule_jax.devices import runtime
from ule_jax.errors import UserError
from ule_jax.paths import local_path
from ule_jax.runs import files, inputs, workdir
from ule_jax.runs.signals import Signals
from ule_jax.sweep.axes import LONGEST_NAME, Axes, Member, expand
from ule_jax.sweep.conclude import conclude
from ule_jax.sweep.loop import Sweep
from ule_jax.train.folder import compare_folder, open_folder, record, refuse_fewer_steps
from ule_jax.train.run import less_memory, name_remedy, starting_point
from ule_jax.train.task import Task, load_task

log = logging.getLogger(__name__)

NAME = 'sweep.json'


def run(config: Any, axes: Axes, directory: Path, force: bool = False) -> dict[str, Any]:
  """Train and evaluate all members and write their results; resume where an earlier sweep stopped.

  Args:
    config: a ConfigDict, as `load_config` returns, or a `Config`.
    axes: as of `parse_axes`.
    directory: of the sweep; a member's is below it.
    force: continue although the config, the axes, the data or the weights differ from those of the folder.

  Returns:
    The content of sweep.json.

  Raises:
    UserError: bad options, bad data, or no member whose loss is finite.
    Interrupted: a signal was received; the population is saved.
  """
  config = validate_config(config)
  count = math.prod(map(len, axes.values()))
  remedy = f'give fewer than these {count:,} members at once, or {less_memory(config)}'
  with name_remedy(remedy), Signals() as signals:
    members = expand_checked(config, axes)
    return run_members(members, axes, local_path(directory, '--workdir'), force, signals)


def run_members(members: list[Member], axes: Axes, path: Path, force: bool, signals: Signals) -> dict[str, Any]:
  """Run a sweep inside a caller's signal handlers, as `run`.

  Args:
    members: of `axes`.
    axes: as of `parse_axes`.
    path: the folder of the sweep.
    force: as in `run`.
    signals: stop the sweep.
  """
  config = members[0].config
  runtime.require_devices()
  runtime.use_cache(config.compilation_cache)
  task, recorded = load_task(config), config.to_dict() | {'axes': axes}
  comparison = compare_folder(task, path, recorded, force)
  if comparison.is_same and (finished := read_finished(task, path)):
    inputs.report_finished(path, task.inputs)
    return finished
  refuse_fewer_steps(task, path)
  with open_folder(task, path, recorded, comparison, (), force) as folder:
    task, begin = starting_point(task, folder, signals)
    record(task, folder)
    if (path / 'done').exists():
      (path / 'done').unlink()
      log.info(
        f'{path} was done: continuing to step {task.steps:,}; older results are kept under names with their step'
      )
    sweep = Sweep(task, members, folder, begin)
    sweep.train(signals)
    results = conclude(sweep) | {'axes': axes}
    if (path / NAME).exists():
      workdir.set_aside(path, files.read_json(path / NAME)['steps'], [NAME])
    files.write_json(path / NAME, results)
    (path / 'done').touch()
  return results


def expand_checked(config: Config, axes: Axes) -> list[Member]:
  """Return the members of a sweep.

  Raises:
    UserError: the config is not one of a sweep, a value is out of its range, or the names of folders would be too long.
  """
  rule = config.two_stage.rule
  if rule != NO_RULE:
    raise UserError(f'two_stage.rule is {rule}: a sweep is of one-stage methods; use ule_jax.main.')
  if config.train.holdout and len(axes.get('seed', [])) > 1:
    raise UserError('train.holdout draws other training data for each seed: make a sweep for each of them.')
  members = expand(config, axes)
  longest = max((member.name for member in members), key=len)
  if len(longest) > LONGEST_NAME:
    raise UserError(
      f'{len(axes)} axes make folders of {len(longest)} letters, as {longest[:40]}..., and {LONGEST_NAME} are '
      'possible: make sweeps of fewer axes, and set the other fields in their configs.'
    )
  return members


def read_finished(task: Task, path: Path) -> dict[str, Any] | None:
  """Return the results of a sweep that is done with all steps of the task; None otherwise.

  Raises:
    UserError: they cannot be read.
  """
  results = files.read_json(path / NAME) if (path / 'done').exists() else {}
  return results if results.get('steps') == task.steps else None
