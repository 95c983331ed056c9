"""Counter-examples that are known, and the warning that a rule cannot see a shortcut."""

import numpy as np
import pytest

from ule_jax.data.arrays import Rows, from_rows
from ule_jax.train.selection import classes_of_groups, counter_examples, warn_of_blind_rule

LABEL = np.array([0, 0, 0, 1, 1, 1])
BROKEN, PURE, HALF = np.array([0, 0, 1, 3, 3, 3]), np.array([0, 0, 0, 3, 3, 3]), np.array([-1, 0, 1, -1, -1, -1])


def dataset(val=None):
  x = np.zeros((6, 2), np.float32)
  rows, broken = Rows(x, LABEL, val), Rows(x, LABEL, np.array([0, 1, 1, 3, 2, -1]))
  return from_rows({'train': rows, 'val': rows, 'val_broken': broken, 'test': broken}, ('a', 'b'), tuple('pqrs'))


@pytest.mark.parametrize(('val', 'count'), [(BROKEN, 1), (PURE, 0), (HALF, 1), (None, None)])
def test_counter_examples_are_those_beside_the_most_frequent_group_of_their_class(val, count):
  assert counter_examples(dataset(val).splits['val']) == count


def test_a_group_has_the_class_of_all_of_its_examples():
  assert classes_of_groups(dataset(BROKEN)) == {'p': 'a', 'q': 'a', 'r': 'b', 's': 'b'}
  assert classes_of_groups(dataset(np.array([0, 0, 0, 0, 3, 3]))) == {'p': None, 'q': 'a', 'r': 'b', 's': 'b'}


@pytest.mark.parametrize('rule', ['val/accuracy', 'val/worst_class_accuracy'])
@pytest.mark.parametrize(
  ('val', 'reason'), [(None, 'has no group labels'), (PURE, 'has no class with examples of two groups')]
)
def test_a_rule_that_cannot_see_a_shortcut_is_warned_of(rule, val, reason, capsys):
  warn_of_blind_rule(dataset(val), rule)
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f'warning: select={rule} cannot see a shortcut, as val {reason}: ')


@pytest.mark.parametrize(
  ('rule', 'val'),
  [
    ('last', None), ('last', PURE), ('val_broken/accuracy', None), ('val/accuracy', BROKEN), ('val/accuracy', HALF),
    ('val/mistake_balanced_accuracy', None),
  ],
)  # fmt: skip
def test_other_rules_are_not_warned_of(rule, val, capsys):
  warn_of_blind_rule(dataset(val), rule)
  assert capsys.readouterr().err == ''
