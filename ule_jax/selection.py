"""Selection rules: the validation metrics by which a checkpoint, or a setting of a sweep, can be selected.

A rule is `<validation split>/<metric>`, for example `val/worst_class_accuracy`, or `last`: the last step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LAST = 'last'
METRICS = ('accuracy', 'worst_class_accuracy', 'worst_group_accuracy', 'mistake_balanced_accuracy')


def rule_of(split: str, metric: str) -> str:
  """Return the rule that selects by a metric of a validation split.

  >>> rule_of('val', 'accuracy')
  'val/accuracy'
  """
  return f'{split}/{metric}'


def parts(rule: str) -> tuple[str, str]:
  """Return the validation split and the metric of a rule other than `last`.

  >>> parts('val_balanced/worst_group_accuracy')
  ('val_balanced', 'worst_group_accuracy')
  """
  split, _, metric = rule.partition('/')
  return split, metric


def is_validation(split: str) -> bool:
  """Return whether a split may select a checkpoint: `val`, or `val_<anything>`."""
  return split == 'val' or split.startswith('val_')


def needs_group_labels(rule: str) -> bool:
  """Return whether the metric of a rule is computed from group labels."""
  return 'group' in rule


def needs_student(rule: str) -> bool:
  """Return whether the metric of a rule compares a network with its student."""
  return 'mistake' in rule


def is_label_free(rule: str) -> bool:
  """Return whether a rule needs no group labels, neither for its metric nor to balance its validation split.

  >>> is_label_free('last'), is_label_free('val/accuracy'), is_label_free('val_balanced/accuracy')
  (True, True, False)
  """
  return rule == LAST or (parts(rule)[0] == 'val' and not needs_group_labels(rule))


def is_blind(rule: str, counter_examples: int | None) -> bool:
  """Return whether a rule cannot see a shortcut, as far as is known.

  A split `val_NAME` was made for a further rule, and the student's mistakes are candidates for counter-examples where
  no group is known.

  Args:
    rule: of selection.
    counter_examples: examples of `val` that are known to break the shortcut; None without group labels.

  >>> is_blind('val/accuracy', None), is_blind('val/accuracy', 3), is_blind('val_balanced/accuracy', None)
  (True, False, False)
  """
  if rule == LAST or parts(rule)[0] != 'val':
    return False
  return not counter_examples and not (counter_examples is None and needs_student(rule))


def ranked(rules: Iterable[str]) -> list[str]:
  """Sort rules, with `last` added: label-free ones first, of these the worst class first and `last` at the end."""
  return sorted(
    {*rules, LAST}, key=lambda rule: (not is_label_free(rule), 'worst_class' not in rule, rule == LAST, rule)
  )


def default_rule(ranked_rules: Sequence[str]) -> str:
  """Return the label-free rule by which methods are compared, the first of `ranked`."""
  return ranked_rules[0]


def oracle_rule(rules: Iterable[str]) -> str | None:
  """Return the rule that selects by the worst group, on a balanced validation split if there is one; None without."""
  return max((rule for rule in rules if parts(rule)[1] == 'worst_group_accuracy'), default=None)
