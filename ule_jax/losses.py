"""Pure functions of arrays: classification losses, differentiated scalars, unlearning terms, mistake weights.

Every family is one literal table (`CLASSIFICATION_LOSSES`, `SCALARS`, `TERMS`, `MISTAKES`), and the
keys are the names that configs use. Everything is per example; `weighted_mean` is the only place
where a batch is reduced, but for means over classes or groups and `competence`.

The abstract of arXiv 2409.02792 fixes only that the teacher's loss uses the gradient of the
student's output with respect to its input. The five terms, the four scalars, the student losses
and the uses of the student's mistakes are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

EPS = 1e-16  # inside roots and under quotients: a zero gradient gives 0, not NaN; its square is a normal float32

PerExample = Float[Array, 'b']
Logits = Float[Array, 'b k']
Label = Int[Array, 'b']
InputGradient = Float[Array, 'b *shape']
Out = TypeVar('Out')


def weighted_mean(values: PerExample, weight: PerExample) -> Float[Array, '']:
  """Average over examples of positive weight: sum(weight * values) / sum(weight), 0 if all weigh 0.

  >>> float(weighted_mean(jnp.array([1.0, 3.0, 100.0]), jnp.array([1.0, 1.0, 0.0])))
  2.0
  """
  kept = jnp.where(weight > 0, values, 0)  # 0 * inf would be NaN
  return jnp.sum(kept * weight) / jnp.maximum(jnp.sum(weight), EPS)


def input_gradient(
  network: Callable[[Float[Array, 'b *shape']], Out],
  x: Float[Array, 'b *shape'],
  scalar: Callable[[Out], PerExample],
) -> tuple[Out, InputGradient]:
  """Run a network once; return its output and the gradient of each example's scalar at its input.

  The scalars are summed over the batch before they are differentiated, which gives each example's
  own gradient as long as the network does not mix examples (BatchNorm in training does).
  """

  def total(x):
    out = network(x)
    return jnp.sum(scalar(out)), out

  _, pull, out = jax.vjp(total, x, has_aux=True)
  (gradient,) = pull(jnp.ones(()).astype(x.dtype))
  return out, gradient


def fit_and_input_gradient(
  network: Callable[[Float[Array, 'b *shape']], Out],
  x: Float[Array, 'b *shape'],
  label: Int[Array, 'n'],
  fit: Callable[[Logits], Float[Array, '']],
  scalar: Callable[[Logits, Label], PerExample],
  proportional: bool,
  here: Callable[[PerExample], PerExample] = lambda values: values,
) -> tuple[Out, Float[Array, ''], InputGradient]:
  """Run a network once; return its output, its loss, and the gradient of each example's scalar at its input.

  Where the gradients of loss and scalar are proportional (`is_proportional`) the scalar is weighed by the loss's slope,
  and its gradient divided by it: to the compiler that is the backward pass of the loss once more, and it is run once.
  It saves a tenth of a ULE step's FLOPs for the student, and another for a teacher without second derivatives (ReLU).

  Args:
    network: returns an output with `logits`; of the whole batch, as labels are, where `x` is one device's part.
    fit: the loss of the logits; it falls as the margin grows.
    scalar: of SCALARS; the margin of two classes where it is `proportional`.
    here: takes the part of `x` out of what is of the whole batch (`sharding.here`).
  """
  if not proportional:
    out, gradient = input_gradient(network, x, lambda out: scalar(out.logits, label))
    return out, fit(out.logits), gradient

  def scalars(x):
    out = network(x)
    return scalar(out.logits, label), out

  reached, pull, out = jax.vjp(scalars, x, has_aux=True)
  loss, slopes = jax.value_and_grad(fit)(jax.lax.stop_gradient(out.logits))
  # At the other logit it is exact however sure the network is; bounded, as a slope of 0 could not be divided out.
  slope = jax.lax.stop_gradient(jnp.minimum(-take(slopes, 1 - label), -EPS))
  (gradient,) = pull(slope)
  loss = jax.lax.stop_gradient(loss) + jnp.sum(slope * (reached - jax.lax.stop_gradient(reached)))
  return out, loss, gradient / here(slope).reshape(-1, *[1] * (x.ndim - 1))


def is_proportional(scalar: str, classes: int, mixing: bool) -> bool:
  """Tell whether the gradient of any loss is, for each example, a multiple of the scalar's: the margin of two classes.

  Args:
    scalar: a name in SCALARS.
    mixing: whether the network mixes examples, which then have no gradients of their own.

  >>> is_proportional('margin', 2, False), is_proportional('margin', 3, False), is_proportional('top_logit', 2, False)
  (True, False, False)
  """
  return scalar == 'margin' and classes == 2 and not mixing


def add_noise(key: Array, x: Float[Array, 'b *shape'], index: Int[Array, 'b'], std) -> Float[Array, 'b *shape']:
  """Add Gaussian noise that depends on the key and on which example it is, not on its place in the batch.

  Args:
    index: the examples' numbers in their data set.
    std: standard deviation in units of `x`; an exact 0 adds nothing to the graph.
  """
  if is_static_zero(std):
    return x
  noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), x.shape[1:], x.dtype))(index)
  return x + std * noise


def is_static_zero(value: Any) -> bool:
  """Tell whether what is multiplied by a value can be left out of the graph; a traced value never is 0.

  >>> is_static_zero(0.0), is_static_zero(0.1), is_static_zero(jnp.zeros(()))
  (True, False, False)
  """
  return isinstance(value, (int, float)) and value == 0


def example_ids(index: Int[Array, 'b'], weight: PerExample, n: int) -> Int[Array, 'b']:
  """Number the examples of a batch by what they are, not by where they stand; each repeat has its own number.

  To draw by these numbers makes a draw independent of the order in the batch and of its padding.

  Args:
    n: the size of the data set that `index` counts in.

  >>> example_ids(jnp.array([3, 1, 3]), jnp.ones(3), n=10).tolist()
  [3, 1, 13]
  """
  same = (index[:, None] == index[None, :]) & (weight > 0)[None, :]
  return index + n * jnp.sum(jnp.tril(same, -1), axis=1, dtype=index.dtype)


def take(values: Float[Array, 'k'] | Logits, code: Label) -> PerExample:
  """Take each example's value at its label or group, 0 where that is not known (-1).

  Nothing else may index an array by labels or groups: an index of -1 means the last entry to numpy and to JAX.

  Args:
    values: one for each class or group, or a row of these for each example.

  >>> take(jnp.array([3.0, 5.0]), jnp.array([1, -1])).tolist(), take(jnp.array([[3.0, 5.0]]), jnp.array([-1])).tolist()
  ([5.0, 0.0], [0.0])
  """
  if values.ndim == 1:
    return values.at[code].get(mode='fill', fill_value=0, wrap_negative_indices=False)
  kept = {'mode': 'fill', 'fill_value': 0, 'wrap_negative_indices': False}
  return jnp.take_along_axis(values, code[:, None], axis=-1, **kept)[:, 0]


def group_membership(group: Int[Array, 'b'], weight: PerExample, g: int) -> Float[Array, 'b g']:
  """Spread the weights over one column for each group; examples of unknown group are in none."""
  return jax.nn.one_hot(group, g, dtype=weight.dtype) * weight[:, None]


def group_means(values: PerExample, membership: Float[Array, 'b g']) -> Float[Array, 'g']:
  """Average over the examples of each group; 0 for a group without any.

  >>> group_means(jnp.array([1.0, 3.0, 100.0]), group_membership(jnp.array([1, 1, -1]), jnp.ones(3), 2)).tolist()
  [0.0, 2.0]
  """
  kept = jnp.where(membership > 0, values[:, None], 0)
  return jnp.sum(kept * membership, axis=0) / jnp.maximum(jnp.sum(membership, axis=0), EPS)


# --- Classification losses -----------------------------------------------------------------------


def cross_entropy(logits: Logits, label: Label) -> PerExample:
  """Compute -log p(label).

  >>> round(float(cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))[0]), 4)
  1.3863
  """
  return -take(jax.nn.log_softmax(logits), label)


def generalized_cross_entropy(logits: Logits, label: Label, q: float | Float[Array, ''] = 0.7) -> PerExample:
  """Compute (1 - p(label)^q) / q, which commits to what is easy and gives up on the rest.

  Between cross entropy (q -> 0) and the mean absolute error (q = 1). Its gradient is cross
  entropy's times p(label)^q, so that examples the network gets wrong are hardly learned.
  Source: Zhang and Sabuncu 2018, arXiv 1805.07836, eq. 6; as the biased network's loss in LfF,
  arXiv 2007.02561.

  Args:
    q: in (0, 1].

  >>> round(float(generalized_cross_entropy(jnp.zeros((1, 2)), jnp.array([0]), q=1.0)[0]), 4)
  0.5
  """
  return (1 - jnp.exp(-q * cross_entropy(logits, label))) / q


def soft_cross_entropy(logits: Logits, target: Float[Array, 'b k']) -> PerExample:
  """Compute the cross entropy to a distribution over the classes.

  >>> round(float(soft_cross_entropy(jnp.zeros((1, 4)), jnp.array([[0.5, 0.5, 0, 0]]))[0]), 4)
  1.3863
  """
  return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)


def classification_loss(name: str, q) -> Callable[[Logits, Label], PerExample]:
  """Look up a classification loss and bind `q` where it has one."""
  if name == 'generalized_cross_entropy':
    return partial(generalized_cross_entropy, q=q)
  return CLASSIFICATION_LOSSES[name]


CLASSIFICATION_LOSSES = {
  'cross_entropy': cross_entropy,
  'generalized_cross_entropy': generalized_cross_entropy,
}


# --- What is differentiated with respect to the input ---------------------------------------------


def label_logit(logits: Logits, label: Label) -> PerExample:
  """Take the logit of the label."""
  return take(logits, label)


def top_logit(logits: Logits, label: Label) -> PerExample:
  """Take the largest logit, whatever the label is."""
  del label
  return jnp.max(logits, axis=-1)


def margin(logits: Logits, label: Label) -> PerExample:
  """Subtract the log-sum-exp of all other logits from the label's logit.

  With two classes this is the difference of the logits, with any number the log odds of the label.

  >>> float(margin(jnp.array([[3.0, 1.0]]), jnp.array([0]))[0])
  2.0
  """
  is_label = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
  if logits.shape[-1] == 2:  # linear, so that derivatives of its gradient are nothing rather than zeros
    return jnp.sum(jnp.where(is_label, logits, -logits), axis=-1)
  return take(logits, label) - jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, logits), axis=-1)


SCALARS = {
  'label_logit': label_logit,
  'top_logit': top_logit,
  'margin': margin,
  'loss': cross_entropy,
}


# --- Unlearning terms: (g_s, g_t) -> one value per example, summed over pixels or features --------


def oppose(g_s: InputGradient, g_t: InputGradient) -> PerExample:
  """Push the saliency maps apart: sum (m(g_t) - (1 - m(g_s)))^2, m = minmax of the absolute value."""
  return jnp.sum((_minmax(g_t) - 1 + _minmax(g_s)) ** 2, axis=-1)


def oppose_signed(g_s: InputGradient, g_t: InputGradient, a: float | Float[Array, ''] = 1.0) -> PerExample:
  """Ask the teacher for the student's gradient reversed: sum (g_t + a g_s)^2."""
  return jnp.sum((_flat(g_t) + a * _flat(g_s)) ** 2, axis=-1)


