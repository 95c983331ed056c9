"""Evaluation of a finished run, again: `python -m ule_jax.evaluate --run=runs/first --saliency=4`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from etils import epy

from ule_jax.cli.arguments import Cache, Count, Run, Text, Threads
from ule_jax.config.fields import flatten
from ule_jax.errors import UserError
from ule_jax.paths import local_path

if TYPE_CHECKING:
  from ule_jax.runs.restore import Restored

with epy.lazy_imports():  # jax takes seconds to import: help and errors of the command line come before it
  from ule_jax import data
  from ule_jax.cli import tables
  from ule_jax.deploy import finished
  from ule_jax.runs import files
  from ule_jax.train import evaluate as evaluation


def evaluate(
  *,
  run: Run,
  split: Text = 'test',
  saliency: Count = 0,
  threads: Threads = 2,
  compilation_cache: Cache = 'default',
  force: bool = False,
) -> None:
  """Evaluate a finished run again, and write the input gradients of its networks.

  For example:

    python -m ule_jax.evaluate --run=runs/first
    python -m ule_jax.evaluate --run=runs/first --saliency=4

  It evaluates the selected checkpoint on a split and prints the table, and whether the numbers are
  those of the run. With --saliency it also writes <run>/saliency/<split>.npz, which reports show;
  the file holds the images.

  Args:
    split: train, val, test or another split of its data set.
    saliency: also write input gradients of this many examples of each category: the hardest, typical ones, each
      group, those that only one of two networks gets right.
    force: take the data as they are, although the run was trained on others; not with --saliency.
  """
  if force and saliency:
    raise UserError(
      '--saliency writes into the folder of the run, for which --force could take other data: leave one out.'
    )
  directory = local_path(run, '--run')
  loaded = finished.load_run(directory, threads, compilation_cache)
  if saliency and data.holds_features(loaded.config.data.name):
    raise UserError(f'--saliency draws images, and {directory} was trained on features, which have none: leave it out.')
  restored, dataset = loaded.restored, loaded.dataset(split, force)
  counts, predictions = loaded.evaluate(dataset, split, collect=bool(saliency))
  metrics = {role: {split: evaluation.summary(counts[role], dataset)} for role in restored.roles}
  print(tables.results_table({**restored.results, 'roles': metrics}, split))
  print(compare(restored, split, metrics))
  if saliency:
    arrays = loaded.saliency_of(dataset, split, predictions, saliency)
    path = directory / 'saliency' / f'{split}.npz'
    files.write_arrays(path, arrays)
    print(f'saliency of {len(arrays["index"])} examples: {path}')


def compare(run: Restored, split: str, metrics: dict[str, dict[str, Any]]) -> str:
  """Return a sentence about whether the metrics of a split (by role) are those of results.json."""
  recorded = {role: entry[split] for role, entry in run.results['roles'].items() if split in entry}
  if not recorded:  # of train, only the deployed role's are kept
    recorded = {run.roles[-1]: run.results[split]}
  changed = [text for role, old in recorded.items() for text in _differences(role, old, metrics[role][split])]
  if not changed:
    return 'the same numbers as in results.json'
  more = f' and {len(changed) - 5} more' if len(changed) > 5 else ''
  return f'these numbers differ from results.json: {"; ".join(changed[:5])}{more}'


def _differences(role: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
  recorded, present = flatten(old), flatten(new)
  for name, b in present.items():
    a = recorded.get(name)
    if isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, abs_tol=1e-9):
      continue
    if not isinstance(b, (list, tuple)) and a != b:  # intervals follow from the counts
      yield f'{role} {name} {b} (there {a})'
