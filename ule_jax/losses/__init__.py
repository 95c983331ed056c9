"""Losses as pure functions of arrays: classification losses, input gradients, unlearning terms, mistake weights.

Every family is one literal table (`CLASSIFICATION_LOSSES`, `SCALARS`, `TERMS`, `MISTAKES`), and the keys are the names
that configs use. Losses are per example; only `weighted_mean`, the means over classes or groups and `balanced_skill`
reduce a batch. Importing this package does not import jax.

The abstract of arXiv 2409.02792 fixes only that the teacher's loss uses the gradient of the student's output with
respect to its input. The five terms, the four scalars, the student losses and the uses of the student's mistakes are
ours.
"""

from ule_jax.losses.batch import (
  EPS,
  add_noise,
  example_ids,
  group_means,
  group_membership,
  is_static_zero,
  take,
  weighted_mean,
)
from ule_jax.losses.classification import (
  CLASSIFICATION_LOSSES,
  classification_loss,
  cross_entropy,
  generalized_cross_entropy,
  soft_cross_entropy,
)
from ule_jax.losses.input_gradient import (
  SCALARS,
  fit_and_input_gradient,
  input_gradient,
  is_proportional,
  label_logit,
  margin,
  top_logit,
)
from ule_jax.losses.mistakes import (
  MISTAKES,
  balanced_mistake_weight,
  balanced_skill,
  class_balanced_mistake_weight,
  mistake_weight,
  mistake_weights,
  no_weight,
)
from ule_jax.losses.unlearning import (
  TERMS,
  cosine,
  gradient_penalty,
  oppose,
  oppose_signed,
  project,
  suppress,
  unlearning_term,
)

__all__ = [
  'CLASSIFICATION_LOSSES', 'EPS', 'MISTAKES', 'SCALARS', 'TERMS',
  'add_noise', 'balanced_mistake_weight', 'balanced_skill', 'class_balanced_mistake_weight', 'classification_loss',
  'cosine', 'cross_entropy', 'example_ids', 'fit_and_input_gradient', 'generalized_cross_entropy', 'gradient_penalty',
  'group_means', 'group_membership', 'input_gradient', 'is_proportional', 'is_static_zero', 'label_logit', 'margin',
  'mistake_weight', 'mistake_weights', 'no_weight', 'oppose', 'oppose_signed', 'project', 'soft_cross_entropy',
  'suppress', 'take', 'top_logit', 'unlearning_term', 'weighted_mean',
]  # fmt: skip
