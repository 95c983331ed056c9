"""Shapes, parameter counts, and what BatchNorm's options do."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import KEY, network

from ule_jax import losses
from ule_jax.models import MODELS, make_model

OPTIONS = {'width': 64, 'depth': 2, 'heads': 4, 'patch': 4, 'batch_norm': 'batch'}
# Two classes, 32 x 32 x 3 images, the options above; counted by hand from the layers. The ImageNet
# bodies are torchvision's; its resnet50 has 25,557,032 with a head of 2,049,000.
PARAMETERS = {
  'mlp': (3072 + 1) * 64 + (64 + 1) * 64 + 130,
  'cnn': 27 * 64 + 9 * 64 * 128 + 2 * (64 + 128) + 2 * 129,
  'vit': (48 + 1) * 64 + 64 + 65 * 64 + 2 * (256 + 4 * 65 * 64 + 65 * 256 + 257 * 64) + 128 + 130,
  'resnet20': 432 + 6 * 2304 + 4608 + 5 * 9216 + 18432 + 5 * 36864 + 2 * (7 * 16 + 6 * 32 + 6 * 64) + 130,
  'resnet56': 432 + 18 * 2304 + 4608 + 17 * 9216 + 18432 + 17 * 36864 + 2 * (19 * 16 + 18 * 32 + 18 * 64) + 130,
  'resnet18': 11689512 - 513 * 1000 + 2 * 513,
  'resnet34': 21797672 - 513 * 1000 + 2 * 513,
  'resnet50': 25557032 - 2049 * 1000 + 2 * 2049,
}


def made(name, **changes):
  return make_model(SimpleNamespace(name=name, **OPTIONS | changes), 2)


def test_no_model_is_missing():
  assert set(PARAMETERS) == set(MODELS)


@pytest.mark.parametrize('name', MODELS)
def test_parameter_counts_and_shapes(name):
  model, x = made(name), jnp.zeros((2, 32, 32, 3))
  variables = jax.eval_shape(lambda: model.init(KEY, x, train=False))
  assert sum(p.size for p in jax.tree.leaves(variables['params'])) == PARAMETERS[name]
  logits, features = jax.eval_shape(lambda v: model.apply(v, x, train=False), variables)
  assert logits.shape == (2, 2)
  assert features.shape == (2, variables['params']['head']['kernel'].shape[0])


@pytest.mark.parametrize('name', ['mlp', 'cnn', 'vit', 'resnet20'])
def test_the_head_is_linear_in_the_features(name):
  model, x = network(name), jax.random.normal(KEY, (3, 8, 8, 3))
  variables = model.init(KEY, x, train=False)
  logits, features = model.apply(variables, x, train=False)
  head = variables['params']['head']
  np.testing.assert_allclose(features @ head['kernel'] + head['bias'][None], logits, rtol=1e-4, atol=1e-5)


def saliency_moves(batch_norm, train):
  """Whether one example's saliency changes when another example does."""
  model = network('cnn', batch_norm=batch_norm)
  x = jax.random.normal(KEY, (4, 8, 8, 3))
  variables = model.init(KEY, x, train=False)

  def saliency(x):
    def run(x):
      return model.apply(variables, x, train=train, mutable=['batch_stats'])[0][0]

    return losses.input_gradient(run, x, lambda z: z[:, 0])[1][0]

  return bool((saliency(x) != saliency(x.at[1].add(1.0))).any())


def test_only_batch_statistics_mix_examples():
  assert saliency_moves('batch', True)
  assert not saliency_moves('batch', False)
  assert not saliency_moves('frozen', True)
  assert not saliency_moves('none', True)


@pytest.mark.parametrize(('batch_norm', 'moves'), [('batch', True), ('frozen', False)])
def test_frozen_statistics_do_not_move(batch_norm, moves):
  model, x = network('resnet20', batch_norm=batch_norm), jax.random.normal(KEY, (4, 8, 8, 3)) + 1
  variables = model.init(KEY, x, train=False)
  _, after = model.apply(variables, x, train=True, mutable=['batch_stats'])
  changed = any(
    (a != b).any() for a, b in zip(*map(jax.tree.leaves, (variables['batch_stats'], after['batch_stats'])), strict=True)
  )
  assert changed == moves
