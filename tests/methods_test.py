"""One battery over METHODS: what every method promises by the contract, or by its own properties."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import KEY, adam, assert_close, batch_of, method_of, network, setup, sgd, train, train_on

from ule_jax import losses
from ule_jax.devices.mesh import make_mesh
from ule_jax.errors import UserError
from ule_jax.methods import METHODS
from ule_jax.methods.contract import IGNORES_WEIGHT_ZERO, LABEL_FREE, PERMUTATION_INVARIANT, SEPARABLE
from ule_jax.train.step import create_state, make_train_step

# Every method at its defaults (but for trust_exponent, see common.options), and option values that change its graph.
# Names that share a step (JTT's second run is ERM on other draws) are run through once.
DISTINCT = {entry.make: name for name, entry in reversed(METHODS.items())}
VARIANTS = [(name, {}) for name in METHODS if name in DISTINCT.values()] + [
  ('ule', {'trust_exponent': 0.5}),
  ('ule', {'mistakes': 'none', 'trust_exponent': 0.5}),
  ('gradient_penalty', {'mistakes': 'class_balanced_weight'}),
  ('ule', {'weight': 0.0}),
  ('ule', {'mistakes': 'weight', 'student_loss': 'cross_entropy', 'warmup_steps': 10}),
  *(('ule', {'term': t, 'weight': 0.01}) for t in losses.TERMS),
  ('group_dro', {'adjustment': 1.0}),
  ('irm', {'anneal_steps': 2}),
  ('vrex', {'anneal_steps': 2}),
  ('coral', {'gamma': 0.0}),
  ('lisa', {'domains': 2, 'p_sel': 0.0}),
]
each = pytest.mark.parametrize(('name', 'changes'), VARIANTS, ids=[f'{n}-{c}' for n, c in VARIANTS])


def gradients(method, model, batch):
  """The parameter gradients of the step's loss, read off one step of plain descent."""
  state, step = setup(method, model, batch, sgd(1.0))
  after, metrics = jax.jit(step)(state, batch)
  return jax.tree.map(lambda a, b: a - b, state.params, after.params), metrics


@each
def test_a_scalar_per_role_and_a_gradient_for_every_parameter(name, changes):
  method, batch = method_of(name, **changes), batch_of()
  slopes, metrics = gradients(method, network(), batch)
  assert set(slopes) == set(method.roles)
  assert {f'loss/{role}' for role in method.roles} <= set(metrics)
  assert all(v.shape == () and np.isfinite(v) for v in metrics.values())
  for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
    assert np.isfinite(slope).all(), path
    assert (np.asarray(slope) != 0).any(), path


@each
def test_properties(name, changes):
  method, model, batch = method_of(name, **changes), network(), batch_of()
  slopes, _ = gradients(method, model, batch)
  if PERMUTATION_INVARIANT in method.properties:
    order = np.random.default_rng(0).permutation(len(batch.label))
    assert_close(gradients(method, model, jax.tree.map(lambda x: x[order], batch))[0], slopes, rtol=1e-3, atol=1e-5)
  if IGNORES_WEIGHT_ZERO in method.properties:
    extra = jax.tree.map(lambda a, b: jnp.concatenate([a, b[:4] * 3]), batch, batch_of(seed=1))
    extra = extra._replace(
      label=extra.label.at[-4:].set(0), weight=extra.weight.at[-4:].set(0), group=extra.group.at[-4:].set(-1)
    )
    assert_close(gradients(method, model, extra)[0], slopes, rtol=1e-3, atol=1e-5)
  if LABEL_FREE in method.properties:
    blind = batch._replace(group=jnp.full_like(batch.group, -1))
    assert_close(gradients(method, model, blind)[0], slopes, rtol=0, atol=0)


@each
def test_the_state_keeps_its_shape_and_the_step_compiles_once(name, changes):
  method, model, tx = method_of(name, **changes), network(batch_norm='batch'), adam(1e-2)
  state = create_state(method, model, tx, batch_of().image[:1], KEY)
  step = jax.jit(make_train_step(method, model, tx, KEY), donate_argnums=0)
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
  for seed in range(3):
    state, _ = step(state, batch_of(seed=seed))
  assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) == shapes
  assert step._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue] jit's count of programs; its type lacks it
  assert int(state.step) == 3


