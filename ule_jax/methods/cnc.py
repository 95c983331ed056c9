"""Correct-n-contrast: examples of one class for which a first run's predictions differ are pulled together.

Paper: Zhang et al. 2022, arXiv 2203.01517.

  P(i) = {j : y_j = y_i, p_j != p_i},  N(i) = {j : y_j != y_i, p_j = p_i},   p = argmax f_1(x),
         and the first run is right about one of i and j and wrong about the other
  l_i = mean_{j in P(i)} -log( e^{s_ij / t} / (sum_{P(i)} e^{s / t} + sum_{N(i)} e^{s / t}) )
  L_con = mean of l_i over the anchors i with p_i = y_i  +  mean of l_i over the anchors with p_i != y_i
  L = (1 - contrast) * cross entropy + contrast * L_con

  s_ij -> cosine of the features of i and j, f_1 -> the first run, t -> temperature, contrast -> contrast

Means over anchors are over those that have a positive in the batch. The right and the wrong anchors are the two sides
of the authors' loss, which are added (train_supervised_contrast.py, HazyResearch/correct-n-contrast eaa1c66); with two
classes the condition on i and j follows from P and N.
Departs from the official code: positives and negatives are those of the batch, which is drawn balanced over (label,
prediction), and each of its examples is an anchor; the authors build a batch around each right anchor, of as many
examples of each kind, whose other anchor is one of its positives, and add up the gradients of 32 of these. Their
script groups by clusters of the first network's features unless told to use its predictions; these are the paper's.
They train with running statistics and without dropout, hence `model.batch_norm=frozen` in the recipes.
An example of unknown group counts in the cross entropy, and is no anchor, positive or negative.
"""

from __future__ import annotations

from typing import Any

from etils import epy
from jaxtyping import Float, Int

from ule_jax import losses
from ule_jax.methods.contract import IGNORES_WEIGHT_ZERO, PERMUTATION_INVARIANT, Aux, Method, Sizes, Step
from ule_jax.methods.coral import EXACT
from ule_jax.options import Options, option

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp


class Cnc(Options):
  """Options of CnC's second stage."""

  contrast: float = option(0.75, 'share of the contrastive loss; correct-n-contrast', ge=0, le=1)
  temperature: float = option(0.1, 'divisor of the similarities; correct-n-contrast', gt=0)


def make_method(options: Cnc, sizes: Sizes) -> Method:
  """Return CnC's second stage; a group is label * k + the first run's prediction."""

  def loss(step: Step):
    batch = step.batch
    out = step.forward('model', batch.image)
    entropy = step.mean(losses.cross_entropy(out.logits, batch.label))
    contrast = contrastive(
      out.features, batch.label, batch.group % sizes.k, batch.weight * (batch.group >= 0), options.temperature
    )
    value = (1 - options.contrast) * entropy + options.contrast * contrast
    return value, Aux({'model': value}, {'model': out.batch_stats}, metrics={'contrast': contrast})

  return Method(('model',), loss, frozenset({PERMUTATION_INVARIANT, IGNORES_WEIGHT_ZERO}))


def contrastive(
  features: Float[jax.Array, 'b d'],
  label: Int[jax.Array, 'b'],
  prediction: Int[jax.Array, 'b'],
  weight: Float[jax.Array, 'b'],
  temperature: Any,
) -> Float[jax.Array, '']:
  """Return L_con of a batch; examples of weight 0 are no anchors, positives or negatives."""
  norm = jnp.sqrt((features**2).sum(-1, keepdims=True) + losses.EPS)
  unit = features / norm
  similarity = jnp.matmul(unit, unit.T, precision=EXACT) / temperature
  right = prediction == label
  pairs = (weight > 0)[:, None] & (weight > 0)[None, :] & (right[:, None] != right[None, :])
  same_label = label[:, None] == label[None, :]
  same_prediction = prediction[:, None] == prediction[None, :]
  positive = pairs & same_label & ~same_prediction
  negative = pairs & ~same_label & same_prediction
  count = positive.sum(-1)
  is_anchor = (count > 0)[:, None]
  masked = jnp.where(is_anchor, jnp.where(positive | negative, similarity, -jnp.inf), 0.0)
  total = jax.nn.logsumexp(masked, axis=-1)
  each = jnp.where(positive, total[:, None] - similarity, 0.0).sum(-1) / jnp.maximum(count, 1)

  def side(anchors):
    return (each * anchors).sum() / jnp.maximum(anchors.sum(), 1)

  return side(is_anchor[:, 0] & right) + side(is_anchor[:, 0] & ~right)
