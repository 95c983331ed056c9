"""Populations: every member is its single run, one graph, and what a sweep leaves behind."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from common import SIZES, batch_of, from_flags, leaves_equal, network, setup

from configs import base
from ule_jax.cli import app, tables
from ule_jax.errors import Interrupted, UserError
from ule_jax.methods import METHODS
from ule_jax.report import runs
from ule_jax.report.series import gather
from ule_jax.runs.recorded import read_run
from ule_jax.runs.restore import restore
from ule_jax.sweep import population
from ule_jax.sweep.axes import describe, expand, parse_axes
from ule_jax.sweep.compare import compare
from ule_jax.sweep.run import run as sweep_run
from ule_jax.train.run import run as train_run

SMALL = ['--config.data.crops=1', '--config.model.width=8', '--config.train.batch_size=32', '--config.loader.threads=0']
BREAKABLE = ['method.term=project', 'method.weight=30.0', 'method.trust_exponent=0']
SHORT = ['--config.train.steps=7', '--config.train.eval_every=3', '--config.train.log_every=2']


def config_of(spec, *changes):
  return from_flags(spec, *(f'--config.{change}' for change in changes))


def small(method, *changes):
  return from_flags(f'digits:{method}', *SMALL, *SHORT, *(f'--config.{c}' for c in changes))


def go(config, directory, *axes):
  return sweep_run(config, parse_axes(config, axes), directory)


def same_run(member, single):
  """All that was trained and measured agrees; both folders are restored as any finished run is."""
  a, b = restore(member), restore(single)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-6), a.networks, b.networks)
  assert a.config.to_dict() == b.config.to_dict()
  assert json.dumps(a.results) == json.dumps(b.results)
  logs = [[json.loads(line) for line in (d / 'metrics.jsonl').read_text().splitlines()] for d in (member, single)]
  for mine, theirs in zip(*logs, strict=True):
    theirs.pop('train/examples_per_second', None)
    assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-6)


@pytest.fixture(scope='module')
def with_a_failure(tmp_path_factory):
  """A sweep of which one weight breaks; the other is the config's."""
  directory = tmp_path_factory.mktemp('sweep') / 'w'
  return directory, go(small('ule', *BREAKABLE), directory, 'method.weight=30,1e38', 'seed=0,1')


def test_a_member_of_ule_is_its_single_run_whatever_happens_to_the_others(with_a_failure, tmp_path):
  directory, _ = with_a_failure
  train_run(small('ule', *BREAKABLE, 'seed=1'), tmp_path / 'one')
  same_run(directory / 'method.weight=30,seed=1', tmp_path / 'one')


def test_a_member_that_is_not_finite_is_named_and_the_others_go_on(with_a_failure):
  directory, results = with_a_failure
  bad = directory / 'method.weight=1e+38,seed=1'
  assert set(results['failed']) == {f'method.weight=1e+38,seed={s}' for s in (0, 1)}
  said = json.loads((bad / 'results.json').read_text())['failed']
  assert said == 'the loss, the gradient, the update or a logit of teacher is not finite at step 0'
  assert not (bad / 'done').exists()
  assert 'val/accuracy' not in (bad / 'metrics.jsonl').read_text()  # its networks are worth nothing
  first, second = results['settings']
  assert (first['seeds'], first['failed']) == ([0, 1], [])
  assert (second['seeds'], second['last']) == ([], {})
  assert {pick['setting'] for pick in results['picked'].values()} == {'method.weight=30'}
  text = tables.sweep_tables(results)
  assert f'failed: method.weight=1e+38,seed=1: {said}' in text


def test_the_numbers_of_the_table_are_those_of_the_members(with_a_failure):
  directory, results = with_a_failure
  members = [json.loads((directory / f'method.weight=30,seed={s}' / 'results.json').read_text()) for s in (0, 1)]
  row = results['settings'][0]
  rule = 'val_balanced/worst_group_accuracy'
  for metric in ('accuracy', 'worst_group_accuracy'):
    found = [m['selected'][rule]['test'][metric] for m in members]
    assert row['selected'][rule]['test'][metric] == {
      'mean': pytest.approx(np.mean(found)), 'sd': pytest.approx(np.std(found, ddof=1)), 'n': 2
    }  # fmt: skip
    found = [m['last']['test'][metric] for m in members]
    assert row['last']['test'][metric]['mean'] == pytest.approx(np.mean(found))
  assert members[0]['test'] != members[1]['test']
  worst = row['last']['test']['worst_group_accuracy']
  assert f'{100 * worst["mean"]:.1f} ± {100 * worst["sd"]:.1f}' in tables.sweep_tables(results)


