"""The optimiser: roles stay apart, decay and schedules are the stated ones, frozen stays frozen."""

from types import SimpleNamespace

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import PyTree

from configs import base
from ule_jax.optim import OPTIMIZERS, make_optimizer

DEFAULTS = base.make('digits', 'erm').to_dict()['optim']
PARAMS = {role: {'head': {'kernel': jnp.array([1.0, -2.0])}, 'conv': {'kernel': jnp.array([3.0])}} for role in 'ab'}


def after(gradients, steps=1, length=10, **changes) -> PyTree:
  tx = make_optimizer(SimpleNamespace(**DEFAULTS | changes), ('a', 'b'), length)
  params, state = PARAMS, tx.init(PARAMS)
  for _ in range(steps):
    updates, state = tx.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
  return params


def ones(scale_b=1.0):
  return {
    'a': jax.tree.map(jnp.ones_like, PARAMS['a']),
    'b': jax.tree.map(lambda p: scale_b * jnp.ones_like(p), PARAMS['b']),
  }


def test_the_clip_of_one_role_does_not_reach_the_other():
  settings = {'name': 'sgd', 'clip': 1.0, 'lr': 0.1}
  small, large = after(ones(), **settings), after(ones(1e6), **settings)
  np.testing.assert_array_equal(small['a']['head']['kernel'], large['a']['head']['kernel'])
  np.testing.assert_allclose(PARAMS['a']['head']['kernel'] - small['a']['head']['kernel'], 0.1 / np.sqrt(3), rtol=1e-5)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_weight_decay(name):
  zero = jax.tree.map(jnp.zeros_like, PARAMS)
  found = after(zero, name=name, lr=0.1, weight_decay=0.5)['a']['head']['kernel']
  expected = {
    'sgd': [1 - 0.1 * 0.5, -2 + 0.1 * 1.0],  # the decay is a gradient
    'adam': [1 - 0.1, -2 + 0.1],  # and is normalised with it
    'adamw': [1 - 0.1 * 0.5, -2 + 0.1 * 1.0],  # decoupled
  }[name]
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
  ('network', 'special'), [('vit', {'token', 'position', 'bias', 'scale'}), ('resnet20', {'bias', 'scale'})]
)
@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_weight_decay_reaches_every_parameter_as_the_config_says(optimizer, network, special):
  model = common.network(network)
  shapes = jax.eval_shape(lambda: model.init(common.KEY, jnp.zeros((1, 8, 8, 3)), train=False))['params']
  params = {'a': jax.tree.map(lambda shape: jnp.full(shape.shape, 2.0), shapes)}
  tx = make_optimizer(SimpleNamespace(**DEFAULTS | {'name': optimizer, 'lr': 0.1, 'weight_decay': 0.5}), ('a',), 10)
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  names = {path[-1].key for path, update in jax.tree.leaves_with_path(updates) if bool((update < 0).all())}
  assert special <= names
  assert all((update < 0).all() for update in jax.tree.leaves(updates))


def test_only_what_matches_is_trained():
  found = after(ones(), trainable='^head/')
  for role in 'ab':
    assert found[role]['conv']['kernel'] == PARAMS[role]['conv']['kernel']
    assert (found[role]['head']['kernel'] != PARAMS[role]['head']['kernel']).all()


@pytest.mark.parametrize(
  ('changes', 'rates'),
  [
    ({'schedule': 'constant'}, [1, 1, 1, 1]),
    ({'schedule': 'cosine'}, [1, 0.8536, 0.5, 0.1464]),
    ({'schedule': 'constant', 'warmup_steps': 2}, [0, 0.5, 1, 1]),
    ({'schedule': 'cosine', 'warmup_steps': 2}, [0, 0.5, 1, 0.5]),
  ],
)
def test_schedules(changes, rates):
  moved, before = [], 1.0
  for steps in range(1, 5):
    now = float(after(ones(), steps, 4, name='adamw', lr=0.01, **changes)['a']['head']['kernel'][0])
    moved.append((before - now) / 0.01)
    before = now
  np.testing.assert_allclose(moved, rates, atol=2e-3)
