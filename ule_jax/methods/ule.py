"""UnLearning from Experience: a teacher learns the task while it avoids what a student fell for.

Paper: Mitchell et al., "UnLearning from Experience to Avoid Spurious Correlations", arXiv
2409.02792. Only the abstract is public to us: it fixes two classifiers trained in parallel on the
same batches, an unconstrained student, and a teacher whose loss uses the gradient of the student's
output with respect to its input.

  L_student = mean_i l_s(s(x_i'), y_i)
  L_teacher = mean_i m_i CE(t(x_i), y_i) + trust * weight(step) * mean_i term(g_s(x_i'), g_t(x_i))

  x_i'      x_i with Gaussian noise of standard deviation `student_noise`: a student that sees less
            detail commits to what is coarse, and its gradient is smoother
  g_s, g_t  gradient of `scalar` of the student's and the teacher's logits at the normalised input (the image, or
            with `at=features` what a frozen encoder makes of it for both), g_s without a gradient of its own
  m_i       `mistakes`: 1, the student's probability of being wrong on example i, or `mistake_share` of its class for
            what the student gets wrong
  trust     how far above guessing the student is in the batch, from 0 to 1, to the power of `hold_back`. One that is
            often wrong took a shortcut that often fails, or learned what it could of a hard task: these two look alike.
            `balanced` is held back, too: its share is 1/2 + trust * (mistake_share - 1/2)
  l_s       `student_loss`
  weight    grows linearly from 0 over `warmup_steps`

Departs from the paper: not known to. The term, the scalar, the student's loss, the mistake weights
and all numbers are ours, chosen by measurement (benchmarks/results).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ule_jax import losses
from ule_jax.devices.collectives import gather_examples, local_examples
from ule_jax.methods.contract import PER_EXAMPLE, SEPARABLE, Aux, Batch, Method, Output, Sizes, stateless

STUDENT, TEACHER = 'student', 'teacher'


def make_method(options, sizes: Sizes) -> Method:
  """Make ULE; the options are `method.*` of configs/base.py."""
  return student_and_teacher(options, sizes, properties_of(options))


def properties_of(options) -> frozenset[str]:
  """Tell what can be demanded of a loss with this student: balancing classes and trust need the whole batch."""
  whole = options.mistakes not in ('none', 'weight') or not losses.is_static_zero(options.hold_back)
  return PER_EXAMPLE - {SEPARABLE} if whole else PER_EXAMPLE


def student_signal(student: Output, batch: Batch, options) -> tuple[Float[Array, ''], Float[Array, 'b']]:
  """Compute what the teacher learns of a student beside its gradient: the trust in it, and each example's weight."""
  trust = jnp.ones(())
  if not losses.is_static_zero(options.hold_back):
    trust = losses.balanced_skill(student.logits, batch.label, batch.weight) ** options.hold_back
  share = 0.5 + trust * (options.mistake_share - 0.5)
  return trust, losses.mistake_weights(options.mistakes, share)(student.logits, batch.label, batch.weight)


def student_and_teacher(
  options, sizes: Sizes, properties: frozenset[str], pair: Callable = lambda g_s, batch: g_s
) -> Method:
  """Make ULE with `pair` between the two: which student gradient each example of the teacher sees."""
  student_loss = losses.classification_loss(options.student_loss, options.q)
  scalar = losses.SCALARS[options.scalar]
  proportional = losses.is_proportional(options.scalar, sizes.k, sizes.mixing)
  term = losses.unlearning_term(options.term, options.a)

  def loss(params, forward, state, batch, step, key):
    del params

    def run(role, image, loss):
      return losses.fit_and_input_gradient(
        lambda x: forward(role, x),
        image,
        batch.label,
        lambda logits: losses.weighted_mean(loss(logits, batch.label), batch.weight),
        scalar,
        proportional,
        local_examples,
      )

    noisy = losses.add_noise(key, batch.image, local_examples(batch.index), options.student_noise)
    student, fitted, g_s = run(STUDENT, noisy, student_loss)
    trust, mistake = student_signal(student, batch, options)
    teacher, learned, g_t = run(TEACHER, batch.image, lambda *at: mistake * losses.cross_entropy(*at))
    metrics = {'learned': learned, 'trust': trust}
    if not losses.is_static_zero(options.weight):
      shared = losses.weighted_mean(gather_examples(term(jax.lax.stop_gradient(pair(g_s, batch)), g_t)), batch.weight)
      metrics['shared'] = shared
      learned = learned + trust * weighted(options, step, shared)
    return fitted + learned, Aux(
      losses={STUDENT: fitted, TEACHER: learned},
      batch_stats={STUDENT: student.batch_stats, TEACHER: teacher.batch_stats},
      method_state=state,
      metrics=metrics,
    )

  return Method((STUDENT, TEACHER), stateless, loss, properties)


def weighted(options, step, term):
  """Weigh a term, with a weight that grows from 1/warmup_steps of itself to all of it."""
  if options.warmup_steps:
    term = term * jnp.minimum((step + 1) / options.warmup_steps, 1.0).astype(term.dtype)
  return options.weight * term
