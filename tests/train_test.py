"""The loop: what a run leaves behind, and that an interrupted one ends as if it had not been."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from common import damage, from_flags, leaves_equal
from writers import write_folder

from ule_jax import data, selection
from ule_jax.data import pipeline
from ule_jax.errors import Interrupted, UserError
from ule_jax.runs.checkpoints import Checkpoints
from ule_jax.runs.workdir import owned
from ule_jax.train import evaluate, loop
from ule_jax.train import run as run_module
from ule_jax.train.run import run as train_run

FAST = ['--config.train.steps=12', '--config.train.eval_every=4', '--config.train.log_every=3', '--config.data.crops=1']


def config_of(method='ule', *changes):
  return from_flags(f'digits:{method}', *FAST, *changes)


def run(workdir, *changes, method='ule', force=False):
  return train_run(config_of(method, *changes), workdir, force=force)


def final_checkpoint(workdir):
  manager = Checkpoints(workdir / 'checkpoints', ('val/accuracy',))
  import orbax.checkpoint as ocp

  tree = ocp.StandardCheckpointer().restore(workdir.absolute() / 'checkpoints' / str(manager.latest) / 'state')
  manager.close()
  return tree


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run') / 'w'
  return workdir, run(workdir)


def test_a_run_leaves_what_the_interface_names(finished):
  workdir, results = finished
  for name in ('config.json', 'env.json', 'metrics.jsonl', 'checkpoints', 'results.json', 'done'):
    assert (workdir / name).exists(), name
  assert {p.name for p in (workdir / 'predictions').iterdir()} >= {'train.npz', 'val.npz', 'test.npz'}
  assert list((workdir / 'tensorboard').glob('events*'))
  assert json.loads((workdir / 'results.json').read_text()) == json.loads(json.dumps(results))
  assert (results['method'], results['dataset'], results['seed']) == ('ule', 'digits', 0)
  assert results['select'] == 'val/worst_class_accuracy'
  assert set(results['roles']) == {'student', 'teacher'}
  for part in (results, results['last'], *results['selected'].values(), *results['roles'].values()):
    for split in ('val', 'test'):
      found = part[split]
      for name in (
        'accuracy',
        'worst_group_accuracy',
        'mean_group_accuracy',
        'adjusted_accuracy',
        'worst_class_accuracy',
      ):
        assert 0 <= found[name] <= 1
      assert set(found['groups']) == set(results['groups'])
      assert sum(g['count'] for g in found['groups'].values()) == {'val': 297, 'test': 1000}[split]
  assert results['roles']['teacher'] == {k: results[k] for k in results['roles']['teacher']}
  assert set(results['selected']) == {f'{v}/{m}' for v in ('val', 'val_balanced') for m in selection.METRICS}
  assert results['last']['step'] == 12


def test_a_run_records_chance_trust_and_the_share_of_its_term(finished):
  workdir, results = finished
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  lines = [line for line in lines if 'train/trust' in line]
  assert [line['step'] for line in lines] == [3, 6, 9, 12]
  for line in lines:
    term = line['train/trust'] * 0.03 * line['train/shared']
    assert line['train/term_share'] == pytest.approx(term / line['train/loss/teacher'], rel=1e-4, abs=1e-7)
  for name in ('trust', 'term_share'):
    values = [line[f'train/{name}'] for line in lines]
    assert results[name] == pytest.approx({'mean': np.mean(values), 'last': values[-1]}, rel=1e-2)
  labels = np.load(workdir / 'predictions' / 'test.npz')['label']
  assert results['chance']['test'] == {'uniform': 0.5, 'majority': pytest.approx(max(labels.mean(), 1 - labels.mean()))}
  assert results['class_of_group'] == {name: name.partition(',')[0] for name in results['groups']}
  assert results['counter_examples'] == {
    name: sum(min(group['count'] for group in pair) for pair in pairs_of(results[name]['groups']))
    for name in ('train', 'val', 'val_balanced', 'test')
  }
  assert 0 < results['roles']['student']['train']['accuracy'] < 1


def pairs_of(groups):
  values = list(groups.values())
  return values[:2], values[2:]


@pytest.mark.parametrize('method', ['erm', 'gradient_penalty', 'shuffled_student'])
def test_every_method_ends_with_done(method, tmp_path):
  results = run(tmp_path / 'w', method=method)
  assert (tmp_path / 'w' / 'done').exists()
  assert results['method'] == method


def test_predictions_and_results_agree(finished):
  workdir, results = finished
  for split in ('train', 'val', 'test'):
    with np.load(workdir / 'predictions' / f'{split}.npz') as p:
      np.testing.assert_array_equal(p['index'], np.arange(len(p['index'])))
      assert p['features_teacher'].shape == (len(p['index']), 64)
      for role in ('student', 'teacher'):
        right = p[f'logits_{role}'].argmax(1) == p['label']
        if split != 'train':
          assert right.mean() == pytest.approx(results['roles'][role][split]['accuracy'])
        elif role == 'teacher':
          assert right.mean() == pytest.approx(results['train']['accuracy'])


def test_golden_metrics_after_three_steps(tmp_path):
  """If you did not intend to change the numbers of a run, this is the bug; else put the new ones here."""
  # not the defaults
  pinned = {
    'term': 'project', 'weight': 30, 'scalar': 'margin', 'q': 0.7, 'student_noise': 0, 'hold_back': 0,
    'mistakes': 'class_balanced_weight',
  }  # fmt: skip
  options = [f'--config.method.{name}={value}' for name, value in pinned.items()]
  run(tmp_path / 'w', '--config.train.steps=3', '--config.train.log_every=1', *options)
  lines = [json.loads(line) for line in (tmp_path / 'w' / 'metrics.jsonl').read_text().splitlines()]
  found = [(line['train/loss/student'], line['train/loss/teacher']) for line in lines if 'train/loss/student' in line]
  np.testing.assert_allclose(found, GOLDEN, rtol=2e-4)


GOLDEN = [(0.644622, 0.620686), (0.437524, 0.857078), (0.333545, 0.543432)]


class Stop(Exception):
  pass


def interrupt_after(monkeypatch, step):
  original = pipeline.train_batches

  def limited(*args, **kwargs):
    for number, batch in enumerate(original(*args, **kwargs), start=kwargs['start']):
      if number == step:
        raise Stop
      yield batch

  monkeypatch.setattr(pipeline, 'train_batches', limited)


def same_run(a, b, results_a, results_b):
  assert json.dumps(results_a) == json.dumps(results_b)
  assert leaves_equal(final_checkpoint(a), final_checkpoint(b))
  for name in ('train', 'val', 'test'):
    with np.load(a / 'predictions' / f'{name}.npz') as p, np.load(b / 'predictions' / f'{name}.npz') as q:
      assert all(np.array_equal(p[k], q[k]) for k in p.files)

  def logged(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [{k: v for k, v in line.items() if 'per_second' not in k} for line in lines]

  assert logged(a) == logged(b)


@pytest.mark.parametrize('step', [6])
def test_an_interrupted_run_ends_bitwise_as_the_other(step, finished, tmp_path, monkeypatch):
  whole, results = finished
  with monkeypatch.context() as patch:
    interrupt_after(patch, step)
    with pytest.raises(Stop):
      run(tmp_path / 'w')
  assert not (tmp_path / 'w' / 'done').exists()
  same_run(tmp_path / 'w', whole, run(tmp_path / 'w'), results)


def signal_at(monkeypatch, place, name, after=1):
  """Send SIGTERM at the `after`th call of a function that a run makes."""
  original, calls = getattr(place, name), []

  def signalling(*args, **kwargs):
    calls.append(name)
    if len(calls) == after:
      os.kill(os.getpid(), signal.SIGTERM)
    return original(*args, **kwargs)

  monkeypatch.setattr(place, name, signalling)


# Before training; before a step that is no evaluation's and one that is; in an evaluation; in the last one.
@pytest.mark.parametrize(
  ('place', 'name', 'after', 'saved'),
  [
    (data, 'load', 1, None),
    (loop, 'Batch', 6, 6),
    (loop, 'Batch', 8, 8),
    (evaluate, 'summary', 2, 4),
    (loop, 'evaluate_checkpoints', 1, 12),
  ],
)
def test_a_terminated_run_ends_bitwise_as_the_other(place, name, after, saved, finished, tmp_path, monkeypatch):
  whole, results = finished
  with monkeypatch.context() as patch:
    signal_at(patch, place, name, after)
    with pytest.raises(Interrupted, match=r'SIGTERM.*resumable'):
      run(tmp_path / 'w')
  if saved:
    checkpoints = Checkpoints(tmp_path / 'w' / 'checkpoints', ('val/accuracy',))
    assert (checkpoints.latest, checkpoints.scored(saved)) == (saved, name == 'evaluate_checkpoints')
    checkpoints.close()
  assert not (tmp_path / 'w' / 'done').exists()
  assert not (tmp_path / 'w' / 'lock').exists()
  same_run(tmp_path / 'w', whole, run(tmp_path / 'w'), results)


def test_a_damaged_newest_checkpoint_costs_only_time(finished, tmp_path, capsys):
  whole, results = finished
  shutil.copytree(whole, tmp_path / 'w')
  (tmp_path / 'w' / 'done').unlink()
  damage(max((tmp_path / 'w' / 'checkpoints' / '12').rglob('*'), key=lambda p: p.stat().st_size * p.is_file()))
  same_run(tmp_path / 'w', whole, run(tmp_path / 'w'), results)
  assert 'the checkpoint of step 12 is damaged' in capsys.readouterr().err
  assert (tmp_path / 'w' / 'checkpoints' / '12.damaged').is_dir()


@pytest.mark.parametrize('workers', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_images_that_vanish_end_the_run_with_their_name(workers, tmp_path, monkeypatch):
  cells = itertools.product(('train', 'val', 'test'), (0, 1), range(4))
  root = write_folder(tmp_path / 'data', [(f'{k}/{part}{i}.jpg', k, part) for part, k, i in cells])
  flags = [
    '--config=folder:erm',
    f'--config.data.dir={root}',
    '--config.data.size=8',
    '--config.model.name=cnn',
    '--config.model.weights=none',
  ]
  flags += ['--config.model.width=2', '--config.model.depth=1', '--config.model.batch_norm=none', '--config.seed=0']
  flags += ['--config.train.steps=40', '--config.train.batch_size=8', '--config.train.eval_every=2']
  config = from_flags(*flags, '--config.train.eval_batch_size=8', f'--config.loader.workers={workers}')
  batch, calls = loop.Batch, []

  def losing(**arrays):
    calls.append(1)
    if len(calls) == 4:
      shutil.move(root, tmp_path / 'elsewhere')
    return batch(**arrays)

  with monkeypatch.context() as patch:
    patch.setattr(loop, 'Batch', losing)
    with pytest.raises(UserError, match=rf'image {root}/.* cannot be read'):
      train_run(config, tmp_path / 'w')
  assert (tmp_path / 'w' / 'checkpoints' / '2').is_dir()
  shutil.move(tmp_path / 'elsewhere', root)
  assert train_run(config, tmp_path / 'w')['last']['step'] == 40


def test_a_run_in_use_is_refused(finished):
  workdir, _ = finished
  with owned(workdir, config_of().to_dict(), False):
    assert run(workdir)['last']['step'] == 12  # to read what is done needs no lock
    with pytest.raises(UserError, match=f'in use by process {os.getpid()}'):
      run(workdir, '--config.train.steps=16', force=True)


@pytest.mark.full
def test_a_killed_run_ends_bitwise_as_the_other(tmp_path):
  """kill -9 at a random moment, twice, then the same command to its end."""
  command = [
    sys.executable, '-m', 'ule_jax.main', '--config=digits:ule', '--config.train.steps=60',
    '--config.train.eval_every=5', '--config.train.log_every=5', '--config.data.crops=1',
  ]  # fmt: skip
  env = os.environ | {'JAX_PLATFORMS': 'cpu'}
  quiet = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL, 'env': env}
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  subprocess.run([*command, f'--workdir={whole}'], check=True, **quiet)
  for least in (1, 4):
    process = subprocess.Popen([*command, f'--workdir={killed}'], **quiet)
    while process.poll() is None and len(list((killed / 'checkpoints').glob('[0-9]*'))) < least:
      time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / 'done').exists()
  subprocess.run([*command, f'--workdir={killed}'], check=True, **quiet)
  a, b = (json.loads((w / 'results.json').read_text()) for w in (killed, whole))
  same_run(killed, whole, a, b)


def test_a_finished_run_is_not_trained_again(finished, monkeypatch):
  workdir, results = finished
  monkeypatch.setattr(run_module, 'train', None)
  assert run(workdir) == json.loads(json.dumps(results))


def test_a_workdir_of_another_config_is_refused(finished):
  workdir, _ = finished
  before = {p: p.stat().st_mtime_ns for p in workdir.rglob('*') if p.is_file()}
  with pytest.raises(UserError, match=r'method.weight .*optim.lr .*--force'):
    run(workdir, '--config.method.weight=3', '--config.optim.lr=0.1')
  assert {p: p.stat().st_mtime_ns for p in workdir.rglob('*') if p.is_file()} == before


def test_more_steps_go_on_and_fewer_are_refused(tmp_path):
  constant = '--config.optim.schedule=constant'
  run(tmp_path / 'w', constant, method='erm')
  assert run(tmp_path / 'w', constant, '--config.train.steps=16', method='erm')['last']['step'] == 16
  with pytest.raises(UserError, match='step 16'):
    run(tmp_path / 'w', constant, '--config.train.steps=8', method='erm')
  changes = constant, '--config.train.steps=20', '--config.optim.lr=0.1'
  assert run(tmp_path / 'w', *changes, method='erm', force=True)['last']['step'] == 20


def test_a_folder_that_is_no_run_is_refused(tmp_path):
  (tmp_path / 'thesis.tex').write_text('irreplaceable')
  with pytest.raises(UserError, match='holds no run'):
    run(tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_good_checkpoint(tmp_path):
  run(tmp_path / 'w', '--config.train.steps=4', '--config.optim.schedule=constant')
  with pytest.raises(
    UserError, match=r'(student|teacher) is not finite at step \d+; the last good checkpoint is step 4'
  ):
    run(tmp_path / 'w', '--config.optim.schedule=constant', '--config.optim.lr=1e36', force=True)
  assert (tmp_path / 'w' / 'checkpoints' / '4').is_dir()
  assert not (tmp_path / 'w' / 'done').exists()


def test_epochs_become_steps(tmp_path):
  results = run(tmp_path / 'w', '--config.train.steps=0', '--config.train.epochs=0.5', method='erm')
  assert results['last']['step'] == 4  # half of 1000 examples in batches of 128


def test_balanced_sampling_is_recorded(tmp_path):
  results = run(tmp_path / 'w', '--config.train.sampling=class_balanced', method='erm')
  assert results['sampling'] == 'class_balanced'
  assert results['needs_groups'] == {'train': False, 'validation': False}
  results = run(tmp_path / 'v', '--config.train.sampling=group_balanced', method='erm')
  assert results['needs_groups']['train']


@pytest.mark.slow
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_learning(seed, tmp_path):
  def worst(method, *changes):
    changes = [f'--config.seed={seed}', *changes]
    config = from_flags(f'digits:{method}', *changes)
    return train_run(config, tmp_path / f'{method}{len(changes)}')['last']['test']['worst_group_accuracy']

  erm = worst('erm')
  assert erm <= 0.6
  assert worst('erm', '--config.train.sampling=group_balanced') >= 0.85
  assert worst('ule') >= max(0.8, erm + 0.15)
