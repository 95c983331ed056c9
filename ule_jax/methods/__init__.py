"""Every method, by the name that configs use."""

from ule_jax import losses
from ule_jax.methods import (
  cnc,
  coral,
  erm,
  gradient_penalty,
  group_dro,
  irm,
  lff,
  lisa,
  mixup,
  mmd,
  shuffled_student,
  ule,
  vrex,
)
from ule_jax.methods.contract import LABEL_FREE, SEPARABLE, Aux, Batch, Forward, Method, Output, Sizes, labelled

METHODS = {
  'erm': erm.make_method,
  'ule': ule.make_method,
  'gradient_penalty': gradient_penalty.make_method,
  'shuffled_student': shuffled_student.make_method,
  'group_dro': group_dro.make_method,
  'lff': lff.make_method,
  'irm': irm.make_method,
  'vrex': vrex.make_method,
  'coral': coral.make_method,
  'mmd': mmd.make_method,
  'mixup': mixup.make_method,
  'lisa': lisa.make_method,
  # ERM on other draws: all groups or classes equally often, or as many of each as the smallest has
  'rwg': erm.make_method,
  'rwy': erm.make_method,
  'subg': erm.make_method,
  'suby': erm.make_method,
  # the second of two runs; its inputs from the first are computed in two_stage/
  'jtt': erm.make_method,
  'spare': erm.make_method,
  'eiil': group_dro.make_method,
  'cnc': cnc.make_method,
  'dfr': erm.make_method,
  'afr': erm.make_method,
}

# method -> what was corrected in its loss since runs of it were first recorded
CORRECTIONS = {
  'cnc': 'the mean over anchors, the two sides added, and the pairs of three classes',
  'mmd': 'distances between features in float32',
}

# option -> what it may be
CHOICES = {
  'at': ('image', 'features'),
  'loss': losses.CLASSIFICATION_LOSSES,
  'student_loss': losses.CLASSIFICATION_LOSSES,
  'mistakes': losses.MISTAKES,
  'scalar': losses.SCALARS,
  'term': losses.TERMS,
}

__all__ = [
  'CHOICES', 'CORRECTIONS', 'LABEL_FREE', 'METHODS', 'SEPARABLE',
  'Aux', 'Batch', 'Forward', 'Method', 'Output', 'Sizes',
  'labelled',
]  # fmt: skip
