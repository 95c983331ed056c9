"""A multilayer perceptron on the flattened image: `depth` hidden layers of `width`, ReLU."""

from __future__ import annotations

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from ule_jax.models.layers import PRECISIONS, classify


class MLP(nn.Module):
  """Return `(logits, features)`; the features are the last hidden layer (the input if depth is 0).

  Args:
    classes: number of logits.
    width: units of a hidden layer.
    depth: number of hidden layers.
    dropout: share of the features that are zeroed before the last layer in training, in [0, 1).
    precision: dtype of the hidden layers.
    head_init: initialisation of the last layer (HEAD_INITS).
  """

  classes: int
  width: int = 64
  depth: int = 1
  dropout: float = 0.0
  precision: str = 'float32'
  head_init: str = 'lecun'

  @nn.compact
  def __call__(self, x: Float[Array, 'b *shape'], train: bool) -> tuple[Float[Array, 'b k'], Float[Array, 'b d']]:
    x, dtype = x.reshape(x.shape[0], -1), PRECISIONS[self.precision]
    for i in range(self.depth):
      hidden = nn.Dense(self.width, kernel_init=nn.initializers.he_normal(), dtype=dtype, name=f'hidden{i}')
      x = jax.nn.relu(hidden(x))
    return classify(x, self.classes, self.dropout, train, self.head_init)
