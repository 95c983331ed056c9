"""The content of results.json."""

from __future__ import annotations

from typing import Any

from ule_jax.data import Dataset
from ule_jax.methods import LABEL_FREE, Method
from ule_jax.two_stage.contract import SecondStage


def header(config: Any, dataset: Dataset, method: Method, prepared: SecondStage) -> dict[str, Any]:
  """Say in results.json what was run on what."""
  return {
    'method': config.method.name,
    'dataset': config.data.name,
    'seed': config.seed,
    'select': config.select,
    'sampling': config.train.sampling,
    'needs_groups': needs_groups(config, method, prepared),
    'first': {'prepare': config.first.prepare, **prepared.notes},
    'data': dict(dataset.notes),
    'model': config.model.name,
    'classes': list(dataset.classes),
    'groups': list(dataset.groups),
    'titles': dict(dataset.titles),
  }


def arrange_results(
  found: dict[int, dict[str, dict[str, Any]]], best: dict[str, int], chosen: int, last: int, dataset: Dataset
) -> dict[str, Any]:
  """Lay out the metrics of a run as results.json has them.

  Args:
    found: step -> role -> split -> metrics; roles in their order, the last is deployed; `train` at the chosen step.
    best: rule -> the step that it selects.
    chosen: the step that the config selects; `last` is that of the last state.
  """

  def entry(step: int, role: str) -> dict[str, Any]:
    return {'step': step, **{s: found[step][role][s] for s in dataset.splits if s != 'train'}}

  roles = list(found[chosen])
  deployed = roles[-1]
  return {
    **entry(chosen, deployed),
    'train': found[chosen][deployed]['train'],
    'selected': {rule: entry(step, deployed) for rule, step in best.items()},
    'last': entry(last, deployed),
    'roles': {role: entry(chosen, role) for role in roles},
  }


def needs_groups(config: Any, method: Method, prepared: SecondStage) -> dict[str, bool]:
  """Tell where group labels were used: in training, and in validation by the selection rule or the method."""
  fits_on_train = config.first.prepare == 'dfr' and config.first.dfr.split == 'train'
  uses = config.train.sampling.startswith('group') or LABEL_FREE not in method.properties
  return {
    'train': (uses and prepared.group is None) or fits_on_train,
    'validation': 'group' in config.select or (config.first.prepare == 'dfr' and not fits_on_train),
  }
