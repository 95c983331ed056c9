"""Weights of the teacher's classification loss, computed from the mistakes of the student."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ule_jax.losses.batch import EPS, Label, Logits, PerExample, group_means, group_membership, take
from ule_jax.losses.classification import cross_entropy


def no_weight(logits: Logits, label: Label, weight: PerExample) -> PerExample:
  """Ignore the student: 1 for every example."""
  del logits, weight
  return jnp.ones(label.shape)


def mistake_weight(logits: Logits, label: Label, weight: PerExample) -> PerExample:
  """Compute the student's probability of being wrong, 1 - p(label), without a gradient to it."""
  del weight
  return jax.lax.stop_gradient(-jnp.expm1(-cross_entropy(logits, label)))


def class_balanced_mistake_weight(logits: Logits, label: Label, weight: PerExample) -> PerExample:
  """Scale `mistake_weight` so that every class has the same share of the batch and the mean is 1.

  Without this a class that the student finds hard as a whole (a rare one) takes over.
  """
  return _share_classes(mistake_weight(logits, label, weight), logits, label, weight)


def balanced_mistake_weight(
  logits: Logits, label: Label, weight: PerExample, share: float | Float[Array, ''] = 0.5
) -> PerExample:
  """Give the student's mistakes a share of each class, and what it gets right the rest.

  With p the student's probability of the label: share (1 - p) / mean(1 - p) + (1 - share) p / mean(p), means over the
  class in the batch, classes of equal mass. Where the student is a shortcut's prediction and `share` is 1/2, this
  weighs the groups of a class alike, however sure of itself the student is. Where it is in doubt about everything, all
  weights are near 1: nothing is unlearned. 1 is `class_balanced_weight`.

  Args:
    share: of the mistakes, in [0, 1].

  >>> logits = jnp.array([[9.0, 0], [9, 0], [9, 0], [0, 9]])
  >>> [round(float(m), 2) for m in balanced_mistake_weight(logits, jnp.zeros(4, int), jnp.ones(4))]
  [0.67, 0.67, 0.67, 2.0]
  """
  wrong = class_balanced_mistake_weight(logits, label, weight)
  right = _share_classes(1 - mistake_weight(logits, label, weight), logits, label, weight)
  return share * wrong + (1 - share) * right


def mistake_weights(name: str, share) -> Callable[[Logits, Label, PerExample], PerExample]:
  """Look up mistake weights and bind `share` where they have one."""
  if name == 'balanced':
    return partial(balanced_mistake_weight, share=share)
  return MISTAKES[name]


MISTAKES = {
  'none': no_weight,
  'weight': mistake_weight,
  'class_balanced_weight': class_balanced_mistake_weight,
  'balanced': balanced_mistake_weight,
}


def balanced_skill(logits: Logits, label: Label, weight: PerExample) -> Float[Array, '']:
  """Compute how far above guessing a network is in a batch: 0 to 1 for an accuracy of 1/k to 1, averaged over classes.

  Over the classes that the batch has; 0 if there is but one, which a guess may be right about.

  >>> logits = jnp.array([[9.0, 0], [9, 0], [9, 0], [0, 9]])
  >>> float(competence(logits, jnp.array([0, 0, 1, 1]), jnp.ones(4)))
  0.5
  """
  k = logits.shape[-1]
  of_class = group_membership(label, weight, k)
  classes = jnp.sum(jnp.any(of_class > 0, axis=0))
  right = (jnp.argmax(logits, axis=-1) == label).astype(weight.dtype)
  accuracy = jnp.sum(group_means(right, of_class)) / jnp.maximum(classes, 1)
  return jnp.where(classes > 1, jnp.maximum((k * accuracy - 1) / (k - 1), 0), 0)


def _share_classes(values: PerExample, logits: Logits, label: Label, weight: PerExample) -> PerExample:
  """Scale values so that every class has the same share of the batch and the mean is 1."""
  is_class = jax.nn.one_hot(label, logits.shape[-1]) * weight[:, None]
  present = jnp.sum(jnp.any(is_class > 0, axis=0))
  return values * jnp.sum(weight) / (jnp.maximum(present, 1) * (take(values @ is_class, label) + EPS))
