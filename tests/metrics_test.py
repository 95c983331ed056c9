import jax.numpy as jnp
import numpy as np
import pytest

from ule_jax.metrics import Counts, summarize

CLASSES, GROUPS = ('a', 'b'), ('a0', 'a1', 'b0', 'b1')


def make(n=200, seed=0, groups=4):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, 2, n).astype(np.int32)
  group = (label * 2 + rng.integers(0, 2, n)).astype(np.int32) if groups else np.full(n, -1, np.int32)
  logits = rng.normal(size=(n, 2)).astype(np.float32)
  logits[np.arange(n), label] += 0.7
  return logits, label, group


def count(logits, label, group, weight=None, groups=4):
  weight = np.ones(len(label), np.float32) if weight is None else weight
  return Counts.from_model_output(*map(jnp.asarray, (logits, label, group, weight)), groups=groups)


def test_accuracies_equal_a_loop():
  logits, label, group = make()
  share = [70, 10, 15, 5]
  found = summarize(count(logits, label, group), CLASSES, GROUPS, share)
  right = logits.argmax(1) == label
  per_group = [right[group == g].mean() for g in range(4)]
  assert found['accuracy'] == pytest.approx(right.mean())
  assert found['worst_group_accuracy'] == pytest.approx(min(per_group))
  assert found['mean_group_accuracy'] == pytest.approx(np.mean(per_group))
  assert found['adjusted_accuracy'] == pytest.approx(np.dot(per_group, share) / 100)
  assert found['worst_class_accuracy'] == pytest.approx(min(right[label == k].mean() for k in (0, 1)))
  for g, name in enumerate(GROUPS):
    assert found['groups'][name]['accuracy'] == pytest.approx(per_group[g])
    assert found['groups'][name]['count'] == (group == g).sum()
    low, high = found['groups'][name]['interval']
    assert 0 <= low < per_group[g] < high <= 1


def test_mistake_balanced_accuracy_is_the_mean_over_what_the_student_gets_wrong_and_right():
  logits, label, group = make()
  student = np.random.default_rng(1).normal(size=(200, 2)).astype(np.float32)
  student[np.arange(200), label] += 1.5
  weight = np.ones(200, np.float32)
  weight[:7] = 0
  arrays = map(jnp.asarray, (logits, label, group, weight))
  counts = Counts.from_model_output(*arrays, groups=4, student=jnp.asarray(student))
  right, knows, kept = logits.argmax(1) == label, student.argmax(1) == label, weight > 0
  cells = [right[kept & (label == k) & (knows == s)].mean() for k in (0, 1) for s in (False, True)]
  found = summarize(counts, CLASSES, GROUPS, [1] * 4)
  assert found['mistake_balanced_accuracy'] == pytest.approx(np.mean(cells))
  # a network that is the student knows nothing beside it; without a student the metric does not exist
  same = Counts.from_model_output(
    *map(jnp.asarray, (student, label, group, weight)), groups=4, student=jnp.asarray(student)
  )
  assert summarize(same, CLASSES, GROUPS, [1] * 4)['mistake_balanced_accuracy'] == 0.5
  alone = summarize(count(logits, label, group), CLASSES, GROUPS, [1] * 4)
  assert alone['mistake_balanced_accuracy'] is None
  assert 'no student' in alone['reasons']['mistake_balanced_accuracy']


def test_a_student_without_mistakes_in_a_class_leaves_that_cell_out():
  label, group = np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3])
  student, logits = np.eye(2)[[0, 0, 1, 0]], np.eye(2)[[0, 1, 1, 1]]
  arrays = map(jnp.asarray, (logits, label, group, np.ones(4)))
  found = summarize(Counts.from_model_output(*arrays, groups=4, student=jnp.asarray(student)), CLASSES, GROUPS, [1] * 4)
  assert found['mistake_balanced_accuracy'] == pytest.approx((0.5 + 1 + 1) / 3)


def test_padding_changes_nothing_and_merging_is_associative():
  logits, label, group = make(30)
  whole = count(logits, label, group)
  weight = np.r_[np.ones(30), np.zeros(5)].astype(np.float32)
  padded = count(np.r_[logits, logits[:5]], np.r_[label, label[:5]], np.r_[group, group[:5]], weight)
  parts = [count(logits[i : i + 10], label[i : i + 10], group[i : i + 10]) for i in (0, 10, 20)]
  left = parts[0].merge(parts[1]).merge(parts[2])
  right = parts[0].merge(parts[1].merge(parts[2]))
  for other in (padded, left, right):
    np.testing.assert_array_equal(whole.correct, other.correct)
    np.testing.assert_array_equal(whole.total, other.total)


def test_an_empty_group_is_safe_and_named():
  logits, label, group = make(50)
  keep = group != 1
  found = summarize(count(logits[keep], label[keep], group[keep]), CLASSES, GROUPS, [5, 5, 5, 5])
  assert found['groups']['a1'] == {'accuracy': None, 'count': 0, 'interval': None}
  assert found['worst_group_accuracy'] is not None
  assert found['adjusted_accuracy'] is None
  assert "'a1'" in found['reasons']['adjusted_accuracy']


def test_group_metrics_are_null_without_groups():
  logits, label, _ = make(50)
  found = summarize(count(logits, label, np.full(50, -1, np.int32), groups=0), CLASSES, (), [])
  for name in ('worst_group_accuracy', 'mean_group_accuracy', 'adjusted_accuracy'):
    assert found[name] is None
    assert found['reasons'][name]
  assert found['accuracy'] == pytest.approx((logits.argmax(1) == label).mean())


def test_one_unlabelled_example_is_enough_to_withhold_group_metrics():
  logits, label, group = make(50)
  group[3] = -1
  found = summarize(count(logits, label, group), CLASSES, GROUPS, [1, 1, 1, 1])
  assert found['worst_group_accuracy'] is None
  assert found['accuracy'] == pytest.approx((logits.argmax(1) == label).mean())


def test_combinations_are_linear_in_the_group_accuracies():
  logits, label, group = make(60)
  counts = count(logits, label, group)
  weights = {'gap': np.array([0.5, -0.5, 0.5, -0.5]), 'some': np.array([1.0, 0, 0, 0])}
  found = summarize(counts, CLASSES, GROUPS, [1] * 4, weights)
  accuracy = np.array([found['groups'][g]['accuracy'] for g in GROUPS])
  assert found['gap'] == pytest.approx(accuracy @ weights['gap'])
  assert found['some'] == accuracy[0]
  keep = group != 1
  found = summarize(count(logits[keep], label[keep], group[keep]), CLASSES, GROUPS, [1] * 4, weights)
  assert found['gap'] is None
  assert "'a1'" in found['reasons']['gap']
  assert found['some'] is not None


def test_adjusted_accuracy_needs_the_groups_of_all_training_examples():
  logits, label, group = make(50)
  found = summarize(count(logits, label, group), CLASSES, GROUPS, None)
  assert found['adjusted_accuracy'] is None
  assert 'not every example of train' in found['reasons']['adjusted_accuracy']
  assert found['worst_group_accuracy'] is not None
