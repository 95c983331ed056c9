"""Control: ULE with another example's student gradient.

The teacher's loss is that of `ule`, but example i meets the student's gradient at its neighbour in
the (shuffled) batch, of those that count: padding, and what has no label, is nobody's neighbour. What
this gains over ERM is owed to the shape of the student's gradients in general, not to what the
student relied on in this image. The student's mistakes, where `mistakes` uses them, stay with their
own example: this isolates the gradient.

Ours; not in the paper's abstract.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ule_jax.devices.collectives import gather_examples, local_examples
from ule_jax.methods.contract import IGNORES_WEIGHT_ZERO, LABEL_FREE, Batch, Method, Sizes
from ule_jax.methods.ule import student_and_teacher


def make_method(options, sizes: Sizes) -> Method:
  """Make the control; same options as `ule`."""

  def pair(g_s: Float[Array, 'b *shape'], batch: Batch) -> Float[Array, 'b *shape']:
    return local_examples(gather_examples(g_s)[neighbour(batch.weight)])

  return student_and_teacher(options, sizes, frozenset({LABEL_FREE, IGNORES_WEIGHT_ZERO}), pair)


def neighbour(weight: Float[Array, 'b']) -> Int[Array, 'b']:
  """Number the example before each, of those of positive weight; before the first of them is the last.

  >>> neighbour(jnp.array([1.0, 1, 0, 1])).tolist()
  [3, 0, 0, 1]
  """
  counts = weight > 0
  order = jnp.argsort(~counts, stable=True)
  return order[(jnp.cumsum(counts) - 2) % jnp.maximum(jnp.sum(counts), 1)]
