"""Unlearning terms: penalties on shared input gradients of student and teacher; the control without a student."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Float

from ule_jax.losses.batch import EPS, PerExample
from ule_jax.losses.input_gradient import InputGradient


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
