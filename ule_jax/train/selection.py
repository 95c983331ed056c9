"""Selection rules: by which validation metric a checkpoint is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np

from ule_jax.data import Dataset
from ule_jax.errors import UserError, unknown
from ule_jax.metrics import SELECTABLE
from ule_jax.train.assemble import make_method, sizes_of


def is_validation(split: str) -> bool:
  """Tell whether a split may select a checkpoint: `val`, or `val_<something>`."""
  return split == 'val' or split.startswith('val_')


def trains_student(config: Any, dataset: Dataset) -> bool:
  """Tell whether a method trains a network beside the one that it deploys."""
  return len(make_method(config, sizes_of(config, dataset)).roles) > 1


def selection_rules(dataset: Dataset, wanted: str, student: bool) -> tuple[str, ...]:
  """Name the rules by which a checkpoint can be selected, `<validation split>/<metric>`, as far as labels allow.

  Args:
    wanted: the rule that the config selects by; `last` is the last step.
    student: whether there is one to compare with.

  Raises:
    UserError: `wanted` is not one of them; says why.
  """
  rules, refused = [], {}
  for name, split in dataset.splits.items():
    if not is_validation(name):
      continue
    unlabelled = int((split.group < 0).sum())
    unseen = np.flatnonzero((dataset.group_counts() > 0) & (dataset.group_counts(name) == 0))
    reason = ''
    if unlabelled:
      reason = f'{unlabelled} examples of {name} have no group'
    elif len(unseen):
      reason = f'{name} has no example of the group {dataset.groups[unseen[0]]!r}'
    for metric in SELECTABLE:
      if 'group' in metric and reason:
        refused[f'{name}/{metric}'] = reason
      elif 'mistake' in metric and not student:
        refused[f'{name}/{metric}'] = 'the method trains no student'
      else:
        rules.append(f'{name}/{metric}')
  if wanted in refused:
    raise UserError(f'select {wanted} is not possible, as {refused[wanted]}: choose one of {", ".join(rules)}.')
  if wanted not in (*rules, 'last'):
    raise unknown('selection rule', wanted, [*rules, 'last'])
  return tuple(rules)


def refuse_empty_groups(config: Any, dataset: Dataset) -> None:
  """Refuse to balance over groups where train lacks one that validation has.

  Raises:
    UserError: names the group.
  """
  if not config.train.sampling.startswith('group'):
    return
  for name in filter(is_validation, dataset.splits):
    lacking = np.flatnonzero((dataset.group_counts(name) > 0) & (dataset.group_counts() == 0))
    if len(lacking):
      raise UserError(
        f'train.sampling is {config.train.sampling}, but train has no example of the group '
        f'{dataset.groups[lacking[0]]!r}, which {name} has: add some, or use class_balanced.'
      )
