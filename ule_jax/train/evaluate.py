"""Evaluation of a state on a split: counts per class and group, logits and features of every example."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from etils import epy

from ule_jax import selection
from ule_jax.data import Dataset
from ule_jax.errors import Interrupted, UserError

if TYPE_CHECKING:
  from jaxtyping import PyTree

  from ule_jax.metrics import Counts
  from ule_jax.runs.signals import Signals
  from ule_jax.train.assemble import Trainer
  from ule_jax.train.step import TrainState
  from ule_jax.train.task import Task

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  import jax

  from ule_jax import metrics
  from ule_jax.data import pipeline
  from ule_jax.devices import mesh as device_mesh
  from ule_jax.devices import processes
  from ule_jax.train import programs


OUTPUTS = ('logits', 'features')


class Evaluation(NamedTuple):
  """The result for one split.

  Attributes:
    counts: role -> counts over the split.
    predictions: `index`, `label`, `group` [n], `logits_<role>` [n k] and `features_<role>` [n d] in the split's order;
      empty unless they were asked for.
  """

  counts: dict[str, Counts]
  predictions: dict[str, np.ndarray]


def make_score(model, preprocess: Callable, roles: tuple[str, ...], groups: int) -> Callable:
  """Return the pure function `(params, batch_stats, batch) -> (counts, outputs)`, both by role.

  Args:
    model: a Flax module whose call `(x, train)` returns `(logits, features)`.
    preprocess: the images of a batch -> x.
    roles: of the networks; the first of several is the student.
    groups: number of groups.
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
  """Return the jitted function `(params, batch_stats, batch) -> (counts, outputs, rows)`, the first two by role.

  `rows` are the arrays of the batch without its images; every process gets those of the whole batch.

  Args:
    model, preprocess, roles, groups: as in `make_score`.
    mesh: of all devices.
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
  outputs_kept: Sequence[str] = OUTPUTS,
) -> Evaluation:
  """Evaluate a state on the batches of one split.

  Args:
    eval_step: of `make_eval_step`.
    state: has `params` and `batch_stats`.
    batches: of the split, as `pipeline.eval_batches` yields them.
    mesh: of all devices.
    collect: return predictions.
    where: the split and the step in words, for an error.
    outputs_kept: of OUTPUTS, those that predictions have.

  Raises:
    UserError: a logit is not finite.
  """
  total: dict[str, Counts] | None = None
  collected: list[dict[str, np.ndarray]] = []
  for batch in batches:
    counts, outputs, rows = eval_step(state.params, state.batch_stats, device_mesh.shard_batch(batch, mesh))
    total = counts if total is None else {role: total[role].merge(counts[role]) for role in total}
    if collect:
      kept_on_device = {role: {name: output[name] for name in outputs_kept} for role, output in outputs.items()}
      outputs, rows = jax.device_get((kept_on_device, rows))
      kept = rows['weight'] > 0
      row = {name: rows[name][kept] for name in ('index', 'label', 'group')}
      for role, output in outputs.items():
        row |= {f'{name}_{role}': np.asarray(output[name], np.float32)[kept] for name in outputs_kept}
      collected.append(row)
  predictions = {name: np.concatenate([row[name] for row in collected]) for name in (collected or [{}])[0]}
  by_role: dict[str, Counts] = jax.device_get(total or {})
  for role, counts in by_role.items():
    if counts.broken:
      raise UserError(
        f'{not_finite(role, int(counts.broken), where)}: lower optim.lr or method.weight, or set optim.clip.'
      )
  return Evaluation(by_role, predictions)


class Evaluator:
  """Evaluates the states of one run on the splits of its data set."""

  def __init__(self, task: Task, trainer: Trainer, mesh: jax.sharding.Mesh, signals: Signals):
    """Prepare the compiled function.

    Args:
      task: the config, and the data set that is evaluated on.
      trainer: of the run.
      mesh: of all devices.
      signals: interrupt an evaluation.
    """
    self._config, self._dataset, self._mesh, self._signals = task.config, task.dataset, mesh, signals
    self.roles = trainer.method.roles
    self._is_linear = task.has_linear_head
    groups = len(task.dataset.groups)
    self._step = programs.remembered(
      ('evaluate', trainer.identity, groups),
      lambda: make_eval_step(trainer.model, trainer.preprocess, self.roles, groups, mesh),
    )

  def split(self, name: str, state: TrainState, collect: bool = False) -> Evaluation:
    """Evaluate a state on a split.

    Raises:
      UserError: a logit is not finite, or an image cannot be read.
      Interrupted: a signal was received.
    """
    batches = pipeline.eval_batches(
      self._dataset,
      name,
      batch_size=self._config.train.eval_batch_size,
      threads=self._config.loader.threads,
      **processes.process_slice(),
    )
    where = f'{name} at step {int(state.step):,}'
    # A linear head's features are its input: those of a million rows would fill the disk for each role.
    kept = OUTPUTS[:1] if self._is_linear else OUTPUTS
    return evaluate(self._step, state, self._signals.until_signal(batches), self._mesh, collect, where, kept)

  def validate(self, state: TrainState) -> dict[str, float]:
    """Return the scores of a state on the validation splits: rule -> value, of the student as `<role>/<rule>`.

    Empty if a signal was received: the state is worth saving before it is evaluated.
    """
    scores = {}
    try:
      for name in filter(selection.is_validation, self._dataset.splits):
        for role, counts in self.split(name, state).counts.items():
          scores |= scores_of(summary(counts, self._dataset), name, role, self.roles)
    except Interrupted:
      return {}
    return scores


def scores_of(values: dict[str, Any], split: str, role: str, roles: tuple[str, ...]) -> dict[str, float]:
  """Return the metrics of a split by which checkpoints can be selected: rule -> value, without those that do not exist.

  Args:
    values: of `summary`.
    split: a validation split.
    role: whose metrics these are; other roles than the deployed one, the last, stand before the rule.
    roles: of the run.
  """
  prefix = '' if role == roles[-1] else f'{role}/'
  known = {metric: values[metric] for metric in selection.METRICS if values[metric] is not None}
  return {prefix + selection.rule_of(split, metric): value for metric, value in known.items()}


def not_finite(role: str, count: int, where: str) -> str:
  """Return the clause of an error about logits that are not finite, of which no metric means anything."""
  return f'the logits of {role} are not finite for {count:,} examples of {where}'


def summary(counts: Counts, dataset: Dataset) -> dict[str, Any]:
  """Return the metrics of a split, as results.json has them, from its counts."""
  shares = None if (dataset.splits['train'].group < 0).any() else dataset.group_counts()
  return metrics.summarize(counts, dataset.classes, dataset.groups, shares, dataset.combinations)
