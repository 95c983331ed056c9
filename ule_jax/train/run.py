"""One run: train, evaluate and record a config; resume where an earlier run stopped."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ule_jax import data
from ule_jax.config.check import check_devices
from ule_jax.config.schema import Config
from ule_jax.config.validate import validate_config
from ule_jax.devices import processes, runtime
from ule_jax.errors import UserError, is_out_of_memory, out_of_memory
from ule_jax.models import make_model
from ule_jax.paths import local_path
from ule_jax.runs import inputs, restore
from ule_jax.runs.fingerprint import Fingerprint
from ule_jax.runs.results import Results, last_step
from ule_jax.runs.signals import Signals
from ule_jax.train import two_stage
from ule_jax.train.folder import Folder, compare_folder, open_folder, record, refuse_fewer_steps, set_results_aside
from ule_jax.train.loop import train
from ule_jax.train.task import Task, load_task
from ule_jax.train.weights import Begin, record_statistics, start_from_weights, with_head
from ule_jax.two_stage.contract import SecondStage

log = logging.getLogger(__name__)


def run(config: Any, directory: Path, force: bool = False, current: Fingerprint | None = None) -> Results:
  """Train, evaluate and write the results of one config; resume where an earlier run stopped.

  Args:
    config: a ConfigDict, as `load_config` returns, or a `Config`.
    directory: the workdir.
    force: continue although the workdir's config, data or weights differ.
    current: data that the caller loaded, or has as arrays; None: those that the config names.

  Returns:
    The content of results.json.

  Raises:
    UserError: bad options, bad data, a loss that is not finite, or a workdir of another run.
    Interrupted: a signal was received; the state is saved.
  """
  config = validate_config(config)
  with name_remedy(less_memory(config)), Signals(shared=processes.is_distributed()) as signals:
    return run_config(config, local_path(directory, '--workdir'), force, signals, current)


def run_config(
  config: Config, path: Path, force: bool, signals: Signals, current: Fingerprint | None = None
) -> Results:
  """Run a config inside a caller's signal handlers, as `run`.

  Args:
    config: of the run, or of a first run.
    path: the workdir.
    force: as in `run`.
    signals: stop the run.
    current: the data, if another run of this process or the caller loaded them.
  """
  runtime.require_devices()
  check_devices(config)
  runtime.use_cache(config.compilation_cache)
  task, recorded = load_task(config, current), config.to_dict()
  comparison = compare_folder(task, path, recorded, force)
  if processes.broadcast(comparison.is_same and is_finished(task, path)):
    inputs.report_finished(path, task.inputs)
    return Results.read(path)
  refuse_fewer_steps(task, path)
  with open_folder(task, path, recorded, comparison, task.rules, force) as folder:
    task, begin = starting_point(task, folder, signals)
    record(task, folder)
    if processes.is_first() and not task.is_fit:
      set_results_aside(task, path, folder.former_steps, not comparison.is_same or any(folder.differs))
    return train(task, begin, folder, signals)


def is_finished(task: Task, path: Path) -> bool:
  """Return whether a folder holds the results of the task's last step; never for a fit, which takes seconds."""
  return not task.is_fit and (path / 'done').exists() and last_step(path) == task.steps


def starting_point(task: Task, folder: Folder, signals: Signals) -> tuple[Task, Begin]:
  """Read the images, the weights, the features and the first run that training starts from.

  Args:
    task: to be trained.
    folder: of the run; differences from its inputs are added to `folder.differs`.
    signals: stop a first run.

  Returns:
    The task, on the features of a frozen encoder and on the result of a first run; and the function from an initial
    state to the one that training starts from.

  Raises:
    UserError: an image or the weights cannot be read, or inputs differ from those that the run was trained on.
    Interrupted: a signal was received in the first run.
  """
  config, dataset, second = task.config, task.dataset, SecondStage()
  begin: Begin = lambda state: state  # noqa: E731
  is_new = folder.checkpoints.latest is None
  if is_new and not task.has_first_run:
    data.check_images(dataset, config.data, sampled=task.is_frozen)
  if is_new or task.is_frozen:
    dataset, begin, differs = start_from_weights(config, folder.path, task.inputs, folder.force)
    folder.differs.append(differs)
  if task.dataset.is_features:
    record_statistics(folder.path, dataset)
  if task.has_first_run:
    networks, second = run_first(task.on(dataset, second), folder, signals)
    folder.differs.append(inputs.compare_first(folder.path, second, folder.force))
    if second.head is not None:
      begin = partial(with_head, first=networks, head=second.head)
  return task.on(dataset, second), begin


def run_first(task: Task, folder: Folder, signals: Signals) -> tuple[restore.Networks, SecondStage]:
  """Train the first of two runs, unless it is done; return its networks and the inputs of the second run.

  Args:
    task: of the second run, on the data set that it is evaluated on.
    folder: of the second run.
    signals: stop the run.

  Raises:
    UserError: as `run`; or the second stage cannot use the predictions.
    Interrupted: as `run`.
  """
  config, dataset = task.config, task.dataset
  two_stage.check_first(config, dataset)
  first = two_stage.first_config(config)
  path = local_path(config.two_stage.workdir or folder.path / 'first', 'two_stage.workdir')
  log.info(f'first run of {config.method.name}, in {path}:')
  results = run_config(first, path, folder.force, signals, task.inputs)
  step = results.last['step']
  if not (path / 'checkpoints' / str(step)).is_dir():
    raise UserError(f'{path} has no checkpoint of the first run: remove that folder, to run it again.')
  model = make_model(first.model, len(dataset.classes))
  networks = restore.read_networks(path, model, dataset.image_shape, results.roles, step)
  second = two_stage.make_second_stage(config, dataset, path, networks.params['model']['head'])
  for message in second.messages:
    is_warning = message.startswith('warning: ')
    log.log(logging.WARNING if is_warning else logging.INFO, message.removeprefix('warning: '))
  return networks, second


@contextlib.contextmanager
def name_remedy(remedy: str) -> Iterator[None]:
  """Convert a lack of memory in the block into a UserError that ends with a remedy.

  Raises:
    UserError: no memory was left.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    if not is_out_of_memory(error):
      raise
    raise out_of_memory(error, remedy) from None


def less_memory(config: Config) -> str:
  """Return the clause that says by which options a config takes less memory."""
  train = config.train
  return (
    f'lower train.batch_size ({train.batch_size}) or train.eval_batch_size ({train.eval_batch_size}), raise '
    f'train.accumulate ({train.accumulate}), or set model.remat=True (for resnets and vits); the last '
    'checkpoint stands'
  )
