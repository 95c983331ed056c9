"""A label or a group of -1 is one that is not known: it never means the last class or group, and counts nowhere."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_close, batch_of, leaves_equal, method_of, network, setup, sgd
from methods_test import DISTINCT, VARIANTS

from ule_jax import losses
from ule_jax.data import pipeline
from ule_jax.data.dataset import Split
from ule_jax.errors import UserError
from ule_jax.explain import saliency
from ule_jax.explain.clusters import find_clusters, match, summarise
from ule_jax.methods import METHODS, Batch, shuffled_student
from ule_jax.methods.contract import LABEL_FREE
from ule_jax.metrics import Counts, summarize
from ule_jax.report import numbers
from ule_jax.runs.results import Results
from ule_jax.two_stage import REFITS, TWO_STAGE
from ule_jax.two_stage.contract import FirstRun

HOLES = np.array([0, 5, 6, 19])  # rows of a batch of 20 that are not labelled: the first, two in a row, and the last


def with_holes(k: int = 2) -> tuple[Batch, Batch]:
  """A batch with rows of no label and no group, and the same batch without them."""
  whole = batch_of(20, k)
  kept = np.setdiff1d(np.arange(20), HOLES)
  holed = whole._replace(label=whole.label.at[HOLES].set(-1), group=whole.group.at[HOLES].set(-1))
  return holed, jax.tree.map(lambda x: x[kept], whole)


def one_step(method, model, batch):
  state, step = setup(method, model, batch, sgd(1.0))
  after, metrics = jax.jit(step)(state, batch)
  return after.params, after.method_state, metrics


@pytest.mark.parametrize(
  ('name', 'changes', 'k'),
  [(name, changes, 2) for name, changes in VARIANTS]
  + [(name, {}, 3) for name in DISTINCT.values()]
  + [
    ('ule', {'couples_examples': False}, 2),
    ('ule', {'scalar': 'loss'}, 2),
    ('erm', {'loss': 'generalized_cross_entropy'}, 2),
  ],
  ids=str,
)
def test_a_method_learns_nothing_from_rows_without_a_label(name, changes, k):
  method, model = method_of(name, k=k, **changes), network('mlp', k=k)
  holed, kept = with_holes(k)
  found, expected = one_step(method, model, holed), one_step(method, model, kept)
  assert_close(found, expected, rtol=1e-3, atol=5e-5)  # distances in float32 are rough (mmd)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize('name', DISTINCT.values())
def test_a_row_without_a_group_counts_where_no_group_is_read(name):
  """Where groups are read its group's terms are without it; CnC and LISA keep its cross entropy, as they say."""
  method, model = method_of(name), network('mlp')
  whole = batch_of(20)
  blind = whole._replace(group=whole.group.at[HOLES].set(-1))
  _, kept = with_holes()
  found = one_step(method, model, blind)
  if LABEL_FREE in method.properties:
    assert leaves_equal(found, one_step(method, model, whole))
  elif name not in ('cnc', 'lisa'):
    assert_close(found, one_step(method, model, kept), rtol=1e-3, atol=5e-5)
  else:
    assert not leaves_equal(found, one_step(method, model, kept))


def test_a_neighbour_is_one_that_counts():
  weight = jnp.ones(20).at[HOLES].set(0)
  place = np.asarray(shuffled_student.neighbour(weight))
  counted = np.setdiff1d(np.arange(20), HOLES)
  np.testing.assert_array_equal(place[counted], np.roll(counted, 1))
  np.testing.assert_array_equal(shuffled_student.neighbour(jnp.ones(20)), np.roll(np.arange(20), 1))


@pytest.mark.parametrize('name', losses.CLASSIFICATION_LOSSES)
def test_the_loss_of_no_label_is_nothing_and_has_no_gradient(name):
  logits, loss = jnp.array([[1.0, 3.0, 2.0]]), losses.classification_loss(name, 0.7)
  for label in (-1, 3):  # nor is there a fourth class of three
    value, slope = jax.value_and_grad(lambda x, label=label: loss(x, jnp.array([label])).sum())(logits)
    assert value == 0
    assert not np.any(slope)


def test_counts_leave_out_what_has_no_label():
  rng = np.random.default_rng(0)
  logits, student = (jnp.asarray(rng.normal(size=(20, 2)), jnp.float32) for _ in range(2))
  holed, _ = with_holes()
  kept = np.setdiff1d(np.arange(20), HOLES)

  def count(rows):
    arrays = (values[rows] for values in (logits, holed.label, holed.group, holed.weight))
    return Counts.from_model_output(*arrays, groups=4, student=student[rows])

  assert leaves_equal(count(np.arange(20)), count(kept))
  assert summarize(count(np.arange(20)), ('a', 'b'), ('w', 'x', 'y', 'z'), [1] * 4)['classes']['b']['count'] == int(
    (np.asarray(holed.label) == 1).sum()
  )
  # Of unknown group alone: right or wrong in its class, and in no group.
  blind = Counts.from_model_output(logits, jnp.zeros(20, int), jnp.full(20, -1), jnp.ones(20), groups=4)
  assert blind.total[0].tolist() == [0, 0, 0, 0, 20]


