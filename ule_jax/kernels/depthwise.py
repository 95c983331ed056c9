"""A depthwise convolution, one filter for each channel, whose derivatives of every order are three primitives.

They are those of `kernels/convolution.py` with a group for each channel. XLA has no fast code for them on a CPU, above
all for gradients: there each is a sum over the filter's taps of products of shifted images, which takes between a
quarter and a fortieth of XLA's time (docs/research/2026-11.md). On other platforms XLA chooses the algorithm.
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
Result = Float[Array, 'b i j c']
Kernel = Float[Array, 'm n 1 c']


def conv_general_dilated(
  lhs: Image,
  rhs: Kernel,
  window_strides: Sequence[int],
  padding: str | Sequence[Pair],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers=None,
  feature_group_count: int = 1,
  precision=None,
) -> Result:
  """Replace `lax.conv_general_dilated` in `flax.linen.Conv`, for NHWC, one group a channel and no dilation.

  Raises:
    NotImplementedError: other dimension numbers, a dilation, another number of groups, or a precision.
  """
  dilated = {*(lhs_dilation or ()), *(rhs_dilation or ())} - {1}
  expected = lax.conv_dimension_numbers(lhs.shape, rhs.shape, DIMENSIONS)
  one_filter_each = feature_group_count == lhs.shape[-1] == rhs.shape[-1]
  if dilated or not one_filter_each or precision is not None or dimension_numbers != expected:
    raise NotImplementedError('only plain depthwise convolutions of images.')
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
  (rows, columns), ((top, bottom), (left, right)) = window_strides, padding
  return convolve(lhs, rhs, (rows, columns), ((int(top), int(bottom)), (int(left), int(right))))


def convolve(x: Image, kernel: Kernel, stride: Pair, padding: tuple[Pair, Pair]) -> Result:
  """Convolve every channel of images with its own filter; equal to `lax.conv_general_dilated` with a group a channel.

  Args:
    stride: (rows, columns).
    padding: ((top, bottom), (left, right)) in pixels of zeros.
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
  return lax.conv_general_dilated(
    x, kernel, stride, padding, dimension_numbers=DIMENSIONS, feature_group_count=x.shape[3]
  )


def _spread(y, kernel, *, stride, padding, size):
  x = jax.ShapeDtypeStruct((y.shape[0], *size, kernel.shape[3]), y.dtype)
  return jax.linear_transpose(lambda x: _convolve(x, kernel, stride=stride, padding=padding), x)(y)[0]


def _correlate(x, y, *, stride, padding, window):
  kernel = jax.ShapeDtypeStruct((*window, 1, x.shape[3]), x.dtype)
  return jax.linear_transpose(lambda w: _convolve(x, w, stride=stride, padding=padding), kernel)(y)[0]


# --- For XLA on a CPU -----------------------------------------------------------------------------


def _shifts(x, window: Pair, stride: Pair, size: Pair):
  """Yield (m, n, the part of padded images that tap (m, n) of a filter meets) for every tap.

  The barrier keeps a chain of elementwise operations before it from being computed again for every tap.

  Args:
    size: height and width of the parts.
  """
  x = lax.optimization_barrier(x)
  height, width = ((extent - 1) * step + 1 for extent, step in zip(size, stride, strict=True))
  for m, n in np.ndindex(*window):
    yield m, n, x[:, m : m + height : stride[0], n : n + width : stride[1]]


def _cpu_convolve(x, kernel, *, stride, padding):
  _, rows, columns, _ = _convolved_shape(x.shape, kernel.shape, stride=stride, padding=padding)
  x, window = jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel.shape[:2]
  return sum(part * kernel[m, n][None, None] for m, n, part in _shifts(x, window, stride, (rows, columns)))


def _cpu_spread(y, kernel, *, stride, padding, size):
  window, edges = kernel.shape[:2], []
  for extent, step, (before, _), length, taps in zip(y.shape[1:3], stride, padding, size, window, strict=True):
    low, dilated = taps - 1 - before, (extent - 1) * step + 1
    edges.append((low, length + taps - 1 - low - dilated, step - 1))
  y = lax.pad(y, jnp.zeros((), y.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
  flipped = kernel[::-1, ::-1]
  return sum(part * flipped[m, n][None, None] for m, n, part in _shifts(y, window, (1, 1), size))


def _cpu_correlate(x, y, *, stride, padding, window):
  x, y = jnp.pad(x, ((0, 0), *padding, (0, 0))), lax.optimization_barrier(y)
  taps = [jnp.sum(part * y, (0, 1, 2)) for _, _, part in _shifts(x, window, stride, y.shape[1:3])]
  return jnp.stack(taps).reshape(*window, 1, x.shape[3])


# --- Primitives of JAX ----------------------------------------------------------------------------


def _convolved_shape(x, kernel, *, stride, padding):
  shape = lax.conv_general_shape_tuple(x, (*kernel[:2], x[3], x[3]), stride, padding, DIMENSIONS)
  return tuple(int(n) if isinstance(n, np.integer) else n for n in shape)  # the batch may be a symbolic dimension


convolve_p = define('ule_depthwise_convolve', _convolved_shape, _convolve, _cpu_convolve)
spread_p = define('ule_depthwise_spread', lambda y, kernel, *, size, **_: (y[0], *size, y[3]), _spread, _cpu_spread)
correlate_p = define(
  'ule_depthwise_correlate', lambda x, y, *, window, **_: (*window, 1, x[3]), _correlate, _cpu_correlate
)

derive_each_other(convolve_p, spread_p, correlate_p)
