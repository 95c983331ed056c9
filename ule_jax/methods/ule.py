"""UnLearning from Experience: a teacher learns the task and unlearns the shortcut of a student.

Paper: Mitchell et al., "UnLearning from Experience to Avoid Spurious Correlations", arXiv
2409.02792. Only the abstract is public to us: it fixes two classifiers trained in parallel on the
same batches, an unconstrained student, and a teacher whose loss uses the gradient of the student's
output with respect to its input.

  L_student = mean_i l_s(s(x_i'), y_i)
  L_teacher = mean_i m_i CE(t(x_i), y_i) + trust * weight(step) * mean_i term(g_s(x_i'), g_t(x_i))

  x_i'      x_i with Gaussian noise of standard deviation `student_noise`: a student that sees less
            detail commits to coarse features, and its gradient is smoother
  g_s, g_t  gradient of `scalar` of the student's and the teacher's logits at the normalised input (the image, or
            with `at=features` the output of a frozen encoder that both share); g_s is a constant to the teacher
  m_i       `mistakes`: 1, the student's probability of being wrong on example i, or a share `mistake_share` of the
            class's weight for the student's mistakes
  trust     the student's balanced skill in the batch, from 0 (guessing) to 1, to the power of `trust_exponent`. A
            student that is often wrong took a shortcut that often fails, or found the task hard: these look alike.
            The share of `balanced` follows trust, too: it is 1/2 + trust * (mistake_share - 1/2)
  l_s       `student_loss`
  weight    grows linearly from 0 over `warmup_steps`

Departs from the paper: not known to. The term, the scalar, the student's loss, the mistake weights
and all numbers are ours, chosen by measurement (benchmarks/results).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from etils import epy
from jaxtyping import Float, Int

from ule_jax import losses
from ule_jax.methods.contract import PER_EXAMPLE, SEPARABLE, Aux, Batch, Method, Output, Sizes, Step
from ule_jax.options import Options, option

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp

STUDENT, TEACHER = 'student', 'teacher'


class Student(Options):
  """Options of a student and of the use that is made of its mistakes.

  These and the defaults of the term were chosen on the validation of the settings of benchmarks/robustness
  (docs/results/robustness.md).
  """

  student_loss: str = option(
    'generalized_cross_entropy', "the student's classification loss", choices=losses.CLASSIFICATION_LOSSES
  )
  q: float = option(0.7, 'exponent of generalized_cross_entropy; 0.7 from Zhang and Sabuncu 2018 and LfF', gt=0, le=1)
  student_noise: float = option(
    0.0, "standard deviation of Gaussian noise on the student's normalised input or features", ge=0
  )
  mistakes: str = option(
    'balanced', "weights of the teacher's examples by the student's mistakes", choices=losses.MISTAKES
  )
  mistake_share: float = option(
    0.7, "of balanced: share of each class's weight that the student's mistakes have", ge=0, le=1
  )
  trust_exponent: float = option(
    3.0,
    'power of the balanced skill of the student: the higher, the less the term and the share of balanced count where '
    'the student is often wrong; an exact 0 trusts every student',
    ge=0,
    former=('hold_back',),
  )


class Ule(Student):
  """Options of ULE, and of its control with another example's student gradient."""

  at: str = option(
    'image', 'array at which gradients are taken; features with model.encoder=frozen', choices=('image', 'features')
  )
  weight: float = option(0.03, 'factor on the unlearning term; an exact 0 leaves it out of the graph', ge=0)
  warmup_steps: int = option(0, 'steps over which the weight grows from 0', ge=0)
  term: str = option('oppose_signed', 'unlearning term', choices=losses.TERMS)
  a: float = option(1.0, "of oppose_signed: the multiple of the student's gradient to oppose", ge=0)
  scalar: str = option('margin', 'scalar of the logits that is differentiated', choices=losses.SCALARS)


def make_method(options: Ule, sizes: Sizes) -> Method:
  """Return ULE."""
  return student_and_teacher(options, sizes, properties_of(options))


def properties_of(options: Student) -> frozenset[str]:
  """Return the properties of a loss with this student: class-balanced weights and trust need the whole batch."""
  whole = options.mistakes not in ('none', 'weight') or not losses.is_static_zero(options.trust_exponent)
  return PER_EXAMPLE - {SEPARABLE} if whole else PER_EXAMPLE


def student_signal(
  student: Output, batch: Batch, options: Student
) -> tuple[Float[jax.Array, ''], Float[jax.Array, 'b']]:
  """Return the trust in a student, in [0, 1], and the weights of the teacher's examples by the student's mistakes."""
  trust = jnp.ones(())
  if not losses.is_static_zero(options.trust_exponent):
    trust = losses.balanced_skill(student.logits, batch.label, batch.weight) ** options.trust_exponent
  share = 0.5 + trust * (options.mistake_share - 0.5)
  return trust, losses.mistake_weights(options.mistakes, share)(student.logits, batch.label, batch.weight)


def student_and_teacher(
  options: Ule,
  sizes: Sizes,
  properties: frozenset[str],
  pair: Callable[[jax.Array, Step], jax.Array] = lambda g_s, _: g_s,
) -> Method:
  """Return ULE, with `pair` between its two networks.

  Args:
    properties: of the method.
    pair: (student gradients, step) -> the student gradient that each example's term takes.
  """
  student_loss = losses.classification_loss(options.student_loss, options.q)
  scalar = losses.SCALARS[options.scalar]
  proportional = losses.is_proportional(options.scalar, sizes.k, sizes.couples_examples)
  term = losses.unlearning_term(options.term, options.a)

  def loss(step: Step):
    label = step.batch.label
    student, fitted, g_s = step.forward_with_input_gradient(
      STUDENT,
      step.noisy(options.student_noise),
      lambda logits: step.mean(student_loss(logits, label)),
      scalar,
      proportional,
    )
    trust, mistake = student_signal(student, step.batch, options)
    teacher, learned, g_t = step.forward_with_input_gradient(
      TEACHER,
      step.batch.image,
      lambda logits: step.mean(mistake * losses.cross_entropy(logits, label)),
      scalar,
      proportional,
    )
    metrics = {'learned': learned, 'trust': trust}
    if not losses.is_static_zero(options.weight):
      shared = step.mean(step.per_example(term(jax.lax.stop_gradient(pair(g_s, step)), g_t)))
      metrics['shared'] = shared
      added = trust * weighted(shared, options.weight, options.warmup_steps, step.number)
      metrics['term_share'] = share_of(added, learned)
      learned = learned + added
    return fitted + learned, Aux(
      losses={STUDENT: fitted, TEACHER: learned},
      batch_stats={STUDENT: student.batch_stats, TEACHER: teacher.batch_stats},
      method_state=step.state,
      metrics=metrics,
    )

  return Method((STUDENT, TEACHER), loss, properties)


def share_of(term: Float[jax.Array, ''], learned: Float[jax.Array, '']) -> Float[jax.Array, '']:
  """Return the share of the teacher's loss that is the weighted term, in [0, 1]; neither part is negative.

  >>> float(share_of(jnp.float32(1), jnp.float32(3)))
  0.25
  """
  return term / (term + learned + losses.EPS)


def weighted(
  term: Float[jax.Array, ''], weight: Any, warmup_steps: int, number: Int[jax.Array, '']
) -> Float[jax.Array, '']:
  """Return a term times its weight, which grows linearly over the first `warmup_steps` steps.

  Args:
    number: of the step, from 0 on.
  """
  if warmup_steps:
    term = term * jnp.minimum((number + 1) / warmup_steps, 1.0).astype(term.dtype)
  return weight * term
