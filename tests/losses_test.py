"""Every function of losses.py against a NumPy loop, plus the properties that its users rely on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ule_jax import losses


def softmax(z):
  e = np.exp(z - z.max())
  return e / e.sum()


def minmax(g):
  g = np.abs(g)
  return (g - g.min()) / (g.max() - g.min()) if g.max() > g.min() else np.zeros_like(g)


CLASSIFICATION = {
  'cross_entropy': lambda z, y: -np.log(softmax(z)[y]),
  'generalized_cross_entropy': lambda z, y: (1 - softmax(z)[y] ** 0.7) / 0.7,
}
SCALARS = {
  'label_logit': lambda z, y: z[y],
  'top_logit': lambda z, y: z.max(),
  'margin': lambda z, y: z[y] - np.log(sum(np.exp(v) for i, v in enumerate(z) if i != y)),
  'loss': lambda z, y: -np.log(softmax(z)[y]),
}
TERMS = {
  'oppose': lambda s, t: ((minmax(t) - (1 - minmax(s))) ** 2).sum(),
  'oppose_signed': lambda s, t: ((t + s) ** 2).sum(),
  'suppress': lambda s, t: (s**2 / (s**2).mean() * t**2).sum(),
  'project': lambda s, t: (t @ s / np.linalg.norm(s)) ** 2,
  'cosine': lambda s, t: (t @ s / np.linalg.norm(s) / np.linalg.norm(t)) ** 2,
}


@pytest.fixture(params=[2, 5])
def batch(request):
  rng = np.random.default_rng(0)
  return rng.normal(size=(7, request.param)), rng.integers(0, request.param, 7)


@pytest.fixture
def gradients():
  rng = np.random.default_rng(1)
  return rng.normal(size=(4, 3, 2, 2)), rng.normal(size=(4, 3, 2, 2))


def test_tables_and_references_name_the_same_functions():
  assert set(losses.CLASSIFICATION_LOSSES) == set(CLASSIFICATION)
  assert set(losses.SCALARS) == set(SCALARS)
  assert set(losses.TERMS) == set(TERMS)


@pytest.mark.parametrize(
  ('ours', 'reference'),
  [(losses.CLASSIFICATION_LOSSES[n], f) for n, f in CLASSIFICATION.items()]
  + [(losses.SCALARS[n], f) for n, f in SCALARS.items()],
)
def test_functions_of_logits_equal_a_loop(ours, reference, batch, x64):
  logits, label = batch
  expected = [reference(z, y) for z, y in zip(logits, label, strict=True)]
  np.testing.assert_allclose(ours(jnp.asarray(logits), jnp.asarray(label)), expected, rtol=1e-12)
  check_grads(lambda z: ours(jnp.asarray(z), jnp.asarray(label)), (jnp.asarray(logits),), order=2)


@pytest.mark.parametrize('name', TERMS)
def test_terms_equal_a_loop(name, gradients, x64):
  g_s, g_t = gradients
  expected = [TERMS[name](s.ravel(), t.ravel()) for s, t in zip(g_s, g_t, strict=True)]
  np.testing.assert_allclose(losses.TERMS[name](jnp.asarray(g_s), jnp.asarray(g_t)), expected, rtol=1e-9)
  check_grads(lambda t: losses.TERMS[name](jnp.asarray(g_s), jnp.asarray(t)), (jnp.asarray(g_t),), order=1)


def test_gradient_penalty_equals_a_loop(gradients):
  _, g_t = gradients
  np.testing.assert_allclose(losses.gradient_penalty(jnp.asarray(g_t)), [(t**2).sum() for t in g_t], rtol=1e-6)


def test_oppose_signed_asks_for_the_reversed_multiple(gradients):
  g_s, _ = (jnp.asarray(g) for g in gradients)
  np.testing.assert_allclose(losses.oppose_signed(g_s, -3 * g_s, a=3.0), np.zeros(4), atol=1e-6)


@pytest.mark.parametrize('name', TERMS)
@pytest.mark.parametrize('zero', ['student', 'teacher', 'both'])
def test_zero_gradients_give_finite_terms(name, zero, gradients):
  g_s, g_t = (jnp.asarray(g, jnp.float32) for g in gradients)
  g_s = jnp.zeros_like(g_s) if zero in ('student', 'both') else g_s
  g_t = jnp.zeros_like(g_t) if zero in ('teacher', 'both') else g_t
  value, slope = jax.value_and_grad(lambda t: losses.TERMS[name](g_s, t).sum())(g_t)
  assert np.isfinite(value)
  assert np.isfinite(slope).all()
  if zero == 'both' and name != 'oppose':  # two blank maps are not opposite ones
    assert value == 0


@pytest.mark.parametrize('name', ['project', 'cosine'])
def test_terms_of_direction_ignore_the_students_scale(name, gradients):
  g_s, g_t = (jnp.asarray(g, jnp.float32) for g in gradients)
  term = losses.TERMS[name]
  np.testing.assert_allclose(term(1000 * g_s, g_t), term(g_s, g_t), rtol=1e-4)


def test_mistake_weights_equal_a_loop(batch, x64):
  logits, label = batch
  wrong = np.array([1 - softmax(z)[y] for z, y in zip(logits, label, strict=True)])
  weight = np.array([1, 1, 0, 1, 1, 1, 1.0])
  args = jnp.asarray(logits), jnp.asarray(label), jnp.asarray(weight)
  np.testing.assert_allclose(losses.mistake_weight(*args[:2]), wrong, rtol=1e-9)
  np.testing.assert_array_equal(losses.no_weight(*args), np.ones(7))
  balanced = np.asarray(losses.class_balanced_mistake_weight(*args))
  present = np.unique(label[weight > 0])
  for k in present:
    mass = (balanced * weight)[label == k].sum()
    assert mass == pytest.approx(weight.sum() / len(present), rel=1e-9)


@pytest.mark.parametrize('share', [0.0, 0.3, 0.5, 1.0])
def test_balanced_mistakes_have_their_share_of_each_class(batch, share):
  logits, label = batch
  right = np.array([softmax(z)[y] for z, y in zip(logits, label, strict=True)])
  weight = np.array([1, 1, 0, 1, 1, 1, 1.0])
  found = losses.mistake_weights('balanced', share)(jnp.asarray(logits), jnp.asarray(label), jnp.asarray(weight))
  present = np.unique(label[weight > 0])
  for k in present:
    own = (label == k) & (weight > 0)
    parts = share * (1 - right[own]) / (1 - right[own]).sum() + (1 - share) * right[own] / right[own].sum()
    np.testing.assert_allclose(np.asarray(found)[own], parts * weight.sum() / len(present), rtol=1e-6)


def test_balanced_mistakes_weigh_the_groups_of_a_sure_student_alike():
  # a shortcut's prediction, right for 8 of 10 in each class, however sure of itself
  for sure in (3.0, 30.0):
    wrong = np.tile(np.arange(10) < 2, 2)
    label = np.repeat([0, 1], 10)
    logits = np.where(wrong[:, None], np.eye(2)[1 - label], np.eye(2)[label]) * sure
    found = losses.balanced_mistake_weight(jnp.asarray(logits), jnp.asarray(label), jnp.ones(20))
    assert found[wrong].sum() == pytest.approx(10, rel=0.3 if sure < 10 else 1e-6)


def test_balanced_mistakes_hold_back_where_the_student_is_in_doubt(batch):
  logits, label = batch
  count = np.bincount(label)
  found = losses.balanced_mistake_weight(jnp.zeros_like(logits), jnp.asarray(label), jnp.ones(7), share=0.7)
  np.testing.assert_allclose(found, (7 / (count > 0).sum() / count)[label], rtol=1e-6)


def test_competence_equals_a_loop(batch):
  logits, label = batch
  right, weight = logits.argmax(1) == label, np.array([1, 1, 0, 1, 1, 1, 1.0])
  right[label == label[0]] = True  # else it is below guessing for some
  logits = np.where(right[:, None], np.eye(logits.shape[1])[label], logits)
  accuracy = np.mean([right[(label == c) & (weight > 0)].mean() for c in np.unique(label[weight > 0])])
  k = logits.shape[1]
  assert 1 / k < accuracy < 1
  found = losses.balanced_skill(jnp.asarray(logits), jnp.asarray(label), jnp.asarray(weight))
  assert float(found) == pytest.approx((accuracy - 1 / k) / (1 - 1 / k), rel=1e-5)


def test_competence_of_who_guesses_or_is_wrong_is_0_and_of_who_is_right_1():
  label = jnp.array([0, 1, 2, 0, 0, 1])
  for guess, expected in ((label, 1), (jnp.zeros(6, int), 0), ((label + 1) % 3, 0)):
    assert float(losses.balanced_skill(jax.nn.one_hot(guess, 3), label, jnp.ones(6))) == expected
  assert float(losses.balanced_skill(jnp.eye(2)[jnp.zeros(4, int)], jnp.zeros(4, int), jnp.ones(4))) == 0  # one class


def test_mistake_weights_have_no_gradient_to_the_student(batch):
  logits, label = batch
  for name, mistakes in losses.MISTAKES.items():
    slope = jax.grad(lambda z, f=mistakes: f(z, jnp.asarray(label), jnp.ones(7)).sum())(jnp.asarray(logits))
    assert (np.asarray(slope) == 0).all(), name


def test_mistake_weight_of_a_sure_student_is_not_rounded_to_zero():
  weight = losses.mistake_weight(jnp.array([[30.0, 0.0]]), jnp.array([0]))
  assert weight[0] == pytest.approx(np.exp(-30), rel=1e-3)


def test_padding_changes_nothing():
  values, weight = jnp.array([1.0, 2.0, jnp.inf, jnp.nan]), jnp.array([1.0, 3.0, 0.0, 0.0])
  assert losses.weighted_mean(values, weight) == pytest.approx(7 / 4)
  assert losses.weighted_mean(values, jnp.zeros(4)) == 0


def test_input_gradient_equals_finite_differences(x64):
  rng = np.random.default_rng(2)
  w = jnp.asarray(rng.normal(size=(6, 3)))
  x = jnp.asarray(rng.normal(size=(4, 2, 3)))
  label = jnp.asarray([0, 1, 2, 0])

  def network(x):
    return jnp.tanh(x.reshape(4, 6)) @ w

  logits, gradient = losses.input_gradient(network, x, lambda z: losses.margin(z, label))
  np.testing.assert_allclose(logits, network(x))
  step = 1e-6
  for i in np.ndindex(x.shape):
    up, down = (losses.margin(network(x.at[i].add(s)), label).sum() for s in (step, -step))
    assert float(gradient[i]) == pytest.approx(float(up - down) / (2 * step), rel=1e-5, abs=1e-8)