def suppress(g_s: InputGradient, g_t: InputGradient) -> PerExample:
  """Make the teacher flat where the student is sensitive: sum w g_t^2, w = g_s^2 / mean(g_s^2)."""
  squared = _flat(g_s) ** 2
  return jnp.sum(squared / (jnp.mean(squared, axis=-1, keepdims=True) + EPS) * _flat(g_t) ** 2, axis=-1)


def project(g_s: InputGradient, g_t: InputGradient) -> PerExample:
  """Make the teacher flat along the student's direction: <g_t, g_s / |g_s|>^2.

  >>> float(project(jnp.array([[3.0, 0.0]]), jnp.array([[2.0, 5.0]]))[0])
  4.0
  """
  direction = _flat(g_s) / _norm(_flat(g_s))
  return jnp.sum(_flat(g_t) * direction, axis=-1) ** 2


def cosine(g_s: InputGradient, g_t: InputGradient) -> PerExample:
  """Make the gradients orthogonal, whatever their lengths: cos(g_t, g_s)^2, in [0, 1]."""
  return project(g_s, g_t) / jnp.squeeze(_norm(_flat(g_t)), -1) ** 2


def unlearning_term(name: str, a) -> Callable[[InputGradient, InputGradient], PerExample]:
  """Look up a term and bind `a` where it has one."""
  if name == 'oppose_signed':
    return partial(oppose_signed, a=a)
  return TERMS[name]


TERMS = {
  'oppose': oppose,
  'oppose_signed': oppose_signed,
  'suppress': suppress,
  'project': project,
  'cosine': cosine,
}


def gradient_penalty(g_t: InputGradient) -> PerExample:
  """Compute |g_t|^2: the control that needs no student."""
  return jnp.sum(_flat(g_t) ** 2, axis=-1)


# --- The student's mistakes as weights of the teacher's classification loss -----------------------


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


def competence(logits: Logits, label: Label, weight: PerExample) -> Float[Array, '']:
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


def _flat(gradient: InputGradient) -> Float[Array, 'b d']:
  return gradient.reshape(gradient.shape[0], -1)


def _norm(gradient: Float[Array, 'b d']) -> Float[Array, 'b 1']:
  return jnp.sqrt(jnp.sum(gradient**2, axis=-1, keepdims=True) + EPS)


def _minmax(gradient: InputGradient) -> Float[Array, 'b d']:
  """Map each example's absolute gradient to [0, 1]; a constant one becomes 0."""
  size = jnp.abs(_flat(gradient))
  low = jnp.min(size, axis=-1, keepdims=True)
  spread = jnp.max(size, axis=-1, keepdims=True) - low
  return (size - low) / jnp.where(spread > 0, spread, 1)
