"""Construction of a network from a config: the network, its input scaling, and the shapes of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ule_jax.data import Dataset, InputSpec
from ule_jax.models import make_network
from ule_jax.models.pretrained import mapping, sources

Preprocess = Callable[[Array], Float[Array, 'b *shape']]


def make_preprocess(mean, std) -> Preprocess:
  """Return the function that converts uint8 pixels, or float32 features, to normalised float32.

  It is part of the compiled step, because uint8 is a quarter of the traffic to the device, and normalising on the
  host takes most of its throughput.

  Args:
    mean: of pixels in [0, 1] by channel, or of each feature.
    std: standard deviation of the same.
  """
  mean, std = (jnp.asarray(v, jnp.float32) for v in (mean, std))

  def preprocess(image):
    offset, scale = (jnp.broadcast_to(v, (1,) * (image.ndim - 1) + v.shape) for v in (mean, std))
    unit = image.astype(jnp.float32) / 255 if image.dtype == jnp.uint8 else image
    return (unit - offset) / scale

  return preprocess


def pixel_scale(config: Any, dataset: Dataset | InputSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Return the mean and standard deviation for normalisation: those of the pretrained weights, or of the data.

  Features of a frozen encoder are normalised with their own statistics.
  """
  wanted = config.model.pixels
  if wanted == 'default' and config.model.weights == 'default':
    _, wanted = sources.default_weights(config.model.name)
  if wanted == 'default' or dataset.dtype != np.uint8:
    return dataset.mean, dataset.std
  return sources.PIXELS[wanted]


def network_and_shapes(config: Any, classes: int, image_shape: tuple[int, ...]) -> tuple[Any, PyTree]:
  """Build a network from images to logits, and the shapes of its parameters and statistics, without initialising it.

  Args:
    classes: number of logits.
    image_shape: h w c.
  """
  network = make_network(config.model, classes)
  sample = jnp.zeros((1, *image_shape))
  return network, jax.eval_shape(lambda: network.init(jax.random.key(0), sample, train=False))


def headless(weights: mapping.Pretrained, template: PyTree) -> PyTree:
  """Return the variables of a network of which only the features are used; its last layer is zero.

  Args:
    template: shapes of the variables.
  """
  unused = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template['params']['head'])
  return {'params': weights.params | {'head': unused}, 'batch_stats': weights.batch_stats}
