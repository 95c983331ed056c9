"""The selection rules that a data set allows."""

from __future__ import annotations

import logging

import numpy as np

from ule_jax import selection
from ule_jax.config.schema import NO_RULE, Config
from ule_jax.data import Dataset
from ule_jax.data.dataset import Split
from ule_jax.errors import UserError, unknown
from ule_jax.train.assemble import make_method, sizes_of

log = logging.getLogger(__name__)


def trains_student(config: Config, dataset: Dataset) -> bool:
  """Return whether a method trains a second network, the student, beside the deployed one."""
  sizes = sizes_of(config, dataset)
  if config.two_stage.rule != NO_RULE and not sum(sizes.group_counts):
    sizes = sizes._replace(g=1, group_counts=np.array([sizes.n]))  # the first run will infer groups
  return len(make_method(config, sizes).roles) > 1


def selection_rules(dataset: Dataset, wanted: str, student: bool) -> tuple[str, ...]:
  """Return the rules by which a checkpoint can be selected, `<validation split>/<metric>`, as far as labels allow.

  Args:
    dataset: with all of its splits.
    wanted: the rule that the config selects by; `last` is the last step.
    student: whether the method trains one, which `mistake_balanced_accuracy` needs.

  Raises:
    UserError: `wanted` is not one of them; the error gives the reason.
  """
  rules, refused = [], {}
  for name, split in dataset.splits.items():
    if not selection.is_validation(name):
      continue
    unlabelled = int((split.group < 0).sum())
    unseen = np.flatnonzero((dataset.group_counts() > 0) & (dataset.group_counts(name) == 0))
    reason = ''
    if unlabelled:
      reason = f'{unlabelled} examples of {name} have no group'
    elif len(unseen):
      reason = f'{name} has no example of the group {dataset.groups[unseen[0]]!r}'
    for rule in (selection.rule_of(name, metric) for metric in selection.METRICS):
      if selection.needs_group_labels(selection.parts(rule)[1]) and reason:
        refused[rule] = reason
      elif selection.needs_student(rule) and not student:
        refused[rule] = 'the method trains no student'
      else:
        rules.append(rule)
  if wanted in refused:
    raise UserError(f'select {wanted} is not possible, as {refused[wanted]}: choose one of {", ".join(rules)}.')
  if wanted not in (*rules, selection.LAST):
    raise unknown('selection rule', wanted, [*rules, selection.LAST])
  return tuple(rules)


def counter_examples(split: Split) -> int | None:
  """Return how many examples are known to break a shortcut: those beside the most frequent group of their class.

  Args:
    split: of a data set.

  Returns:
    None if no example of the split has a group.
  """
  known = split.group >= 0
  if not known.any():
    return None
  counts = [np.bincount(split.group[known & (split.label == label)]) for label in np.unique(split.label[known])]
  return sum(int(of_groups.sum() - of_groups.max()) for of_groups in counts)


def classes_of_groups(dataset: Dataset) -> dict[str, str | None]:
  """Return group -> the class of all of its examples; None for a group of several classes, or without examples."""
  labels = np.concatenate([split.label for split in dataset.splits.values()])
  groups = np.concatenate([split.group for split in dataset.splits.values()])
  members = [np.unique(labels[(groups == number) & (labels >= 0)]) for number in range(len(dataset.groups))]
  return {
    name: dataset.classes[int(classes[0])] if len(classes) == 1 else None
    for name, classes in zip(dataset.groups, members, strict=True)
  }


def warn_of_blind_rule(dataset: Dataset, rule: str) -> None:
  """Log a warning if a selection rule cannot see a shortcut, as far as is known."""
  known = counter_examples(dataset.splits['val']) if 'val' in dataset.splits else None
  if selection.is_blind(rule, known):
    reason = 'has no group labels' if known is None else 'has no class with examples of two groups'
    log.warning(
      f'select={rule} cannot see a shortcut, as val {reason}: select by a split val_NAME of images that break the '
      'shortcut, or by their groups, or take select=last.'
    )


def refuse_empty_groups(config: Config, dataset: Dataset) -> None:
  """Refuse to balance over groups where train lacks one that validation has.

  Raises:
    UserError: names the group.
  """
  if not config.train.sampling.startswith('group'):
    return
  for name in filter(selection.is_validation, dataset.splits):
    lacking = np.flatnonzero((dataset.group_counts(name) > 0) & (dataset.group_counts() == 0))
    if len(lacking):
      raise UserError(
        f'train.sampling is {config.train.sampling}, but train has no example of the group '
        f'{dataset.groups[lacking[0]]!r}, which {name} has: add some, or use class_balanced.'
      )
