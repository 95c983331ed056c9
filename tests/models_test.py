"""Shapes, parameter counts, and what BatchNorm's options do."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import KEY, assert_close, batch_of, method_of, network, setup

from configs import base
from ule_jax import losses
from ule_jax.errors import UserError
from ule_jax.models import MODELS, make_model
from ule_jax.models.cnn import halve
from ule_jax.models.layers import HEAD_INITS, make_norm

OPTIONS = {'width': 64, 'depth': 2, 'heads': 4, 'patch': 4, 'batch_norm': 'batch'}


def vit(width, mlp, tokens, patch, depth):
  """Patches, class token, positions, blocks (norms, attention, MLP), norm and head of two classes."""
  block = 2 * 2 * width + 4 * (width + 1) * width + (width + 1) * mlp + (mlp + 1) * width
  return (3 * patch**2 + 1) * width + width + tokens * width + depth * block + 2 * width + 2 * (width + 1)


# Two classes, 32 x 32 x 3 images, the options above; computed from the layers' sizes. The ImageNet
# bodies are torchvision's; its resnet50 has 25,557,032 with a head of 2,049,000.
PARAMETERS = {
  'linear': (3072 + 1) * 2,
  'mlp': (3072 + 1) * 64 + (64 + 1) * 64 + 130,
  'cnn': 27 * 64 + 9 * 64 * 128 + 2 * (64 + 128) + 2 * 129,
  'vit': (48 + 1) * 64 + 64 + 65 * 64 + 2 * (256 + 4 * 65 * 64 + 65 * 256 + 257 * 64) + 128 + 130,
  # 32 x 32 in patches of 16 are 4 tokens and one for the class
  'vit_ti16': vit(192, 768, 5, 16, 12),
  'vit_s16': vit(384, 1536, 5, 16, 12),
  'vit_b16': vit(768, 3072, 5, 16, 12),
  'resnet20': 432 + 6 * 2304 + 4608 + 5 * 9216 + 18432 + 5 * 36864 + 2 * (7 * 16 + 6 * 32 + 6 * 64) + 130,
  'resnet56': 432 + 18 * 2304 + 4608 + 17 * 9216 + 18432 + 17 * 36864 + 2 * (19 * 16 + 18 * 32 + 18 * 64) + 130,
  'resnet18': 11689512 - 513 * 1000 + 2 * 513,
  'resnet34': 21797672 - 513 * 1000 + 2 * 513,
  'resnet50': 25557032 - 2049 * 1000 + 2 * 2049,
  # timm's tf_efficientnet_lite0 to 2, with 1,000 classes
  'efficientnet_lite0': 4_652_008 - 1281 * 1000 + 2 * 1281,
  'efficientnet_lite1': 5_416_680 - 1281 * 1000 + 2 * 1281,
  'efficientnet_lite2': 6_092_072 - 1281 * 1000 + 2 * 1281,
}


def made(name, classes=2, **changes):
  options = base.make('digits', 'erm').model.to_dict() | OPTIONS | {'name': name} | changes
  return make_model(SimpleNamespace(**options), classes)


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
  logits, features = (np.asarray(part) for part in model.apply(variables, x, train=False))
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


@pytest.mark.parametrize(('size', 'expected'), [(224, 86_567_656), (384, 86_859_496)])
def test_vit_b16_is_as_large_as_the_released_ones(size, expected):
  """86,567,656 is torchvision's number for vit_b_16; at 384 there are 380 more positions."""
  model = made('vit_b16', classes=1000)
  shapes = jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, size, size, 3)), train=False))
  assert sum(p.size for p in jax.tree.leaves(shapes)) == expected


def apply(model, x, key=None, **changes):
  variables = jax.jit(lambda: model.init(KEY, x, train=False))()
  rngs = {} if key is None else {'dropout': jax.random.key(key)}
  model = model.clone(**changes)
  return jax.jit(lambda x: model.apply(variables, x, train=key is not None, mutable=['batch_stats'], rngs=rngs)[0])(x)


