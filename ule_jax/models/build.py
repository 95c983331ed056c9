"""From the options of a config to a network, its input scaling and its shapes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ule_jax.data import Dataset, Preparation
from ule_jax.models import make_network
from ule_jax.models.pretrained import mapping, sources

Preprocess = Callable[[Array], Float[Array, 'b *shape']]


def make_preprocess(mean, std) -> Preprocess:
  """Make the part of the step that turns uint8 pixels, or float32 features, into normalised float32.

  It is in the step because uint8 is a quarter of the traffic to the device, and normalising on the
  host costs most of its throughput.

  Args:
    mean: of pixels in [0, 1], or of features as they are; `std` likewise.
  """
  mean, std = (jnp.asarray(v, jnp.float32) for v in (mean, std))

  def preprocess(image):
    offset, scale = (jnp.broadcast_to(v, (1,) * (image.ndim - 1) + v.shape) for v in (mean, std))
    unit = image.astype(jnp.float32) / 255 if image.dtype == jnp.uint8 else image
    return (unit - offset) / scale

  return preprocess


def pixel_scale(config: Any, dataset: Dataset | Preparation) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Return the mean and standard deviation that images are normalised with: what weights expect, or the data say.

  Features of a frozen encoder were made of such images, and have their own.
  """
  wanted = config.model.pixels
  if wanted == 'default' and config.model.weights == 'default':
    _, wanted = sources.default_weights(config.model.name)
  if wanted == 'default' or dataset.dtype != np.uint8:
    return dataset.mean, dataset.std
  return sources.PIXELS[wanted]


def network_and_shapes(config: Any, classes: int, image_shape: tuple[int, ...]) -> tuple[Any, PyTree]:
  """Make the network from the image on, and the shapes of its parameters and statistics."""
  network = make_network(SimpleNamespace(**config.model), classes)
  sample = jnp.zeros((1, *image_shape))
  return network, jax.eval_shape(lambda: network.init(jax.random.key(0), sample, train=False))


def headless(weights: mapping.Pretrained, template: PyTree) -> PyTree:
  """Make the variables of a network of which only the features are used: its last layer is zero."""
  unused = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template['params']['head'])
  return {'params': weights.params | {'head': unused}, 'batch_stats': weights.batch_stats}
