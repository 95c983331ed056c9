"""Checkpoints through orbax: the newest ones, and the best one under every selection rule."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from ule_jax.devices import processes
from ule_jax.errors import UserError
from ule_jax.paths import plain_name
from ule_jax.runs import checksums
from ule_jax.runs.files import write_text

log = logging.getLogger(__name__)

MARGIN = 1 << 20  # bytes that a checkpoint takes beyond its arrays
# The folder to which checkpoints that are no longer kept are renamed before they are deleted: a rename is atomic, but
# the scores of a folder that is half deleted could not be read.
DELETED = 'deleted'
Scores = dict[str, float]  # selection rule -> value; empty for a state that was not evaluated


class Checkpoints:
  """The checkpoints of one run; saving is asynchronous and atomic: a process that is killed loses at most the last one.

  Kept are the newest `keep`, and for each rule the one with the largest score, of equal scores the newest. A damaged
  checkpoint is never deleted, and never skipped without a warning: without the best one the results would differ.
  """

  def __init__(self, directory: Path, rules: Sequence[str], keep: int = 1):
    """Open the folder, which is created if it does not exist.

    Args:
      directory: of the checkpoints.
      rules: selection rules by which the best checkpoints are kept.
      keep: number of the newest checkpoints to keep.
    """
    self.rules = tuple(rules)
    self._directory, self._keep = directory.absolute(), keep
    options = ocp.CheckpointManagerOptions(preservation_policy=self, create=True, todelete_subdir=DELETED)
    self._open = ExitStack()
    path = self._open.enter_context(plain_name(self._directory))
    self._manager = ocp.CheckpointManager(path, options=options)
    # None where the file with the scores is damaged
    self._scores: dict[int, Scores | None] = {step: self._read_scores(step) for step in self.steps}

  @property
  def steps(self) -> list[int]:
    """The steps of all checkpoints, oldest first."""
    return sorted(self._manager.all_steps())

  @property
  def latest(self) -> int | None:
    """The step of the newest checkpoint."""
    return max(self.steps, default=None)

  def scored(self, step: int) -> bool:
    """Return whether the checkpoint of a step exists and was evaluated."""
    return bool(self._scores.get(step))

  def best(self) -> dict[str, int]:
    """Return rule -> step of its best checkpoint; of equal scores the newest, where published code keeps the first.

    Raises:
      UserError: the scores of a checkpoint cannot be read, so that the best one is unknown.
    """
    if damaged := [step for step, scores in self._scores.items() if scores is None]:
      raise self._damaged(damaged[0], 'its scores cannot be read')
    return self._best()

  def best_score(self, rule: str) -> tuple[float, int] | None:
    """Return the highest score by a rule, and its step; None before an evaluation, and for other rules."""
    step = self._best().get(rule)
    return None if step is None else (cast(Scores, self._scores[step])[rule], step)

  def save(self, step: int, state: PyTree, scores: Scores) -> None:
    """Start saving a state.

    If the step is saved already, only its scores are written: the run was stopped there before it was evaluated.

    Args:
      step: of the state; also its position in the data.
      state: to save.
      scores: rule -> value; empty if the state was not evaluated.

    Raises:
      UserError: this checkpoint, or the one before, cannot be written; or another state of the step is saved.
    """
    content = {'scores': scores, 'arrays': checksums.of_arrays(state)}
    content |= {'checksum': checksums.of_json(content)}
    with self._as_user_error():
      self._manager.wait_until_finished()  # of the previous save, which takes room too
      self._remove_deleted()
    if step in self.steps:
      self._rewrite_scores(step, content)
      return
    items = {'state': ocp.args.StandardSave(state), 'scores': ocp.args.JsonSave(content)}
    with self._as_user_error():
      self._refuse_full_disk(state)
      self._scores[step] = scores
      self._manager.save(step, args=ocp.args.Composite(**items), force=True)
    self._scores = {step: self._scores[step] for step in self.steps}

  def wait(self) -> None:
    """Wait until the last save is done.

    Raises:
      UserError: it failed.
    """
    with self._as_user_error():
      self._manager.wait_until_finished()

  def restore(self, step: int, like: PyTree) -> PyTree:
    """Return the state of a step.

    Args:
      step: of the checkpoint.
      like: a state with the structure, dtypes and shardings to return.

    Raises:
      UserError: it is damaged, or of another network.
    """
    self.wait()
    try:
      return self._restore(step, like)
    except Exception as error:  # orbax, tensorstore and json share no type
      checksums.raise_if_not_damage(error)
      raise self._damaged(step, checksums.reason(error)) from None

  def restore_parts(self, step: int, like: PyTree) -> PyTree:
    """Return some parts of a state as NumPy arrays, without its optimiser and without the devices of the run.

    Args:
      step: of the checkpoint.
      like: the structure of these parts, with shapes and dtypes.

    Raises:
      UserError: they are damaged, or of another network.
    """
    args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    args = ocp.args.PyTreeRestore(item=like, restore_args=args, partial_restore=True)
    try:
      known = self._read(step)['arrays']
      parts = self._manager.restore(step, args=ocp.args.Composite(state=args))['state']
      # The list has no names: a wrong array passes by chance once in ten million times.
      if None not in known and not set(checksums.of_arrays(parts)) <= set(known):
        raise ValueError('its arrays do not have the checksums of when they were saved')
    except Exception as error:  # orbax, tensorstore and json share no type
      checksums.raise_if_not_damage(error)
      path = self._directory / str(step)
      raise UserError(
        f'{path} cannot be used ({checksums.reason(error)}): restore it, or train again elsewhere.'
      ) from None
    return parts

  def restore_newest(self, like: PyTree) -> tuple[int, PyTree]:
    """Read the newest state that is not damaged; return its step and the state, or 0 and `like` if there is none.

    Newer ones that are damaged are renamed with a warning, so that their steps can be saved again.

    Args:
      like: as in `restore`.

    Raises:
      UserError: there are checkpoints, but none can be read; or as `best`.
    """
    damaged: dict[int, str] = {}
    for step in reversed(self.steps):
      try:
        state = self._restore(step, like)
      except Exception as error:  # orbax, tensorstore and json share no type
        checksums.raise_if_not_damage(error)
        damaged[step] = checksums.reason(error)
        continue
      for bad, reason in damaged.items():
        path = self._set_aside(bad)
        log.warning(f'the checkpoint of step {bad} is damaged ({reason}): it is now {path}; continuing from {step}')
      self.best()  # fails now, rather than after the training, if the scores of one cannot be read
      return step, state
    if damaged:
      newest = max(damaged)
      raise UserError(
        f'no checkpoint in {self._directory} can be used, that of step {newest} because of: {damaged[newest]}. If they '
        'are of another network, choose another --workdir; if they are damaged, remove that folder to train again.'
      )
    return 0, like

  def close(self) -> None:
    """Wait until the last save is done, and end the threads.

    Raises:
      UserError: the last save failed.
    """
    with self._open, self._as_user_error():
      self._manager.close()
      self._remove_deleted()

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
    """Return for each checkpoint whether to keep it; orbax calls this after every save."""
    del context
    kept = self._kept(sorted(checkpoint.step for checkpoint in checkpoints))
    return [checkpoint.step in kept for checkpoint in checkpoints]

  def _kept(self, steps: list[int]) -> set[int]:
    unknown = {step for step in steps if self._scores[step] is None}
    return {*steps[-self._keep :], *self._best().values(), *unknown}

  def _rewrite_scores(self, step: int, content: dict[str, Any]) -> None:
    path = self._directory / str(step)
    known = self._read(step)['arrays']
    if known != content['arrays']:
      raise UserError(f'{path} holds another state of step {step}: choose another --workdir, or remove that folder.')
    with self._as_user_error():
      if processes.is_first():
        write_text(path / 'scores' / 'metadata', json.dumps(content))
      self._scores[step] = content['scores']
      for other in set(self.steps) - self._kept(self.steps):  # orbax deletes only when it saves
        self._manager.delete(other)
    self._scores = {step: self._scores[step] for step in self.steps}

  def _remove_deleted(self) -> None:
    if processes.is_first():
      shutil.rmtree(self._directory / DELETED, ignore_errors=True)

  def _refuse_full_disk(self, state: PyTree) -> None:
    # Checked before anything is written: threads that run out of room print errors that cannot be caught.
    need = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + MARGIN
    if (free := shutil.disk_usage(self._directory).free) < need:
      raise OSError(f'{free / 1e6:,.1f} MB are free, and {need / 1e6:,.1f} MB needed')

  def _best(self) -> dict[str, int]:
    known = {step: scores for step, scores in self._scores.items() if scores}
    return {rule: max(known, key=lambda step, r=rule: (known[step][r], step)) for rule in self.rules if known}

  def _restore(self, step: int, like: PyTree) -> PyTree:
    content = self._read(step)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
    state = self._manager.restore(step, args=args)['state']
    # tensorstore's own checksums leave out the arrays' content.
    for expected, actual in zip(content['arrays'], checksums.of_arrays(state), strict=True):
      if None not in (expected, actual) and expected != actual:
        raise ValueError('its arrays do not have the checksums of when they were saved')
    return state

  def _read(self, step: int) -> dict[str, Any]:
    content = dict(self._manager.restore(step, args=ocp.args.Composite(scores=ocp.args.JsonRestore()))['scores'])
    if content.pop('checksum') != checksums.of_json(content):
      raise ValueError('its scores do not have the checksum of when they were saved')
    return content

  def _read_scores(self, step: int) -> Scores | None:
    try:
      return self._read(step)['scores']
    except Exception as error:  # orbax, tensorstore and json share no type
      checksums.raise_if_not_damage(error)
      return None

  def _set_aside(self, step: int) -> Path:
    path = self._directory / f'{step}.damaged'
    while path.exists():
      path = path.with_name(f'{path.name}.damaged')
    processes.barrier('a damaged checkpoint was found')
    if processes.is_first():
      (self._directory / str(step)).rename(path)
    processes.barrier('a damaged checkpoint is set aside')
    self._manager.reload()
    del self._scores[step]
    return path

  def _damaged(self, step: int, reason: str) -> UserError:
    path = self._directory / str(step)
    return UserError(
      f'the checkpoint {path}, which may be the best by a selection rule, cannot be used ({reason}): '
      f'remove {self._directory} to train again, or only {path.name} in it to choose among the others.'
    )

  @contextmanager
  def _as_user_error(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # orbax, tensorstore and json share no type
      checksums.raise_if_not_damage(error)
      if processes.is_distributed() and isinstance(error, jax.errors.JaxRuntimeError):  # a peer is lost
        raise
      raise UserError(
        f'a checkpoint cannot be written in {self._directory} ({checksums.reason(error)}): '
        'make room there; the same command continues from the last one that was.'
      ) from None
