"""Guards of a step and an evaluation: a network that is no longer finite is never scored, saved or done."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import KEY, SIZES, adam, batch_of, from_flags, method_of, network, setup
from PIL import Image

from configs import base
from ule_jax.deploy.predict import predict, reader
from ule_jax.devices.mesh import make_mesh
from ule_jax.errors import UserError
from ule_jax.methods import METHODS
from ule_jax.optim import make_optimizer
from ule_jax.runs.restore import restore
from ule_jax.sweep import loop, population
from ule_jax.sweep.axes import parse_axes
from ule_jax.sweep.run import run as sweep_run
from ule_jax.train import loop as train_loop
from ule_jax.train.evaluate import evaluate, make_eval_step
from ule_jax.train.run import run as train_run
from ule_jax.train.step import is_finite

SHORT = ['--config.data.crops=1', '--config.train.eval_every=2', '--config.train.log_every=1', '--config.model.width=8']
SGD = ['--config.optim.name=sgd', '--config.optim.schedule=constant']
DEEP = ['--config.model.depth=4', '--config.optim.lr=1e18']  # each layer is finite, and their product is not


def config_of(method, *changes):
  return from_flags(f'digits:{method}', *SHORT, *changes)


def optimizer(**changes):
  options = base.make('digits', 'erm').optim.to_dict() | {'name': 'sgd', 'schedule': 'constant'} | changes
  return make_optimizer(SimpleNamespace(**options), ('model',), 10)


def scaled(factor):
  """ERM whose loss, and so its gradient, is multiplied; the loss that it reports is not."""
  erm = method_of('erm')

  def loss(step):
    value, aux = erm.loss(step)
    return factor * value, aux

  return erm._replace(loss=loss)


# What each optimiser makes of it: an infinite update; 0, as the square of the gradient overflows; 0, as its norm does;
# 0 times a gradient whose square overflows; and nothing unusual.
@pytest.mark.parametrize(
  ('tx', 'factor', 'bad'),
  [
    (optimizer(lr=1e38), 1.0, True),
    (optimizer(name='adam', lr=1e-3), 1e25, True),
    (optimizer(clip=1.0, lr=1e-3), 1e25, True),
    (optimizer(lr=0.0), 1e25, True),
    (optimizer(lr=1e-3, warmup_steps=5), 1e25, True),
    (optimizer(lr=1e-3), float('inf'), True),
    (optimizer(lr=1e-3), float('nan'), True),
    (adam(1e-3), 1e25, True),
    (optimizer(lr=1e-3, clip=1.0), 1e15, False),
  ],
)
@pytest.mark.parametrize('accumulate', [1, 2])
def test_a_step_that_is_not_finite_is_seen_whatever_the_optimiser_makes_of_it(tx, factor, bad, accumulate):
  batch = batch_of()
  state, step = setup(scaled(factor), network(), batch, tx, accumulate=accumulate)
  state, metrics = jax.jit(step)(state, batch)
  assert np.isfinite(metrics['loss/model'])
  assert int(state.bad_step['model']) == (0 if bad else -1)
  state, _ = jax.jit(step)(state, batch)
  if bad:
    assert int(state.bad_step['model']) == 0  # the first one is kept


@pytest.mark.parametrize('place', range(4))
@pytest.mark.parametrize('value', [np.inf, -np.inf, np.nan])
def test_each_part_of_a_step_is_looked_at(place, value):
  """Statistics too: a variance that overflows makes an output of 0, and a loss that is finite."""
  fine = [jnp.zeros(()), {'a': jnp.ones(3), 'b': None}, {'a': jnp.ones(3)}, {'norm': {'var': jnp.full(2, 1e30)}}]
  assert is_finite(*fine)
  fine[place] = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(value), fine[place])
  assert not is_finite(*fine)
  assert is_finite(jnp.zeros(()), {}, {}, {})


@pytest.mark.full
def test_what_is_not_trained_costs_no_backward_pass(optimized):
  """With the head alone, a third is left: the forward pass."""
  batch = batch_of(8, size=32)

  def flops(pattern, **settings):
    tx = optimizer(name='adamw', trainable=pattern)
    state, step = setup(method_of('erm'), network('resnet20', batch_norm='frozen'), batch, tx, **settings)
    compiled = jax.jit(step, compiler_options=optimized).lower(state, batch).compile()
    cost = compiled.cost_analysis()
    assert cost is not None
    return cost['flops']

  whole, head = flops('.*'), flops('^head', trainable='^head')
  assert head < 0.35 * whole
  assert flops('^head', trainable='^head', accumulate=2) < 0.36 * whole
  assert flops('^head') > 0.9 * whole  # where the step is not told, it looks at every gradient


@pytest.mark.parametrize('place', [train_loop, population])
def test_the_step_of_a_run_is_told_what_is_trained(place, tmp_path, monkeypatch):
  class Stop(Exception):
    pass

  def make_train_step(*given):
    raise Stop(given[-1])

  monkeypatch.setattr(place, 'make_train_step', make_train_step)
  config = config_of('erm', '--config.optim.trainable=^head', '--config.train.steps=1')
  start = (
    train_run if place is train_loop else lambda config, path: sweep_run(config, parse_axes(config, ['seed=0,1']), path)
  )
  with pytest.raises(Stop, match=r'^\^head'):
    start(config, tmp_path / 'w')


@pytest.mark.parametrize('steps', [1, 3])
def test_a_rate_that_makes_one_infinite_update_does_not_end_as_done(steps, tmp_path):
  changes = [*SGD, '--config.optim.lr=1e38', f'--config.train.steps={steps}']
  with pytest.raises(UserError, match=r'the update of model is not finite at step 0; there is no good checkpoint'):
    train_run(config_of('erm', *changes), tmp_path / 'w')
  assert not (tmp_path / 'w' / 'done').exists()
  assert not [p for p in (tmp_path / 'w' / 'checkpoints').iterdir() if p.name.isdecimal()]


@pytest.mark.parametrize('method', ['erm', 'ule'])
def test_logits_that_are_not_finite_are_no_result(method, tmp_path):
  """Every step is finite, and the product of the layers is not."""
  changes = [*SGD, *DEEP, '--config.train.steps=1']
  message = r'the logits of \w+ are not finite for [\d,]+ examples of val at step 1: lower optim.lr'
  with pytest.raises(UserError, match=message):
    train_run(config_of(method, *changes), tmp_path / 'w')
  assert not (tmp_path / 'w' / 'done').exists()
  assert not [p for p in (tmp_path / 'w' / 'checkpoints').iterdir() if p.name.isdecimal()]
  assert 'val/accuracy' not in (tmp_path / 'w' / 'metrics.jsonl').read_text()


def test_evaluation_refuses_one_logit_and_not_padding():
  mesh, batch = make_mesh(), batch_of(16)
  model = network()
  variables = model.init(KEY, batch.image[:1], train=False)
  step = make_eval_step(model, lambda x: x, ('model',), 4, mesh)
  state = SimpleNamespace(params={'model': variables['params']}, batch_stats={'model': {}})

  def of(weight):
    image = np.array(batch.image)
    image[3] = np.nan
    arrays = batch._replace(image=image, weight=np.array([1, 1, 1, weight] + [1] * 12, np.float32))
    return evaluate(step, state, [jax.tree.map(np.asarray, arrays._asdict())], mesh, False, 'test at step 7')

  with pytest.raises(UserError, match='the logits of model are not finite for 1 examples of test at step 7'):
    of(1)
  assert of(0).counts['model'].total.sum() == 15


def test_members_of_a_sweep_are_refused_one_by_one(tmp_path):
  changes = [*SGD, *DEEP, '--config.train.steps=2', '--config.train.batch_size=32', '--config.train.eval_every=1']
  config = config_of('erm', *changes)
  results = sweep_run(config, parse_axes(config, ['optim.lr=0.01,1e18,1e38']), tmp_path / 'w')
  assert set(results['failed']) == {'optim.lr=1e+18', 'optim.lr=1e+38'}
  assert results['failed']['optim.lr=1e+18'].endswith('a logit of model is not finite at step 1')
  assert {pick['setting'] for pick in results['picked'].values()} == {'optim.lr=0.01'}
  for name in results['failed']:
    assert not (tmp_path / 'w' / name / 'done').exists()
    assert 'val/accuracy' not in (tmp_path / 'w' / name / 'metrics.jsonl').read_text()
  assert (tmp_path / 'w' / 'optim.lr=0.01' / 'done').exists()
  with pytest.raises(UserError, match=r'no member is finite; optim.lr=1e\+18: .* not finite at step \d'):
    sweep_run(config, parse_axes(config, ['optim.lr=1e18,1e38']), tmp_path / 'v')
  assert not (tmp_path / 'v' / 'sweep.json').exists()


def test_a_member_that_breaks_on_a_split_that_selects_nothing_is_named(tmp_path, monkeypatch):
  config = config_of('erm', '--config.train.steps=2', '--config.train.batch_size=32')
  original = loop.Sweep.counts

  def counts(self, networks, split):
    found = original(self, networks, split)
    if split == 'test':
      found['model'].broken[1, 0] = 3
    return found

  monkeypatch.setattr(loop.Sweep, 'counts', counts)
  monkeypatch.setattr(jax, 'device_get', lambda tree, get=jax.device_get: jax.tree.map(np.array, get(tree)))
  results = sweep_run(config, parse_axes(config, ['seed=0,1']), tmp_path / 'w')
  assert results['failed'] == {'seed=1': 'the logits of model are not finite for 3 examples of test at step 2'}
  said = json.loads((tmp_path / 'w' / 'seed=1' / 'results.json').read_text())
  assert said['failed'] == results['failed']['seed=1']


def test_a_prediction_that_is_no_number_is_none(ule_run, tmp_path):
  run = restore(ule_run)
  Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(tmp_path / 'a.png')
  look = reader(tmp_path, run.input_spec.decoding, older=False)
  assert len(list(predict(run, look, ['a.png']))) == 1
  params = jax.tree.map(lambda leaf: leaf * 1e30, run.networks.params)
  broken = dataclasses.replace(run, networks=run.networks._replace(params=params))
  with pytest.raises(UserError, match=r'the logits of teacher are not finite for a\.png'):
    list(predict(broken, look, ['a.png']))


def test_all_methods_report_the_roles_of_their_updates():
  """The guard looks up each role in losses, gradients, updates and statistics."""
  batch = batch_of()
  for name in METHODS:
    method = METHODS[name].make(METHODS[name].options(), SIZES)
    state, step = setup(method, network('mlp'), batch)
    after = jax.eval_shape(step, state, batch)[0]
    assert set(after.bad_step) == set(method.roles)
    assert all(leaf.dtype == jnp.int32 for leaf in after.bad_step.values())
