"""Estimators keep scikit-learn's conventions, and are the runs of the command line."""

import jax
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from ule_jax import estimators
from ule_jax.devices.mesh import make_mesh
from ule_jax.train import loop

# check -> the reason why it is expected to fail
UNEQUAL = {
  'check_sample_weight_equivalence_on_dense_data': 'rows are drawn by their weights, and a row of weight 2 is drawn as '
  'often as two rows in expectation only',
}


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  """One device, as most users of estimators have it: a step on eight virtual ones takes five times as long."""
  monkeypatch.setattr(loop, 'make_mesh', lambda: make_mesh(jax.devices()[:1]))


def small(method: str, **changes):
  return estimators.ESTIMATORS[method](min_steps=100, **changes)


@parametrize_with_checks([small('erm')], expected_failed_checks=lambda _: UNEQUAL)
def test_erm_conforms(estimator, check):
  check(estimator)


@pytest.mark.full
@parametrize_with_checks([small('ule')], expected_failed_checks=lambda _: UNEQUAL)
def test_ule_conforms(estimator, check):
  check(estimator)
