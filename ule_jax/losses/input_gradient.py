"""Input gradients: the gradient of a scalar of the logits with respect to the normalised input, per example.

`fit_and_input_gradient` computes the loss and the input gradient in one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from etils import epy
from jaxtyping import Float, Int

from ule_jax.losses.batch import EPS, take
from ule_jax.losses.classification import cross_entropy

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp

Out = TypeVar('Out', bound=Any)


def input_gradient(
  network: Callable[[Float[jax.Array, 'b *shape']], Out],
  x: Float[jax.Array, 'b *shape'],
  scalar: Callable[[Out], Float[jax.Array, 'b']],
) -> tuple[Out, Float[jax.Array, 'b *shape']]:
  """Run a network once; return its output and the gradient of each example's scalar at its input.

  The scalars are summed over the batch before they are differentiated, which yields each example's
  own gradient as long as the network does not couple examples (BatchNorm in training does).
  """

  def total(x):
    out = network(x)
    return jnp.sum(scalar(out)), out

  _, pull, out = jax.vjp(total, x, has_aux=True)
  (gradient,) = pull(jnp.ones(()).astype(x.dtype))
  return out, gradient


def fit_and_input_gradient(
  network: Callable[[Float[jax.Array, 'b *shape']], Out],
  x: Float[jax.Array, 'b *shape'],
  label: Int[jax.Array, 'n'],
  fit: Callable[[Float[jax.Array, 'b k']], Float[jax.Array, '']],
  scalar: Callable[[Float[jax.Array, 'b k'], Int[jax.Array, 'b']], Float[jax.Array, 'b']],
  proportional: bool,
  per_image: Callable[[jax.Array], jax.Array] = lambda values: values,
) -> tuple[Out, Float[jax.Array, ''], Float[jax.Array, 'b *shape']]:
  """Run a network once; return its output, its loss, and the gradient of each example's scalar at its input.

  With two classes the gradient of the loss is, for each example, a multiple of the margin's gradient
  (`is_proportional`). The cotangent of the loss is then pulled back once, and the input gradient that comes of it is
  divided by the slope of the loss; XLA meets the backward pass of the loss a second time and shares it. This saves a
  tenth of a ULE step's FLOPs for the student, and another tenth for a teacher without second derivatives (ReLU).

  Args:
    network: returns an output whose `logits` are of the whole batch.
    x: input; under pmap, of this device's examples only, and so is the gradient.
    label: of the whole batch.
    fit: logits -> loss of the batch, which falls as the margin grows.
    scalar: a value of SCALARS; `margin` if `proportional`.
    proportional: as `is_proportional` returns it.
    per_image: from values of the whole batch to those of `x`.
  """
  if not proportional:
    out, gradient = input_gradient(network, x, lambda out: scalar(out.logits, label))
    return out, fit(out.logits), gradient

  def scalars(x):
    out = network(x)
    return scalar(out.logits, label), out

  reached, pull, out = jax.vjp(scalars, x, has_aux=True)
  loss, slopes = jax.value_and_grad(fit)(jax.lax.stop_gradient(out.logits))
  # The slope at the other logit has no cancellation however sure the network is; bounded, since it divides below.
  slope = jax.lax.stop_gradient(jnp.minimum(-take(slopes, 1 - label), -EPS))
  (gradient,) = pull(slope)
  loss = jax.lax.stop_gradient(loss) + jnp.sum(slope * (reached - jax.lax.stop_gradient(reached)))
  return out, loss, gradient / per_image(slope).reshape(-1, *[1] * (x.ndim - 1))


def is_proportional(scalar: str, classes: int, couples_examples: bool) -> bool:
  """True if the gradient of any loss is, for each example, a multiple of the scalar's: the margin of two classes.

  Args:
    scalar: a name in SCALARS.
    classes: number of them.
    couples_examples: the network's output for an example depends on others, as BatchNorm's in training does.

  >>> is_proportional('margin', 2, False), is_proportional('margin', 3, False), is_proportional('top_logit', 2, False)
  (True, False, False)
  """
  return scalar == 'margin' and classes == 2 and not couples_examples


def label_logit(logits: Float[jax.Array, 'b k'], label: Int[jax.Array, 'b']) -> Float[jax.Array, 'b']:
  """Return each example's logit at its label; 0 if the label is unknown (-1) or not in [0, k)."""
  return take(logits, label)


def top_logit(logits: Float[jax.Array, 'b k'], _: Int[jax.Array, 'b']) -> Float[jax.Array, 'b']:
  """Return the largest logit; the label does not enter."""
  return jnp.max(logits, axis=-1)


def margin(logits: Float[jax.Array, 'b k'], label: Int[jax.Array, 'b']) -> Float[jax.Array, 'b']:
  """Return the label's logit minus the log-sum-exp of all others: the log odds of the label.

  With two classes this is the difference of the logits.

  >>> float(margin(jnp.array([[3.0, 1.0]]), jnp.array([0]))[0])
  2.0
  """
  is_label = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
  if logits.shape[-1] == 2:  # linear, so that second derivatives are absent from the graph rather than zeros in it
    return jnp.sum(jnp.where(is_label, logits, -logits), axis=-1)
  return take(logits, label) - jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, logits), axis=-1)


SCALARS = {
  'label_logit': label_logit,
  'top_logit': top_logit,
  'margin': margin,
  'loss': cross_entropy,
}
