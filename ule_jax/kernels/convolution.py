"""A convolution whose derivatives of every order are three primitives that compilers have fast code for.

A convolution is bilinear, so that each derivative of

  convolve(x, w)          the convolution
  spread(y, w)            its vector-Jacobian product with respect to the input (a transposed convolution)
  correlate(x, y)         its vector-Jacobian product with respect to the kernel

is another of the three. JAX differentiates `lax.conv_general_dilated` into dilated convolutions instead; in the
gradient of an input gradient their kernel gradients run in scalar loops on a CPU, which is half of a ResNet-50's ULE
step.

Lowering on a CPU: 1x1 kernels, kernels as large as their stride (patches), and kernel gradients of windows up to 3x3
from 32 channels on are matrix products. On other platforms XLA chooses the algorithm of each convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ule_jax.kernels.primitives import define, derive_each_other

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
  """Replace `lax.conv_general_dilated` in `flax.linen.Conv`, for images in NHWC, one group and no dilation.

  Raises:
    NotImplementedError: other dimension numbers, a dilation, more than one group, or a precision.
  """
  dilated = {*(lhs_dilation or ()), *(rhs_dilation or ())} - {1}
  expected = lax.conv_dimension_numbers(lhs.shape, rhs.shape, DIMENSIONS)
  if dilated or feature_group_count != 1 or precision is not None or dimension_numbers != expected:
    raise NotImplementedError('only plain convolutions of images.')
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
  (rows, columns), ((top, bottom), (left, right)) = window_strides, padding
  return convolve(lhs, rhs, (rows, columns), ((int(top), int(bottom)), (int(left), int(right))))


def convolve(x: Image, kernel: Kernel, stride: Pair, padding: tuple[Pair, Pair]) -> Result:
  """Convolve images with a kernel; equal to `lax.conv_general_dilated`.

  Args:
    stride: (rows, columns).
    padding: ((top, bottom), (left, right)) in pixels.
  """
  return convolve_p.bind(x, kernel, stride=stride, padding=padding)


def spread(y: Result, kernel: Kernel, stride: Pair, padding: tuple[Pair, Pair], size: Pair) -> Image:
  """Compute the gradient of <y, convolve(x, kernel)> with respect to x.

  Args:
    size: height and width of x.
  """
  return spread_p.bind(y, kernel, stride=stride, padding=padding, size=size)


def correlate(x: Image, y: Result, stride: Pair, padding: tuple[Pair, Pair], window: Pair) -> Kernel:
  """Compute the gradient of <y, convolve(x, kernel)> with respect to the kernel.

  Args:
    window: height and width of the kernel.
  """
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
  """Pad three channels with a fourth of zeros: loads of four values take a third of the time."""
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
  # With few pixels per channel the speed of the matrix product outweighs the memory traffic of its result.
  if (stride != (1, 1) or channels >= 256) and max(window) <= 3 and channels >= 16 and 0 not in y.shape[1:3]:
    return _spread_taps(y, kernel, stride, padding, size)
  return _spread(y, kernel, stride=stride, padding=padding, size=size)


def _spread_taps(y, kernel, stride, padding, size):
  """Compute `spread` as one matrix product with all kernel taps, whose results are shifted and added."""
  (m, n), (b, i, j, _) = kernel.shape[:2], y.shape
  taps = y @ kernel.reshape(-1, kernel.shape[3]).T
  taps = taps.reshape(b, i, j, m * n, kernel.shape[2])
  zero, total = jnp.zeros((), y.dtype), None
  for tap in range(m * n):
    padding_of_tap = []
    for axis, offset in enumerate(divmod(tap, n)):
      step, count = stride[axis], y.shape[1 + axis]
      first = offset - padding[axis][0]
      padding_of_tap.append((first, size[axis] - first - (count - 1) * step - 1, step - 1))
    part = lax.pad(taps[:, :, :, tap], zero, ((0, 0, 0), *padding_of_tap, (0, 0, 0)))
    total = part if total is None else total + part
  return total


def _cpu_correlate(x, y, *, stride, padding, window):
  shape = (*window, x.shape[3], y.shape[3])
  # The compiler transposes x here; without a barrier it fuses, and so repeats, the computation of x in that loop.
  x = lax.optimization_barrier(x)
  if _is_point(window, padding):
    x = x[:, :: stride[0], :: stride[1]]
  elif _is_patch(window, stride, padding, x.shape[1:3]):
    x = _patches(x, window)
  elif _is_slow_stem(window, stride, shape[2:]):
    return _correlate(_four_channels(x, 3), y, stride=stride, padding=padding, window=window)[:, :, :3]
  # XLA lowers this to a convolution with a kernel as large as an image, on one core: from 32 channels on it takes 1.4
  # to 2.3 times as long as a matrix product on two (0.8 to 1.4 of its CPU time), with 16 channels 1.1 (0.8).
  elif max(window) > 3 or min(shape[2:]) < 32 or 0 in y.shape[1:3]:
    return _correlate(x, y, stride=stride, padding=padding, window=window)
  elif stride == (1, 1):
    return _correlate_lines(x, y, padding, window)
  else:
    return _correlate_taps(x, y, stride, padding, window)
  return _sum_of_products(x, y).reshape(shape)


def _sum_of_products(x, y):
  # As matrices, because with more than one contracted axis the compiler transposes one operand first.
  return jnp.tensordot(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), (0, 0))


def _correlate_lines(x, y, padding, window):
  """Compute `correlate` as one matrix product of row shifts of x with column shifts of y, which has all taps."""
  (b, i, j, d), (_, h, w, c), (m, n) = y.shape, x.shape, window
  rows = [(padding[0][0] - k, i - h - padding[0][0] + k) for k in range(m)]
  columns = [(k - padding[1][0], w - j + padding[1][0] - k) for k in range(n)]
  zero = jnp.zeros((), x.dtype)
  x = jnp.stack([lax.pad(x, zero, ((0, 0, 0), (*pair, 0), (0, 0, 0), (0, 0, 0))) for pair in rows], 3)
  y = jnp.stack([lax.pad(y, zero, ((0, 0, 0), (0, 0, 0), (*pair, 0), (0, 0, 0))) for pair in columns], 3)
  x, y = lax.optimization_barrier((x.reshape(b, i, w, m * c), y.reshape(b, i, w, n * d)))
  return _sum_of_products(x, y).reshape(m, c, n, d).transpose(0, 2, 1, 3)


def _correlate_taps(x, y, stride, padding, window):
  """Compute `correlate` as one matrix product of the inputs of all kernel taps with the outputs."""
  (b, i, j, d), c, (m, n) = y.shape, x.shape[3], window
  x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*pair, 0) for pair in padding), (0, 0, 0)))
  ends = [(count - 1) * step + 1 for count, step in zip((i, j), stride, strict=True)]
  taps = [x[:, k : k + ends[0] : stride[0], l : l + ends[1] : stride[1]] for k in range(m) for l in range(n)]
  x = lax.optimization_barrier(jnp.stack(taps, 3).reshape(b, i, j, m * n * c))
  return _sum_of_products(x, y).reshape(m, n, c, d)


# --- Primitives of JAX ------------------------------------------------------------------------------


def _convolved_shape(x, kernel, *, stride, padding):
  """Return the shape that XLA computes; it is empty where no window fits.

  Raises:
    ValueError: the channels of images and kernel differ.
  """
  if x[3] != kernel[2]:
    raise ValueError(f'images of {x[3]} channels and a kernel for {kernel[2]}.')
  shape = lax.conv_general_shape_tuple(x, kernel, stride, padding, DIMENSIONS)
  return tuple(int(n) if isinstance(n, np.integer) else n for n in shape)  # the batch may be a symbolic dimension


convolve_p = define('ule_convolve', _convolved_shape, _convolve, _cpu_convolve)
spread_p = define('ule_spread', lambda y, kernel, *, size, **_: (y[0], *size, kernel[2]), _spread, _cpu_spread)
correlate_p = define('ule_correlate', lambda x, y, *, window, **_: (*window, x[3], y[3]), _correlate, _cpu_correlate)

derive_each_other(convolve_p, spread_p, correlate_p)