@pytest.mark.parametrize('name', ['mlp', 'cnn', 'vit'])
def test_half_precision_keeps_float32_where_it_matters(name):
  model, x = network(name), jax.random.normal(KEY, (4, 8, 8, 3))
  whole, half = apply(model, x), apply(model, x, precision='bfloat16')
  assert [a.dtype for a in half] == [jnp.float32, jnp.float32]
  for a, b in zip(whole, half, strict=True):
    assert 0 < jnp.abs(a - b).max() < 0.05 * jnp.abs(a).max()
  model = model.clone(precision='bfloat16')
  variables = jax.eval_shape(lambda: model.init(KEY, x, train=False))
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype('float32')}
  saliency = jax.eval_shape(
    lambda v: losses.input_gradient(lambda x: model.apply(v, x, train=False), x, lambda out: out[0][:, 0])[1], variables
  )
  assert saliency.dtype == jnp.float32


@pytest.mark.parametrize('name', ['cnn', 'vit'])
def test_dropout_is_drawn_in_training_only(name):
  model, x = network(name, batch_norm='none'), jax.random.normal(KEY, (4, 8, 8, 3))
  plain = apply(model, x)[0]
  assert (apply(model, x, dropout=0.5)[0] == plain).all()
  one, same, other = (apply(model, x, key, dropout=0.5)[0] for key in (1, 1, 2))
  assert (one == same).all()
  assert (one != other).any()


@pytest.mark.parametrize('name', ['vit', 'resnet20'])
def test_drop_path_skips_whole_branches_of_some_examples(name):
  model, x = network(name, batch_norm='none'), jax.random.normal(KEY, (1, 8, 8, 3)).repeat(64, 0)
  dropped = np.asarray(apply(model, x, 1, drop_path=0.5)[1])
  kinds = np.unique((dropped / np.abs(dropped).max()).round(3), axis=0)
  assert 1 < len(kinds) < 64  # a few combinations of branches
  assert (apply(model, x, drop_path=0.5)[1] == apply(model, x)[1]).all()


# size of the image, options of a vit, what is said
NO_SHAPES = [
  ((8, 8), {'patch': 64}, r'images of 8 x 8 pixels do not divide into patches of 64'),
  ((8, 8), {'patch': 5}, r'images of 8 x 8 pixels do not divide into patches of 5'),
  ((8, 9), {'patch': 4}, r'images of 8 x 9 pixels do not divide into patches of 4'),
  ((1, 1), {'patch': 2}, r'images of 1 x 1 pixels do not divide into patches of 2'),
  ((0, 8), {'patch': 4}, r'images of 0 x 8 pixels do not divide'),
  ((8, 8), {'depth': 0}, r'model.depth is 0, but a vision transformer sees the image only in its blocks'),
  ((8, 8), {'width': 8, 'heads': 3}, r'model.width 8 is not a multiple of model.heads 3'),
  ((8, 8), {'width': 8, 'heads': 16}, r'model.width 8 is not a multiple of model.heads 16'),
  ((8, 8), {'name': 'vit_ti16'}, r'images of 8 x 8 pixels do not divide into patches of 16'),
]


@pytest.mark.parametrize(('size', 'options', 'message'), NO_SHAPES)
def test_no_part_of_an_image_is_left_out_by_a_vit(size, options, message):
  model = network(**({'name': 'vit'} | options))
  with pytest.raises(UserError, match=message):
    jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, *size, 3)), train=False))


@pytest.mark.parametrize('name', ['mlp', 'cnn', 'resnet20', 'resnet18', 'vit'])
@pytest.mark.parametrize('size', [1, 2, 3])
def test_tiny_images_reach_the_last_layer(name, size):
  """Every pixel has a slope: none is dropped on the way; a 2 x 2 mean leaves out an odd last row, as it says."""
  model, x = network(name, patch=1, depth=2), jax.random.normal(KEY, (2, size, size, 3))
  variables = jax.jit(lambda: model.init(KEY, x, train=False))()

  def spread(x) -> jax.Array:
    return jnp.asarray(model.apply(variables, x, train=False)[1]).std()

  g = jax.jit(jax.grad(spread))(x)
  seen = (jnp.abs(g).max(axis=(0, 3)) > 0).sum()
  assert seen == size**2


