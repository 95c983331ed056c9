"""Correct-n-contrast: examples of one class that a first run tells apart are pulled together.

Paper: Zhang et al. 2022, arXiv 2203.01517.

  P(i) = {j : y_j = y_i, p_j != p_i},  N(i) = {j : y_j != y_i, p_j = p_i},   p = argmax f_1(x)
  L_con = mean_{i, j in P(i)} -log( e^{s_ij / t} / (sum_{P(i)} e^{s / t} + sum_{N(i)} e^{s / t}) )
  L = (1 - contrast) * cross entropy + contrast * L_con

  s_ij -> cosine of the features of i and j, f_1 -> config.first, t -> temperature, contrast -> contrast

Departs from the paper: positives and negatives are those of the batch, which is drawn balanced over (label,
prediction); the authors' code (HazyResearch/correct-n-contrast) builds a batch around each anchor. An example of
unknown group counts in the cross entropy, and is no anchor, positive or negative.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ule_jax import losses
from ule_jax.errors import UserError
from ule_jax.methods.contract import (
  IGNORES_WEIGHT_ZERO,
  PERMUTATION_INVARIANT,
  Aux,
  Method,
  Sizes,
  stateless,
)
from ule_jax.methods.first import First, Prepared


def make_method(options, sizes: Sizes) -> Method:
  """Make CnC's second stage; a group is label * k + the first run's prediction."""

  def loss(params, forward, state, batch, step, key):
    del params, step, key
    out = forward('model', batch.image)
    entropy = losses.weighted_mean(losses.cross_entropy(out.logits, batch.label), batch.weight)
    contrast = contrastive(
      out.features, batch.label, batch.group % sizes.k, batch.weight * (batch.group >= 0), options.temperature
    )
    value = (1 - options.contrast) * entropy + options.contrast * contrast
    return value, Aux({'model': value}, {'model': out.batch_stats}, state, {'contrast': contrast})

  return Method(('model',), stateless, loss, frozenset({PERMUTATION_INVARIANT, IGNORES_WEIGHT_ZERO}))


def contrastive(features, label, prediction, weight, temperature: float):
  """Compute L_con over a batch; examples of weight 0 are no anchors, positives or negatives."""
  norm = jnp.sqrt((features**2).sum(-1, keepdims=True) + losses.EPS)
  unit = features / norm
  similarity = unit @ unit.T / temperature
  counts = (weight > 0)[:, None] & (weight > 0)[None, :]
  same_label = label[:, None] == label[None, :]
  same_prediction = prediction[:, None] == prediction[None, :]
  positive = counts & same_label & ~same_prediction
  negative = counts & ~same_label & same_prediction
  either = positive | negative
  masked = jnp.where(either, similarity, -jnp.inf)
  some = either.any(-1)
  total = jax.nn.logsumexp(jnp.where(some[:, None], masked, 0.0), axis=-1)
  pairs = jnp.where(positive, total[:, None] - similarity, 0.0)
  return pairs.sum() / jnp.maximum(positive.sum(), 1)


def prepare(options, first: First) -> Prepared:
  """Make groups of label and first prediction.

  Raises:
    UserError: the first run makes no mistake on train.
  """
  del options
  train = first.labelled('train')
  prediction = train['logits'].argmax(1)
  if (prediction == train['label']).all():
    raise UserError(
      'the first run of CnC makes no mistake on train, so that nothing is to be contrasted: make it shorter or weaker '
      '(first.steps, first.epochs, a smaller first.lr).'
    )
  names = tuple(f'{label}, taken for {p}' for label in first.classes for p in first.classes)
  group = (train['label'] * len(first.classes) + prediction).astype(np.int32)
  return Prepared(group=group, groups=names, notes={'mistakes': int((prediction != train['label']).sum())})
