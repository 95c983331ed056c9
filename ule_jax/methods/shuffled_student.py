"""Control: ULE with another example's student gradient.

The teacher's loss is that of `ule`, but the term of example i takes the student's gradient at its neighbour in the
(shuffled) batch. Padding and unlabelled examples are nobody's neighbour. A gain over ERM is then owed to the shape of
the student's gradients in general, and not to its shortcut in this image. The student's mistakes, where `mistakes` uses
them, stay with their own example, so that the control isolates the gradient.

Departs from the paper: ours; it is not in the paper's abstract.
"""

from __future__ import annotations

from etils import epy
from jaxtyping import Float, Int

from ule_jax.methods.contract import IGNORES_WEIGHT_ZERO, LABEL_FREE, Method, Sizes, Step
from ule_jax.methods.ule import Ule, student_and_teacher

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp


def make_method(options: Ule, sizes: Sizes) -> Method:
  """Return the control."""

  def pair(g_s: Float[jax.Array, 'i *shape'], step: Step) -> Float[jax.Array, 'i *shape']:
    return step.per_image(step.per_example(g_s)[neighbour(step.batch.weight)])

  return student_and_teacher(options, sizes, frozenset({LABEL_FREE, IGNORES_WEIGHT_ZERO}), pair)


def neighbour(weight: Float[jax.Array, 'b']) -> Int[jax.Array, 'b']:
  """Return the position of each example's predecessor among those of positive weight; the first has the last.

  >>> neighbour(jnp.array([1.0, 1, 0, 1])).tolist()
  [3, 0, 0, 1]
  """
  counts = weight > 0
  order = jnp.argsort(~counts, stable=True)
  return order[(jnp.cumsum(counts) - 2) % jnp.maximum(jnp.sum(counts), 1)]
