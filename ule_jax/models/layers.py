"""Layers that several networks share: normalisation, dropout, stochastic depth and the last layer."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ule_jax.devices import collectives

BATCH_NORMS = ('none', 'batch', 'frozen')

# name -> the dtype in which layers compute; None is the dtype of parameters and input
PRECISIONS = {'float32': None, 'bfloat16': jnp.bfloat16}


def _uniform(bound: float) -> nn.initializers.Initializer:
  return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


_ZERO = nn.initializers.zeros_init()
# name -> (number of features -> initializers of the last layer's weights and biases)
HEAD_INITS: dict[str, Callable[[int], tuple[nn.initializers.Initializer, nn.initializers.Initializer]]] = {
  'lecun': lambda _: (nn.initializers.lecun_normal(), _ZERO),  # deviation 1 / sqrt(features), sqrt(3) times torch's
  # torch.nn.Linear: torchvision, and timm's ResNets
  'torch': lambda features: (_uniform(features**-0.5), _uniform(features**-0.5)),
  'timm': lambda _: (nn.initializers.normal(0.02), _ZERO),  # timm's vision transformers
  'zero': lambda _: (_ZERO, _ZERO),  # fine-tuning in arXiv 2010.11929: all logits start at 0
}


def make_norm(
  kind: str, train: bool, precision: str = 'float32', fast_variance: bool = True, epsilon: float = 1e-5
) -> Callable[[str], Callable]:
  """Return a function from a name to a normalisation layer.

  The running variance is the biased one (divided by n), as flax's; PyTorch's running variance is divided by n - 1,
  although both libraries normalise by the biased one in training. With few values per channel the two differ after
  training; imported statistics are not corrected.

  Args:
    kind: `none`; `batch`: batch statistics in training, running statistics in evaluation; `frozen`: running statistics
      that are not updated. With `batch` the outputs for one example, and its input gradient, depend on the other
      examples of the batch, those of all devices.
    train: whether the layer is applied in training.
    precision: dtype of the result; statistics are float32 in any case.
    fast_variance: E[x^2] - E[x]^2 in one pass, instead of two passes. In float32 the relative error over 4,096 values
      is at most 0.3 % where the mean is 100 times the deviation, 2 % at 300, 22 % at 1,000
      (docs/research/2026-11.md).
    epsilon: added to the variance.
  """
  if kind == 'none':
    return lambda name: lambda x: x
  running, dtype = not train or kind == 'frozen', PRECISIONS[precision]
  return lambda name: nn.BatchNorm(
    running,
    momentum=0.9,
    epsilon=epsilon,
    dtype=dtype,
    name=name,
    axis_name=collectives.axis(),
    use_fast_variance=fast_variance,
  )


def dot_general(x: Array, kernel: Array, *args, **settings) -> Array:
  """Replace `lax.dot_general` in layers whose input comes from a long chain of elementwise operations.

  For the kernel's gradient XLA transposes that input on a CPU; without an optimisation barrier (see
  `sharding.compiler_options`) it recomputes the whole chain there, with strided memory access.
  """
  barrier = jax.lax.optimization_barrier if jax.default_backend() == 'cpu' else lambda x: x
  return jax.lax.dot_general(barrier(x), kernel, *args, **settings)


class Dropout(nn.Module):
  """Dropout: zero a share `rate` of the values in training and scale the others by 1 / (1 - rate).

  Unlike flax's, the mask is drawn for the whole batch on every device, so that several devices get the mask of one.

  Args:
    rate: in [0, 1).
    broadcast_dims: axes along which the mask is constant.
  """

  rate: float
  broadcast_dims: tuple[int, ...] = ()

  @nn.compact
  def __call__(self, x: Float[Array, 'b *shape'], train: bool) -> Float[Array, 'b *shape']:
    if not train or self.rate == 0:
      return x
    shape = [1 if i in self.broadcast_dims else size for i, size in enumerate(x.shape)]
    kept = collectives.local_draw(
      lambda shape: jax.random.bernoulli(self.make_rng('dropout'), 1 - self.rate, shape), shape
    )
    return jnp.where(kept, x / (1 - self.rate), 0)


def classify(
  features: Float[Array, 'b d'], classes: int, dropout: float, train: bool, head_init: str
) -> tuple[Float[Array, 'b k'], Float[Array, 'b d']]:
  """Apply the last layer, `head`, and return (logits, features); both are float32 or wider at any precision.

  Args:
    dropout: share of the features that are zeroed before the last layer in training, in [0, 1).
    head_init: initialisation of the last layer, a key of HEAD_INITS.
  """
  features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
  dropped = Dropout(dropout)(features, train)
  kernel_init, bias_init = HEAD_INITS[head_init](features.shape[-1])
  return nn.Dense(classes, kernel_init=kernel_init, bias_init=bias_init, name='head')(dropped), features


def scale_depth(rate: float, block: int, blocks: int) -> float:
  """Return the drop rate of a residual block, linear from 0 at the first to `rate` at the last (arXiv 1603.09382).

  Args:
    rate: of the last block, in [0, 1).
    block: index, from 0.
    blocks: their number.
  """
  return rate * block / max(blocks - 1, 1)


def drop_branch(y: Array, rate: float, train: bool) -> Array:
  """Apply stochastic depth: zero a residual branch for a share of the examples in training, and scale the others."""
  each = tuple(range(1, y.ndim))
  return Dropout(rate, each)(y, train)
