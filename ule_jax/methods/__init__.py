"""Every method, by the name that configs use."""

from ule_jax import losses
from ule_jax.methods import erm, gradient_penalty, shuffled_student, ule
from ule_jax.methods.contract import LABEL_FREE, Aux, Batch, Forward, Method, Output, Sizes

METHODS = {
  'erm': erm.make_method,
  'ule': ule.make_method,
  'gradient_penalty': gradient_penalty.make_method,
  'shuffled_student': shuffled_student.make_method,
}

# option -> what it may be
CHOICES = {
  'loss': losses.CLASSIFICATION_LOSSES,
  'student_loss': losses.CLASSIFICATION_LOSSES,
  'mistakes': losses.MISTAKES,
  'scalar': losses.SCALARS,
  'term': losses.TERMS,
}

__all__ = ['CHOICES', 'LABEL_FREE', 'METHODS', 'Aux', 'Batch', 'Forward', 'Method', 'Output', 'Sizes']
