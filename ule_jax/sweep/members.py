"""Folders and logs of the members of a sweep."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
from jaxtyping import PyTree

from ule_jax.runs.checkpoints import Checkpoints
from ule_jax.runs.files import write_text
from ule_jax.train.step import TrainState


def save_networks(folder: Path, step: int, networks: PyTree) -> None:
  """Save the networks of a member as the only checkpoint of its folder, from which the verbs after training restore."""
  shutil.rmtree(folder / 'checkpoints', ignore_errors=True)
  with contextlib.closing(Checkpoints(folder / 'checkpoints', ())) as checkpoints:
    checkpoints.save(step, networks, {})


def networks_of(state: TrainState) -> dict[str, PyTree]:
  """Return the part of a state that is evaluated."""
  return {'params': state.params, 'batch_stats': state.batch_stats}


def at(tree: PyTree, place: tuple[int, int]) -> PyTree:
  """Return the arrays of one member from those of a population, whose axes s n come first."""
  return jax.tree.map(lambda values: values[place], tree)


def write_log(path: Path, log: Sequence[dict[str, float]], member: str) -> None:
  """Write a member's metrics.jsonl, as a single run has it.

  Args:
    path: of the file.
    log: the lines of the sweep's, in which names start with the member's.
    member: its name.
  """
  lines = []
  for line in log:
    values = {name.removeprefix(f'{member}/'): v for name, v in line.items() if name.startswith(f'{member}/')}
    if values:
      lines.append(json.dumps({'step': line['step'], **values}) + '\n')
  write_text(path, ''.join(lines))