# What is per example is the same for all terms and schedules: those are left out.
@pytest.mark.parametrize(
  ('name', 'changes'),
  [
    *((name, {}) for name in METHODS if name in DISTINCT.values()),
    ('ule', {'couples_examples': False}),
    ('ule', {'trust_exponent': 0.5}),
    ('gradient_penalty', {'mistakes': 'balanced', 'trust_exponent': 0.5}),
    ('gradient_penalty', {'mistakes': 'class_balanced_weight', 'student_noise': 0.1}),
    ('lisa', {'domains': 2, 'p_sel': 0.0}),
  ],
)
@pytest.mark.parametrize('parallel', ['jit', pytest.param('pmap', marks=pytest.mark.full)])
def test_eight_devices_give_the_numbers_of_one(name, changes, parallel):
  """By both ways to compile the step, with BatchNorm and dropout."""
  method, model = method_of(name, **changes), network(batch_norm='batch', dropout=0.2)
  batches = [batch_of(seed=s) for s in range(5)]
  one, expected = train(method, model, batches, sgd(1e-2))
  mesh = make_mesh()
  assert mesh.size == 8
  state, metrics = train_on(mesh, parallel, method, model, batches, sgd(1e-2))
  assert_close(state, one, rtol=1e-4, atol=1e-5)
  assert_close(metrics, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', METHODS)
def test_three_classes(name):
  _, metrics = gradients(method_of(name, k=3), network(k=3), batch_of(k=3))
  assert all(np.isfinite(v) for v in metrics.values())


@pytest.mark.parametrize('name', METHODS)
def test_a_loss_that_is_not_finite_is_dated(name):
  batches = [batch_of(seed=s) for s in range(4)]
  batches[2] = batches[2]._replace(image=batches[2].image.at[0, 0, 0, 0].set(jnp.nan))
  state, _ = train(method_of(name), network(), batches, sgd(1.0))
  assert all(first == 2 for first in jax.device_get(state.bad_step).values())


@each
def test_parts_of_a_batch_give_the_numbers_of_the_whole(name, changes):
  """Gradient accumulation, where the loss is a mean over examples; refused elsewhere."""
  method, model, tx = method_of(name, **changes), network(), sgd(1e-2)
  if SEPARABLE not in method.properties:
    with pytest.raises(UserError, match='mean over examples'):
      make_train_step(method, model, tx, KEY, accumulate=4)
    return
  batch = batch_of()
  batch = batch._replace(weight=batch.weight.at[3:7].set(0).at[8].set(2))  # parts of unequal weight
  one, expected = train(method, model, [batch], tx)
  state, step = setup(method, model, batch, tx, accumulate=4)
  four, metrics = jax.jit(step)(state, batch)
  assert_close(four.params, one.params, rtol=1e-4, atol=1e-6)
  for values in (metrics, expected):
    values.pop('term_share', None)  # a quotient: with parts it is the mean of theirs
  assert_close(metrics, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(('model', 'changes'), [pytest.param('resnet20', {}, marks=pytest.mark.full), ('vit', {})])
def test_remat_changes_no_number(model, changes):
  """Double backward included, running statistics too."""
  method, batches = method_of('ule'), [batch_of(seed=s) for s in range(2)]
  short: dict[str, Any] = {'stages': (1, 1, 1)} if model == 'resnet20' else {}  # every kind of block once
  kept, _ = train(method, network(model, **changes).clone(**short), batches, sgd(1e-2))
  again, _ = train(method, network(model, remat=True, **changes).clone(**short), batches, sgd(1e-2))
  assert_close((again.params, again.batch_stats), (kept.params, kept.batch_stats), rtol=1e-4, atol=1e-6)


@pytest.mark.full
def test_remat_needs_less_memory_for_the_double_backward(optimized):
  """The compiler must not undo it: at most 0.6 of the temporary memory."""
  method, batch, tx = method_of('ule'), batch_of(size=32), sgd(1e-2)
  needed = {}
  for remat in (False, True):
    model = network('vit', remat=remat, width=32, depth=4)
    step = make_train_step(method, model, tx, KEY)
    state = jax.eval_shape(lambda model=model: create_state(method, model, tx, batch.image[:1], KEY))
    compiled = jax.jit(step, compiler_options=optimized).lower(state, batch).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    needed[remat] = memory.temp_size_in_bytes
  assert needed[True] < 0.6 * needed[False]


def test_a_batch_in_parts_needs_less_memory_and_on_a_cpu_no_loop(optimized):
  """There, convolutions in a loop would be scalar loops, and parts must not run at once."""
  method, batch, model, tx = method_of('erm'), batch_of(64, size=32), network('cnn', width=32), sgd(1e-2)
  state = jax.eval_shape(lambda: create_state(method, model, tx, batch.image[:1], KEY))
  needed = {}
  for parts in (1, 4):
    step = make_train_step(method, model, tx, KEY, accumulate=parts)
    compiled = jax.jit(step, compiler_options=optimized).lower(state, batch).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    needed[parts] = memory.temp_size_in_bytes
    if jax.default_backend() == 'cpu':
      text = compiled.as_text()
      assert text
      assert ' while(' not in text
  assert needed[4] < 0.6 * needed[1]
