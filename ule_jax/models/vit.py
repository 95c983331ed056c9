"""A vision transformer: pre-norm blocks on square patches, a class token, learned positions.

Source: Dosovitskiy et al. 2020, arXiv 2010.11929. LayerNorm's epsilon is 1e-6, as in the original
release, torchvision and timm.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Block(nn.Module):
  """Self-attention and an MLP of four times the width, each after a LayerNorm and with a residual."""

  heads: int

  @nn.compact
  def __call__(self, x: Float[Array, 'b t d']) -> Float[Array, 'b t d']:
    width = x.shape[-1]
    y = nn.LayerNorm(epsilon=1e-6, name='norm1')(x)
    x = x + nn.MultiHeadDotProductAttention(num_heads=self.heads, name='attention')(y)
    y = nn.LayerNorm(epsilon=1e-6, name='norm2')(x)
    y = jax.nn.gelu(nn.Dense(4 * width, name='mlp1')(y), approximate=False)
    return x + nn.Dense(width, name='mlp2')(y)


class ViT(nn.Module):
  """Return `(logits, features)`; the features are the normalised class token.

  Args:
    width: of a token; a multiple of `heads`.
    patch: pixels, the side of a patch; divides the image's sides.
  """

  classes: int
  width: int = 192
  depth: int = 6
  heads: int = 3
  patch: int = 4

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> tuple[Float[Array, 'b k'], Float[Array, 'b d']]:
    del train
    size = (self.patch, self.patch)
    x = nn.Conv(self.width, size, strides=size, padding='VALID', name='patches')(x)
    x = x.reshape(x.shape[0], -1, self.width)
    token = self.param('token', nn.initializers.zeros, (1, 1, self.width))
    x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.width)), x], axis=1)
    position = self.param('position', nn.initializers.normal(0.02), (1, *x.shape[1:]))
    x = x + jnp.broadcast_to(position, x.shape)
    for i in range(self.depth):
      x = Block(self.heads, name=f'block{i}')(x)
    features = nn.LayerNorm(epsilon=1e-6, name='norm')(x)[:, 0]
    return nn.Dense(self.classes, name='head')(features), features