# what torch.nn.Linear, timm's vision transformers and a zero give: deviation of the weights, and of the biases
@pytest.mark.parametrize('name', ['mlp', 'cnn', 'vit', 'resnet20'])
@pytest.mark.parametrize('kind', HEAD_INITS)
def test_a_new_last_layer_starts_as_torchs_or_timms(kind, name):
  torch = pytest.importorskip('torch')
  model = network(name, 400, head_init=kind, width=128, depth=1)
  head = jax.jit(lambda: model.init(KEY, jnp.zeros((1, 8, 8, 3)), train=False))()['params']['head']
  features = head['kernel'].shape[0]
  torch.manual_seed(0)
  theirs = torch.nn.Linear(features, 400)
  if kind == 'timm':
    torch.nn.init.trunc_normal_(theirs.weight, std=0.02)
  for ours, tensor in ((head['kernel'], theirs.weight.detach()), (head['bias'], theirs.bias.detach())):
    deviation, largest = (float(f) for f in (tensor.std(), tensor.abs().max()))
    if kind == 'zero' or (kind != 'torch' and ours.ndim == 1):
      assert not ours.any()
    elif kind == 'lecun':
      assert ours.std() == pytest.approx(3**0.5 * deviation, rel=0.02)
    else:
      assert ours.std() == pytest.approx(deviation, rel=0.05)
      assert jnp.abs(ours).max() == pytest.approx(largest, rel=0.02 if kind == 'torch' else 0.25)


def test_a_head_on_a_frozen_encoder_starts_so_too():
  model = made('resnet20', encoder='frozen', head_init='zero')
  head = model.init(KEY, jnp.zeros((1, 64)), train=False)['params']['head']
  assert not np.asarray(head['kernel']).any()


@pytest.mark.parametrize('term', losses.TERMS)
def test_a_last_layer_of_zeros_can_be_trained(term):
  """Its input gradients are 0: no term divides by them."""
  method = method_of('ule', term=term, weight=1.0)
  state, step = setup(method, network('cnn', head_init='zero'), batch_of(8))
  step = jax.jit(step)
  for _ in range(3):
    state, metrics = step(state, batch_of(8))
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, metrics)))
  assert int(state.bad_step['teacher']) == -1
  assert jnp.abs(state.params['teacher']['head']['kernel']).max() > 0


@pytest.mark.parametrize('ratio', [1, 100, 1000])
def test_the_variance_in_two_passes_is_right_where_the_mean_is_large(ratio):
  """In float32, against float64 on the same values; `ratio` is of mean and deviation."""
  x = (ratio + np.random.default_rng(0).normal(size=(64, 8, 8, 4))).astype(np.float32)
  exact, worst = x.astype(np.float64).var((0, 1, 2)), {}
  for fast in (True, False):
    norm = make_norm('batch', True, fast_variance=fast)('norm')
    variables = norm.init(KEY, x)
    _, after = norm.apply(variables, x, mutable=['batch_stats'])
    moved = (np.asarray(after['batch_stats']['var'], np.float64) - 0.9) / 0.1  # from 1 on
    worst[fast] = np.abs(moved / exact - 1).max()
  assert worst[False] < 2e-6
  assert (worst[True] > 3e-4) == (ratio >= 100), worst


@pytest.mark.parametrize('name', ['cnn', 'resnet20', 'resnet18', 'vit'])
def test_the_option_reaches_every_norm(name):
  """One pass squares values and mean, two passes only what is left of the values."""
  x, squares = jax.random.normal(KEY, (4, 8, 8, 3)), {}
  for fast in (True, False):
    model = network(name, batch_norm='batch', fast_variance=fast)
    variables = jax.eval_shape(lambda model=model: model.init(KEY, x, train=False))
    program = jax.make_jaxpr(lambda v, model=model: model.apply(v, x, train=True, mutable=['batch_stats']))(variables)
    squares[fast] = str(program).count(' square ')
  norms = sum(path[-1].key == 'scale' for path, _ in jax.tree_util.tree_leaves_with_path(variables['params']))
  assert norms > 1
  assert squares == {True: 2 * norms, False: norms}


@pytest.mark.parametrize('size', [(4, 6), (5, 6), (5, 3)])
def test_images_are_halved_as_flax_pools_them(size):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)
  assert_close(halve(x), nn.avg_pool(x, (2, 2), strides=(2, 2)), rtol=1e-6, atol=1e-6)
