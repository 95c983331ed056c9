"""The folder of a run while it is trained: compared with the task, locked, and with a record of its inputs."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ule_jax import data
from ule_jax.config import fields
from ule_jax.devices import processes, runtime
from ule_jax.errors import UserError
from ule_jax.methods import METHODS
from ule_jax.runs import files, inputs, workdir
from ule_jax.runs.checkpoints import Checkpoints
from ule_jax.runs.environment import describe_environment, recorded_correction
from ule_jax.runs.results import last_step
from ule_jax.train import features
from ule_jax.train.task import Task

log = logging.getLogger(__name__)


class Comparison(NamedTuple):
  """A folder compared with a task.

  Attributes:
    is_same: it holds a run of the same config on the same inputs.
    differs: the differences of its inputs as a clause; '' for none.
  """

  is_same: bool
  differs: str


class Folder(NamedTuple):
  """The folder of a run that is being trained, locked by this process.

  Attributes:
    path: of the folder.
    checkpoints: of the run.
    force: continue although inputs differ.
    differs: clauses that name the differences of the inputs; more are added while inputs are read.
    former_steps: number of steps in the config that the folder held before.
  """

  path: Path
  checkpoints: Checkpoints
  force: bool
  differs: list[str]
  former_steps: int


def compare_folder(task: Task, path: Path, recorded: dict[str, Any], force: bool) -> Comparison:
  """Compare a folder with a task, without a lock: several second runs may read one first run that is done.

  Args:
    task: to be trained.
    path: of the folder.
    recorded: the content of its config.json.
    force: allow other configs and other inputs.

  Raises:
    UserError: the folder holds something else, and `force` is not set; or a checkpoint beyond the last step.
  """
  same_config = workdir.compare(path, recorded, force, task.examples)
  differs = inputs.compare_inputs(task.config, path, task.inputs, force)
  if processes.is_first() and workdir.lacks(path, 'data.white'):
    data.warn_of_changed_pixels(task.dataset)
  return Comparison(same_config and not differs, differs)


def refuse_fewer_steps(task: Task, path: Path) -> None:
  """Refuse a task whose last step is before the newest checkpoint of the folder.

  Raises:
    UserError: it is; the error has the step of the checkpoint.
  """
  if not task.is_fit and (latest := workdir.latest_step(path)) > task.steps:
    raise UserError(
      f'{path} has a checkpoint of step {latest}, beyond the {task.steps} steps asked for: '
      'raise train.steps, or choose another --workdir.'
    )


@contextlib.contextmanager
def open_folder(
  task: Task, path: Path, recorded: dict[str, Any], comparison: Comparison, rules: Sequence[str], force: bool
) -> Iterator[Folder]:
  """Lock a folder, write its config.json and open its checkpoints.

  Args:
    task: to be trained.
    path: of the folder, which is created if it does not exist.
    recorded: the content of config.json.
    comparison: of the folder with the task.
    rules: selection rules by which checkpoints are kept.
    force: as in `compare_folder`.

  Raises:
    UserError: another process has the lock, the folder cannot be written, or processes see different folders.
  """
  with contextlib.ExitStack() as stack:
    former_steps = 0
    if processes.is_first():
      former_steps = workdir.recorded_steps(path, task.examples)
      stack.enter_context(workdir.owned(path, recorded, force, task.examples))
      if task.is_fit:  # a last layer is fitted again
        set_results_aside(task, path, former_steps, not comparison.is_same)
        shutil.rmtree(path / 'checkpoints', ignore_errors=True)
    processes.barrier('the workdir is ours')
    if not (path / 'config.json').exists():
      raise UserError(f'{path} is not the folder that the first host has: give a --workdir that all hosts see.')
    refuse_fewer_steps(task, path)  # another process may have trained since the comparison
    checkpoints = stack.enter_context(
      contextlib.closing(Checkpoints(path / 'checkpoints', rules, task.config.checkpoint.keep))
    )
    yield Folder(path, checkpoints, force, [comparison.differs], former_steps)


def record(task: Task, folder: Folder) -> None:
  """Write fingerprint.json, env.json and a split that was drawn as split.csv, when all inputs are read and compared.

  Raises:
    UserError: a process has other data than the first.
  """
  differs = '; '.join(filter(None, folder.differs))
  code = features.feature_code() if task.is_frozen else ''
  inputs.record_inputs(folder.path, task.inputs, differs, code, task.second)
  name = task.config.method.name
  correction, former = METHODS[name].correction, recorded_correction(folder.path)
  processes.barrier('the former environment is read')
  if processes.is_first():
    environment = describe_environment(runtime.describe()) | {'correction': correction}
    files.write_json(folder.path / 'env.json', environment)
    if split := data.drawn_split(task.inputs.dataset):
      files.write_text(folder.path / 'split.csv', split)
    elif differs:  # the draw of former data
      (folder.path / 'split.csv').unlink(missing_ok=True)
  if folder.checkpoints.latest and correction != former:
    log.warning(
      f'the loss of {name} was corrected since this run began ({correction}); it continues with the corrected one: for '
      'one loss in all steps, choose another --workdir.'
    )


def set_results_aside(task: Task, path: Path, former_steps: int, forced: bool) -> None:
  """Mark a finished run as unfinished, and rename its results if the new ones will have other steps or inputs.

  Args:
    task: to be trained.
    path: of the folder.
    former_steps: as in `Folder`; the length of a fit is that of its first run.
    forced: it continues with another config or other inputs.

  Raises:
    UserError: its results cannot be read.
  """
  if not (path / 'done').exists():
    return
  step = last_step(path) or former_steps
  steps = fields.total_steps(task.config.flat(), task.examples)
  (path / 'done').unlink()
  if forced or step != steps:
    kept = ' and '.join(workdir.set_aside(path, step))
    log.info(f'{path} was done at step {step:,}: its results are kept as {kept}; continuing to step {steps:,}')
