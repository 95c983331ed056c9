"""Estimators in scikit-learn's conventions, one for each method: `ULEClassifier().fit(X, y).predict(X)`.

They are made from the declarations of METHODS, so that an option of a method is a parameter of its estimator.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from ule_jax.errors import unknown
from ule_jax.estimators import parameters
from ule_jax.estimators.base import MethodClassifier
from ule_jax.methods import METHODS

# method -> how its name is written in the name of a class
SPELLED = {
  'erm': 'ERM', 'ule': 'ULE', 'gradient_penalty': 'GradientPenalty', 'shuffled_student': 'ShuffledStudent',
  'group_dro': 'GroupDRO', 'lff': 'LfF', 'irm': 'IRM', 'vrex': 'VREx', 'coral': 'CORAL', 'mmd': 'MMD', 'mixup': 'Mixup',
  'lisa': 'LISA', 'rwg': 'RWG', 'rwy': 'RWY', 'subg': 'SUBG', 'suby': 'SUBY', 'jtt': 'JTT', 'spare': 'SPARE',
  'eiil': 'EIIL', 'cnc': 'CnC', 'dfr': 'DFR', 'afr': 'AFR',
}  # fmt: skip


def make_estimator(method: str) -> type[MethodClassifier]:
  """Return the estimator class of a method, with the method's options as parameters.

  Args:
    method: a name of METHODS.
  """
  signature = parameters.signature_of(method)

  def __init__(self, **given: Any) -> None:
    for name, value in signature.bind(self, **given).arguments.items():
      if name != 'self':
        setattr(self, name, value)
    for name, parameter in signature.parameters.items():
      if name not in given and name != 'self':
        setattr(self, name, parameter.default)

  __init__.__signature__ = signature  # type: ignore[attr-defined] of which get_params takes the names
  name = f'{SPELLED.get(method, method.title().replace("_", ""))}Classifier'
  __init__.__qualname__ = f'{name}.__init__'
  module = inspect.getmodule(METHODS[method].make)
  first = inspect.cleandoc((module.__doc__ if module else '') or '').partition('\n\n')[0]
  text = f'The method `{method}` as an estimator of scikit-learn. {first}\n\nArgs:\n{parameters.describe(method)}'
  content = {'__init__': __init__, '__doc__': text, '__module__': __name__, 'method': method}
  return type(name, (MethodClassifier,), content)


ESTIMATORS = {method: make_estimator(method) for method in METHODS}
CLASSES = tuple(kind.__name__ for kind in ESTIMATORS.values())
globals().update({kind.__name__: kind for kind in ESTIMATORS.values()})


def fit(X: Any, y: Any, method: str = 'ule', *, groups: Any = None, sample_weight: Any = None, **more: Any) -> Any:
  """Return a fitted estimator of a method.

  Args:
    X: features [n d], or uint8 images [n h w c].
    y: labels [n].
    method: a name of METHODS.
    groups, sample_weight: as in `MethodClassifier.fit`.
    more: `X_val`, `y_val` and `groups_val` of its `fit`, and parameters of the estimator.

  Raises:
    ValueError: an argument is not right.
  """
  if method not in ESTIMATORS:
    raise ValueError(str(unknown('method', method, ESTIMATORS)))
  of_fit = {name: more.pop(name) for name in ('X_val', 'y_val', 'groups_val') if name in more}
  kind = ESTIMATORS[method]
  known = list(parameters.signature_of(method).parameters)[1:]
  if strangers := sorted(more.keys() - set(known)):
    raise ValueError(str(unknown('parameter', strangers[0], known)))
  return kind(**more).fit(X, y, groups=groups, sample_weight=sample_weight, **of_fit)


def load(path: str | Path) -> Any:
  """Return the fitted estimator of a file that `save` wrote.

  Raises:
    ValueError: the file cannot be read.
  """
  return MethodClassifier.load(path)


__all__ = ['CLASSES', 'ESTIMATORS', 'MethodClassifier', 'fit', 'load', 'make_estimator', *CLASSES]  # pyright: ignore