def test_a_rule_picks_the_setting_that_is_best_on_validation():
  def entry(val, test):
    return {'step': 1, 'val': {'accuracy': val}, 'test': {'accuracy': test}}

  config = small('erm')
  members = expand(config, {'optim.lr': [0.1, 0.2], 'seed': [0, 1]})
  results = {
    m.name: {'last': entry(0.0, 0.0), 'selected': {'val/accuracy': entry(*values)}}
    for m, values in zip(members, [(0.5, 0.9), (0.6, 0.1), (0.7, 0.9), (0.8, 0.3)], strict=True)
  }
  found = compare(members, results, {})['picked']['val/accuracy']
  assert found['setting'] == 'optim.lr=0.2'
  assert found['val']['accuracy']['mean'] == pytest.approx(0.7)
  assert found['test']['accuracy'] == {'mean': pytest.approx(0.2), 'sd': pytest.approx(0.02**0.5), 'n': 2}


def test_the_report_reads_the_members(with_a_failure):
  directory, _ = with_a_failure
  found = runs.find([directory])
  assert [run.name for run in found.runs] == ['method.weight=30,seed=0', 'method.weight=30,seed=1']
  assert len(found.unfinished) == 2
  ((series,), _) = gather(found.runs)
  assert [run.seed for run in series.runs] == [0, 1]


def test_erm_with_its_own_rate_clip_decay_and_batches(tmp_path):
  changes = ['optim.warmup_steps=2', 'optim.name=adamw']
  axes = ['optim.lr=0.001,0.02', 'optim.clip=0,0.5', 'optim.weight_decay=0.1,0.3', 'seed=3,4']
  go(small('erm', *changes), tmp_path / 's', *axes)
  for lr, clip, decay, seed in ((0.02, 0.5, 0.3, 4), (0.02, 0, 0.1, 3)):
    values = [f'optim.lr={lr}', f'optim.clip={clip}', f'optim.weight_decay={decay}', f'seed={seed}']
    train_run(small('erm', *changes, *values), tmp_path / f'{seed}')
    same_run(tmp_path / 's' / ','.join(values), tmp_path / f'{seed}')


def test_gradient_penalty_with_a_student(tmp_path):
  axes = 'method.weight=0,0.3', 'method.q=0.2,0.5', 'method.student_noise=0.5,2', 'method.trust_exponent=0,0.5'
  sgd = 'optim.name=sgd', 'optim.lr=0.05'  # Adam would divide a slope that is nothing but rounding by itself
  go(small('gradient_penalty', *sgd), tmp_path / 's', *axes)
  values = ['method.weight=0.3', 'method.q=0.5', 'method.student_noise=2', 'method.trust_exponent=0.5']
  train_run(small('gradient_penalty', *sgd, *values), tmp_path / 'one')
  same_run(tmp_path / 's' / ','.join(values), tmp_path / 'one')
  # a weight of 0 is traced here, and leaves the term out there; so is a hold_back of 0, with the trust
  values = ['method.weight=0', 'method.q=0.2', 'method.student_noise=0.5', 'method.trust_exponent=0']
  train_run(small('gradient_penalty', *sgd, *values), tmp_path / 'none')
  a, b = restore(tmp_path / 's' / ','.join(values)), restore(tmp_path / 'none')
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-6), a.networks, b.networks)


def test_heads_on_frozen_features(frozen_run, tmp_path):
  config = read_run(frozen_run)[0].replace({'model.feature_cache': str(frozen_run.parent / 'cache')})
  weight = config.to_dict()['method']['weight']
  go(config, tmp_path / 's', f'method.weight={weight},100', 'seed=0,1')
  same_run(tmp_path / 's' / f'{describe({"method.weight": weight, "seed": 0})}', frozen_run)


def test_an_interrupted_sweep_ends_with_the_same_bits_and_compiles_once(tmp_path, monkeypatch):
  axes = 'optim.lr=0.001,0.01', 'seed=0,1'
  config, traces = small('erm'), []
  original, drawn = population.make_train_step, population.make_order
  monkeypatch.setattr(population, 'make_train_step', lambda *a: traces.append(1) or original(*a))
  go(config, tmp_path / 'whole', *axes)
  assert len(traces) == 1  # pieces of one and of two steps

  def make_order(*args):
    order = drawn(*args)

    def interrupted(first, *rest):
      if first == 4:
        os.kill(os.getpid(), signal.SIGTERM)
      return order(first, *rest)

    return interrupted

  monkeypatch.setattr(population, 'make_order', make_order)
  with pytest.raises(Interrupted, match='SIGTERM at step 4 of 7; resumable'):
    go(config, tmp_path / 'w', *axes)
  assert not (tmp_path / 'w' / 'sweep.json').exists()
  monkeypatch.setattr(population, 'make_order', drawn)
  go(config, tmp_path / 'w', *axes)
  whole, parts = tmp_path / 'whole', tmp_path / 'w'
  assert (parts / 'sweep.json').read_text() == (whole / 'sweep.json').read_text()
  for member in json.loads((whole / 'sweep.json').read_text())['members']:
    assert (parts / member / 'results.json').read_text() == (whole / member / 'results.json').read_text()
    assert (parts / member / 'metrics.jsonl').read_text() == (whole / member / 'metrics.jsonl').read_text()
    assert leaves_equal(restore(parts / member).networks, restore(whole / member).networks)
  monkeypatch.setattr(population, 'load', None)  # nothing is left to do
  assert go(config, parts, *axes) == json.loads((whole / 'sweep.json').read_text())
  with pytest.raises(UserError, match=r'these fields differ: axes.optim.lr'):
    go(config, parts, 'optim.lr=0.001,0.02', 'seed=0,1')


