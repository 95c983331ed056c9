"""A multilayer perceptron on the flattened image: `depth` hidden layers of `width`, ReLU."""

from __future__ import annotations

import flax.linen as nn
import jax
from jaxtyping import Array, Float


class MLP(nn.Module):
  """Return `(logits, features)`; the features are the last hidden layer (the input if depth is 0)."""

  classes: int
  width: int = 64
  depth: int = 1

  @nn.compact
  def __call__(self, x: Float[Array, 'b *shape'], train: bool) -> tuple[Float[Array, 'b k'], Float[Array, 'b d']]:
    del train
    x = x.reshape(x.shape[0], -1)
    for i in range(self.depth):
      x = jax.nn.relu(nn.Dense(self.width, kernel_init=nn.initializers.he_normal(), name=f'hidden{i}')(x))
    return nn.Dense(self.classes, name='head')(x), x
