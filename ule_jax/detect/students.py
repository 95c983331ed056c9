"""Small networks that are trained for a few hundred steps, by the package's own step and methods."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from ule_jax.data.arrays import PIXEL_MEAN, PIXEL_STD, feature_statistics
from ule_jax.methods import METHODS, Batch, Sizes
from ule_jax.models import MODELS
from ule_jax.train.step import create_state, make_train_step

NETWORKS = {'mlp': {'width': 64, 'depth': 1}, 'cnn': {'width': 8, 'depth': 3}, 'linear': {'depth': 0}}
COMMITTED, ORDINARY = 'generalized_cross_entropy', 'cross_entropy'
RATE = 1e-3  # learning rate of Adam
BATCH = 128  # examples of a step
EARLY = 8  # a quick student has this fraction of the steps: shortcuts are learned first


class Fit(NamedTuple):
  """A trained network on all examples, those of its training and the others.

  Attributes:
    probability: of each class, at the last step.
    features: of the last hidden layer.
    curve: step -> index of the most probable class.
  """

  probability: Float[np.ndarray, 'n k']
  features: Float[np.ndarray, 'n d']
  curve: dict[int, Int[np.ndarray, 'n']]


def normalised(x: np.ndarray) -> Float[np.ndarray, 'n *shape']:
  """Return uint8 images, or features, as float32 of mean about 0 and standard deviation about 1."""
  if x.dtype == np.uint8:
    return (x.astype(np.float32) / 255 - PIXEL_MEAN[0]) / PIXEL_STD[0]
  mean, std = feature_statistics(x)
  return ((x - mean) / std).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _compiled(network: str, classes: int, loss: str) -> tuple[Callable, Callable, Callable]:
  """Return `init(x, seed)`, `step(state, x, label, index)` and `predict(state, x)`, compiled at their first call."""
  constructor, _ = MODELS['mlp' if network == 'linear' else network]
  model = constructor(classes=classes, **NETWORKS[network])
  entry = METHODS['erm']
  options: Any = entry.options
  method = entry.make(options(loss=loss), Sizes(n=0, k=classes, g=0, group_counts=()))
  tx, key, (role,) = optax.adam(RATE), jax.random.key(0), method.roles
  train = make_train_step(method, model, tx, key)

  def init(x, seed: int):
    return create_state(method, model, tx, x, jax.random.key(seed))

  def step(state, x, label, index):
    rows = jnp.zeros_like(index)
    return train(state, Batch(x[index], label[index], rows - 1, index, jnp.ones(index.shape)))[0]

  def predict(state, x):
    logits, features = model.apply({'params': state.params[role]}, x, train=False)
    return jax.nn.softmax(logits), features

  return jax.jit(init), jax.jit(step, donate_argnums=0), jax.jit(predict)


class Learner:
  """Examples on the device, on which networks are trained with different weights."""

  def __init__(self, x: np.ndarray, label: Int[np.ndarray, 'n'], classes: int, network: str, steps: int, seed: int):
    """Move the examples to the device.

    Args:
      x: uint8 images or features.
      label: of each example.
      classes: number of them.
      network: a key of NETWORKS.
      steps: of every training.
      seed: of initialisations and draws.
    """
    self.x, self.label = jnp.asarray(normalised(x)), jnp.asarray(label, jnp.int32)
    self.classes, self.network, self.steps, self.seed = classes, network, steps, seed

  def fit(
    self, weight: Float[np.ndarray, 'n'], loss: str, turn: int, steps: int = 0, points: Sequence[int] = ()
  ) -> Fit:
    """Train a network on examples that are drawn by their weights, and apply it to all.

    Args:
      weight: how often an example is drawn, relative to the others; 0 holds it out.
      loss: COMMITTED or ORDINARY.
      turn: number of the network, part of its seed: fits of one turn start and draw alike.
      steps: of it; 0 for the usual number.
      points: steps at which its predictions are kept in `curve`.
    """
    init, step, predict = _compiled(self.network, self.classes, loss)
    rng = np.random.default_rng((self.seed, turn))
    share = np.cumsum(weight) / weight.sum()
    drawn = share.searchsorted(rng.random((steps or self.steps, BATCH)), side='right').astype(np.int32)
    drawn = np.minimum(drawn, np.flatnonzero(weight)[-1])
    state: Any = init(self.x[:1], self.seed * 100 + turn)
    curve = {}
    for i, index in enumerate(drawn, 1):
      state = step(state, self.x, self.label, index)
      if i in points:
        curve[i] = np.asarray(predict(state, self.x)[0]).argmax(1)
    probability, features = (np.asarray(values) for values in predict(state, self.x))
    return Fit(probability, features, curve)


def class_balanced(label: Int[np.ndarray, 'n'], rows: np.ndarray) -> Float[np.ndarray, 'n']:
  """Return weights of the given rows, 0 for the others, in which every class has the same sum."""
  counts = np.bincount(label[rows], minlength=int(label.max()) + 1)
  weight = np.zeros(len(label))
  weight[rows] = 1 / counts[label[rows]]
  return weight
