"""Sentences about one run: each follows from its numbers, and none is there without them."""

import copy

import pytest

from ule_jax.runs.verdicts import above_chance, chance, largest_gap, verdicts

CLASSES = ('cat', 'dog')


def split(accuracy, groups=(), count=1000, classes=None):
  """Metrics of a split; groups are accuracies of cat-in, cat-out, dog-in, dog-out."""
  names = [f'{label}-{place}' for label in CLASSES for place in ('in', 'out')]
  of_groups = {
    name: {'accuracy': value, 'count': count // 4} for name, value in zip(names, groups, strict=len(groups) > 0)
  }
  of_classes = classes or dict.fromkeys(CLASSES, (accuracy, count // 2))
  return {
    'accuracy': accuracy,
    'worst_group_accuracy': min(groups, default=None),
    'classes': {name: {'accuracy': value, 'count': n} for name, (value, n) in of_classes.items()},
    'groups': of_groups,
  }


def results(teacher, student=None, val=None, train=None, **more):
  """Results of ule, or of erm without a student."""
  roles = {} if student is None else {'student': {'test': student, 'train': train or student}}
  roles |= {'teacher' if student else 'model': {'test': teacher}}
  content = {
    'method': 'ule' if student else 'erm', 'select': 'val/accuracy', 'roles': roles, 'test': teacher,
    'val': val or teacher, 'class_of_group': {name: name.split('-')[0] for name in teacher['groups']},
    'counter_examples': {'val': 40 if teacher['groups'] else None},
  }  # fmt: skip
  return content | more


SHORTCUT, FREE, PARTLY = (1.0, 0.01, 0.99, 0.02), (0.96, 0.929, 0.95, 0.96), (0.95, 0.8, 0.95, 0.84)


@pytest.mark.parametrize(
  ('teacher', 'student', 'verdict'),
  [
    (FREE, SHORTCUT, 'the student took the shortcut, the teacher did not'),
    (SHORTCUT, FREE, 'the teacher took the shortcut, the student did not'),
    (SHORTCUT, SHORTCUT, 'both took the shortcut'),
    ((0.9, 0.5, 0.9, 0.5), SHORTCUT, 'both took the shortcut, the teacher less'),
    (FREE, FREE, 'neither took a shortcut that these groups show'),
    (PARTLY, SHORTCUT, 'the student took the shortcut, the teacher took the shortcut in part'),
  ],
)
def test_groups_say_who_took_the_shortcut(teacher, student, verdict):
  worst = f"The teacher's worst group is {100 * min(teacher):.1f} %, the student's {100 * min(student):.1f} %"
  assert verdicts(results(split(0.7, teacher), split(0.7, student))) == [f'{worst}: {verdict}.']


def test_one_network_is_judged_alone():
  assert verdicts(results(split(0.7, SHORTCUT))) == [
    "The network's worst group is 1.0 %: the network took the shortcut."
  ]


def test_a_hard_class_is_no_shortcut():
  """All groups of dog are low alike: with the classes of the groups, unlike without, no gap is seen."""
  hard = split(0.7, (0.95, 0.95, 0.5, 0.5))
  assert 'took no shortcut' in verdicts(results(hard))[0]
  assert 'took the shortcut' in verdicts(results(hard, class_of_group={}))[0]


@pytest.mark.parametrize('worst', [0.5, 0.85])
def test_few_examples_judge_nothing(worst):
  few = split(0.9, (1.0, worst, 1.0, 1.0), count=24)
  assert verdicts(results(few))[0].endswith('cannot be judged, as its worst group has too few examples.')


def test_without_groups_a_run_cannot_tell():
  (sentence, selection) = verdicts(results(split(0.9, classes={'cat': (0.95, 500), 'dog': (0.85, 500)})))
  assert sentence.startswith('Without groups or known counter-examples in test this run cannot tell')
  assert sentence.endswith('the worst class is dog with 85.0 %.')
  assert selection.startswith('Val has no known counter-example')


def test_photographs_of_a_newcomer():
  """BAR with a network from scratch: val 67, test 17, chance 17, little trust, a term of 0.04 % of the loss."""
  counts = {'climbing': 105, 'diving': 159, 'fishing': 42, 'vaulting': 131, 'racing': 132, 'throwing': 85}
  test = split(0.17, classes={name: (0.17, count) for name, count in counts.items()})
  val = split(0.67, classes=dict.fromkeys(counts, (0.67, 60)))
  train = split(0.58, classes=dict.fromkeys(counts, (0.58, 250)))
  trust, share = {'mean': 0.07, 'last': 0.1}, {'mean': 0.0004, 'last': 0.0005}
  run = results(test, copy.deepcopy(test), val, train, trust=trust, term_share=share)
  assert verdicts(run) == [
    'Val is 67.0 %, test 17.0 %: the teacher relies on something that holds in val and not in test.',
    'Test is at chance: 17.0 %, where a guess has 16.7 %, and always the most frequent class 24.3 %.',
    'ULE held back: mean trust 0.07, because the student is right on 58.0 % of train; the term was 0.04 % of the '
    "teacher's loss.",
    'Val has no known counter-example and cannot see a shortcut: a validation split with known counter-examples would.',
  ]


def test_a_network_below_the_most_frequent_class_is_hardly_above_chance():
  """Unless the classes are rare ones, about which it knows much: accuracy is then no measure."""
  counts = {'climbing': 105, 'diving': 159, 'fishing': 42, 'vaulting': 131, 'racing': 132, 'throwing': 85}
  test = split(0.21, classes={name: (0.23, count) for name, count in counts.items()})
  assert verdicts(results(test, val=split(0.3), select='last'))[1].startswith('Test is hardly above chance: 21.0 %')
  rare = split(0.9, classes={'cat': (0.9, 980), 'dog': (0.9, 20)})
  assert len(verdicts(results(rare, select='last'))) == 1


def test_a_trusted_student_and_a_large_term_are_no_news():
  run = results(
    split(0.9, FREE), split(0.5, SHORTCUT), trust={'mean': 0.8, 'last': 0.9}, term_share={'mean': 0.4, 'last': 0.5}
  )
  assert len(verdicts(run)) == 1


def test_a_skilled_student_is_no_reason_for_little_trust():
  early = {'mean': 0.07, 'last': 0.9}
  run = results(split(0.9, FREE), split(0.5, SHORTCUT), train=split(0.98), trust=early)
  assert verdicts(run)[1] == 'ULE held back: mean trust 0.07, 0.90 at the end.'


@pytest.mark.parametrize('select', ['last', 'val_balanced/accuracy'])
def test_other_rules_are_not_blind(select):
  assert len(verdicts(results(split(0.9), select=select))) == 1


def test_results_of_older_versions_are_judged():
  run = results(split(0.9, FREE), split(0.5, SHORTCUT))
  for name in ('class_of_group', 'counter_examples'):
    del run[name]
  del run['roles']['student']['train']
  assert verdicts(run | {'trust': {'mean': 0.07, 'last': 0.1}}) == [
    "The teacher's worst group is 92.9 %, the student's 1.0 %: the student took the shortcut, the teacher did not.",
    'ULE held back: mean trust 0.07.',
  ]


def test_a_test_without_labels_tells_nothing():
  unlabelled = split(None, classes=dict.fromkeys(CLASSES, (None, 0)))
  assert verdicts(results(unlabelled, select='last')) == [
    'Test has no labels, so that this run cannot tell whether a shortcut was taken.'
  ]


def test_chance_is_a_guess_or_the_most_frequent_class():
  frequent = split(0.7, classes={'cat': (0.9, 90), 'dog': (0.1, 10)})
  assert chance(frequent) == {'uniform': 0.5, 'majority': 0.9}
  value, spread = above_chance(frequent) or (1, 0)
  assert abs(value) < spread
  value, spread = above_chance(split(0.6)) or (0, 0)
  assert value == pytest.approx(0.1)
  assert spread == pytest.approx(1.96 * (0.6 * 0.4 / 1000) ** 0.5, rel=0.01)
  assert chance(split(None, classes={'cat': (None, 0), 'dog': (None, 0)})) == {'uniform': 0.5, 'majority': None}


def test_a_gap_is_within_a_class_and_has_an_interval():
  gap = largest_gap(
    split(0.9, (0.9, 0.7, 0.6, 0.55)), {'cat-in': 'cat', 'cat-out': 'cat', 'dog-in': 'dog', 'dog-out': 'dog'}
  )
  assert gap is not None
  assert gap.value == pytest.approx(0.2)
  assert 0.1 < gap.low < 0.2 < gap.high < 0.3
  assert largest_gap(split(0.9), {}) is None
