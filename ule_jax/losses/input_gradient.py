"""Input gradients: the gradient of a scalar of the logits with respect to the normalised input, per example.

`fit_and_input_gradient` gives the loss and the input gradient out of one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ule_jax.losses.batch import EPS, Label, Logits, PerExample, take
from ule_jax.losses.classification import cross_entropy

InputGradient = Float[Array, 'b *shape']

Out = TypeVar('Out')


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