def split_with_holes() -> Split:
  holed, _ = with_holes()
  return Split(np.asarray(holed.label), np.asarray(holed.group), lambda i: np.zeros(1), str)


@pytest.mark.parametrize('sampling', pipeline.SAMPLINGS)
@pytest.mark.parametrize('sampling_weight', [None, np.ones(20)])
def test_a_sampler_refuses_what_has_no_label(sampling, sampling_weight):
  split = split_with_holes()._replace(sampling_weight=sampling_weight)
  with pytest.raises(UserError, match='4 training examples have no label'):
    pipeline.order(split, seed=0, sampling=sampling, batch_size=4)
  blind = split._replace(label=np.maximum(split.label, 0))
  if sampling.startswith('group'):
    with pytest.raises(UserError, match='4 training examples have no group'):
      pipeline.order(blind, seed=0, sampling=sampling, batch_size=4)
  else:
    assert len(pipeline.order(blind, seed=0, sampling=sampling, batch_size=4)(0)) == 4


def first_run(holes: bool) -> FirstRun:
  rng = np.random.default_rng(0)
  holed, _ = with_holes()
  data = {'label': np.asarray(holed.label), 'group': np.asarray(holed.group)}
  if not holes:
    data = {'label': np.arange(20, dtype=np.int32) % 4 // 2, 'group': np.arange(20, dtype=np.int32) % 4}
  data |= {'logits': rng.normal(size=(20, 2)), 'features': rng.normal(size=(20, 3))}
  held_out = np.arange(20) % 2 == 0
  return FirstRun(
    {'train': data, 'val': data, 'test': data}, np.ones((3, 2)), np.zeros(2), held_out, ('a', 'b'), seed=0
  )


@pytest.mark.parametrize('name', TWO_STAGE)
def test_a_second_stage_refuses_what_has_no_label(name):
  settings = TWO_STAGE[name].options(**{'steps': 2} if name in ('eiil', 'afr') else {})
  with pytest.raises(UserError, match=r'have no label|have none'):
    TWO_STAGE[name].prepare(settings, first_run(holes=True))
  assert TWO_STAGE[name].prepare(settings, first_run(holes=False)) is not None
  assert set(REFITS) < set(TWO_STAGE)


def test_what_is_looked_at_has_a_label():
  rng = np.random.default_rng(0)
  holed, kept = with_holes()
  rows = np.setdiff1d(np.arange(20), HOLES)
  logits = {role: rng.normal(size=(20, 2)) for role in ('student', 'teacher')}
  chosen = saliency.choose(np.asarray(holed.label), np.asarray(holed.group), logits, 3)
  expected = saliency.choose(
    np.asarray(kept.label), np.asarray(kept.group), {role: values[rows] for role, values in logits.items()}, 3
  )
  assert chosen == [(category, int(rows[i])) for category, i in expected]


def test_a_report_counts_what_has_a_label():
  holed, _ = with_holes()
  rng = np.random.default_rng(0)
  arrays = {'label': np.asarray(holed.label), 'group': np.asarray(holed.group)}
  arrays |= {f'logits_{role}': rng.normal(size=(20, 2)) for role in ('student', 'teacher')}

  def changes(rows):
    stand_in: Any = SimpleNamespace(
      roles=('student', 'teacher'), results=Results(groups=['w', 'x', 'y', 'z']),
      arrays=lambda *_: {name: values[rows] for name, values in arrays.items()},
    )  # fmt: skip
    return numbers.changes(stand_in)

  assert changes(np.arange(20)) == changes(np.setdiff1d(np.arange(20), HOLES))
  assert changes(np.arange(20))[-1].count == 16


def test_clusters_are_of_what_has_a_label():
  holed, _ = with_holes()
  features = np.random.default_rng(0).normal(size=(20, 3))
  label = np.asarray(holed.label)
  with pytest.raises(UserError, match='4 examples have no label'):
    find_clusters(label, label == 1, features)
  wrong = np.arange(20) % 3 == 0
  clusters = find_clusters(np.maximum(label, 0), wrong, features)
  known = np.asarray(holed.group) >= 0
  one = match(clusters, np.maximum(label, 0), wrong, np.asarray(holed.group))
  assert one[0].purity == np.bincount(np.asarray(holed.group)[known]).max() / known.sum()
  assert sum(sum(s.groups.values()) for s in summarise(
    clusters, {'model': wrong}, wrong, np.asarray(holed.group), ('w', 'x', 'y', 'z')
  )) == known.sum()  # fmt: skip


def test_every_method_and_every_stage_is_tried():
  assert {METHODS[name].make for name, _ in VARIANTS} == {entry.make for entry in METHODS.values()}
