"""A small convolutional network: `depth` blocks of convolution, ReLU and 2x2 mean, widths doubling."""

from __future__ import annotations

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from ule_jax.models.norm import make_norm


class CNN(nn.Module):
  """Return `(logits, features)`; the features are the spatial mean of the last block.

  Mean pooling instead of max pooling: its double backward is as cheap as a convolution's.
  """

  classes: int
  width: int = 32
  depth: int = 3
  batch_norm: str = 'none'

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> tuple[Float[Array, 'b k'], Float[Array, 'b d']]:
    norm = make_norm(self.batch_norm, train)
    for i in range(self.depth):
      x = nn.Conv(self.width * 2**i, (3, 3), use_bias=self.batch_norm == 'none', name=f'conv{i}')(x)
      x = jax.nn.relu(norm(f'norm{i}')(x))
      if min(x.shape[1:3]) >= 2:
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
    features = x.mean(axis=(1, 2))
    return nn.Dense(self.classes, name='head')(features), features
