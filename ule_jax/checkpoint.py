"""Checkpoints through orbax: the newest, and the best one under every selection rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN


class Checkpoints:
  """The checkpoints of one run; saving is asynchronous and atomic.

  Kept: the newest one, and per rule the one with the largest metric (of equals the newest).
  """

  def __init__(self, directory: Path, rules: Sequence[str]):
    self.rules = tuple(rules)
    keep = [LatestN(n=1), *(BestN(get_metric_fn=lambda m, r=r: m[r], n=1) for r in self.rules)]
    # best_fn only makes orbax store the metrics; with max_to_keep it would delete the newest.
    options = ocp.CheckpointManagerOptions(
      preservation_policy=AnyPreservationPolicy(keep), best_fn=lambda m: m[self.rules[0]], create=True
    )
    self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

  @property
  def latest(self) -> int | None:
    """The step of the newest complete checkpoint."""
    return self._manager.latest_step()

  def metrics(self) -> dict[int, dict[str, float]]:
    """Return step -> metrics of every checkpoint that is kept."""
    self._manager.wait_until_finished()
    return {step: dict(self._manager.metrics(step)) for step in sorted(self._manager.all_steps())}

  def best(self) -> dict[str, int]:
    """Return rule -> step of its best checkpoint."""
    known = self.metrics()
    return {rule: max(known, key=lambda step, r=rule: (known[step][r], step)) for rule in self.rules}

  def save(self, step: int, state: PyTree, metrics: dict[str, float]) -> None:
    """Start saving a state with its validation metrics; the step is the position in the data too."""
    args = ocp.args.Composite(state=ocp.args.StandardSave(state))
    self._manager.save(step, args=args, metrics=metrics, force=True)

  def restore(self, step: int, like: PyTree) -> PyTree:
    """Read a state; `like` gives the structure, the types and where each array goes."""
    self._manager.wait_until_finished()
    args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
    return self._manager.restore(step, args=args)['state']

  def close(self) -> None:
    """Wait for the last save."""
    self._manager.close()


def read_parts(directory: Path, step: int, like: PyTree) -> PyTree:
  """Read some parts of a saved state as NumPy arrays: no optimiser, and no devices of the run, are needed.

  Args:
    directory: the checkpoints of a run.
    like: the structure of these parts, with shapes and types.
  """
  args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    where = directory.absolute() / str(step) / 'state'
    return reader.restore(where, args=ocp.args.PyTreeRestore(item=like, restore_args=args, partial_restore=True))
