"""Promises of ULE: who learns from whom, and that the fused graph is what the formulas say."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import (
  KEY,
  SIZES,
  adam,
  assert_close,
  batch_of,
  leaves_equal,
  method_of,
  network,
  options,
  setup,
  sgd,
  train,
)

from ule_jax import losses
from ule_jax.methods import METHODS, erm
from ule_jax.methods.contract import SEPARABLE

BATCHES = [batch_of(seed=s) for s in range(6)]
NETWORKS = {'mlp': network('mlp'), 'cnn': network('cnn'), 'resnet20': network('resnet20'), 'vit': network('vit')}


def erm_as(role, loss, **changes):
  return erm.make_method(erm.Erm(loss=loss, **changes), SIZES, role=role)


@pytest.mark.parametrize(
  ('name', 'loss'),
  [
    ('mlp', 'cross_entropy'),
    ('mlp', 'generalized_cross_entropy'),
    ('cnn', 'cross_entropy'),
    ('cnn', 'generalized_cross_entropy'),
    ('resnet20', 'cross_entropy'),
    ('vit', 'generalized_cross_entropy'),
  ],
)
def test_the_student_is_erm(name, loss):
  bitwise = name in ('mlp', 'cnn')
  # Differently compiled programs may fuse, and so round, differently; Adam would blow that up.
  batches, tx = (BATCHES, adam(1e-2)) if bitwise else (BATCHES[:3], sgd(1e-2))
  ule, _ = train(method_of('ule', student_loss=loss, q=0.7, student_noise=0.5), NETWORKS[name], batches, tx)
  alone, _ = train(erm_as('student', loss, q=0.7, noise=0.5), NETWORKS[name], batches, tx)
  if bitwise:
    assert leaves_equal(ule.params['student'], alone.params['student'])
  else:
    assert_close(ule.params['student'], alone.params['student'], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('name', ['mlp', 'cnn', 'vit'])
def test_the_teacher_without_weight_and_mistakes_is_erm(name):
  batches, tx = (BATCHES, adam(1e-2)) if name != 'vit' else (BATCHES[:3], sgd(1e-2))
  ule, _ = train(method_of('ule', weight=0.0, mistakes='none'), NETWORKS[name], batches, tx)
  alone, _ = train(erm_as('teacher', 'cross_entropy'), NETWORKS[name], batches, tx)
  if name != 'vit':
    assert leaves_equal(ule.params['teacher'], alone.params['teacher'])
  else:
    assert_close(ule.params['teacher'], alone.params['teacher'], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('term', losses.TERMS)
def test_the_teachers_loss_sends_no_gradient_to_the_student(term):
  def step(weight):
    method = method_of('ule', term=term, weight=weight)
    return train(method, NETWORKS['cnn'], BATCHES[:1], sgd(1.0))[0].params

  light, heavy = step(0.1), step(1000.0)
  assert leaves_equal(light['student'], heavy['student'])
  assert not leaves_equal(light['teacher'], heavy['teacher'])


@pytest.mark.parametrize('name', ['ule', 'shuffled_student', 'gradient_penalty'])
def test_holding_back_is_a_smaller_weight_and_a_share_nearer_to_a_half(name):
  asked = {'mistakes': 'balanced', 'weight': 0.5, 'mistake_share': 0.9}
  held, metrics = train(method_of(name, trust_exponent=0.5, **asked), NETWORKS['cnn'], BATCHES[:1], sgd(1.0))
  trust = float(metrics['trust'])
  assert 0 < trust < 1
  asked |= {'weight': 0.5 * trust, 'mistake_share': 0.5 + 0.4 * trust}
  same, metrics = train(method_of(name, **asked), NETWORKS['cnn'], BATCHES[:1], sgd(1.0))
  assert metrics['trust'] == 1
  assert_close(held.params, same.params, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ('mistakes', 'trust_exponent', 'can'),
  [('none', 0.0, True), ('weight', 0.0, True), ('none', 3.0, False), ('balanced', 0.0, False)],
)
def test_what_looks_at_the_whole_batch_cannot_be_accumulated(mistakes, trust_exponent, can):
  assert (SEPARABLE in method_of('ule', mistakes=mistakes, trust_exponent=trust_exponent).properties) is can
  made = method_of('gradient_penalty', mistakes=mistakes, trust_exponent=trust_exponent)
  assert (SEPARABLE in made.properties) is (can or mistakes == 'none')  # then it has no student


def test_a_student_that_only_guesses_leaves_the_term_out():
  batch = BATCHES[0]._replace(image=jnp.zeros_like(BATCHES[0].image))  # which it cannot tell apart
  held, metrics = train(method_of('ule', trust_exponent=2.0, weight=100.0), NETWORKS['cnn'], [batch], sgd(1.0))
  assert metrics['trust'] == 0
  same, _ = train(method_of('ule', weight=0.0, mistake_share=0.5), NETWORKS['cnn'], [batch], sgd(1.0))
  assert_close(held.params, same.params, rtol=1e-6, atol=1e-7)


def test_the_student_sends_its_direction_to_the_teacher():
  """The teacher's step changes with the student alone, and not when the term is left out."""
  method = method_of('ule', mistakes='none')

  def teacher_after(method, shift):
    state, step = setup(method, NETWORKS['cnn'], BATCHES[0], sgd(1.0))
    student = jax.tree.map(lambda p: p + shift * jnp.sin(jnp.arange(p.size).reshape(p.shape)), state.params['student'])
    state = state.replace(params={**state.params, 'student': student})
    return jax.jit(step)(state, BATCHES[0])[0].params['teacher']

  assert not leaves_equal(teacher_after(method, 0.0), teacher_after(method, 0.3))
  alone = method_of('ule', mistakes='none', weight=0.0)
  assert leaves_equal(teacher_after(alone, 0.0), teacher_after(alone, 0.3))


