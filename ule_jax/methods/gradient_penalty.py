"""Control: a penalty on the model's own input gradient, with no student's gradient in it.

  L_teacher = mean_i m_i CE(t(x_i), y_i) + trust * weight(step) * mean_i |g_t(x_i)|^2

With `mistakes: none` there is one network, and m_i and trust are 1. Otherwise a student is trained beside
it as in `ule`, and only its mistakes are used, for m_i and for trust. A gain over ERM is then owed to
smoothness, and not to the student's gradient. The penalty is Drucker and Le Cun's double backpropagation
(IEEE Trans. Neural Networks 3(6), 1992) with our choice of scalar.

Departs from the paper: the penalty is on the gradient of `scalar`, theirs on that of the loss.
"""

from __future__ import annotations

from ule_jax import losses
from ule_jax.methods.contract import PER_EXAMPLE, Aux, Method, Sizes, Step
from ule_jax.methods.ule import STUDENT, TEACHER, Student, properties_of, share_of, student_signal, weighted
from ule_jax.options import option


class GradientPenalty(Student):
  """Options of the control; those of the student count only where `mistakes` is not none."""

  mistakes: str = option(
    'none', "weights of the examples by a student's mistakes; none trains no student", choices=losses.MISTAKES
  )
  at: str = option(
    'image', 'array at which gradients are taken; features with model.encoder=frozen', choices=('image', 'features')
  )
  weight: float = option(0.1, 'factor on the squared input gradient; an exact 0 leaves it out of the graph', ge=0)
  warmup_steps: int = option(0, 'steps over which the weight grows from 0', ge=0)
  scalar: str = option('margin', 'scalar of the logits that is differentiated', choices=losses.SCALARS)


def make_method(options: GradientPenalty, sizes: Sizes) -> Method:
  """Return the control."""
  has_student = options.mistakes != 'none'
  student_loss = losses.classification_loss(options.student_loss, options.q)
  scalar = losses.SCALARS[options.scalar]
  proportional = losses.is_proportional(options.scalar, sizes.k, sizes.couples_examples)

  def loss(step: Step):
    label = step.batch.label
    values, stats, metrics, trust, mistake, total = {}, {}, {}, 1.0, 1.0, 0.0
    if has_student:
      student = step.forward(STUDENT, step.noisy(options.student_noise))
      total = step.mean(student_loss(student.logits, label))
      trust, mistake = student_signal(student, step.batch, options)
      metrics['trust'] = trust
      values[STUDENT], stats[STUDENT] = total, student.batch_stats
    teacher, learned, g_t = step.forward_with_input_gradient(
      TEACHER,
      step.batch.image,
      lambda logits: step.mean(mistake * losses.cross_entropy(logits, label)),
      scalar,
      proportional,
    )
    metrics['learned'] = learned
    if not losses.is_static_zero(options.weight):
      penalty = step.mean(step.per_example(losses.gradient_penalty(g_t)))
      metrics['penalty'] = penalty
      added = trust * weighted(penalty, options.weight, options.warmup_steps, step.number)
      metrics['term_share'] = share_of(added, learned)
      learned = learned + added
    values[TEACHER], stats[TEACHER] = learned, teacher.batch_stats
    return total + learned, Aux(values, stats, metrics=metrics)

  roles = (STUDENT, TEACHER) if has_student else (TEACHER,)
  return Method(roles, loss, properties_of(options) if has_student else PER_EXAMPLE)
