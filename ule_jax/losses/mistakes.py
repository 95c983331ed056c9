"""Weights of the teacher's examples, computed from the mistakes of the student; none passes a gradient to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from etils import epy
from jaxtyping import Float, Int

from ule_jax.losses.batch import EPS, group_means, group_membership, take
from ule_jax.losses.classification import cross_entropy

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp


def no_weight(
  _logits: Float[jax.Array, 'b k'], label: Int[jax.Array, 'b'], _weight: Float[jax.Array, 'b']
) -> Float[jax.Array, 'b']:
  """Return 1 for every example, whatever the student does."""
  return jnp.ones(label.shape)


def mistake_weight(logits: Float[jax.Array, 'b k'], label: Int[jax.Array, 'b']) -> Float[jax.Array, 'b']:
  """Return the student's probability of being wrong, 1 - p(label), without a gradient to it."""
  return jax.lax.stop_gradient(-jnp.expm1(-cross_entropy(logits, label)))


def class_balanced_mistake_weight(
  logits: Float[jax.Array, 'b k'], label: Int[jax.Array, 'b'], weight: Float[jax.Array, 'b']
) -> Float[jax.Array, 'b']:
  """Return `mistake_weight`, scaled so that every class has the same share of the batch and the mean is 1.

  Unscaled, a class that is hard for the student as a whole (a rare one) takes over.
  """
  return _share_classes(mistake_weight(logits, label), logits, label, weight)


def balanced_mistake_weight(
  logits: Float[jax.Array, 'b k'],
  label: Int[jax.Array, 'b'],
  weight: Float[jax.Array, 'b'],
  share: float | Float[jax.Array, ''] = 0.5,
) -> Float[jax.Array, 'b']:
  """Return weights that give the student's mistakes a share of each class, and its right answers the rest.

  With p the student's probability of the label: share (1 - p) / mean(1 - p) + (1 - share) p / mean(p), means over the
  class in the batch, classes of equal mass. Where the student is a shortcut's prediction and `share` is 1/2, this
  weighs the groups of a class alike, however confident the student is. Where it is in doubt about every example, all
  weights are near 1: nothing is unlearned. A share of 1 is `class_balanced_weight`.

  Args:
    share: of the mistakes, in [0, 1].

  >>> logits = jnp.array([[9.0, 0], [9, 0], [9, 0], [0, 9]])
  >>> [round(float(m), 2) for m in balanced_mistake_weight(logits, jnp.zeros(4, int), jnp.ones(4))]
  [0.67, 0.67, 0.67, 2.0]
  """
  wrong = class_balanced_mistake_weight(logits, label, weight)
  right = _share_classes(1 - mistake_weight(logits, label), logits, label, weight)
  return share * wrong + (1 - share) * right


def mistake_weights(
  name: str, share
) -> Callable[[Float[jax.Array, 'b k'], Int[jax.Array, 'b'], Float[jax.Array, 'b']], Float[jax.Array, 'b']]:
  """Return the mistake weights of a name, with `share` bound where they have one."""
  if name == 'balanced':
    return partial(balanced_mistake_weight, share=share)
  return MISTAKES[name]


MISTAKES = {
  'none': no_weight,
  'weight': lambda logits, label, _: mistake_weight(logits, label),
  'class_balanced_weight': class_balanced_mistake_weight,
  'balanced': balanced_mistake_weight,
}


def balanced_skill(
  logits: Float[jax.Array, 'b k'], label: Int[jax.Array, 'b'], weight: Float[jax.Array, 'b']
) -> Float[jax.Array, '']:
  """Return the chance-corrected balanced accuracy of a batch: 0 for an accuracy of 1/k or less, 1 for a perfect one.

  Averaged over the classes in the batch; 0 if there is only one, which a guess may be right about.

  >>> logits = jnp.array([[9.0, 0], [9, 0], [9, 0], [0, 9]])
  >>> float(balanced_skill(logits, jnp.array([0, 0, 1, 1]), jnp.ones(4)))
  0.5
  """
  k = logits.shape[-1]
  of_class = group_membership(label, weight, k)
  classes = jnp.sum(jnp.any(of_class > 0, axis=0))
  right = (jnp.argmax(logits, axis=-1) == label).astype(weight.dtype)
  accuracy = jnp.sum(group_means(right, of_class)) / jnp.maximum(classes, 1)
  return jnp.where(classes > 1, jnp.maximum((k * accuracy - 1) / (k - 1), 0), 0)


def _share_classes(
  values: Float[jax.Array, 'b'],
  logits: Float[jax.Array, 'b k'],
  label: Int[jax.Array, 'b'],
  weight: Float[jax.Array, 'b'],
) -> Float[jax.Array, 'b']:
  """Return values scaled so that every class has the same share of the batch and the mean is 1."""
  is_class = jax.nn.one_hot(label, logits.shape[-1]) * weight[:, None]
  present = jnp.sum(jnp.any(is_class > 0, axis=0))
  return values * jnp.sum(weight) / (jnp.maximum(present, 1) * (take(values @ is_class, label) + EPS))
