"""Just train twice: a second run draws the examples more often that a first, short run gets wrong.

Paper: Liu et al. 2021, arXiv 2107.09044.

  E = {i : argmax f_1(x_i) != y_i}        the error set of the first run
  sampling weight_i = 1 + up_weight * [i in E]: the second run is ERM on the training set with E added up_weight times

  f_1 -> the first run (ERM, `two_stage.epochs` long), up_weight -> two_stage.jtt.up_weight

Departs from the official code, anniesch/jtt 0af2430: E is computed by the network after the first run, in evaluation
mode. Theirs is computed from predictions during the next epoch (train.py writes them batch by batch, in training
mode, before each step; process_training.py's `--final_epoch 60` is the 61st, as they count from 0).
Draws follow the sampling weights with replacement, and an epoch has as many examples as the training
set; the authors iterate over the enlarged set, of n + up_weight |E| examples, in epochs.
The mixture is the same, the number of steps is not: raise `train.epochs` to match theirs.
"""

from __future__ import annotations

from ule_jax.errors import UserError
from ule_jax.options import Options, option
from ule_jax.two_stage.contract import FirstRun, SecondStage


class Jtt(Options):
  """Options of JTT."""

  up_weight: float = option(
    50.0, 'times that a mistake of the first run is added to the training set; jtt, CelebA', ge=0
  )


class EmptyErrorSet(UserError):
  """The first run gets no training example wrong, or all: there is nothing to draw more often."""


def prepare(options: Jtt, first: FirstRun) -> SecondStage:
  """Return sampling weights that follow from the error set of the first run.

  Raises:
    EmptyErrorSet: the error set is empty or all of train.
    UserError: a training example has no label.
  """
  train = first.labelled('train')
  wrong = train['logits'].argmax(1) != train['label']
  if not wrong.any() or wrong.all():
    change = 'shorter or weaker (two_stage.steps, two_stage.epochs, a smaller two_stage.lr)'
    raise EmptyErrorSet(
      f'the error set of JTT has {int(wrong.sum())} of {len(wrong)} training examples: make the first run '
      f'{"longer" if wrong.any() else change}.'
    )
  return SecondStage(sampling_weight=1.0 + options.up_weight * wrong, notes={'error_set': int(wrong.sum())})
