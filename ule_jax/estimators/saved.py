"""A fitted estimator as one file: arrays by name, and everything else as JSON in the file's metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ule_jax import estimators
from ule_jax.errors import UserError, unknown
from ule_jax.estimators import parameters
from ule_jax.runs.files import write_atomic
from ule_jax.runs.results import Results

KEY = 'ule_jax_estimator'
PLAIN = ('group_names_', 'n_features_in_', 'n_iter_', 'results_', 'config_', 'shape_', 'scale_', 'seed_')
ARRAYS = ('mean_', 'std_')


def write(estimator: Any, path: Path) -> None:
  """Write a fitted estimator, as a whole or not at all.

  Raises:
    UserError: the labels are of a type that JSON has not, or the file cannot be written.
  """
  from flax import traverse_util
  from safetensors.numpy import save

  networks = traverse_util.flatten_dict(estimator.networks_, sep='/')
  arrays = {f'networks/{name}': np.asarray(value) for name, value in networks.items()}
  arrays |= {name: getattr(estimator, name) for name in ARRAYS}
  about = {name: getattr(estimator, name) for name in PLAIN}
  given = {name: parameters.plain(value) for name, value in estimator.get_params().items()}
  about |= {
    'class': type(estimator).__name__,
    'parameters': given | {'random_state': estimator.seed_},
    'classes_': estimator.classes_.tolist(),
    'labels': 'object' if estimator.classes_.dtype == object else estimator.classes_.dtype.str,
    'feature_names_in_': getattr(estimator, 'feature_names_in_', np.array([])).tolist(),
  }
  try:
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {KEY: json.dumps(about)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomic(path) as file:
      file.write(content)
  except (OSError, TypeError) as error:
    raise UserError(f'{path} cannot be written ({error}): choose another path, or labels that are text.') from None


def read(kind: type, path: Path) -> Any:
  """Return the fitted estimator of a file.

  Args:
    kind: its class, or a base of it.

  Raises:
    UserError: the file is missing or damaged, or of another class.
  """
  from flax import traverse_util
  from safetensors import SafetensorError, safe_open

  try:
    with safe_open(path, framework='numpy') as file:
      about = json.loads((file.metadata() or {}).get(KEY, 'null'))
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no mapping
  except (OSError, SafetensorError, ValueError) as error:
    raise UserError(f'{path} cannot be read ({error}): give a file that save wrote.') from None
  if not isinstance(about, dict):
    raise UserError(f'{path} holds no estimator: give a file that save wrote.')
  known = {name: getattr(estimators, name) for name in estimators.CLASSES}
  if about['class'] not in known:
    raise unknown('estimator', about['class'], known)
  if not issubclass(known[about['class']], kind):
    raise UserError(f'{path} holds a {about["class"]}, and no {kind.__name__}: load it by its own class.')
  values = {name: tuple(value) if isinstance(value, list) else value for name, value in about['parameters'].items()}
  estimator = known[about['class']](**values)
  for name in PLAIN:
    setattr(estimator, name, about[name])
  for name in ARRAYS:
    setattr(estimator, name, arrays.pop(name))
  estimator.classes_ = np.array(about['classes_'], np.dtype(about['labels']))
  if about['feature_names_in_']:
    estimator.feature_names_in_ = np.array(about['feature_names_in_'], object)
  estimator.shape_, estimator.group_names_ = tuple(estimator.shape_), tuple(estimator.group_names_)
  estimator.scale_ = tuple(tuple(part) for part in estimator.scale_)
  estimator.results_ = Results(estimator.results_)
  networks = traverse_util.unflatten_dict({tuple(name.split('/')[1:]): value for name, value in arrays.items()})
  estimator.networks_ = {
    part: networks.get(part, {role: {} for role in estimator.results_.roles}) for part in ('params', 'batch_stats')
  }
  return estimator
