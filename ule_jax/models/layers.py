"""What several networks share: normalisation, precision, and the last layer."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ule_jax.devices import collectives

BATCH_NORMS = ('none', 'batch', 'frozen')

# name -> the type in which layers compute; None is that of parameters and input
PRECISIONS = {'float32': None, 'bfloat16': jnp.bfloat16}


def _uniform(bound: float) -> nn.initializers.Initializer:
  return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


_ZERO = nn.initializers.zeros
# name -> from the number of features to how weights and biases of a new last layer start
HEAD_INITS: dict[str, Callable[[int], tuple[nn.initializers.Initializer, nn.initializers.Initializer]]] = {
  'lecun': lambda _: (nn.initializers.lecun_normal(), _ZERO),  # deviation 1 / sqrt(features), sqrt(3) times torch's
  'torch': lambda features: (_uniform(features**-0.5),) * 2,  # as its Linear: torchvision, and timm's ResNets
  'timm': lambda _: (nn.initializers.normal(0.02), _ZERO),  # its vision transformers
  'zero': lambda _: (_ZERO, _ZERO),  # as arXiv 2010.11929 fine-tunes: all logits start at 0
}


def make_norm(
  kind: str, train: bool, precision: str = 'float32', fast_variance: bool = True
) -> Callable[[str], Callable]:
  """Return a function from a name to a normalisation layer.

  The running variance is that of the batch as it is, divided by n; PyTorch's running variance is divided by n - 1,
  although both normalise by the former. With few values per channel the two differ after training; imported ones are
  taken as they are.

  Args:
    kind: `none`; `batch`: statistics of the batch in training and running ones in evaluation;
      `frozen`: running statistics everywhere, which do not move. With `batch` the examples of a
      batch mix, those of all devices, so that one example's input gradient depends on the others.
    precision: of the result; statistics are float32 in any case.
    fast_variance: as the mean of squares less the squared mean, in one pass: in float32, of 4,096 values, at
      worst 0.3 % off where the mean is 100 times the deviation, 2 % at 300, 22 % at 1,000
      (benchmarks/fast_variance.py). Else in two passes.
  """
  if kind == 'none':
    return lambda name: lambda x: x
  running, dtype = not train or kind == 'frozen', PRECISIONS[precision]
  return lambda name: nn.BatchNorm(
    running,
    momentum=0.9,
    epsilon=1e-5,
    dtype=dtype,
    name=name,
    axis_name=collectives.axis(),
    use_fast_variance=fast_variance,
  )


def dot_general(x: Array, kernel: Array, *args, **settings) -> Array:
  """Stand in for `lax.dot_general` in layers whose input is the end of a long chain of operations on single values.

  For the kernel's gradient the CPU's compiler transposes that input, and without a barrier (see
  `sharding.compiler_options`) it does the whole chain again there, in an order that is bad for the memory.
  """
  barrier = jax.lax.optimization_barrier if jax.default_backend() == 'cpu' else lambda x: x
  return jax.lax.dot_general(barrier(x), kernel, *args, **settings)


class Dropout(nn.Module):
  """Set a share of the values to 0 in training and scale the others up.

  As flax's, but drawn for the whole batch on every device that has a part of it, for the numbers of one device.

  Args:
    rate: in [0, 1).
    broadcast_dims: axes along which all values have one fate.
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
  """End a network: the layer `head` on the features, in float32 (or more) at any precision; return both.

  Args:
    dropout: share of features that the last layer does not see in training.
    head_init: how its weights start (HEAD_INITS).
  """
  features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
  seen = Dropout(dropout)(features, train)
  kernel_init, bias_init = HEAD_INITS[head_init](features.shape[-1])
  return nn.Dense(classes, kernel_init=kernel_init, bias_init=bias_init, name='head')(seen), features


def scale_depth(rate: float, block: int, blocks: int) -> float:
  """Return the stochastic depth of a block: from 0 at the first to `rate` at the last (arXiv 1603.09382)."""
  return rate * block / max(blocks - 1, 1)


def drop_branch(y: Array, rate: float, train: bool) -> Array:
  """Leave out a residual branch for a share of the examples in training, and scale it up for the others."""
  each = tuple(range(1, y.ndim))
  return Dropout(rate, each)(y, train)
