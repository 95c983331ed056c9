"""Residual networks: the CIFAR family (20, 56 layers) and the ImageNet family (18, 34, 50).

Source: He et al. 2015, arXiv 1512.03385. The CIFAR networks have parameter-free shortcuts (option A:
every second pixel, zero channels). In the ImageNet bottleneck the stride sits in the 3x3 convolution
(the "v1.5" of torchvision). Padding is explicit, as in PyTorch.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ule_jax.kernels.convolution import conv_general_dilated
from ule_jax.kernels.recompute import run_block
from ule_jax.models.layers import PRECISIONS, classify, drop_branch, make_norm, scale_depth


def _conv(channels: int, kernel: int, stride: int, precision: str, name: str) -> nn.Conv:
  return nn.Conv(
    channels,
    (kernel, kernel),
    (stride, stride),
    padding=kernel // 2,
    use_bias=False,
    kernel_init=nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
    dtype=PRECISIONS[precision],
    conv_general_dilated=conv_general_dilated,
    name=name,
  )


class Block(nn.Module):
  """Add a residual branch of two 3x3 convolutions, or of a bottleneck, to the shortcut.

  Args:
    channels: of the branch's 3x3 convolutions.
    stride: of the branch's first 3x3 convolution, and of the shortcut.
    bottleneck: 1x1, 3x3, 1x1 convolutions, the last with four times the channels.
    cifar: a shortcut without parameters.
    batch_norm: none, batch or frozen (see `make_norm`).
    drop_path: share of the examples that skip the branch in training, in [0, 1).
    precision: dtype of the convolutions.
    fast_variance: one-pass variance in BatchNorm (see `make_norm`).
  """

  channels: int
  stride: int
  bottleneck: bool
  cifar: bool
  batch_norm: str
  drop_path: float
  precision: str
  fast_variance: bool

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> Float[Array, 'b i j d']:
    norm = make_norm(self.batch_norm, train, self.precision, self.fast_variance)
    # (kernel, stride, channels) of each convolution in the branch
    plan = ((3, self.stride, self.channels), (3, 1, self.channels))
    if self.bottleneck:
      plan = ((1, 1, self.channels), (3, self.stride, self.channels), (1, 1, 4 * self.channels))
    y = x
    for n, (kernel, stride, width) in enumerate(plan):
      y = jax.nn.relu(y) if n else y
      y = norm(f'norm{n}')(_conv(width, kernel, stride, self.precision, f'conv{n}')(y))
    if x.shape != y.shape and self.cifar:
      x = x[:, :: self.stride, :: self.stride]
      missing = y.shape[-1] - x.shape[-1]
      x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
    elif x.shape != y.shape:
      x = norm('norm_shortcut')(_conv(y.shape[-1], 1, self.stride, self.precision, 'shortcut')(x))
    return jax.nn.relu(x + drop_branch(y, self.drop_path, train))


class ResNet(nn.Module):
  """Return `(logits, features)`; the features are the spatial mean of the last stage.

  Args:
    stages: blocks per stage.
    width: channels of the first stage; doubles at every further stage.
    bottleneck: blocks of 1x1, 3x3, 1x1 convolutions.
    cifar: a 3x3 stem at full resolution and parameter-free shortcuts.
    batch_norm: none, batch or frozen (see `make_norm`).
    dropout: share of the features that are zeroed before the last layer in training, in [0, 1).
    drop_path: share of the examples that skip the last block in training; linear from 0 at the first.
    precision: dtype of all but the last layer.
    remat: store only the blocks' inputs, and recompute their intermediates in the backward pass.
    head_init: initialisation of the last layer (HEAD_INITS).
    fast_variance: one-pass variance in BatchNorm (see `make_norm`).
  """

  classes: int
  stages: tuple[int, ...]
  width: int
  bottleneck: bool
  cifar: bool
  batch_norm: str = 'batch'
  dropout: float = 0.0
  drop_path: float = 0.0
  precision: str = 'float32'
  remat: bool = False
  head_init: str = 'lecun'
  fast_variance: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> tuple[Float[Array, 'b k'], Float[Array, 'b d']]:
    norm = make_norm(self.batch_norm, train, self.precision, self.fast_variance)
    if self.cifar:
      x = jax.nn.relu(norm('norm')(_conv(self.width, 3, 1, self.precision, 'stem')(x)))
    else:
      x = jax.nn.relu(norm('norm')(_conv(self.width, 7, 2, self.precision, 'stem')(x)))
      pad = ((1, 1), (1, 1))
      x = nn.max_pool(x, (3, 3), (2, 2), pad)  # pyright: ignore[reportArgumentType] flax takes pairs, declared as str
    for i, count in enumerate(self.stages):
      for j in range(count):
        block = partial(
          Block,
          channels=self.width * 2**i,
          stride=2 if i > 0 and j == 0 else 1,
          bottleneck=self.bottleneck,
          cifar=self.cifar,
          batch_norm=self.batch_norm,
          drop_path=scale_depth(self.drop_path, sum(self.stages[:i]) + j, sum(self.stages)),
          precision=self.precision,
          fast_variance=self.fast_variance,
        )
        x = run_block(self, block, f'stage{i}_block{j}', self.remat, x, train)
    return classify(x.mean(axis=(1, 2)), self.classes, self.dropout, train, self.head_init)
