"""Control: ULE with another example's student gradient.

The teacher's loss is that of `ule`, but example i meets the student's gradient at its neighbour in
the (shuffled) batch. What this gains over ERM is owed to the shape of the student's gradients in
general, not to what the student relied on in this image. The student's mistakes, where `mistakes`
uses them, stay with their own example: this isolates the gradient.

Ours; not in the paper's abstract.
"""

from __future__ import annotations

import jax.numpy as jnp

from ule_jax.methods.contract import LABEL_FREE, Method, Sizes
from ule_jax.methods.ule import student_and_teacher
from ule_jax.sharding import everyone, here


def make_method(options, sizes: Sizes) -> Method:
  """Make the control; same options as `ule`."""
  return student_and_teacher(
    options, sizes, frozenset({LABEL_FREE}), pair=lambda g_s: here(jnp.roll(everyone(g_s), 1, axis=0))
  )
