"""The convolution of our networks against XLA's own, through second derivatives, in both of its lowerings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import KEY, network

from ule_jax.kernels import convolution

# height, width, channels in and out, window, stride, padding
CASES = {
  '1x1': (5, 6, 3, 4, (1, 1), (1, 1), 'SAME'),
  '1x1 stride 2': (5, 6, 3, 4, (1, 1), (2, 2), ((0, 0), (0, 0))),
  '1x1 stride 2 and 1': (5, 6, 3, 4, (1, 1), (2, 1), ((0, 0), (0, 0))),
  '1x1 padded': (5, 6, 3, 4, (1, 1), (1, 1), ((1, 0), (0, 2))),
  '3x3': (5, 6, 3, 4, (3, 3), (1, 1), 'SAME'),
  '3x3, three channels': (5, 6, 3, 32, (3, 3), (1, 1), 'SAME'),
  '3x3 stride 2, even': (6, 8, 16, 4, (3, 3), (2, 2), ((1, 1), (1, 1))),
  '3x3 stride 2, odd': (7, 5, 16, 4, (3, 3), (2, 2), ((1, 1), (1, 1))),
  '3x3 stride 2, SAME': (6, 7, 16, 4, (3, 3), (2, 2), 'SAME'),
  '3x3, many channels': (4, 4, 256, 2, (3, 3), (1, 1), ((1, 1), (1, 1))),
  '2x3, uneven': (6, 7, 16, 4, (2, 3), (2, 1), ((0, 1), (2, 0))),
  '3x3, 32 channels': (5, 6, 32, 33, (3, 3), (1, 1), 'SAME'),
  '3x3 stride 2, 32 channels': (6, 7, 32, 33, (3, 3), (2, 2), ((1, 1), (1, 1))),
  '2x3, 32 channels, uneven': (6, 7, 32, 32, (2, 3), (1, 1), ((0, 3), (2, 0))),
  '2x3 stride 2, 32 channels, uneven': (6, 7, 32, 32, (2, 3), (2, 1), ((0, 1), (2, 0))),
  '3x3, 32 channels, cropped': (8, 9, 32, 32, (3, 3), (1, 1), ((-1, 1), (1, -1))),
  '3x3 stride 2, 32 channels, cropped': (8, 9, 32, 32, (3, 3), (2, 2), ((-1, 1), (1, -1))),
  '7x7 stride 2': (9, 8, 3, 4, (7, 7), (2, 2), ((3, 3), (3, 3))),
  'patches': (8, 12, 3, 4, (4, 4), (4, 4), 'VALID'),
  'patches that do not fit': (9, 12, 3, 4, (4, 4), (4, 4), 'VALID'),
}


def settings(case):
  height, width, c, d, window, stride, padding = CASES[case]
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=(2, height, width, c)), rng.normal(size=(*window, c, d))
  return jnp.asarray(x), jnp.asarray(kernel), (stride, padding)


def ours(x, kernel, stride, padding):
  numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, convolution.DIMENSIONS)
  return convolution.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=numbers)


def xlas(x, kernel, stride, padding):
  return jax.lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=convolution.DIMENSIONS)


def everything(convolve, x, kernel, how):
  """The convolution, its gradients, and those of the input gradient and of the kernel gradient."""

  def value(x, kernel):
    return jnp.sum(jnp.sin(convolve(x, kernel, *how)))

  def steepness(x, kernel, of):
    return jnp.sum(jnp.cos(jax.grad(value, of)(x, kernel)))

  slopes = [jax.grad(steepness, (0, 1))(x, kernel, of) for of in (0, 1)]
  return convolve(x, kernel, *how), jax.grad(value, (0, 1))(x, kernel), slopes


def assert_equal(found, expected, tolerance):
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    assert jnp.abs(a - b).max() <= tolerance * jnp.abs(b).max()


@pytest.mark.parametrize('case', CASES)
def test_all_derivatives_are_those_of_xlas(case, x64):
  x, kernel, how = settings(case)
  found = jax.jit(lambda x, kernel: everything(ours, x, kernel, how))(x, kernel)
  expected = jax.jit(lambda x, kernel: everything(xlas, x, kernel, how))(x, kernel)
  assert_equal(found, expected, 1e-12)


@pytest.mark.parametrize('case', CASES)
def test_all_derivatives_are_those_of_xlas_on_other_devices(case, x64):
  """The lowering for a GPU, run on a CPU; under vmap it runs on every platform."""
  x, kernel, how = settings(case)
  stacked = jnp.stack([x, 2 * x]), jnp.stack([kernel, -kernel])
  found = jax.jit(jax.vmap(lambda x, kernel: everything(ours, x, kernel, how)))(*stacked)
  reference = jax.jit(lambda x, kernel: everything(xlas, x, kernel, how))
  expected = [reference(x, kernel) for x, kernel in zip(*stacked, strict=True)]
  assert_equal(found, jax.tree.map(lambda *a: jnp.stack(a), *expected), 1e-12)


@pytest.mark.parametrize('case', CASES)
def test_a_directional_derivative_can_be_differentiated(case, x64):
  x, kernel, how = settings(case)

  def slope(convolve, kernel):
    return jnp.sum(jax.jvp(lambda x: jnp.sin(convolve(x, kernel, *how)), (x,), (jnp.cos(x),))[1] ** 2)

  expected = jax.jit(jax.grad(lambda k: slope(xlas, k)))(kernel)
  assert_equal(jax.jit(jax.grad(lambda k: slope(ours, k)))(kernel), expected, 1e-12)


@pytest.mark.parametrize('case', CASES)
def test_half_precision_stays_half(case):
  x, kernel, how = settings(case)
  x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
  found = jax.jit(lambda x, kernel: everything(ours, x, kernel, how)[:2])(x, kernel)
  expected = jax.jit(lambda x, kernel: everything(xlas, x, kernel, how)[:2])(x, kernel)
  assert_equal(found, expected, 0.1)


@pytest.mark.parametrize('case', [*(case for case in CASES if '32 channels' in case), '3x3'])
def test_kernel_gradients_of_many_channels_are_one_product_on_a_cpu(case):
  x, kernel, (stride, padding) = settings(case)
  y = jax.eval_shape(lambda: ours(x, kernel, stride, padding))
  if isinstance(padding, str):
    padding = tuple(jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], stride, padding))
  how = {'stride': stride, 'padding': padding, 'window': kernel.shape[:2]}
  lowered = jax.jit(lambda x, y: convolution.correlate(x, y, **how)).lower(x, y).as_text()
  assert ('stablehlo.convolution' in lowered) == (case == '3x3')


def typed(convolve, x, kernel, stride, padding):
  try:
    return jax.eval_shape(lambda x, kernel: convolve(x, kernel, stride, padding), x, kernel).shape
  except (ValueError, TypeError):  # the second is from jaxtyping, which tests run under
    return 'refused'


@pytest.mark.parametrize('size', [0, 1, 2, 3, 5])
def test_shapes_and_refusals_are_xlas(size):
  for window in (1, 2, 3, 7):
    for stride in (1, 2, 3):
      for padding in ((0, 0), (1, 0), (-1, 0), (-1, -2), (3, 3)):
        for channels in (3, 2):
          x = jax.ShapeDtypeStruct((2, size, 4, 3), jnp.float32)
          kernel = jax.ShapeDtypeStruct((window, 1, channels, 4), jnp.float32)
          how = (stride, 1), (padding, (0, 0))
          assert typed(ours, x, kernel, *how) == typed(xlas, x, kernel, *how), (window, stride, padding, channels)
  x = jax.ShapeDtypeStruct((2, size, 4, 3), jnp.float32)
  kernel = jax.ShapeDtypeStruct((2, 2, 3, 4), jnp.float32)
  for padding in ('SAME', 'VALID'):
    assert typed(ours, x, kernel, (2, 2), padding) == typed(xlas, x, kernel, (2, 2), padding)


# height, window, stride, padding: outputs that are empty
EMPTY = [(2, 3, 1, 'VALID'), (1, 4, 4, 'VALID'), (3, 7, 2, ((1, 1), (3, 3))), (0, 1, 1, 'SAME'), (2, 3, 2, 'VALID')]


@pytest.mark.parametrize('channels', [3, 32])
@pytest.mark.parametrize(('height', 'window', 'stride', 'padding'), EMPTY)
def test_derivatives_of_an_empty_output_are_zero(height, window, stride, padding, channels):
  x, kernel = jnp.ones((2, height, 8, channels)), jnp.ones((window, window, channels, 32))
  how = (stride, stride), padding
  found = jax.jit(lambda x, kernel: everything(ours, x, kernel, how))(x, kernel)
  expected = jax.jit(lambda x, kernel: everything(xlas, x, kernel, how))(x, kernel)
  assert found[0].size == 0
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    assert a.shape == b.shape
    assert not a.any()


def test_only_what_it_can_do():
  x, kernel, (stride, padding) = settings('3x3')
  numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, convolution.DIMENSIONS)
  convolve = functools.partial(convolution.conv_general_dilated, x, kernel, stride, padding, dimension_numbers=numbers)
  with pytest.raises(NotImplementedError):
    convolve(rhs_dilation=(2, 2))
  with pytest.raises(NotImplementedError):
    convolve(feature_group_count=3)


def convolutions(text: str) -> tuple[int, int]:
  """All convolutions of a program, and those over images that were spread out with zeros between."""
  found = [line for line in text.splitlines() if 'stablehlo.convolution' in line]
  return len(found), sum('lhs_dilate = [2, 2]' in line for line in found)


def test_each_device_gets_the_operations_that_it_is_fast_at():
  model, x = network('resnet18', 2), jnp.zeros((2, 32, 32, 3))
  variables = jax.eval_shape(lambda: model.init(KEY, x, train=False))

  def slope(variables, x):
    return jax.grad(lambda x: model.apply(variables, x, train=False)[0].sum())(x)

  def penalty(variables):
    return jnp.sum(slope(variables, x) ** 2)

  lowered = jax.jit(jax.grad(penalty)).trace(variables)
  cpu, cuda = (convolutions(lowered.lower(lowering_platforms=(platform,)).as_text()) for platform in ('cpu', 'cuda'))
  assert cuda[0] > cpu[0] > 0  # the shortcuts are products of matrices on a CPU
  assert cuda[1] > cpu[1]


def test_outside_of_a_compiled_function_it_is_compiled_once(caplog):
  x, kernel, how = settings('3x3')
  jax.clear_caches()
  with jax.log_compiles(), caplog.at_level('WARNING'):
    for _ in range(3):
      ours(x, kernel, *how)
  assert sum(record.message.startswith('Compiling') for record in caplog.records) == 1
