"""Unlearning terms: penalties on shared input gradients of student and teacher; the control without a student."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from etils import epy
from jaxtyping import Float

from ule_jax.losses.batch import EPS

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp


def oppose(g_s: Float[jax.Array, 'b *shape'], g_t: Float[jax.Array, 'b *shape']) -> Float[jax.Array, 'b']:
  """Return sum (m(g_t) - (1 - m(g_s)))^2, m = minmax of the absolute value: the saliency maps are pushed apart."""
  return jnp.sum((_minmax(g_t) - 1 + _minmax(g_s)) ** 2, axis=-1)


def oppose_signed(
  g_s: Float[jax.Array, 'b *shape'], g_t: Float[jax.Array, 'b *shape'], a: float | Float[jax.Array, ''] = 1.0
) -> Float[jax.Array, 'b']:
  """Return sum (g_t + a g_s)^2: the teacher's gradient is pulled to the reverse of the student's."""
  return jnp.sum((_flat(g_t) + a * _flat(g_s)) ** 2, axis=-1)


def suppress(g_s: Float[jax.Array, 'b *shape'], g_t: Float[jax.Array, 'b *shape']) -> Float[jax.Array, 'b']:
  """Return sum w g_t^2, w = g_s^2 / mean(g_s^2): the teacher becomes flat where the student is sensitive."""
  squared = _flat(g_s) ** 2
  return jnp.sum(squared / (jnp.mean(squared, axis=-1, keepdims=True) + EPS) * _flat(g_t) ** 2, axis=-1)


def project(g_s: Float[jax.Array, 'b *shape'], g_t: Float[jax.Array, 'b *shape']) -> Float[jax.Array, 'b']:
  """Return <g_t, g_s / |g_s|>^2: the teacher becomes flat along the student's direction.

  >>> float(project(jnp.array([[3.0, 0.0]]), jnp.array([[2.0, 5.0]]))[0])
  4.0
  """
  direction = _flat(g_s) / _norm(_flat(g_s))
  return jnp.sum(_flat(g_t) * direction, axis=-1) ** 2


def cosine(g_s: Float[jax.Array, 'b *shape'], g_t: Float[jax.Array, 'b *shape']) -> Float[jax.Array, 'b']:
  """Return cos(g_t, g_s)^2, in [0, 1]: the gradients become orthogonal, whatever their lengths."""
  return project(g_s, g_t) / jnp.squeeze(_norm(_flat(g_t)), -1) ** 2


def unlearning_term(
  name: str, a
) -> Callable[[Float[jax.Array, 'b *shape'], Float[jax.Array, 'b *shape']], Float[jax.Array, 'b']]:
  """Return the term of a name, with `a` bound where it has one."""
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


def gradient_penalty(g_t: Float[jax.Array, 'b *shape']) -> Float[jax.Array, 'b']:
  """Return |g_t|^2, the term of the control that needs no student."""
  return jnp.sum(_flat(g_t) ** 2, axis=-1)


def _flat(gradient: Float[jax.Array, 'b *shape']) -> Float[jax.Array, 'b d']:
  return gradient.reshape(gradient.shape[0], -1)


def _norm(gradient: Float[jax.Array, 'b d']) -> Float[jax.Array, 'b 1']:
  return jnp.sqrt(jnp.sum(gradient**2, axis=-1, keepdims=True) + EPS)


def _minmax(gradient: Float[jax.Array, 'b *shape']) -> Float[jax.Array, 'b d']:
  """Return each example's absolute gradient, scaled to [0, 1]; 0 for a constant one."""
  size = jnp.abs(_flat(gradient))
  low = jnp.min(size, axis=-1, keepdims=True)
  spread = jnp.max(size, axis=-1, keepdims=True) - low
  return (size - low) / jnp.where(spread > 0, spread, 1)
