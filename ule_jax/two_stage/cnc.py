"""Groups of Correct-n-Contrast: the predictions of a first run are the spurious attribute."""

from __future__ import annotations

import numpy as np

from ule_jax.errors import UserError
from ule_jax.two_stage.contract import FirstRun, SecondStage


def prepare(options, first: FirstRun) -> SecondStage:
  """Make groups of label and first prediction.

  Raises:
    UserError: the first run makes no mistake on train.
  """
  del options
  train = first.labelled('train')
  prediction = train['logits'].argmax(1)
  if (prediction == train['label']).all():
    raise UserError(
      'the first run of CnC makes no mistake on train, so that nothing is to be contrasted: make it shorter or weaker '
      '(first.steps, first.epochs, a smaller first.lr).'
    )
  names = tuple(f'{label}, taken for {p}' for label in first.classes for p in first.classes)
  group = (train['label'] * len(first.classes) + prediction).astype(np.int32)
  return SecondStage(group=group, groups=names, notes={'mistakes': int((prediction != train['label']).sum())})
