"""Whole runs of the main job on every layout of files: what the results say of each field's metrics."""

import numpy as np
import pytest
from common import from_flags
from writers import write_folder, write_spawrious, write_urbancars, write_waterbirds

from ule_jax.cli import tables
from ule_jax.errors import UserError
from ule_jax.train.run import run as train_run

SMALL = [
  '--config.model.name=mlp', '--config.model.width=8', '--config.model.depth=1', '--config.model.weights=none',
  '--config.data.size=8', '--config.train.steps=2', '--config.train.eval_every=2', '--config.train.batch_size=8',
  '--config.train.eval_batch_size=16', '--config.loader.threads=1',
]  # fmt: skip


def run(tmp_path, name, root, *changes, method='erm', official=False):
  flags = [f'--config={name}:{method}', f'--config.data.dir={root}', *SMALL, *changes]
  flags += [] if name == 'folder' else [f'--config.data.official={official}']
  return train_run(from_flags(*flags), tmp_path / 'run')


def test_waterbirds(tmp_path, capsys):
  results = run(tmp_path, 'waterbirds', write_waterbirds(tmp_path / 'data'), method='ule')
  groups = results['test']['groups']
  train_counts = dict(zip(groups, (8, 3, 2, 6), strict=True))
  adjusted = sum(groups[g]['accuracy'] * n for g, n in train_counts.items()) / 19
  assert results['test']['adjusted_accuracy'] == pytest.approx(adjusted)
  assert 'differs from the release of waterbirds' in capsys.readouterr().err
  assert 'adjusted accuracy' in tables.results_table(results)


def test_spawrious_names_its_metrics_and_records_its_locations(tmp_path):
  results = run(
    tmp_path, 'spawrious', write_spawrious(tmp_path / 'data', 5), '--config.data.challenge=m2m_hard',
    '--config.train.eval_every=1',
  )  # fmt: skip
  assert results['data']['locations']['test']['bulldog'] == ('snow', 'beach')
  table = tables.results_table(results)
  assert 'average OOD accuracy' in table
  assert 'worst (class, location) cell' in table
  seen = {name for name, group in results['test']['groups'].items() if group['count']}
  assert len(seen) == 8
  assert 'corgi in dirt' in seen
  assert results['test']['adjusted_accuracy'] is None  # no cell of train is in test
  assert results['val']['adjusted_accuracy'] is not None


def test_urbancars_has_its_gaps(tmp_path):
  test = run(tmp_path, 'urbancars', write_urbancars(tmp_path / 'data'))['test']
  accuracy = [group['accuracy'] for group in test['groups'].values()]
  off = (accuracy[3] + accuracy[4]) / 2  # background and object go with the other car
  assert test['bg_co_occur_obj_gap'] == pytest.approx(off - test['id_accuracy'])
  assert {'id_accuracy', 'bg_gap', 'co_occur_obj_gap'} <= test.keys()


def rows(*extra, attributes=('x', 'y'), val=('x', 'y')):
  for split, values in (('train', attributes), ('val', val), ('test', ('x', 'y'))):
    for i, value in enumerate(values * 8):
      yield f'{split}/{i}.png', ('cat', 'dog')[i // len(values) % 2], split, value
  yield from extra


HEADER = ('filename', 'label', 'split', 'attribute')


def test_a_folder_without_groups_has_no_group_metrics(tmp_path):
  root = write_folder(tmp_path / 'data', (r[:3] for r in rows()), HEADER[:3])
  results = run(tmp_path, 'folder', root, method='ule')
  assert results['groups'] == []
  assert results['test']['worst_group_accuracy'] is None
  assert results['test']['reasons']['worst_group_accuracy']
  assert set(results['selected']) == {
    'val/accuracy',
    'val/worst_class_accuracy',
    'val/mistake_balanced_accuracy',
  }
  for table in (tables.results_table(results), tables.run_table(results)):
    assert 'worst class accuracy' in table
    assert 'group' not in table  # rows of metrics that do not exist
  assert 'worst class' in tables.rules_table(results)


def test_a_folder_with_groups_in_validation_only(tmp_path):
  root = write_folder(tmp_path / 'data', rows(attributes=('',)), HEADER)
  results = run(tmp_path, 'folder', root, '--config.select=val/worst_group_accuracy')
  assert results['test']['worst_group_accuracy'] is not None
  assert results['test']['adjusted_accuracy'] is None


@pytest.mark.parametrize(
  ('data', 'changes', 'message'),
  [
    ({'val': ('x',)}, ['--config.select=val/worst_group_accuracy'], r"val has no example of the group 'cat, y'"),
    ({'val': ('x', '')}, ['--config.select=val/worst_group_accuracy'], r'\d+ examples of val have no group'),
    ({'attributes': ('x',)}, ['--config.train.sampling=group_balanced'], r"train has no example of the group 'cat, y'"),
    ({'attributes': ('x', 'y', '')}, ['--config.train.sampling=group_balanced'], r'8 training examples have no group'),
  ],
)
def test_a_group_that_the_rule_or_sampling_needs_is_named(data, changes, message, tmp_path):
  root = write_folder(tmp_path / 'data', rows(**data), HEADER)
  with pytest.raises(UserError, match=message):
    run(tmp_path, 'folder', root, *changes)
  assert not (tmp_path / 'run' / 'done').exists()


def test_a_rule_that_compares_with_a_student_needs_one(tmp_path):
  root = write_folder(tmp_path / 'data', rows(), HEADER)
  with pytest.raises(UserError, match='the method trains no student'):
    run(tmp_path, 'folder', root, '--config.select=val/mistake_balanced_accuracy', method='erm')
  results = run(tmp_path, 'folder', root, '--config.select=val/mistake_balanced_accuracy', method='ule')
  with np.load(tmp_path / 'run' / 'predictions' / 'val.npz') as file:
    right = {role: file[f'logits_{role}'].argmax(1) == file['label'] for role in ('student', 'teacher')}
    label = file['label']
  cells = [(label == k) & (right['student'] == s) for k in (0, 1) for s in (False, True)]
  expected = np.mean([right['teacher'][cell].mean() for cell in cells if cell.any()])
  assert results['val']['mistake_balanced_accuracy'] == pytest.approx(expected)
  assert results['roles']['student']['val']['mistake_balanced_accuracy'] is None


def test_skipped_images_are_in_the_results(tmp_path):
  root = write_folder(tmp_path / 'data', rows(), HEADER)
  (root / 'train' / '3.png').write_bytes(b'no image')
  whole = (root / 'test' / '1.png').read_bytes()
  (root / 'test' / '1.png').write_bytes(whole[:100])  # read at the end of a run, and found before its start
  with pytest.raises(UserError, match=r'test/1.png cannot be decoded'):
    run(tmp_path / 'c', 'folder', root)
  assert not (tmp_path / 'c' / 'run' / 'checkpoints' / '2').exists()
  (root / 'test' / '1.png').write_bytes(whole)
  with pytest.raises(UserError, match=r'train/3.png cannot be decoded'):
    run(tmp_path / 'a', 'folder', root, '--config.train.steps=4')
  results = run(tmp_path / 'b', 'folder', root, '--config.data.on_bad_image=skip')
  assert results['data']['skipped_images'] == {'train': ['train/3.png']}


def test_worker_processes_give_the_same_run(tmp_path):
  root = write_folder(tmp_path / 'data', rows(), HEADER)
  threads = run(tmp_path / 'a', 'folder', root, '--config.train.steps=6')
  workers = run(tmp_path / 'b', 'folder', root, '--config.train.steps=6', '--config.loader.workers=2')
  assert threads == workers
