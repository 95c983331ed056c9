"""Every estimator keeps scikit-learn's conventions."""

import jax
import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from ule_jax import estimators
from ule_jax.devices.mesh import make_mesh
from ule_jax.estimators import parameters
from ule_jax.train import loop

# check -> the reason why it is expected to fail
UNEQUAL = {
  'check_sample_weight_equivalence_on_dense_data': 'rows are drawn by their weights: one of weight 2 is drawn as often '
  'as two rows in expectation only',
}
EXPECTED = {'erm': UNEQUAL, 'ule': UNEQUAL, 'lff': UNEQUAL, 'jtt': UNEQUAL}
QUICK = set()


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  """One device, as most users of estimators have it: a step on eight virtual ones takes five times as long."""
  monkeypatch.setattr(loop, 'make_mesh', lambda: make_mesh(jax.devices()[:1]))


def with_groups(kind):
  """The class of an estimator whose `fit` gets groups where a check gives none."""

  class WithGroups(kind):
    def fit(self, X, y, groups=None, sample_weight=None, **more):
      if groups is None and y is not None:
        groups = [i % 2 for i in range(len(y))]
      return super().fit(X, y, groups, sample_weight, **more)

  WithGroups.__name__ = kind.__name__
  return WithGroups


def checks():
  for method, kind in estimators.ESTIMATORS.items():
    kind = with_groups(kind) if parameters.needs_groups(method) else kind
    estimator = kind(model='linear', lr=0.05, min_steps=40, batch_size=32)
    for subject, check in estimator_checks_generator(estimator):
      name = getattr(check, 'func', check).__name__
      is_quick = method in ('erm', 'ule') and name in QUICK
      marks = [] if is_quick else [pytest.mark.full if method in EXPECTED else pytest.mark.slow]
      if name in EXPECTED.get(method, UNEQUAL):
        marks.append(pytest.mark.xfail(strict=True, reason=EXPECTED.get(method, UNEQUAL)[name]))
      yield pytest.param(subject, check, marks=marks, id=f'{method}-{name}')


@pytest.mark.parametrize(('estimator', 'check'), list(checks()))
def test_it_conforms(estimator, check):
  check(estimator)