def test_the_shuffled_student_differs_from_ule_by_the_pairing_alone():
  """On a batch whose examples are all the same, another example's gradient equals the example's own."""
  same = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), BATCHES[0])
  chosen = {'term': 'project', 'weight': 1.0}
  for batch, equal in ((same, True), (BATCHES[0], False)):
    ule, _ = train(method_of('ule', **chosen), NETWORKS['cnn'], [batch], sgd(1.0))
    shuffled, _ = train(method_of('shuffled_student', **chosen), NETWORKS['cnn'], [batch], sgd(1.0))
    assert leaves_equal(ule.params['student'], shuffled.params['student'])
    assert leaves_equal(ule.params['teacher'], shuffled.params['teacher']) == equal


def test_the_penalty_has_a_student_only_for_its_mistakes():
  assert method_of('gradient_penalty').roles == ('teacher',)
  assert method_of('gradient_penalty', mistakes='weight').roles == ('student', 'teacher')


def test_the_weight_warms_up():
  method = method_of('ule', warmup_steps=10, weight=2.0, mistakes='none')
  state, step = setup(method, NETWORKS['mlp'], BATCHES[0])
  for number, share in ((0, 0.1), (4, 0.5), (9, 1.0), (50, 1.0)):
    _, m = jax.jit(step)(state.replace(step=jnp.asarray(number, jnp.int32)), BATCHES[0])
    assert float(m['loss/teacher']) == pytest.approx(float(m['learned'] + 2.0 * share * m['shared']), rel=1e-5)


def test_a_traced_weight_is_close_to_a_static_one():
  def after(weight):
    method = METHODS['ule'].make(options('ule').model_copy(update={'weight': weight}), SIZES)  # as a population does
    return train(method, NETWORKS['mlp'], BATCHES[:1], sgd(1e-2))[0].params

  assert_close(jax.jit(after)(3.0), after(3.0), rtol=1e-4, atol=1e-6)


def flops(method, model, batch):
  state, step = setup(method, model, batch, sgd(1e-2))
  cost = jax.jit(step).lower(state, batch).compile().cost_analysis()
  assert cost is not None
  return cost['flops']


@pytest.mark.parametrize(
  ('name', 'changes'),
  [
    ('cnn', {'width': 32, 'depth': 3}),
    pytest.param('vit', {'width': 192, 'depth': 1, 'heads': 3}, marks=pytest.mark.full),
  ],
)
def test_flops_against_erm(name, changes, optimized):
  model, batch = network(name, **changes), batch_of(32, size=32)
  erm_flops = flops(method_of('erm'), model, batch)
  for term in ('project', 'oppose'):  # the cheapest and the dearest
    assert flops(method_of('ule', term=term, weight=1.0), model, batch) / erm_flops <= 3.5, term
  without = flops(method_of('ule', weight=0.0), model, batch) / erm_flops
  assert without <= 2.1


def convolutions(method):
  model, batch = network('cnn'), batch_of(size=8)
  state, step = setup(method, model, batch)
  return jax.jit(step).lower(state, batch).as_text().count('stablehlo.convolution')


def test_one_forward_pass_feeds_everything():
  """Counted for two layers; a second forward pass of either network would add two more."""
  alone = 2 + 2 + 1  # forward, kernel gradients, and the input gradient of the second layer
  assert convolutions(method_of('erm')) == alone
  assert convolutions(method_of('ule', weight=0.0, mistakes='none')) == 2 * alone
  saliency = 2  # the input gradients of both layers
  backward_of_saliency = 2 + 2  # of each of these, with respect to its kernel and to what it was given
  found = convolutions(method_of('ule', weight=1.0, mistakes='none', term='project'))
  assert found == 2 * (alone + saliency) + backward_of_saliency


def saliency(params, model, batch, scalar):
  def network_of(x):
    return model.apply({'params': params}, x, train=True)[0]

  return losses.input_gradient(network_of, batch.image, lambda z: losses.SCALARS[scalar](z, batch.label))[1]