@pytest.mark.parametrize(
  ('axes', 'message'),
  [
    ([], r'give at least one axis'),
    (
      ['method.term=project,cosine'],
      r'^method.term cannot be an axis: .* differ in seed, optim.lr, .*method.weight',
    ),
    (['train.steps=1,2'], r'^train.steps cannot be an axis'),
    (['train.batch_size=32,64'], r'^train.batch_size cannot be an axis'),
    (['method.warmup_steps=0,10'], r'^method.warmup_steps cannot be an axis'),
    (['model.dropout=0,0.5'], r'^model.dropout cannot be an axis'),
    (['method.wieght=1,2'], r"unknown field of --axis 'method.wieght': did you mean 'method.weight'"),
    (['seed=0,1', 'seed=2'], r'two axes of seed'),
    (['seed=0,x'], r'--axis=seed=0,x: write numbers'),
    (['seed=0.5'], r'--axis=seed=0.5: write numbers'),
    (['method.weight'], r'write numbers, as in --axis=method.weight=1,2,3'),
    (['seed=1,1'], r'--axis=seed=1,1 has a value twice'),
    (['method.weight=1,-1'], r'method.weight is -1.0: give a number from 0 on'),
    (['method.q=0.5,2'], r'method.q is 2.0: give a number above 0 and up to 1'),
    (['optim.lr=nan'], r'optim.lr is nan: give a number from 0 on'),
  ],
)
def test_what_cannot_be_an_axis_is_refused_by_name(axes, message, tmp_path):
  with pytest.raises(UserError, match=message):
    go(small('ule'), tmp_path / 'w', *axes)
  assert not list(tmp_path.iterdir())


def test_what_cannot_be_a_population_is_refused(tmp_path, monkeypatch):
  with pytest.raises(UserError, match=r'two_stage.rule is jtt: a sweep is of one-stage methods'):
    go(small('jtt'), tmp_path / 'w', 'seed=0,1')
  with pytest.raises(UserError, match=r'train.holdout draws other training data for each seed'):
    go(small('erm', 'train.holdout=0.1'), tmp_path / 'w', 'seed=0,1')
  monkeypatch.setattr(population, 'LIMIT', 1_000_000)
  with pytest.raises(UserError, match=r'up to 1,000,000 bytes, and these take 2,220,288: lower data.size'):
    go(small('erm'), tmp_path / 'w', 'seed=0,1')


@pytest.mark.parametrize('name', [n for n in METHODS if 'two_stage.rule' not in base.NEEDS.get(n, {})])
def test_every_number_of_a_method_can_be_traced(name):
  fields = METHODS[name].options.model_fields
  numbers = {option: 0.5 for option, field in fields.items() if field.annotation is float}
  assert numbers
  batch = batch_of()

  def one(numbers):
    method = METHODS[name].make(METHODS[name].options().model_copy(update=numbers), SIZES)
    state, step = setup(method, network('mlp'), batch)
    return step(state, batch)[1]

  jax.eval_shape(one, numbers)


def test_the_verb_prints_the_tables(with_a_failure, monkeypatch, capsys):
  directory, results = with_a_failure
  given = {}
  monkeypatch.setattr(
    'ule_jax.sweep.run.run', lambda config, axes, place, force: given.update(axes=axes, place=place) or results
  )
  app.call(
    'sweep', ['--config=digits:ule', '--axis=method.weight=30,1e38', '--axis=seed=0,1', f'--workdir={directory}']
  )
  said = capsys.readouterr().out
  assert given == {'axes': {'method.weight': [30.0, 1e38], 'seed': [0, 1]}, 'place': directory}
  assert '[7] val_balanced/worst_group_accuracy' in said
  assert f'results: {directory / "sweep.json"}' in said
