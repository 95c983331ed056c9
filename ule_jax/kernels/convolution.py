"""A convolution whose derivatives of every order are three operations that compilers have fast code for.

A convolution is bilinear, so that each derivative of

  convolve(x, w)          the convolution
  spread(y, w)            its gradient at the input: what every output gives back to the inputs that it saw
  correlate(x, y)         its gradient at the kernel: what every output saw, weighed by it

is another of the three. `lax.conv_general_dilated` derives them from itself instead, and what comes out for the
gradient of an input gradient (kernel gradients of dilated convolutions) runs in scalar loops on a CPU: half of a
ResNet-50's ULE step. On a CPU, kernels of 1x1 and those that are patches (as large as their stride) are products of
matrices too, and so are kernel gradients of windows up to 3x3 from 32 channels on. Elsewhere the compiler is given the
convolutions and chooses itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
Pair = tuple[int, int]
Image = Float[Array, 'b h w c']
Result = Float[Array, 'b i j d']
Kernel = Float[Array, 'm n c d']


def conv_general_dilated(
  lhs: Array,
  rhs: Array,
  window_strides: Sequence[int],
  padding: str | Sequence[Pair],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers=None,
  feature_group_count: int = 1,
  precision=None,
) -> Array:
  """Stand in for `lax.conv_general_dilated` in `flax.linen.Conv`: images, one group, no dilation."""
  dilated = {*(lhs_dilation or ()), *(rhs_dilation or ())} - {1}
  expected = lax.conv_dimension_numbers(lhs.shape, rhs.shape, DIMENSIONS)
  if dilated or feature_group_count != 1 or precision is not None or dimension_numbers != expected:
    raise NotImplementedError('only plain convolutions of images.')
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
  return convolve(lhs, rhs, tuple(window_strides), tuple((int(low), int(high)) for low, high in padding))


def convolve(x: Image, kernel: Kernel, stride: Pair, padding: tuple[Pair, Pair]) -> Result:
  """Convolve images with a kernel, as `lax.conv_general_dilated` does."""
  return convolve_p.bind(x, kernel, stride=stride, padding=padding)


def spread(y: Result, kernel: Kernel, stride: Pair, padding: tuple[Pair, Pair], size: Pair) -> Image:
  """Compute the gradient of <y, convolve(x, kernel)> at the x of a size."""
  return spread_p.bind(y, kernel, stride=stride, padding=padding, size=size)


def correlate(x: Image, y: Result, stride: Pair, padding: tuple[Pair, Pair], window: Pair) -> Kernel:
  """Compute the gradient of <y, convolve(x, kernel)> at the kernel whose height and width are `window`."""
  return correlate_p.bind(x, y, stride=stride, padding=padding, window=window)


# --- For any compiler -----------------------------------------------------------------------------


def _convolve(x, kernel, *, stride, padding):
  return lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=DIMENSIONS)


def _spread(y, kernel, *, stride, padding, size):
  x = jax.ShapeDtypeStruct((y.shape[0], *size, kernel.shape[2]), y.dtype)
  return jax.linear_transpose(lambda x: _convolve(x, kernel, stride=stride, padding=padding), x)(y)[0]


def _correlate(x, y, *, stride, padding, window):
  kernel = jax.ShapeDtypeStruct((*window, x.shape[3], y.shape[3]), x.dtype)
  return jax.linear_transpose(lambda w: _convolve(x, w, stride=stride, padding=padding), kernel)(y)[0]


# --- For XLA on a CPU (0.10; measured in float32 on AVX-512) ---------------------------------------


def _is_point(window: Pair, padding) -> bool:
  return window == (1, 1) and padding == ((0, 0), (0, 0))


def _is_patch(window: Pair, stride: Pair, padding, size: Pair) -> bool:
  whole = all(n % s == 0 for n, s in zip(size, stride, strict=True))
  return window == stride and padding == ((0, 0), (0, 0)) and whole


def _patches(x, window: Pair):
  """Cut images into patches: b (i m) (j n) c -> b i j (m n c)."""
  b, h, w, c = x.shape
  (m, n), i, j = window, h // window[0], w // window[1]
  return x.reshape(b, i, m, j, n, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, i, j, m * n * c)


def _four_channels(x, axis: int):
  """Add a channel of zeros to three: with loads of four values the convolution takes a third of the time."""
  return jnp.pad(x, [(0, int(n == axis)) for n in range(4)])


def _is_slow_stem(window: Pair, stride: Pair, channels: tuple[int, int]) -> bool:
  return window == (3, 3) and stride == (1, 1) and channels[0] == 3 and channels[1] >= 32


def _cpu_convolve(x, kernel, *, stride, padding):
  window = kernel.shape[:2]
  if _is_point(window, padding):
    return x[:, :: stride[0], :: stride[1]] @ kernel[0, 0]
  if _is_patch(window, stride, padding, x.shape[1:3]):
    return _patches(x, window) @ kernel.reshape(-1, kernel.shape[3])
  if _is_slow_stem(window, stride, kernel.shape[2:]):
    x, kernel = _four_channels(x, 3), _four_channels(kernel, 2)
  return _convolve(x, kernel, stride=stride, padding=padding)


def _cpu_spread(y, kernel, *, stride, padding, size):
  window, channels = kernel.shape[:2], kernel.shape[2]
  if _is_point(window, padding) and stride == (1, 1):
    return y @ kernel[0, 0].T
  if _is_patch(window, stride, padding, size):
    (m, n), (b, i, j, _) = window, y.shape
    x = y @ kernel.reshape(-1, kernel.shape[3]).T
    return x.reshape(b, i, j, m, n, channels).transpose(0, 1, 3, 2, 4, 5).reshape(b, *size, channels)
  # With few pixels to a channel the product's speed outweighs that its result is passed through memory.
  if (stride != (1, 1) or channels >= 256) and max(window) <= 3 and channels >= 16 and 0 not in y.shape[1:3]:
    return _spread_taps(y, kernel, stride, padding, size)
  return _spread(y, kernel, stride=stride, padding=padding, size=size)


def _spread_taps(y, kernel, stride, padding, size):
  """Compute what each tap of the kernel gives to the inputs in one product, and add it up where it belongs."""
  (m, n), (b, i, j, _) = kernel.shape[:2], y.shape
  taps = y @ kernel.reshape(-1, kernel.shape[3]).T
  taps = taps.reshape(b, i, j, m * n, kernel.shape[2])
  zero, total = jnp.zeros((), y.dtype), None
  for tap in range(m * n):
    place = []
    for axis, offset in enumerate(divmod(tap, n)):
      step, count = stride[axis], y.shape[1 + axis]
      first = offset - padding[axis][0]
      place.append((first, size[axis] - first - (count - 1) * step - 1, step - 1))
    part = lax.pad(taps[:, :, :, tap], zero, ((0, 0, 0), *place, (0, 0, 0)))
    total = part if total is None else total + part
  return total


def _cpu_correlate(x, y, *, stride, padding, window):
  shape = (*window, x.shape[3], y.shape[3])
  # The compiler transposes x here, and without a barrier it does all that led to x again in that loop.
  x = lax.optimization_barrier(x)
  if _is_point(window, padding):
    x = x[:, :: stride[0], :: stride[1]]
  elif _is_patch(window, stride, padding, x.shape[1:3]):
    x = _patches(x, window)
  elif _is_slow_stem(window, stride, shape[2:]):
    return _correlate(_four_channels(x, 3), y, stride=stride, padding=padding, window=window)[:, :, :3]
  # XLA's own is a convolution with a kernel as large as an image, on one core: with 32 channels and more it takes 1.4
  # to 2.3 times as long as a product on two (0.8 to 1.4 of its CPU time), with 16 channels 1.1 (0.8).
  elif max(window) > 3 or min(shape[2:]) < 32 or 0 in y.shape[1:3]:
    return _correlate(x, y, stride=stride, padding=padding, window=window)
  elif stride == (1, 1):
    return _correlate_lines(x, y, padding, window)
  else:
    return _correlate_taps(x, y, stride, padding, window)
  return _sum_of_products(x, y).reshape(shape)


def _sum_of_products(x, y):
  # As matrices: with more than one axis to sum over, the compiler copies one operand into another order first.
  return jnp.tensordot(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), (0, 0))


def _correlate_lines(x, y, padding, window):
  """Put shifts of one input by rows and of the other by columns side by side: one product then has all taps."""
  (b, i, j, d), (_, h, w, c), (m, n) = y.shape, x.shape, window
  rows = [(padding[0][0] - k, i - h - padding[0][0] + k) for k in range(m)]
  columns = [(k - padding[1][0], w - j + padding[1][0] - k) for k in range(n)]
  zero = jnp.zeros((), x.dtype)
  x = jnp.stack([lax.pad(x, zero, ((0, 0, 0), (*pair, 0), (0, 0, 0), (0, 0, 0))) for pair in rows], 3)
  y = jnp.stack([lax.pad(y, zero, ((0, 0, 0), (0, 0, 0), (*pair, 0), (0, 0, 0))) for pair in columns], 3)
  x, y = lax.optimization_barrier((x.reshape(b, i, w, m * c), y.reshape(b, i, w, n * d)))
  return _sum_of_products(x, y).reshape(m, c, n, d).transpose(0, 2, 1, 3)


def _correlate_taps(x, y, stride, padding, window):
  """Put what each tap of the kernel saw side by side, for one product with the outputs."""
  (b, i, j, d), c, (m, n) = y.shape, x.shape[3], window
  x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*pair, 0) for pair in padding), (0, 0, 0)))
  ends = [(count - 1) * step + 1 for count, step in zip((i, j), stride, strict=True)]
  seen = [x[:, k : k + ends[0] : stride[0], l : l + ends[1] : stride[1]] for k in range(m) for l in range(n)]
  x = lax.optimization_barrier(jnp.stack(seen, 3).reshape(b, i, j, m * n * c))
  return _sum_of_products(x, y).reshape(m, n, c, d)


# --- What makes them operations of JAX ------------------------------------------------------------


def _define(name: str, shape: Callable, anywhere: Callable, cpu: Callable) -> Primitive:
  operation = Primitive(name)

  @cache
  def compiled(**settings):
    return jax.jit(partial(operation.bind, **settings))

  @operation.def_impl
  def run(*operands, **settings):
    return compiled(**settings)(*operands)

  @operation.def_abstract_eval
  def typed(one, other, **settings):
    return one.update(shape=shape(one.shape, other.shape, **settings), weak_type=False)

  def batch(operands, axes, **settings):
    return jax.vmap(partial(anywhere, **settings), axes)(*operands), 0

  batching.primitive_batchers[operation] = batch
  mlir.register_lowering(operation, mlir.lower_fun(anywhere, multiple_results=False))
  mlir.register_lowering(operation, mlir.lower_fun(cpu, multiple_results=False), platform='cpu')
  return operation


def _convolved_shape(x, kernel, *, stride, padding):
  """Return XLA's own shape: empty where no window fits, and a refusal of what cannot be convolved."""
  if x[3] != kernel[2]:
    raise ValueError(f'images of {x[3]} channels and a kernel for {kernel[2]}.')
  shape = lax.conv_general_shape_tuple(x, kernel, stride, padding, DIMENSIONS)
  return tuple(int(n) if isinstance(n, np.integer) else n for n in shape)  # a batch may be a symbol


convolve_p = _define('ule_convolve', _convolved_shape, _convolve, _cpu_convolve)
spread_p = _define('ule_spread', lambda y, kernel, *, size, **_: (y[0], *size, kernel[2]), _spread, _cpu_spread)
correlate_p = _define('ule_correlate', lambda x, y, *, window, **_: (*window, x[3], y[3]), _correlate, _cpu_correlate)

# The rules: of <g, operation(one, other)>, the gradient at one and that at the other.
ad.defbilinear(
  convolve_p,
  lambda g, x, kernel, **s: spread(g, kernel, **s, size=x.aval.shape[1:3]),
  lambda g, x, kernel, **s: correlate(x, g, **s, window=kernel.aval.shape[:2]),
)
ad.defbilinear(
  spread_p,
  lambda g, y, kernel, size, **s: convolve(g, kernel, **s),
  lambda g, y, kernel, size, **s: correlate(g, y, **s, window=kernel.aval.shape[:2]),
)
ad.defbilinear(
  correlate_p,
  lambda g, x, y, window, **s: spread(y, g, **s, size=x.aval.shape[1:3]),
  lambda g, x, y, window, **s: convolve(x, g, **s),
)
