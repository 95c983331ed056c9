"""Evaluate a finished run again: `python -m ule_jax.evaluate --run=runs/first --saliency=4`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epy

from ule_jax.cli import tables
from ule_jax.cli.flags import read
from ule_jax.config.fields import flatten
from ule_jax.errors import UserError, unknown
from ule_jax.paths import local_path
from ule_jax.runs.files import write_arrays
from ule_jax.runs.recorded import FLAGS, FLAGS_USAGE, read_run
from ule_jax.train.evaluate import evaluate, make_eval_step, summary

if TYPE_CHECKING:
  from ule_jax.runs.restore import Restored

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  from ule_jax.data import pipeline
  from ule_jax.explain import saliency
  from ule_jax.runs import restore

USAGE = f"""\
Evaluate the selected checkpoint of a finished run again, and write what its networks look at.

  python -m ule_jax.evaluate --run=runs/first                   the table of its test split, compared with the run's
  python -m ule_jax.evaluate --run=runs/first --saliency=4      also <run>/saliency/test.npz, which reports show

  --run=DIR       the --workdir of a run that is done
  --split=NAME    train, val, test or another of its data set (default test)
  --saliency=N    write input gradients of N examples of each category: the hardest, typical ones, each group,
                  those that only one of two networks gets right. The file holds their images
{FLAGS_USAGE}
  --force         on the data as they are, although the run was trained on others; not with --saliency

Exit codes: 0 done, 2 usage or data, 1 a defect of ule_jax."""


def main(argv: Sequence[str]) -> None:
  """Print the table, say what differs from results.json, and write the saliency."""
  known = {'run': '', 'split': 'test', 'saliency': 0, 'force': False, **FLAGS}
  flags = read(argv, USAGE, known).values
  if not flags['run']:
    raise UserError('give --run=DIR, the folder of a finished run.')
  if flags['force'] and flags['saliency']:
    raise UserError(
      '--saliency writes into the folder of the run, for which --force could take other data: leave one out.'
    )
  directory, split = local_path(flags['run'], '--run'), flags['split']
  read_run(directory)  # whether there is one, before jax is imported
  run = restore.restore(directory, flags)
  dataset = restore.load_data(run, flags['force'])
  if split not in dataset.splits:
    raise unknown('split', split, dataset.splits)
  step = make_eval_step(run.model, run.preprocess, run.roles, len(dataset.groups), run.mesh)
  loader = {'batch_size': run.batch_size, 'threads': run.config.loader.threads}
  batches = pipeline.eval_batches(dataset, split, **loader)
  where = f'{split} at step {run.results["step"]:,}'
  counts, predictions = evaluate(step, run.networks, batches, run.mesh, bool(flags['saliency']), where)
  found = {role: {split: summary(counts[role], dataset)} for role in run.roles}
  print(tables.results_table({**run.results, 'roles': found}, split))
  print(compare(run, split, found))
  if flags['saliency']:
    scalar = run.scalar
    look = saliency.make_saliency_step(run.model, run.preprocess, run.roles, scalar)
    logits = saliency.logits_by_role(predictions)
    chosen = saliency.choose(predictions['label'], predictions['group'], logits, flags['saliency'])
    arrays = saliency.collect(look, run.networks, dataset, split, predictions, chosen)
    path = directory / 'saliency' / f'{split}.npz'
    write_arrays(path, {**arrays, 'step': np.int32(run.results['step']), 'scalar': np.array(scalar)})
    print(f'saliency of {len(arrays["index"])} examples: {path}')


def compare(run: Restored, split: str, found: dict[str, dict[str, Any]]) -> str:
  """Say whether the numbers are those of results.json."""
  recorded = {role: entry[split] for role, entry in run.results['roles'].items() if split in entry}
  if not recorded:  # of train, only the deployed role's are kept
    recorded = {run.roles[-1]: run.results[split]}
  changed = [text for role, old in recorded.items() for text in _differences(role, old, found[role][split])]
  if not changed:
    return 'the same numbers as in results.json'
  more = f' and {len(changed) - 5} more' if len(changed) > 5 else ''
  return f'these numbers differ from results.json: {"; ".join(changed[:5])}{more}'


def _differences(role: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
  there, here = flatten(old), flatten(new)
  for name in here:
    a, b = there.get(name), here[name]
    if isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, abs_tol=1e-9):
      continue
    if not isinstance(b, (list, tuple)) and a != b:  # intervals follow from the counts
      yield f'{role} {name} {b} (there {a})'
