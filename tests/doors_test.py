"""The package's functions for finished runs, and its names."""

import importlib
import json
import pkgutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from common import KEY, SIZES, batch_of, network, options, sgd
from jax.tree_util import tree_map

import ule_jax
from ule_jax import data, estimators
from ule_jax.errors import UserError
from ule_jax.methods import METHODS
from ule_jax.train import programs
from ule_jax.train.step import create_state, make_train_step


def arrays_of(split):
  return np.stack([split.load(i) for i in range(split.count)]), split.label, split.group % 2


def test_it_is_the_run_of_the_command_line(ule_run):
  """The same images, options and seed: the same metrics of the validation split, and the same predictions."""
  config = json.loads((ule_run / 'config.json').read_text())
  dataset = data.load('digits', config['data'])
  X, y, side = arrays_of(dataset.splits['train'])
  X_val, y_val, side_val = arrays_of(dataset.splits['val'])
  chosen = {name: value for name, value in config['method'].items() if name not in ('name', 'at')}
  further = {'train.steps': 20, 'train.eval_every': 10, 'optim.schedule': 'cosine'}
  estimator = estimators.fit(
    X, y, 'ule', groups=side, X_val=X_val, y_val=y_val, groups_val=side_val, random_state=0, config=further,
    model=config['model']['name'], width=config['model']['width'], depth=config['model']['depth'],
    batch_size=config['train']['batch_size'], lr=config['optim']['lr'], **chosen,
  )  # fmt: skip
  recorded = json.loads((ule_run / 'results.json').read_text())
  assert estimator.results_.step == recorded['step']
  for role, entry in recorded['roles'].items():
    ours = estimator.results_.by_role[role]['val']
    for metric in ('accuracy', 'worst_class_accuracy', 'worst_group_accuracy', 'mistake_balanced_accuracy'):
      assert ours[metric] == pytest.approx(entry['val'][metric], abs=1e-9), (role, metric)
    counts = [group['count'] for group in ours['groups'].values()]
    assert counts == [group['count'] for group in entry['val']['groups'].values()]
  with np.load(ule_run / 'predictions' / 'val.npz') as predictions:
    np.testing.assert_allclose(estimator.logits(X_val), predictions['logits_teacher'], atol=2e-5)


def test_a_loaded_run_predicts_as_it_was_recorded(ule_run):
  run = ule_jax.load_run(ule_run)
  dataset = run.dataset('test')
  images = np.stack([dataset.splits['test'].load(i) for i in range(20)])
  recorded = np.load(ule_run / 'predictions' / 'test.npz')
  np.testing.assert_allclose(run.teacher(images), recorded['logits_teacher'][:20], atol=1e-5)
  np.testing.assert_allclose(run.student(images), recorded['logits_student'][:20], atol=1e-5)
  predictions = run.predict(images)
  assert predictions.labels == [run.results.classes[k] for k in recorded['logits_teacher'][:20].argmax(1)]
  np.testing.assert_allclose(predictions.probabilities.sum(1), 1, atol=1e-5)
  assert run.config.method.name == run.results.method == 'ule'


def test_a_loaded_run_predicts_files(ule_run, tmp_path):
  from PIL import Image

  run = ule_jax.load_run(ule_run)
  images = np.stack([run.dataset('test').splits['test'].load(i) for i in range(3)])
  for i, image in enumerate(images):
    Image.fromarray(image).save(tmp_path / f'{i}.png')
  predictions = run.predict(tmp_path)
  assert predictions.names == ['0.png', '1.png', '2.png']
  np.testing.assert_allclose(predictions.probabilities, run.predict(images).probabilities, atol=1e-5)


def test_a_loaded_run_has_the_saliency_of_evaluate(ule_run):
  arrays = ule_jax.load_run(ule_run).saliency('test', 3)
  with np.load(ule_run / 'saliency' / 'test.npz') as recorded:
    assert {*recorded.files} == {*arrays}
    np.testing.assert_array_equal(arrays['index'], recorded['index'])
    np.testing.assert_allclose(arrays['saliency_teacher'], recorded['saliency_teacher'], atol=2e-3)


def test_inputs_of_another_shape_are_refused(ule_run):
  run = ule_jax.load_run(ule_run)
  for wrong in (np.zeros((2, 3, 3, 3), np.uint8), np.zeros((0, 16, 16, 3), np.uint8), np.zeros((2, 16, 16, 3))):
    with pytest.raises(UserError, match='takes uint8 of shape'):
      run.predict(wrong)


def test_a_folder_without_a_run_is_refused(tmp_path):
  with pytest.raises(UserError, match='holds no run'):
    ule_jax.load_run(tmp_path)


def test_a_method_of_one_network_has_no_student(ule_run, monkeypatch):
  run = ule_jax.load_run(ule_run)
  monkeypatch.setitem(run.results, 'roles', {'model': {}})
  with pytest.raises(UserError, match='trains no student'):
    _ = run.student


def test_run_is_a_function_and_keeps_the_results(tmp_path):
  fields = {'train.steps': 2, 'data.crops': 1, 'model.width': 4}
  results = ule_jax.run(ule_jax.load_config('digits:erm', fields), tmp_path / 'w')
  assert ule_jax.load_run(tmp_path / 'w').results == json.loads(json.dumps(results))


def modules():
  return [module.name for module in pkgutil.iter_modules(ule_jax.__path__)]


def test_no_function_has_the_name_of_a_module():
  for name, module in ule_jax._PUBLIC.items():
    assert name not in modules() or module == name, name


@pytest.mark.full
@pytest.mark.parametrize('first', ['names', 'modules'])
def test_names_are_the_same_in_both_orders_of_imports(first):
  """In a process of its own for each order, with the modules that need no device."""
  names = f'[getattr(ule_jax, name) for name in {[*ule_jax._PUBLIC]}]'
  submodules = [name for name in modules() if name not in ('main', 'configs')]
  imports = f'[importlib.import_module("ule_jax." + name) for name in {submodules}]'
  order = (names, imports) if first == 'names' else (imports, names)
  check = 'assert callable(ule_jax.fit) and callable(ule_jax.run) and callable(ule_jax.load_run)'
  code = '; '.join(['import importlib, ule_jax', *order, check])
  subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.full
@pytest.mark.parametrize('name', METHODS)
def test_steps_depend_on_the_number_of_examples_as_declared(name):
  """Runs of other numbers of rows share a step, but for the methods of COUNTS."""
  texts = []
  for n in (100, 130):
    method, model, batch = METHODS[name].make(options(name), SIZES._replace(n=n)), network('mlp'), batch_of()
    state = create_state(method, model, sgd(0.1), batch.image[:1], KEY)
    step = jax.make_jaxpr(make_train_step(method, model, sgd(0.1), KEY))
    texts.append(str(step(state, tree_map(np.asarray, batch))))
  assert (texts[0] != texts[1]) == (name in programs.COUNTS)


def test_all_public_names_load():
  for name in ule_jax.__all__:
    assert getattr(ule_jax, name) is not None
  assert importlib.import_module('ule_jax.estimators') is ule_jax.estimators
