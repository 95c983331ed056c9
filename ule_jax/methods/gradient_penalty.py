"""Control: a penalty on the model's own input gradient, with no student's gradient in it.

  L_teacher = mean_i m_i CE(t(x_i), y_i) + trust * weight(step) * mean_i |g_t(x_i)|^2

With `mistakes: none` there is one network, and trust is 1. Otherwise a student is trained beside
it as in `ule`, and only its mistakes are used, for m_i and for trust. What this gains over ERM is
smoothness, and not ULE's. The penalty is Drucker and Le Cun's double backpropagation (IEEE Trans.
Neural Networks 3(6), 1992) with our choice of scalar.
"""

from __future__ import annotations

from ule_jax import losses
from ule_jax.devices.collectives import gather_examples, local_examples
from ule_jax.methods.contract import PER_EXAMPLE, Aux, Method, Sizes, stateless
from ule_jax.methods.ule import STUDENT, TEACHER, properties_of, student_signal, weighted


def make_method(options, sizes: Sizes) -> Method:
  """Make the control; the options are `method.*` of configs/base.py."""
  has_student = options.mistakes != 'none'
  student_loss = losses.classification_loss(options.student_loss, options.q)
  scalar = losses.SCALARS[options.scalar]
  proportional = losses.is_proportional(options.scalar, sizes.k, sizes.mixing)

  def loss(params, forward, state, batch, step, key):
    del params
    values, stats, metrics, trust, mistake, total = {}, {}, {}, 1.0, 1.0, 0.0
    if has_student:
      student = forward(STUDENT, losses.add_noise(key, batch.image, local_examples(batch.index), options.student_noise))
      total = losses.weighted_mean(student_loss(student.logits, batch.label), batch.weight)
      trust, mistake = student_signal(student, batch, options)
      metrics['trust'] = trust
      values[STUDENT], stats[STUDENT] = total, student.batch_stats
    teacher, learned, g_t = losses.fit_and_input_gradient(
      lambda x: forward(TEACHER, x),
      batch.image,
      batch.label,
      lambda logits: losses.weighted_mean(mistake * losses.cross_entropy(logits, batch.label), batch.weight),
      scalar,
      proportional,
      local_examples,
    )
    metrics['learned'] = learned
    if not losses.is_static_zero(options.weight):
      penalty = losses.weighted_mean(gather_examples(losses.gradient_penalty(g_t)), batch.weight)
      metrics['penalty'] = penalty
      learned = learned + trust * weighted(options, step, penalty)
    values[TEACHER], stats[TEACHER] = learned, teacher.batch_stats
    return total + learned, Aux(values, stats, state, metrics)

  roles = (STUDENT, TEACHER) if has_student else (TEACHER,)
  return Method(roles, stateless, loss, properties_of(options) if has_student else PER_EXAMPLE)
