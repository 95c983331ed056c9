"""The base of all estimators: `fit` is a run of the train loop, and the rest applies its deployed network."""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from etils import epy
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ule_jax.config.schema import Config
from ule_jax.data.arrays import feature_statistics, from_rows
from ule_jax.data.dataset import Dataset
from ule_jax.errors import UserError
from ule_jax.estimators import parameters, rows, saved, table
from ule_jax.runs.results import Results
from ule_jax.two_stage.jtt import EmptyErrorSet

with epy.lazy_imports():  # jax takes seconds to import: estimators are made and described before it
  import jax
  from scipy import special

  from ule_jax import metrics
  from ule_jax.devices import runtime
  from ule_jax.models import build
  from ule_jax.runs import fingerprint, restore
  from ule_jax.train import programs, run

LIMIT = 2**31 - 1  # of seeds
VECTORS = ('linear', 'mlp')  # networks that take features


class MethodClassifier(ClassifierMixin, BaseEstimator):
  """A classifier that is trained by one of the methods; see the classes of `ule_jax.estimators`.

  Attributes after `fit`:
    `classes_`: labels in the order of the columns of `predict_proba`.
    `group_names_`: pairs of class and group of the data.
    `n_features_in_`: number of features, or of values of an image.
    `n_iter_`: steps that were trained.
    `results_`: as results.json of a run; its split `test` is the validation, as no test was given.
    `config_`: nested fields of the config that was run.
    `networks_`: `params` and `batch_stats` -> role -> arrays; the last role predicts.
    `shape_`: of one row of X.
    `seed_`: of the run.
  """

  method: ClassVar[str] = ''

  if TYPE_CHECKING:  # each class has its own, from its declarations
    model: str
    workdir: str | None
    random_state: Any

    def __init__(self, **parameters: Any) -> None: ...

  def fit(self, X, y, groups=None, sample_weight=None, X_val=None, y_val=None, groups_val=None):
    """Train, and select the checkpoint by validation.

    Args:
      X: features [n d], or uint8 images [n h w c].
      y: labels [n], of any type.
      groups: of each row, for example its background; the groups of the method are pairs of class and group. A missing
        one (None, NaN, '') is unknown.
      sample_weight: how often each row is drawn, relative to the others; rows of weight 0 are left out.
      X_val, y_val, groups_val: rows that select the checkpoint; None: `validation_share` of the rows, stratified.

    Returns:
      The estimator.

    Raises:
      ValueError: an argument or a parameter is not right, or a loss is not finite.
    """
    with _as_value_error():
      parameters.check(self.get_params())
    if y is not None:  # which is refused in the words that scikit-learn expects
      self._refuse_without_groups(groups)
    seed = _seed(self.random_state)
    given = rows.read(self, X, y, groups, sample_weight, (X_val, y_val, groups_val), seed)
    with _as_value_error():
      config = parameters.config_of(self.method, self.get_params(), seed, len(given.train.label))
      if given.train.x.ndim == 2 and self.model not in VECTORS:
        raise ValueError(f'model {self.model} takes images [n h w c], and X has features: choose linear or mlp.')
      if given.train.weight is not None and not parameters.draws_evenly(config):
        raise ValueError(
          f'{type(self).__name__} itself chooses how often rows are drawn, without sample_weight: leave it out.'
        )
      config = config.replace({'compilation_cache': _present_cache()})
      self._train(config, given)
    return self

  def _refuse_without_groups(self, groups: Any) -> None:
    if parameters.needs_groups(self.method) and (groups is None or rows.is_missing(np.asarray(groups, object)).all()):
      raise ValueError(f'{type(self).__name__} needs groups: give fit(X, y, groups), or take a method without them.')

  def _train(self, config: Config, given: rows.Given) -> None:
    """Run the config on rows, and keep its result."""
    self.classes_, self.group_names_, self.seed_ = given.classes, given.groups, config.seed
    self.shape_ = given.train.x.shape[1:]
    self.mean_, self.std_ = (np.zeros(0), np.ones(0)) if given.train.x.ndim == 4 else feature_statistics(given.train.x)
    current = fingerprint.Fingerprint(self._dataset(given))
    with contextlib.ExitStack() as stack:
      stack.enter_context(programs.shared())
      folder = self.workdir
      if folder is None:
        folder = f'{stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))}/run'
      path = Path(folder)
      try:
        results = run.run(config, path, current=current)
      except EmptyErrorSet as error:
        warnings.warn(f'rows are drawn evenly, as by ERM: {error}', UserWarning, stacklevel=4)
        config = parameters.without_first(config)
        results = run.run(config, path, current=current)
      model = restore.make_model(config.model, len(self.classes_))
      networks = restore.read_networks(path, model, self.shape_, results.roles, results.step)
    self.results_ = Results(json.loads(json.dumps(results)))  # as a file has them
    self.config_, self.networks_ = config.to_dict(), networks._asdict()
    self.scale_ = build.pixel_scale(config, current.dataset)
    self.n_iter_ = config.train.steps

  def _dataset(self, given: rows.Given) -> Dataset:
    """Return the data set of the rows; features are standardised here, so that fits share compiled functions."""
    val = given.val._replace(x=self._standardised(given.val.x))
    train = given.train._replace(x=self._standardised(given.train.x))
    names = tuple(str(label) for label in given.classes.tolist())
    splits = {'train': train, 'val': val, 'test': val}
    return from_rows(splits, names, given.groups, {'test': 'is val'}, standardise=False)

  def _standardised(self, x: np.ndarray) -> np.ndarray:
    """Return features with the mean 0 and the deviation 1 of the rows that were trained on; images as they are."""
    if x.ndim == 4:
      return x
    scaled = ((x - self.mean_) / self.std_).astype(np.float32)
    if not np.isfinite(scaled).all():
      raise ValueError('X has values too far from those of training for float32: scale it.')
    return scaled

  def logits(self, X) -> Float[np.ndarray, 'n k']:
    """Return the logits of the deployed network.

    Args:
      X: as in `fit`.

    Raises:
      NotFittedError: `fit` was not called.
      ValueError: X is not like that of training.
    """
    check_is_fitted(self)
    x = self._standardised(rows.images_or_features(self, X, reset=False))
    config = parameters.validate_config(self.config_)
    role = self.results_.roles[-1]
    variables = {part: networks[role] for part, networks in self.networks_.items()}
    size, outputs = config.train.eval_batch_size, []
    apply = _forward(restore.make_model(config.model, len(self.classes_)), self.scale_)
    for start in range(0, len(x), size):
      batch = x[start : start + size]
      padded = np.zeros((size, *batch.shape[1:]), batch.dtype)
      padded[: len(batch)] = batch
      outputs.append(np.asarray(apply(variables, padded), np.float64)[: len(batch)])
    return np.concatenate(outputs)

  def decision_function(self, X) -> Float[np.ndarray, 'n'] | Float[np.ndarray, 'n k']:
    """Return the logits; of two classes the difference of the second's and the first's."""
    logits = self.logits(X)
    return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

  def predict_proba(self, X) -> Float[np.ndarray, 'n k']:
    """Return the probability of each class, in the order of `classes_`."""
    return special.softmax(self.logits(X), axis=1)

  def predict(self, X) -> np.ndarray:
    """Return the label of each row."""
    best = self.logits(X).argmax(1)
    return self.classes_[best]

  def group_scores(self, X, y, groups) -> dict[str, Any]:
    """Return the accuracy of each pair of class and group, and the lowest.

    Args:
      X, y, groups: as in `fit`; rows without a group count in `accuracy` only.

    Returns:
      `accuracy`, `worst_group_accuracy` (None without groups), and `groups`: name -> `accuracy`, `count` and `interval`
      (95 %, Wilson).
    """
    y = rows.labels_of(y)
    right = self.predict(X) == y
    names, pair = rows.pairs(self.classes_, y, groups)
    by_group = {}
    for number, name in enumerate(names):
      hits = right[pair == number]
      interval = metrics.wilson(int(hits.sum()), len(hits))
      by_group[name] = {'accuracy': float(hits.mean()), 'count': len(hits), 'interval': interval}
    worst = min((score['accuracy'] for score in by_group.values()), default=None)
    return {'accuracy': float(right.mean()), 'worst_group_accuracy': worst, 'groups': by_group}

  def save(self, path: str | Path) -> None:
    """Write the fitted estimator as one .safetensors file, without a pickle; `load` reads it.

    Raises:
      ValueError: it cannot be written.
    """
    check_is_fitted(self)
    with _as_value_error():
      saved.write(self, Path(path))

  @classmethod
  def load(cls, path: str | Path):
    """Return the estimator of a file of `save`.

    Raises:
      ValueError: the file cannot be read, or is of another class.
    """
    with _as_value_error():
      return saved.read(cls, Path(path))

  def _html_repr(self) -> str:
    """Return scikit-learn's picture of the parameters, and below it the table of results."""
    return super()._html_repr() + (table.html(self) if hasattr(self, 'results_') else '')


@contextlib.contextmanager
def _as_value_error() -> Iterator[None]:
  """Convert the errors of users into the ValueError that scikit-learn's conventions want."""
  try:
    yield
  except UserError as error:
    raise ValueError(str(error)) from None


def _seed(random_state: Any) -> int:
  """Return the seed of a run; an integer is its own."""
  if isinstance(random_state, (int, np.integer)) and 0 <= random_state < LIMIT:
    return int(random_state)
  return int(check_random_state(random_state).randint(LIMIT))


def _present_cache() -> str:
  """Return jax's present folder of compiled programs, which a library leaves as it is."""
  return runtime.setting('jax_compilation_cache_dir') or 'off'


@functools.lru_cache(maxsize=16)
def _forward(model: Any, scale: tuple[tuple[float, ...], tuple[float, ...]]) -> Any:
  """Return the compiled function `(variables, x) -> logits`."""
  preprocess = build.make_preprocess(*scale)
  return jax.jit(lambda variables, x: model.apply(variables, preprocess(x), train=False)[0])
