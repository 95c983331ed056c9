"""EfficientNet-Lite: inverted bottlenecks with depthwise convolutions, ReLU6 and TensorFlow's "SAME" padding.

Source: `efficientnet/lite` of tensorflow/tpu, after Tan and Le 2019, arXiv 1905.11946: without squeeze-and-excitation,
with ReLU6, and with a stem and a last convolution of fixed width. Wider and deeper variants scale the rest.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ule_jax.kernels import convolution, depthwise
from ule_jax.kernels.recompute import run_block
from ule_jax.models.layers import PRECISIONS, classify, drop_branch, make_norm, scale_depth

STEM, LAST = 32, 1280  # channels, of every variant
DIVISOR = 8  # of the number of channels of a stage
EPSILON = 1e-3  # of BatchNorm


class Stage(NamedTuple):
  """Blocks of equal width; the first has the stride.

  expansion: channels of the depthwise convolution, in multiples of the block's input.
  """

  repeats: int
  kernel: int
  stride: int
  expansion: int
  channels: int


STAGES = (
  Stage(1, 3, 1, 1, 16),
  Stage(2, 3, 2, 6, 24),
  Stage(2, 5, 2, 6, 40),
  Stage(3, 3, 2, 6, 80),
  Stage(3, 5, 1, 6, 112),
  Stage(4, 5, 2, 6, 192),
  Stage(1, 3, 1, 6, 320),
)


def scale_stages(width: float, depth: float) -> tuple[Stage, ...]:
  """Return the stages of a variant.

  Channels are rounded to multiples of 8, by at most a tenth downwards; repeats are rounded up, except for those of the
  first and the last stage, which stay.

  Args:
    width: factor on the channels.
    depth: factor on the repeats.
  """

  def scaled(number: int, stage: Stage) -> Stage:
    channels = max(DIVISOR, int(stage.channels * width + DIVISOR / 2) // DIVISOR * DIVISOR)
    channels += DIVISOR if channels < 0.9 * stage.channels * width else 0
    is_end = number in (0, len(STAGES) - 1)
    return stage._replace(channels=channels, repeats=stage.repeats if is_end else math.ceil(stage.repeats * depth))

  return tuple(scaled(number, stage) for number, stage in enumerate(STAGES))


def relu6(x: Array) -> Array:
  """Clip to [0, 6]; the derivative at both ends is 0, as PyTorch's."""
  return jnp.where(x > 0, jnp.where(x < 6, x, jnp.asarray(6, x.dtype)), jnp.asarray(0, x.dtype))


def _conv(channels: int, kernel: int, stride: int, precision: str, name: str, groups: int = 1) -> nn.Conv:
  return nn.Conv(
    channels,
    (kernel, kernel),
    (stride, stride),
    padding='SAME',
    use_bias=False,
    feature_group_count=groups,
    kernel_init=nn.initializers.variance_scaling(2.0, 'fan_out' if groups == 1 else 'fan_in', 'normal'),
    dtype=PRECISIONS[precision],
    conv_general_dilated=(convolution if groups == 1 else depthwise).conv_general_dilated,
    name=name,
  )


class MBConv(nn.Module):
  """Expand to more channels, convolve each with its own filter, project; the input is added where shapes allow it.

  Args:
    channels: of the result.
    kernel: pixels, height and width of the filters.
    stride: of the depthwise convolution.
    expansion: factor on the channels in between; 1 leaves the first convolution out.
    batch_norm: none, batch or frozen (see `make_norm`).
    drop_path: share of the examples that skip the branch in training, in [0, 1).
    precision: dtype of the convolutions.
    fast_variance: one-pass variance in BatchNorm (see `make_norm`).
  """

  channels: int
  kernel: int
  stride: int
  expansion: int
  batch_norm: str
  drop_path: float
  precision: str
  fast_variance: bool

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> Float[Array, 'b i j d']:
    norm = make_norm(self.batch_norm, train, self.precision, self.fast_variance, EPSILON)
    y, wide = x, x.shape[-1] * self.expansion
    if self.expansion > 1:
      y = relu6(norm('norm_expand')(_conv(wide, 1, 1, self.precision, 'expand')(y)))
    y = _conv(wide, self.kernel, self.stride, self.precision, 'depthwise', groups=wide)(y)
    y = relu6(norm('norm_depthwise')(y))
    y = norm('norm_project')(_conv(self.channels, 1, 1, self.precision, 'project')(y))
    return x + drop_branch(y, self.drop_path, train) if x.shape == y.shape else y


class EfficientNetLite(nn.Module):
  """Return `(logits, features)`; the features are the spatial mean of the last convolution's 1,280 channels.

  BatchNorm's running statistics move by a tenth, as in the other networks here and in timm's; the original's by a
  hundredth. Weights are drawn as PyTorch's `kaiming_normal_`.

  Args:
    classes: number of logits.
    width: factor on the channels of the stages.
    depth: factor on their repeats.
    batch_norm: none, batch or frozen (see `make_norm`).
    dropout: share of the features that are zeroed before the last layer in training, in [0, 1).
    drop_path: share of the examples that skip the last block in training; linear from 0 at the first.
    precision: dtype of all but the last layer.
    remat: store only the blocks' inputs, and recompute their intermediates in the backward pass.
    head_init: initialisation of the last layer (HEAD_INITS).
    fast_variance: one-pass variance in BatchNorm (see `make_norm`).
  """

  classes: int
  width: float
  depth: float
  batch_norm: str = 'batch'
  dropout: float = 0.0
  drop_path: float = 0.0
  precision: str = 'float32'
  remat: bool = False
  head_init: str = 'lecun'
  fast_variance: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> tuple[Float[Array, 'b k'], Float[Array, 'b d']]:
    norm = make_norm(self.batch_norm, train, self.precision, self.fast_variance, EPSILON)
    x = relu6(norm('norm')(_conv(STEM, 3, 2, self.precision, 'stem')(x)))
    stages = scale_stages(self.width, self.depth)
    for i, stage in enumerate(stages):
      for j in range(stage.repeats):
        block = partial(
          MBConv,
          channels=stage.channels,
          kernel=stage.kernel,
          stride=stage.stride if j == 0 else 1,
          expansion=stage.expansion,
          batch_norm=self.batch_norm,
          drop_path=scale_depth(self.drop_path, sum(s.repeats for s in stages[:i]) + j, sum(s.repeats for s in stages)),
          precision=self.precision,
          fast_variance=self.fast_variance,
        )
        x = run_block(self, block, f'stage{i}_block{j}', self.remat, x, train)
    x = relu6(norm('norm_last')(_conv(LAST, 1, 1, self.precision, 'last')(x)))
    return classify(x.mean(axis=(1, 2)), self.classes, self.dropout, train, self.head_init)
