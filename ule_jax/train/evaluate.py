"""One split -> counts per class and group, and what every network says about every example.

`python -m ule_jax.evaluate` (__main__.py) does it again for a finished run, and writes what its networks look at
(saliency.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from etils import epy

from ule_jax.data import Dataset
from ule_jax.errors import UserError

if TYPE_CHECKING:
  from jaxtyping import PyTree

  from ule_jax.metrics import Counts

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  import jax

  from ule_jax import metrics
  from ule_jax.devices import mesh as device_mesh
  from ule_jax.devices import processes
  from ule_jax.runs import results


class Evaluation(NamedTuple):
  """The counts of each role over a split; `predictions` is empty unless it was asked for."""

  counts: dict[str, Counts]
  predictions: dict[str, np.ndarray]


def make_score(model, preprocess: Callable, roles: tuple[str, ...], groups: int) -> Callable:
  """Make the pure `(params, batch_stats, batch) -> (counts, outputs)`, both by role.

  The first of several roles is the student.
  """

  def score(params: PyTree, batch_stats: PyTree, batch: dict[str, jax.Array]):
    x = preprocess(batch['image'])
    counts, outputs = {}, {}
    for role in roles:
      logits, features = model.apply({'params': params[role], 'batch_stats': batch_stats[role]}, x, train=False)
      student = None if role == roles[0] else outputs[roles[0]]['logits']
      counts[role] = metrics.Counts.from_model_output(
        logits, batch['label'], batch['group'], batch['weight'], groups, student
      )
      outputs[role] = {'logits': logits, 'features': features}
    return counts, outputs

  return score


def make_eval_step(
  model, preprocess: Callable, roles: tuple[str, ...], groups: int, mesh: jax.sharding.Mesh
) -> Callable:
  """Make the jitted `(params, batch_stats, batch) -> (counts, outputs, rows)`, the first two by role.

  `rows` is what the batch says beside its images: every host gets all of it.
  """
  score = make_score(model, preprocess, roles, groups)

  @partial(jax.jit, out_shardings=device_mesh.replicated_sharding(mesh))
  def eval_step(params: PyTree, batch_stats: PyTree, batch: dict[str, jax.Array]):
    counts, outputs = score(params, batch_stats, batch)
    return counts, outputs, {name: values for name, values in batch.items() if name != 'image'}

  return eval_step


def evaluate(
  eval_step: Callable,
  state: Any,
  batches: Iterable[dict[str, np.ndarray]],
  mesh: jax.sharding.Mesh,
  collect: bool = False,
  where: str = 'the split',
) -> Evaluation:
  """Run a state over the batches of one split.

  Args:
    state: has `params` and `batch_stats`.
    collect: keep `index, label, group, logits_<role>, features_<role>` in `predictions`, in the split's order.
    where: the split and the step in words, for an error.

  Raises:
    UserError: a logit is not finite.
  """
  total: dict[str, Counts] | None = None
  collected: list[dict[str, np.ndarray]] = []
  for batch in batches:
    counts, outputs, rows = eval_step(state.params, state.batch_stats, device_mesh.shard_batch(batch, mesh))
    total = counts if total is None else {role: total[role].merge(counts[role]) for role in total}
    if collect:
      outputs, rows = jax.device_get((outputs, rows))
      kept = rows['weight'] > 0
      row = {name: rows[name][kept] for name in ('index', 'label', 'group')}
      for role, output in outputs.items():
        row |= {f'{name}_{role}': np.asarray(value, np.float32)[kept] for name, value in output.items()}
      collected.append(row)
  predictions = {name: np.concatenate([row[name] for row in collected]) for name in (collected or [{}])[0]}
  total = jax.device_get(total)
  for role, counts in total.items():
    if counts.broken:
      raise UserError(
        f'{of_broken(role, int(counts.broken), where)}: lower optim.lr or method.weight, or set optim.clip.'
      )
  return Evaluation(total, predictions)


def of_broken(role: str, count: int, where: str) -> str:
  """Say that networks give logits that are no numbers: whatever were counted of them would mean nothing."""
  return f'the logits of {role} are not finite for {count:,} examples of {where}'


def summary(counts: Counts, dataset: Dataset) -> dict[str, Any]:
  """Turn the counts of a split into the metrics of results.json."""
  shares = None if (dataset.splits['train'].group < 0).any() else dataset.group_counts()
  return metrics.summarize(counts, dataset.classes, dataset.groups, shares, dataset.combinations)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
  """Write a compressed .npz and the folder it is in, all or nothing."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix('.partial')
  with partial.open('wb') as file:
    np.savez_compressed(file, **arrays)
  partial.replace(path)


def evaluate_checkpoints(config, directory, dataset, checkpoints, state, roles, run_split) -> dict[str, Any]:
  """Evaluate the last and every selected checkpoint; write the predictions of the one that is deployed."""
  best = checkpoints.best()
  chosen = int(state.step) if config.select == 'last' else best[config.select]

  def at(step: int) -> dict[str, Any]:
    """Evaluate the checkpoint of a step: role -> split -> metrics."""
    restored = state if step == int(state.step) else checkpoints.restore(step, state)
    found: dict[str, Any] = {role: {} for role in roles}
    for split in dataset.splits:
      if split == 'train' and step != chosen:
        continue
      evaluation = run_split(split, restored, collect=step == chosen)
      if step == chosen and processes.is_first():
        write_arrays(directory / 'predictions' / f'{split}.npz', evaluation.predictions)
      for role in roles:
        found[role][split] = summary(evaluation.counts[role], dataset)
    return found

  found = {step: at(step) for step in sorted({*best.values(), int(state.step)})}

  return results.arrange_results(found, best, chosen, int(state.step), dataset)
