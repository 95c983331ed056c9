"""A vision transformer: pre-norm blocks on square patches, a class token, learned positions.

Source: Dosovitskiy et al. 2020, arXiv 2010.11929. LayerNorm's epsilon is 1e-6, as in the original
release, torchvision and timm.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ule_jax.errors import UserError
from ule_jax.kernels.convolution import conv_general_dilated
from ule_jax.kernels.recompute import run_block
from ule_jax.models.layers import PRECISIONS, Dropout, classify, dot_general, drop_branch, scale_depth


class Block(nn.Module):
  """Self-attention and an MLP of four times the width, each after a LayerNorm and with a residual connection."""

  heads: int
  dropout: float
  drop_path: float
  precision: str
  fast_variance: bool

  @nn.compact
  def __call__(self, x: Float[Array, 'b t d'], train: bool) -> Float[Array, 'b t d']:
    width, dtype = x.shape[-1], PRECISIONS[self.precision]

    def drop(y):
      return Dropout(self.dropout)(y, train)

    norm = partial(nn.LayerNorm, epsilon=1e-6, dtype=dtype, use_fast_variance=self.fast_variance)
    y = norm(name='norm1')(x)
    attention = nn.MultiHeadDotProductAttention(
      num_heads=self.heads,
      dtype=dtype,
      force_fp32_for_softmax=dtype is not None,
      qkv_dot_general=dot_general,
      out_dot_general=dot_general,
      name='attention',
    )
    x = x + drop_branch(drop(attention(y)), self.drop_path, train)
    y = norm(name='norm2')(x)
    y = nn.Dense(4 * width, dtype=dtype, dot_general=dot_general, name='mlp1')(y)
    y = drop(jax.nn.gelu(y, approximate=False))
    y = nn.Dense(width, dtype=dtype, dot_general=dot_general, name='mlp2')(y)
    return x + drop_branch(drop(y), self.drop_path, train)


class ViT(nn.Module):
  """Return `(logits, features)`; the features are the normalised class token.

  Args:
    classes: number of logits.
    width: of a token; a multiple of `heads`.
    depth: number of blocks, from 1.
    heads: of the self-attention.
    patch: side of a patch in pixels; divides the image's sides.
    dropout: rate after the positions and in every branch, in [0, 1).
    drop_path: share of the examples that skip the last block in training; linear from 0 at the first.
    precision: dtype of all but the softmax of the attention, the features and the last layer.
    remat: store only the blocks' inputs, and recompute their intermediates in the backward pass.
    head_init: initialisation of the last layer (HEAD_INITS).
    fast_variance: one-pass variance in LayerNorm (see `make_norm`).
  """

  classes: int
  width: int = 192
  depth: int = 6
  heads: int = 3
  patch: int = 4
  dropout: float = 0.0
  drop_path: float = 0.0
  precision: str = 'float32'
  remat: bool = False
  head_init: str = 'lecun'
  fast_variance: bool = True

  def _check(self, height: int, width: int) -> None:
    """Refuse sizes at which a part of the image, or all of it, would not reach the output.

    Raises:
      UserError: the image is no multiple of the patch, there is no block, or the heads do not divide the width.
    """
    if height % self.patch or width % self.patch or not height * width:
      raise UserError(
        f'images of {height} x {width} pixels do not divide into patches of {self.patch}: change the size of the '
        'images, or model.patch where the network has it.'
      )
    if self.depth < 1:
      raise UserError('model.depth is 0, but a vision transformer sees the image only in its blocks: give 1 or more.')
    if self.width % self.heads:
      raise UserError(f'model.width {self.width} is not a multiple of model.heads {self.heads}.')

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> tuple[Float[Array, 'b k'], Float[Array, 'b d']]:
    self._check(*x.shape[1:3])
    size, dtype = (self.patch, self.patch), PRECISIONS[self.precision]
    x = nn.Conv(
      self.width,
      size,
      strides=size,
      padding='VALID',
      dtype=dtype,
      conv_general_dilated=conv_general_dilated,
      name='patches',
    )(x)
    x = x.reshape(x.shape[0], -1, self.width)
    token = self.param('token', nn.initializers.zeros, (1, 1, self.width))
    token = jnp.broadcast_to(token, (x.shape[0], 1, self.width)).astype(x.dtype)
    x = jnp.concatenate([token, x], axis=1)
    position = self.param('position', nn.initializers.normal(0.02), (1, *x.shape[1:]))
    x = x + jnp.broadcast_to(position, x.shape).astype(x.dtype)
    x = Dropout(self.dropout)(x, train)
    for i in range(self.depth):
      drop_path = scale_depth(self.drop_path, i, self.depth)
      block = partial(Block, self.heads, self.dropout, drop_path, self.precision, self.fast_variance)
      x = run_block(self, block, f'block{i}', self.remat, x, train)
    norm = nn.LayerNorm(epsilon=1e-6, dtype=dtype, use_fast_variance=self.fast_variance, name='norm')
    return classify(norm(x)[:, 0], self.classes, 0.0, train, self.head_init)
