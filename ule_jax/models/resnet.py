"""Residual networks: the CIFAR family (20, 56 layers) and the ImageNet family (18, 34, 50).

Source: He et al. 2015, arXiv 1512.03385. The CIFAR networks have parameter-free shortcuts (option A:
every second pixel, zero channels). In the ImageNet bottleneck the stride sits in the 3x3 convolution
(the "v1.5" of torchvision). Padding is explicit, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ule_jax.models.norm import make_norm


def _conv(channels: int, kernel: int, stride: int, name: str) -> nn.Conv:
  init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
  return nn.Conv(
    channels, (kernel, kernel), (stride, stride), padding=kernel // 2, use_bias=False, kernel_init=init, name=name
  )


class ResNet(nn.Module):
  """Return `(logits, features)`; the features are the spatial mean of the last stage.

  Args:
    stages: blocks per stage.
    width: channels of the first stage; doubles at every further stage.
    bottleneck: 1x1, 3x3, 1x1 blocks with four times the channels going out.
    cifar: a 3x3 stem at full resolution and parameter-free shortcuts.
  """

  classes: int
  stages: tuple[int, ...]
  width: int
  bottleneck: bool
  cifar: bool
  batch_norm: str = 'batch'

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> tuple[Float[Array, 'b k'], Float[Array, 'b d']]:
    norm = make_norm(self.batch_norm, train)
    if self.cifar:
      x = jax.nn.relu(norm('norm')(_conv(self.width, 3, 1, 'stem')(x)))
    else:
      x = jax.nn.relu(norm('norm')(_conv(self.width, 7, 2, 'stem')(x)))
      x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    for i, count in enumerate(self.stages):
      for j in range(count):
        stride = 2 if i > 0 and j == 0 else 1
        x = self._block(x, self.width * 2**i, stride, norm, f'stage{i}_block{j}')
    features = x.mean(axis=(1, 2))
    return nn.Dense(self.classes, name='head')(features), features

  def _block(self, x: Array, channels: int, stride: int, norm: Callable, name: str) -> Array:
    """Add a residual branch of two 3x3 convolutions, or of a bottleneck, to the shortcut."""
    # (kernel, stride, channels) of each convolution in the branch
    plan = ((3, stride, channels), (3, 1, channels))
    if self.bottleneck:
      plan = ((1, 1, channels), (3, stride, channels), (1, 1, 4 * channels))
    y = x
    for n, (kernel, step, width) in enumerate(plan):
      y = jax.nn.relu(y) if n else y
      y = norm(f'{name}_norm{n}')(_conv(width, kernel, step, f'{name}_conv{n}')(y))
    if x.shape != y.shape and self.cifar:
      x = x[:, ::stride, ::stride]
      missing = y.shape[-1] - x.shape[-1]
      x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
    elif x.shape != y.shape:
      x = norm(f'{name}_norm_shortcut')(_conv(y.shape[-1], 1, stride, f'{name}_shortcut')(x))
    return jax.nn.relu(x + y)
