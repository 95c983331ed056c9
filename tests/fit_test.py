"""Estimators on people's arrays: the command line's numbers, refusals, files, and scikit-learn's tools around them."""

from typing import Any

import jax
import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ule_jax
from ule_jax import estimators
from ule_jax.config import load_config
from ule_jax.devices.mesh import make_mesh
from ule_jax.errors import UserError
from ule_jax.estimators import parameters
from ule_jax.train import loop

SMALL = {'model': 'linear', 'min_steps': 10, 'epochs': 1, 'batch_size': 16, 'lr': 0.1, 'random_state': 0}


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  """One device, as most users of estimators have it: a step on eight virtual ones takes five times as long."""
  monkeypatch.setattr(loop, 'make_mesh', lambda: make_mesh(jax.devices()[:1]))


def rows(n=60, d=3):
  rng = np.random.default_rng(0)
  label, side = rng.integers(0, 2, n), rng.integers(0, 2, n)
  X = rng.normal(size=(n, d)) + label[:, None] * 2
  return X, np.array(['no', 'yes'])[label], np.array(['left', 'right'])[side]


@pytest.fixture(scope='module')
def fitted():
  """An estimator that was fitted on `rows()`: not to be changed."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, 'make_mesh', lambda: make_mesh(jax.devices()[:1]))
    X, y, groups = rows()
    return estimators.fit(X, y, 'erm', groups=groups, **SMALL)


def test_labels_and_columns_are_those_of_y(fitted):
  X, y, _ = rows()
  assert fitted.classes_.tolist() == ['no', 'yes']
  assert fitted.predict_proba(X).shape == (60, 2)
  np.testing.assert_array_equal(fitted.decision_function(X) > 0, fitted.predict(X) == 'yes')
  assert fitted.score(X, y) > 0.8


def test_group_scores_are_of_class_and_group(fitted):
  X, y, groups = rows()
  scores = fitted.group_scores(X, y, groups)
  assert [*scores['groups']] == ['no, left', 'no, right', 'yes, left', 'yes, right']
  assert sum(group['count'] for group in scores['groups'].values()) == 60
  right = (fitted.predict(X) == y)[(y == 'no') & (groups == 'left')]
  assert scores['groups']['no, left']['accuracy'] == pytest.approx(right.mean())
  assert scores['worst_group_accuracy'] == min(group['accuracy'] for group in scores['groups'].values())


def test_a_notebook_shows_parameters_and_results(fitted):
  html = fitted._repr_html_()
  assert 'sk-' in html
  assert '<th>worst group</th>' in html
  assert '<table>' not in estimators.ESTIMATORS['erm']()._html_repr()


def test_files_and_pickles_predict_the_same(fitted, tmp_path):
  X, _, _ = rows()
  fitted.save(tmp_path / 'model.safetensors')
  joblib.dump(fitted, tmp_path / 'model.joblib')
  for loaded in (estimators.load(tmp_path / 'model.safetensors'), joblib.load(tmp_path / 'model.joblib')):
    assert type(loaded) is type(fitted)
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    assert loaded.predict(X).tolist() == fitted.predict(X).tolist()
    assert loaded.results_.by_role == fitted.results_.by_role
    assert loaded._repr_html_()


@pytest.mark.parametrize('content', [b'', b'no safetensors'])
def test_a_file_that_is_no_estimator_is_refused(content, tmp_path):
  (tmp_path / 'x').write_bytes(content)
  with pytest.raises(ValueError, match='give a file that save wrote'):
    estimators.load(tmp_path / 'x')


def test_a_file_of_another_class_is_refused(fitted, tmp_path):
  fitted.save(tmp_path / 'x')
  with pytest.raises(ValueError, match='holds a ERMClassifier, and no LfFClassifier'):
    estimators.ESTIMATORS['lff'].load(tmp_path / 'x')


@pytest.mark.full
def test_it_works_in_scikit_learns_tools():
  X, y, _ = rows()
  search: Any = GridSearchCV(make_pipeline(StandardScaler(), estimators.ESTIMATORS['erm'](**SMALL)), {
    'ermclassifier__lr': np.array([0.05, 0.1])}, cv=2)  # fmt: skip
  search.fit(X, y)
  assert search.best_params_['ermclassifier__lr'] in (0.05, 0.1)
  assert search.best_score_ > 0.8


def test_options_of_the_method_are_parameters():
  for method, kind in estimators.ESTIMATORS.items():
    copy: Any = clone(kind(lr=0.5))
    assert copy.get_params()['lr'] == 0.5
    config = parameters.config_of(method, copy.get_params(), 3, 1000)
    assert config.optim.lr == 0.5
    assert config.seed == 3
  assert estimators.ESTIMATORS['ule'](weight=0.5).get_params()['weight'] == 0.5
  assert estimators.ESTIMATORS['afr']().get_params()['afr_lr'] == 0.01


@pytest.mark.full
def test_groups_that_a_first_run_infers_need_not_be_given():
  X, y, _ = rows()
  estimator = estimators.fit(X + np.arange(60)[:, None] % 7, y, 'eiil', **SMALL)
  assert estimator.results_['first']['prepare'] == 'eiil'


@pytest.mark.full
def test_images_of_any_network_are_fitted():
  rng = np.random.default_rng(0)
  y = rng.integers(0, 2, 40)
  X = (rng.integers(0, 60, (40, 4, 4, 1)) + 150 * y[:, None, None, None]).astype(np.uint8)
  estimator = estimators.fit(X, y, 'erm', **SMALL | {'model': 'cnn', 'width': 4, 'depth': 1})
  assert estimator.score(X, y) > 0.9
  with pytest.raises(ValueError, match='fitted on images of shape'):
    estimator.predict(np.zeros((2, 16)))
  with pytest.raises(ValueError, match=r'fitted on \(4, 4, 1\)'):
    estimator.predict(np.zeros((2, 5, 4, 1), np.uint8))


def test_a_first_run_without_mistakes_is_announced():
  X, y, _ = rows()
  with pytest.warns(UserWarning, match='rows are drawn evenly, as by ERM: the error set of JTT has 0'):
    estimator = estimators.fit(X + 20 * (y == 'yes')[:, None], y, 'jtt', **SMALL | {'min_steps': 100})
  assert estimator.score(X + 20 * (y == 'yes')[:, None], y) == 1


NAN, INF = np.nan, np.inf


def changed(X, row, value):
  X = X.copy()
  X[row, 1] = value
  return X


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (lambda X, y, g: {'X': changed(X, 7, NAN)}, 'X contains NaN in row 7, feature 1'),
    (lambda X, y, g: {'X': changed(X, 9, -INF)}, 'X contains inf in row 9, feature 1'),
    (lambda X, y, g: {'X': X[:, 0]}, 'Expected 2D array'),
    (lambda X, y, g: {'X': X[:, :, None]}, r'give features \[n d\], or images'),
    (lambda X, y, g: {'X': X[:, :, None, None]}, r'give features \[n d\], or images'),
    (lambda X, y, g: {'X': X[:-1]}, 'inconsistent numbers of samples'),
    (lambda X, y, g: {'X': np.array([['a', 'b']] * 60, object)}, 'could not convert string to float'),
    (lambda X, y, g: {'y': np.full(60, 'a')}, "more than one class, and all rows are of 'a'"),
    (lambda X, y, g: {'y': np.arange(60)}, r'as many classes \(60\) as rows'),
    (lambda X, y, g: {'y': [None if i == 5 else label for i, label in enumerate(y)]}, 'missing label in row 5'),
    (lambda X, y, g: {'y': np.where(np.arange(60) < 2, NAN, 1.0)}, 'in row 0 and 1 more'),
    (lambda X, y, g: {'y': np.linspace(0, 1, 60)}, 'Unknown label type'),
    (lambda X, y, g: {'y': None}, 'requires y to be passed'),
    (lambda X, y, g: {'groups': g[:-1]}, 'groups has 59 rows, and the data 60'),
    (lambda X, y, g: {'method': 'group_dro'}, 'GroupDROClassifier needs groups'),
    (lambda X, y, g: {'method': 'dfr'}, 'DFRClassifier needs groups'),
    (
      lambda X, y, g: {'method': 'group_dro', 'groups': np.where(np.arange(60) < 9, None, g)},
      'training examples have no group',
    ),
    (
      lambda X, y, g: {'method': 'rwy', 'sample_weight': np.arange(60) + 1.0},
      'RWYClassifier itself chooses how often rows are drawn',
    ),
    (lambda X, y, g: {'sample_weight': -np.ones(60)}, 'Negative values'),
    (lambda X, y, g: {'y_val': y}, 'without X_val'),
    (lambda X, y, g: {'X_val': X}, 'X_val without y_val'),
    (lambda X, y, g: {'X_val': X[:2], 'y_val': ['no', 'maybe']}, "label 'maybe' is no class of training"),
    (lambda X, y, g: {'X_val': X[:2, :2], 'y_val': y[:2]}, 'X has 2 features'),
    (lambda X, y, g: {'method': 'ulee'}, "unknown method 'ulee'"),
    (lambda X, y, g: {'wieght': 1}, "unknown parameter 'wieght'"),
    (lambda X, y, g: {'lr': -1.0}, 'lr is -1.0'),
    (lambda X, y, g: {'epochs': 'many'}, "epochs is 'many': it has to be of type float"),
    (lambda X, y, g: {'batch_size': 0}, 'batch_size is 0'),
    (lambda X, y, g: {'width': 3}, 'width is 3, and linear has no such option'),
    (lambda X, y, g: {'model': 'net'}, "unknown model 'net'"),
    (lambda X, y, g: {'model': 'cnn', 'depth': 1}, 'takes images'),
    (lambda X, y, g: {'select': 'val/best'}, "unknown selection rule 'val/best'"),
    (lambda X, y, g: {'config': {'optim.lrr': 1}}, 'there is no field optim.lrr'),
    (lambda X, y, g: {'config': {'model.encoder': 'frozen'}}, 'the estimator fixes'),
    (lambda X, y, g: {'validation_share': 2.0}, 'validation_share is 2.0'),
  ],
)
def test_bad_input_is_refused_in_one_sentence(change, words):
  X, y, groups = rows()
  arguments = {'X': X, 'y': y, 'method': 'erm', **SMALL} | change(X, y, groups)
  with pytest.raises(ValueError, match=words) as caught:
    estimators.fit(**arguments)
  assert caught.type is ValueError


@pytest.mark.full
def test_rows_without_a_group_are_trained_on():
  X, y, groups = rows()
  estimator = estimators.fit(X, y, 'erm', groups=[None] * 9 + groups[9:].tolist(), **SMALL)
  assert estimator.results_['val']['worst_group_accuracy'] is None
  assert estimator.group_names_ == ('no, left', 'no, right', 'yes, left', 'yes, right')


def test_rows_of_weight_0_are_left_out():
  X, y, _ = rows()
  kept = np.arange(60) % 3 > 0
  weighted = estimators.fit(X, y, 'erm', sample_weight=kept.astype(float), **SMALL)
  without = estimators.fit(X[kept], y[kept], 'erm', **SMALL)
  np.testing.assert_array_equal(weighted.predict_proba(X), without.predict_proba(X))


@pytest.mark.full
def test_weights_are_chances():
  """A class that is drawn 50 times as often is predicted more often."""
  X, y, _ = rows()
  near = X * 0.1
  often = [
    (estimators.fit(near, y, 'erm', sample_weight=np.where(y == 'yes', w, 1.0), **SMALL).predict(near) == 'yes').mean()
    for w in (0.02, 50.0)
  ]
  assert often[1] - often[0] > 0.3


def test_a_workdir_keeps_the_run(tmp_path):
  X, y, _ = rows()
  estimators.fit(X, y, 'erm', workdir=str(tmp_path / 'w'), **SMALL)
  assert (tmp_path / 'w' / 'done').exists()
  with pytest.raises(ValueError, match='holds a run with another config'):
    estimators.fit(X, y, 'erm', workdir=str(tmp_path / 'w'), **SMALL | {'lr': 0.2})


def test_no_command_can_name_arrays():
  config = load_config('digits:erm')
  fields = config.to_dict() | {'data': {'name': 'arrays'}}
  with pytest.raises(UserError, match=r'ule_jax\.fit'):
    ule_jax.run(fields, 'nowhere')
