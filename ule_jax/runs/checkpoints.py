"""Checkpoints through orbax: the newest ones, and the best one under every selection rule."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from ule_jax.devices import processes
from ule_jax.errors import UserError, is_out_of_memory
from ule_jax.paths import plain_name


def _not_of_orbax(record: logging.LogRecord) -> bool:
  return 'orbax' not in record.pathname and 'orbax' not in record.getMessage()


for _logger in ('absl', 'asyncio'):  # a traceback, often several, of all that orbax raises as well
  logging.getLogger(_logger).addFilter(_not_of_orbax)

MARGIN = 1 << 20  # bytes of a checkpoint beside its arrays
# Where one goes that is no longer kept: a rename is all or nothing, and a folder that is half deleted is one whose
# scores cannot be read.
DELETED = 'deleted'
Scores = dict[str, float]  # selection rule -> value; empty for a state that was not evaluated


class Checkpoints:
  """The checkpoints of one run; saving is asynchronous and atomic: a process that is killed loses the last one at most.

  Kept: the newest `keep`, and per rule the one with the largest score (of equals the newest). One that is
  damaged is never deleted, and never passed over without a word: a best one that is gone would change the results.
  """

  def __init__(self, directory: Path, rules: Sequence[str], keep: int = 1):
    self.rules = tuple(rules)
    self._directory, self._keep = directory.absolute(), keep
    options = ocp.CheckpointManagerOptions(preservation_policy=self, create=True, todelete_subdir=DELETED)
    self._open = ExitStack()
    place = self._open.enter_context(plain_name(self._directory))
    self._manager = ocp.CheckpointManager(place, options=options)
    # None: the file with the scores is damaged.
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
    """Tell whether there is a checkpoint of a step that was evaluated."""
    return bool(self._scores.get(step))

  def best(self) -> dict[str, int]:
    """Return rule -> step of its best checkpoint, of equals the newest; official codes of the field keep the first.

    Raises:
      UserError: the scores of a checkpoint cannot be read, so that nobody knows which is the best.
    """
    if damaged := [step for step, scores in self._scores.items() if scores is None]:
      raise self._damaged(damaged[0], 'its scores cannot be read')
    return self._best()

  def save(self, step: int, state: PyTree, scores: Scores) -> None:
    """Start saving a state; the step is the position in the data too.

    Of a step that is there, only the scores are written: the run had to stop there before it was evaluated.

    Args:
      scores: rule -> value; empty if the state was not evaluated.

    Raises:
      UserError: this one, or the one before, cannot be written; or another state of the step is there.
    """
    content = {'scores': scores, 'arrays': _checksums(state)}
    content |= {'checksum': _checksum(content)}
    with self._told():
      self._manager.wait_until_finished()  # the save before, which takes room too
      self._remove_deleted()
    if step in self.steps:
      self._rewrite_scores(step, content)
      return
    items = {'state': ocp.args.StandardSave(state), 'scores': ocp.args.JsonSave(content)}
    with self._told():
      self._refuse_full_disk(state)
      self._scores[step] = scores
      self._manager.save(step, args=ocp.args.Composite(**items), force=True)
    self._scores = {step: self._scores[step] for step in self.steps}

  def wait(self) -> None:
    """Wait for the last save.

    Raises:
      UserError: it failed.
    """
    with self._told():
      self._manager.wait_until_finished()

  def restore(self, step: int, like: PyTree) -> PyTree:
    """Read a state; `like` gives the structure, the types and where each array goes.

    Raises:
      UserError: it is damaged, or of another network.
    """
    self.wait()
    try:
      return self._restore(step, like)
    except Exception as error:  # orbax, tensorstore and json share no type
      _pass_over(error)
      raise self._damaged(step, _reason(error)) from None

  def restore_parts(self, step: int, like: PyTree) -> PyTree:
    """Read some parts of a state as NumPy arrays: no optimiser, and no devices of the run, are needed.

    Args:
      like: the structure of these parts, with shapes and types.

    Raises:
      UserError: they are damaged, or of another network.
    """
    args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    args = ocp.args.PyTreeRestore(item=like, restore_args=args, partial_restore=True)
    try:
      known = self._read(step)['arrays']
      parts = self._manager.restore(step, args=ocp.args.Composite(state=args))['state']
      # The list has no names; a wrong checksum is in it by chance once in ten million times.
      if None not in known and not set(_checksums(parts)) <= set(known):
        raise ValueError('its arrays do not have the checksums of when they were saved')
    except Exception as error:  # orbax, tensorstore and json share no type
      _pass_over(error)
      place = self._directory / str(step)
      raise UserError(f'{place} cannot be used ({_reason(error)}): restore it, or train again elsewhere.') from None
    return parts

  def restore_newest(self, like: PyTree, say: Callable[[str], None]) -> tuple[int, PyTree]:
    """Read the newest state that is not damaged; return its step and the state, or 0 and `like` if there is none.

    Newer ones that are damaged are renamed, which `say` is told, so that their steps can be saved again.

    Raises:
      UserError: there are checkpoints, but none can be read; or as `best`.
    """
    damaged: dict[int, str] = {}
    for step in reversed(self.steps):
      try:
        state = self._restore(step, like)
      except Exception as error:  # orbax, tensorstore and json share no type
        _pass_over(error)
        damaged[step] = _reason(error)
        continue
      for bad, reason in damaged.items():
        place = self._set_aside(bad)
        say(f'warning: the checkpoint of step {bad} is damaged ({reason}): it is now {place}; going on from {step}')
      self.best()  # ends here, rather than after the training, if one has scores that cannot be read
      return step, state
    if damaged:
      newest = max(damaged)
      raise UserError(
        f'no checkpoint in {self._directory} can be used, that of step {newest} because of: {damaged[newest]}. If they '
        'are of another network, choose another --workdir; if they are damaged, remove that folder to train again.'
      )
    return 0, like

  def close(self) -> None:
    """Wait for the last save and free the threads.

    Raises:
      UserError: the last save failed.
    """
    with self._open, self._told():
      self._manager.close()
      self._remove_deleted()

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
    """Say which checkpoints stay: orbax asks after every save."""
    del context
    kept = self._kept(sorted(checkpoint.step for checkpoint in checkpoints))
    return [checkpoint.step in kept for checkpoint in checkpoints]

  def _kept(self, steps: list[int]) -> set[int]:
    unknown = {step for step in steps if self._scores[step] is None}
    return {*steps[-self._keep :], *self._best().values(), *unknown}

  def _rewrite_scores(self, step: int, content: dict[str, Any]) -> None:
    place = self._directory / str(step)
    known = self._read(step)['arrays']
    if known != content['arrays']:
      raise UserError(f'{place} holds another state of step {step}: choose another --workdir, or remove that folder.')
    with self._told():
      if processes.is_first():
        path = place / 'scores' / 'metadata'
        partial = path.with_suffix('.partial')
        partial.write_text(json.dumps(content), encoding='utf-8')
        partial.replace(path)
      self._scores[step] = content['scores']
      for other in set(self.steps) - self._kept(self.steps):  # orbax asks what to keep when it saves
        self._manager.delete(other)
    self._scores = {step: self._scores[step] for step in self.steps}

  def _remove_deleted(self) -> None:
    if processes.is_first():
      shutil.rmtree(self._directory / DELETED, ignore_errors=True)

  def _refuse_full_disk(self, state: PyTree) -> None:
    # Before anything is written: threads that run out of room print what nobody can catch.
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
    for expected, found in zip(content['arrays'], _checksums(state), strict=True):
      if None not in (expected, found) and expected != found:
        raise ValueError('its arrays do not have the checksums of when they were saved')
    return state

  def _read(self, step: int) -> dict[str, Any]:
    content = dict(self._manager.restore(step, args=ocp.args.Composite(scores=ocp.args.JsonRestore()))['scores'])
    if content.pop('checksum') != _checksum(content):
      raise ValueError('its scores do not have the checksum of when they were saved')
    return content

  def _read_scores(self, step: int) -> Scores | None:
    try:
      return self._read(step)['scores']
    except Exception as error:  # orbax, tensorstore and json share no type
      _pass_over(error)
      return None

  def _set_aside(self, step: int) -> Path:
    place = self._directory / f'{step}.damaged'
    while place.exists():
      place = place.with_name(f'{place.name}.damaged')
    processes.barrier('a damaged checkpoint was found')
    if processes.is_first():
      (self._directory / str(step)).rename(place)
    processes.barrier('a damaged checkpoint is set aside')
    self._manager.reload()
    del self._scores[step]
    return place

  def _damaged(self, step: int, reason: str) -> UserError:
    place = self._directory / str(step)
    return UserError(
      f'the checkpoint {place}, which may be the best by a selection rule, cannot be used ({reason}): '
      f'remove {self._directory} to train again, or only {place.name} in it to choose among the others.'
    )

  @contextmanager
  def _told(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # orbax, tensorstore and json share no type
      _pass_over(error)
      if processes.is_distributed() and isinstance(error, jax.errors.JaxRuntimeError):  # another one is gone
        raise
      raise UserError(
        f'a checkpoint cannot be written in {self._directory} ({_reason(error)}): '
        'make room there; the same command goes on from the last one that was.'
      ) from None


def _pass_over(error: Exception) -> None:
  """Raise an error that is the machine's: what cannot be read for lack of memory or files is not damaged."""
  if is_out_of_memory(error):
    raise error
  if os.strerror(errno.EMFILE) in str(error):
    raise UserError(f'a checkpoint cannot be opened ({_reason(error)}): raise the limit (ulimit -n).') from None


def _checksums(state: PyTree) -> list[int | None]:
  """Make a checksum of every array; None where parts of it are on other hosts."""

  def is_here(leaf):
    return isinstance(leaf, np.ndarray) or leaf.is_fully_addressable or leaf.is_fully_replicated

  return [zlib.crc32(np.asarray(leaf).tobytes()) if is_here(leaf) else None for leaf in jax.tree.leaves(state)]


def _checksum(content: dict[str, Any]) -> int:
  return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _reason(error: Exception) -> str:
  text = ' '.join(str(error).split()) or type(error).__name__
  return text if len(text) <= 160 else f'{text[:80]} ... {text[-70:]}'
