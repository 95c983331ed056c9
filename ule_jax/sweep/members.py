"""Folders and logs of the members of a sweep."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import jax
from jaxtyping import PyTree

from ule_jax.runs.checkpoints import Checkpoints
from ule_jax.train.step import TrainState


def save_networks(folder: Path, step: int, networks: PyTree) -> None:
  """Write the networks of a member that the verbs after training restore."""
  shutil.rmtree(folder / 'checkpoints', ignore_errors=True)
  with contextlib.closing(Checkpoints(folder / 'checkpoints', ())) as checkpoints:
    checkpoints.save(step, networks, {})


def networks_of(state: TrainState) -> dict[str, PyTree]:
  """Take out of a state what is evaluated."""
  return {'params': state.params, 'batch_stats': state.batch_stats}


def at(tree: PyTree, place: tuple[int, int]) -> PyTree:
  """Take a member out of arrays of a population."""
  return jax.tree.map(lambda values: values[place], tree)


def read_log(path: Path) -> list[dict[str, float]]:
  """Read the lines of a log."""
  return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def write_log(path: Path, log: list[dict[str, float]], member: str) -> None:
  """Write a member's own log, as a single run has it."""
  lines = []
  for line in log:
    own = {name.removeprefix(f'{member}/'): v for name, v in line.items() if name.startswith(f'{member}/')}
    if own:
      lines.append(json.dumps({'step': line['step'], **own}) + '\n')
  path.write_text(''.join(lines), encoding='utf-8')
