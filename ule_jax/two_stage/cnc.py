"""Groups of Correct-n-Contrast: the predictions of a first run are the spurious attribute.

Paper and departures: methods/cnc.py, the loss on these groups.
"""

from __future__ import annotations

import numpy as np

from ule_jax.errors import UserError
from ule_jax.options import Options
from ule_jax.two_stage.contract import FirstRun, SecondStage


def prepare(_: Options, first: FirstRun) -> SecondStage:
  """Return the groups (label, prediction of the first run).

  Raises:
    UserError: a training example has no label, or the first run makes no mistake on train.
  """
  train = first.labelled('train')
  prediction = train['logits'].argmax(1)
  if (prediction == train['label']).all():
    raise UserError(
      'the first run of CnC makes no mistake on train, so that there is nothing to contrast: make it shorter or weaker '
      '(two_stage.steps, two_stage.epochs, a smaller two_stage.lr).'
    )
  names = tuple(f'{label}, taken for {p}' for label in first.classes for p in first.classes)
  group = (train['label'] * len(first.classes) + prediction).astype(np.int32)
  return SecondStage(group=group, groups=names, notes={'mistakes': int((prediction != train['label']).sum())})
