"""Just train twice: train again, with the examples that a first, short run gets wrong drawn more often.

Paper: Liu et al. 2021, arXiv 2107.09044.

  E = {i : argmax f_1(x_i) != y_i}        the error set of the first run
  chance_i = 1 + up_weight * [i in E]     the second run is ERM on the training set with E added up_weight times

  f_1 -> config.first (ERM, `first.epochs` long), up_weight -> first.jtt.up_weight

Departs from the official code, anniesch/jtt 0af2430: E is of the network after the first run, in evaluation mode.
Theirs is of the predictions that are made while the next epoch trains (train.py writes them batch by batch, in training
mode, before each step; process_training.py's `--final_epoch 60` is the 61st, as they count from 0).
Draws follow `chance` with replacement, and an epoch has as many examples as the training
set; the authors go through the enlarged set, of n + up_weight |E| examples, in epochs.
The mixture is the same, the number of steps is not: raise `train.epochs` to match theirs.
"""

from __future__ import annotations

from ule_jax.errors import UserError
from ule_jax.two_stage.contract import FirstRun, SecondStage


def prepare(options, first: FirstRun) -> SecondStage:
  """Find the error set.

  Raises:
    UserError: the first run makes no mistake on train, or nothing else.
  """
  train = first.labelled('train')
  wrong = train['logits'].argmax(1) != train['label']
  if not wrong.any() or wrong.all():
    raise UserError(
      f'the error set of JTT has {int(wrong.sum())} of {len(wrong)} training examples: make the first run '
      f'{"shorter or weaker (first.steps, first.epochs, a smaller first.lr)" if not wrong.any() else "longer"}.'
    )
  return SecondStage(chance=1.0 + options.up_weight * wrong, notes={'error_set': int(wrong.sum())})
