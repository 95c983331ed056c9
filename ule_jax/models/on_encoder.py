"""A frozen encoder and the head that was trained on its features, as one network from images to logits."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class OnEncoder(nn.Module):
  """Return `(logits, features)` of a head on the standardised features of an encoder.

  Args:
    encoder: a network, whose logits are not used.
    head: the network that was trained on the encoder's features.
    mean: of each feature over the training images.
    std: standard deviation of each feature over the training images.
  """

  encoder: nn.Module
  head: nn.Module
  mean: tuple[float, ...]
  std: tuple[float, ...]

  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> tuple[Float[Array, 'b k'], Float[Array, 'b d']]:
    _, features = self.encoder(x, train=False)
    mean, std = (jnp.asarray(v, features.dtype)[None] for v in (self.mean, self.std))
    return self.head((features - mean) / std, train=train)
