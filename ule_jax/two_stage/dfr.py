"""Deep feature reweighting: ERM's last layer, fitted again on its features of balanced groups.

Paper: Kirichenko et al. 2023, arXiv 2204.02937.

  z = penultimate features of a finished ERM run, standardised
  head = mean over `fits` of the l1-regularised logistic regression on random group-balanced subsets

  the data of the fit -> two_stage.dfr.split (a validation split with group labels),
  inverse strength C -> chosen from two_stage.dfr.strengths: fit on one half of the split, worst group of the other

Follows PolinaKirichenko/deep_feature_reweighting 46666e6 (dfr_evaluate_spurious.py): the strength is chosen on one
draw, standardised on itself, of the half with one example more if the split is odd; the averaged fits are
standardised on the features of train; two classes are fitted by scikit-learn's liblinear, for 100 iterations at most.
Departs from the official code, which is for two classes: more are one multinomial fit by scikit-learn's saga, for as
many iterations as it takes (features of a large network need up to 2,000, of 50 ms each on two cores). Fits that stop
before they converge are counted in the results and in a warning.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pydantic
from jaxtyping import Bool, Float, Int

from ule_jax.errors import UserError
from ule_jax.options import Options, option
from ule_jax.streams import Stream, generator
from ule_jax.two_stage.contract import FirstRun, SecondStage

ITERATIONS = {'liblinear': 100, 'saga': 20_000}  # the most; the authors' 100 are scikit-learn's default
OLDEST = (1, 8)  # of scikit-learn: earlier versions fit l2 for an `l1_ratio` without a `penalty`, without a warning


class Dfr(Options):
  """Options of DFR."""

  split: str = option('val', "split of the fit's data, which need group labels")
  strengths: tuple[float, ...] = option(
    (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01), 'inverse l1 strengths to choose from, above 0; DFR'
  )
  fits: int = option(20, 'balanced subsets whose fits are averaged; DFR', ge=1)

  @pydantic.field_validator('strengths', mode='before')
  @classmethod
  def _positive(cls, strengths: Any) -> Any:
    is_list = isinstance(strengths, (tuple, list)) and bool(strengths)
    if not is_list or not all(isinstance(strength, (int, float)) and strength > 0 for strength in strengths):
      raise ValueError(f'two_stage.dfr.strengths is {strengths}: give numbers above 0, as (1.0, 0.1).')
    return strengths


def prepare(options: Dfr, first: FirstRun) -> SecondStage:
  """Return the last layer, fitted on balanced groups.

  Raises:
    UserError: as `check`, or a training example has no label.
  """
  check(options, {name: (data['label'], data['group']) for name, data in first.splits.items()}, first.classes)
  data, train = first.labelled(options.split), first.labelled('train')
  x, y, group = data['features'].astype(np.float64), data['label'], data['group']
  rng = generator(Stream.DFR_HALVES, first.seed)
  half = np.zeros(len(y), bool)
  half[rng.permutation(len(y))[: len(y) - len(y) // 2]] = True
  k = len(first.classes)
  scores, ids, converged = {}, _balanced(group, half, rng), []
  for strength in options.strengths:
    head, has_converged = _fit(x, y, ids, strength, k, like=x[ids])
    converged.append(has_converged)
    right = (x[~half] @ head[0] + head[1]).argmax(1) == y[~half]
    scores[strength] = min(right[group[~half] == g].mean() for g in np.unique(group[~half]))
  best = max(scores, key=scores.__getitem__)
  whole = np.ones(len(y), bool)
  like = train['features'].astype(np.float64)
  heads = []
  for _ in range(options.fits):
    head, has_converged = _fit(x, y, _balanced(group, whole, rng), best, k, like)
    converged.append(has_converged)
    heads.append(head)
  kernel, bias = (np.mean([head[i] for head in heads], axis=0) for i in (0, 1))
  unconverged = converged.count(False)
  notes = {'strength': best, 'split': options.split, 'not_converged': unconverged}
  return SecondStage(head=(kernel, bias), notes=notes, messages=_warning(unconverged, len(converged), k))


def check(options: Dfr, splits, classes: tuple[str, ...]) -> None:
  """Check the split, its groups and its classes, before a first run.

  Args:
    splits: split -> (label, group).

  Raises:
    UserError: the split does not exist or is test; an example of it has no group; it lacks a class, or a group of
      train; or scikit-learn is too old.
  """
  _check_library()
  allowed = [name for name in splits if name != 'test']
  if options.split not in allowed:
    raise UserError(
      f'two_stage.dfr.split is {options.split!r}: choose one of {", ".join(allowed)}; test is for testing.'
    )
  label, group = splits[options.split]
  if (group < 0).any():
    raise UserError(f'DFR needs the group of every example of {options.split}, and {int((group < 0).sum())} have none.')
  lacking = set(splits['train'][1].tolist()) - set(group.tolist()) - {-1}
  if lacking:
    raise UserError(
      f'DFR balances groups, and {options.split} has no example of group {min(lacking)}, which train has.'
    )
  for k, name in enumerate(classes):
    if not (label == k).any():
      raise UserError(f'DFR cannot be fitted: {options.split} has no example of the class {name!r}.')


def _balanced(group: Int[np.ndarray, 'n'], among: Bool[np.ndarray, 'n'], rng) -> Int[np.ndarray, 'm']:
  """Return a random subset with as many examples of each group as the smallest has."""
  members = [np.flatnonzero(among & (group == g)) for g in np.unique(group)]
  least = min(len(m) for m in members)
  if not least:
    raise UserError('half of the split that DFR fits on has no example of some group: it needs a larger one.')
  return np.concatenate([rng.permutation(m)[:least] for m in members])


def _fit(
  x, y, ids, strength: float, k: int, like
) -> tuple[tuple[Float[np.ndarray, 'd k'], Float[np.ndarray, 'k']], bool]:
  """Return the last layer that is fitted on some examples, and whether the fit converged.

  Args:
    ids: of these examples.
    strength: inverse strength of the l1 penalty, above 0.
    k: classes.
    like: features whose mean and deviation standardise `x` in the fit; the kernel is for features as they are.
  """
  from sklearn.exceptions import ConvergenceWarning
  from sklearn.linear_model import LogisticRegression
  from sklearn.preprocessing import StandardScaler

  scaler = StandardScaler().fit(like)
  solver = _solver(k)
  model = LogisticRegression(C=strength, l1_ratio=1, solver=solver, max_iter=ITERATIONS[solver], random_state=0)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', ConvergenceWarning)  # counted below
    model.fit(scaler.transform(x[ids]), y[ids])
  weights = model.coef_ / scaler.scale_
  intercept = model.intercept_ - weights @ scaler.mean_
  if k == 2:  # scikit-learn has one logit for two classes
    weights, intercept = np.r_[0 * weights, weights], np.r_[0 * intercept, intercept]
  return (weights.T, intercept), bool(np.max(model.n_iter_) < ITERATIONS[solver])


def _solver(k: int) -> str:
  return 'liblinear' if k == 2 else 'saga'


def _warning(unconverged: int, fits: int, k: int) -> tuple[str, ...]:
  if not unconverged:
    return ()
  return (
    f'warning: {unconverged} of {fits} fits of DFR stopped at {ITERATIONS[_solver(k)]:,} iterations, before they had '
    'converged: smaller two_stage.dfr.strengths converge sooner.',
  )


def _check_library() -> None:
  import sklearn

  if tuple(int(part) for part in re.findall(r'\d+', sklearn.__version__)[:2]) < OLDEST:
    raise UserError(
      f'DFR needs scikit-learn {".".join(map(str, OLDEST))} or later, as earlier ones ignore its l1 penalty without a '
      f'word, and {sklearn.__version__} is installed: pip install --upgrade scikit-learn.'
    )
