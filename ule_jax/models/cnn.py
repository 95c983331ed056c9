"""A small convolutional network: `depth` blocks of convolution, ReLU and 2x2 mean, widths doubling."""

from __future__ import annotations

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from ule_jax.kernels.convolution import conv_general_dilated
from ule_jax.models.layers import PRECISIONS, classify, make_norm


def halve(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
  """Average-pool 2 x 2 pixels with stride 2; an odd last row or column is dropped, as in `flax.linen.avg_pool`.

  Computed as a sum of slices, which XLA fuses with the neighbouring operations on a CPU; a reduce-window is not fused.
  """
  h, w = (n // 2 * 2 for n in x.shape[1:3])
  x = x[:, :h, :w].reshape(x.shape[0], h // 2, 2, w // 2, 2, x.shape[3])  # len(x) fails on a symbolic batch
  first, *others = (x[:, :, i, :, j] for i in (0, 1) for j in (0, 1))
  return sum(others, start=first) / 4


class CNN(nn.Module):
  """Return `(logits, features)`; the features are the spatial mean of the last block.

  Mean pooling instead of max pooling: its second derivative costs no more than a convolution's.

  Args:
    classes: number of logits.
    width: channels of the first block; doubles at every further block.
    depth: number of blocks.
    batch_norm: none, batch or frozen (see `make_norm`).
    dropout: share of the features that are zeroed before the last layer in training, in [0, 1).
    precision: dtype of the convolutions.
    head_init: initialisation of the last layer (HEAD_INITS).
    fast_variance: one-pass variance in BatchNorm (see `make_norm`).
  """

  classes: int
  width: int = 32
  depth: int = 3
  batch_norm: str = 'none'
  dropout: float = 0.0
  precision: str = 'float32'
  head_init: str = 'lecun'
  fast_variance: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> tuple[Float[Array, 'b k'], Float[Array, 'b d']]:
    norm = make_norm(self.batch_norm, train, self.precision, self.fast_variance)
    dtype = PRECISIONS[self.precision]
    for i in range(self.depth):
      bias = self.batch_norm == 'none'
      x = nn.Conv(
        self.width * 2**i,
        (3, 3),
        use_bias=bias,
        dtype=dtype,
        conv_general_dilated=conv_general_dilated,
        name=f'conv{i}',
      )(x)
      x = jax.nn.relu(norm(f'norm{i}')(x))
      if min(x.shape[1:3]) >= 2:
        x = halve(x)
    return classify(x.mean(axis=(1, 2)), self.classes, self.dropout, train, self.head_init)