@pytest.mark.parametrize('scalar', losses.SCALARS)
def test_saliency_equals_finite_differences(scalar, x64):
  batch = batch_of(3, size=4, dtype=np.float64)
  model = network('vit', width=8, depth=1, patch=2)
  params = model.init(KEY, batch.image, train=False)['params']
  params = jax.tree.map(lambda p: p.astype(jnp.float64) + 0.1, params)
  found = jax.jit(lambda p: saliency(p, model, batch, scalar))(params)

  @jax.jit
  def value(x):
    logits, _ = model.apply({'params': params}, x, train=True)
    return losses.SCALARS[scalar](logits, batch.label).sum()

  rng = np.random.default_rng(0)
  for _ in range(5):
    direction = jnp.asarray(rng.normal(size=batch.image.shape))
    step = 1e-5
    slope = (value(batch.image + step * direction) - value(batch.image - step * direction)) / (2 * step)
    assert float((found * direction).sum()) == pytest.approx(float(slope), rel=1e-5)


def test_noise_belongs_to_the_step_and_to_the_example():
  method = method_of('ule', student_noise=1.0, weight=0.0)
  state, step = setup(method, NETWORKS['mlp'], BATCHES[0], sgd(0.0))
  step = jax.jit(step)

  def loss(state, batch):
    return float(step(state, batch)[1]['loss/student'])

  later = state.replace(step=state.step + 1)
  turned = jax.tree.map(lambda x: x[::-1], BATCHES[0])
  assert loss(state, BATCHES[0]) == loss(state, BATCHES[0])
  assert loss(state, BATCHES[0]) != loss(later, BATCHES[0])
  assert loss(state, BATCHES[0]) == pytest.approx(loss(state, turned), rel=1e-5)
  assert loss(state, BATCHES[0]) != loss(state, BATCHES[0]._replace(index=BATCHES[0].index + 100))


class Smooth(nn.Module):
  """A network without kinks, so that differences converge."""

  @nn.compact
  def __call__(self, x, train):
    features = jnp.tanh(nn.Dense(8, param_dtype=x.dtype)(x.reshape(x.shape[0], -1)))
    return nn.Dense(3, param_dtype=x.dtype)(features), features


@pytest.mark.parametrize('term', losses.TERMS)
@pytest.mark.parametrize('scalar', losses.SCALARS)
def test_the_steps_gradients_equal_finite_differences(term, scalar, x64):
  batch = batch_of(5, k=3, size=4, dtype=np.float64)
  method = method_of('ule', k=3, term=term, scalar=scalar, weight=0.5, a=2.0, student_noise=0.1)
  state, step = setup(method, Smooth(), batch, sgd(1.0))
  step, rng = jax.jit(step), np.random.default_rng(0)
  after, _ = step(state, batch)
  for role in method.roles:
    direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), state.params[role])

    def loss(shift, role=role, direction=direction):
      moved = jax.tree.map(lambda p, d: p + shift * d, state.params[role], direction)
      return float(step(state.replace(params={**state.params, role: moved}), batch)[1][f'loss/{role}'])

    slopes = jax.tree.map(lambda a, b, d: ((a - b) * d).sum(), state.params[role], after.params[role], direction)
    found, size = float(sum(jax.tree.leaves(slopes))), 1e-5
    assert found == pytest.approx((loss(size) - loss(-size)) / (2 * size), rel=1e-5), role


@pytest.mark.parametrize('method', ['ule', 'shuffled_student', 'gradient_penalty'])
@pytest.mark.parametrize('name', ['cnn', 'vit'])
def test_one_backward_pass_for_loss_and_saliency_changes_no_number(name, method, x64):
  """With one example of weight 0, and a network so sure of others that its loss hardly has a slope there."""
  batch, model = batch_of(8, dtype=np.float64), NETWORKS[name]
  batch = batch._replace(image=batch.image.at[0].mul(1e3), weight=batch.weight.at[3].set(0))
  found = []
  for couples_examples in (True, False):  # with couples_examples there are two passes
    made = method_of(method, couples_examples=couples_examples, mistakes='balanced', weight=0.5, student_noise=0.0)
    state, step = setup(made, model, batch, sgd(1.0))
    state, metrics = jax.jit(step)(state, batch)
    found.append((state.params, metrics))
  assert all(np.isfinite(v).all() for v in jax.tree.leaves(found))
  assert_close(found[1], found[0], rtol=1e-8, atol=1e-12)


@pytest.mark.full
def test_one_backward_pass_saves_a_tenth_for_each_network(optimized):
  batch = batch_of(32, size=32)
  for name, changes, least in (('cnn', {'width': 32, 'depth': 3}, 0.15), ('vit', {'width': 64, 'depth': 1}, 0.08)):
    model = network(name, **changes)
    two, one = (flops(method_of('ule', couples_examples=couples), model, batch) for couples in (True, False))
    assert one / two < 1 - least, name


@pytest.mark.parametrize(('kind', 'couples_examples'), [('none', False), ('frozen', False), ('batch', True)])
def test_batch_statistics_couple_examples(kind, couples_examples):
  from types import SimpleNamespace as Some

  from ule_jax.train.assemble import sizes_of

  config: Any = Some(model=Some(batch_norm=kind))  # stand-ins with the fields that are read
  dataset: Any = Some(splits={'train': Some(count=1)}, classes='ab', groups='ab', group_counts=lambda: np.ones(2))
  assert sizes_of(config, dataset).couples_examples is couples_examples
