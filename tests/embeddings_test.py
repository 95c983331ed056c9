"""Features of any encoder as a data set: every kind of file, every verb, and bad input in one sentence."""

import csv
import json

import jax
import numpy as np
import pytest
from common import from_flags
from writers import features, write_features

from ule_jax import data
from ule_jax.cli import app
from ule_jax.config.validate import validate_config
from ule_jax.data import available, feature_files, pipeline
from ule_jax.data.draw_splits import draw
from ule_jax.deploy.finished import load_run
from ule_jax.errors import UserError
from ule_jax.runs.fingerprint import Fingerprint
from ule_jax.train.run import run

SHORT = ('--config.train.steps=4', '--config.train.batch_size=8', '--config.train.eval_batch_size=64')
SHORT += ('--config.loader.threads=0',)


def load(path, **changes):
  return data.load('embeddings', {'file': str(path), **changes})


def config_of(path, spec='ule', *flags):
  return from_flags(f'embeddings:{spec}', f'--config.data.file={path}', *SHORT, *flags)


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  return write_features(tmp_path_factory.mktemp('features') / 'f.npz')


@pytest.fixture(scope='module')
def head(file, tmp_path_factory):
  """A short run of two linear heads, done: not to be changed."""
  workdir = tmp_path_factory.mktemp('head') / 'w'
  run(config_of(file, 'ule', '--config.method.trust_exponent=0'), workdir)
  return workdir


@pytest.mark.parametrize('ending', ['npz', 'npy', 'safetensors', 'parquet'])
def test_every_kind_of_file_gives_the_same_data(ending, file, tmp_path):
  if ending == 'parquet':
    pytest.importorskip('pyarrow')
  expected, dataset = load(file), load(write_features(tmp_path / f'g.{ending}'))
  assert (
    Fingerprint(dataset).record()['splits']['test']['content']
    == (Fingerprint(expected).record()['splits']['test']['content'])
  )
  assert (dataset.classes, dataset.mean, dataset.std) == (expected.classes, expected.mean, expected.std)
  assert dataset.groups == ('cat, in', 'cat, out', 'dog, in', 'dog, out')
  for name, split in expected.splits.items():
    np.testing.assert_array_equal(dataset.splits[name].label, split.label)
    np.testing.assert_array_equal(dataset.splits[name].group, split.group)
    assert dataset.splits[name].name(3) == split.name(3)
  batches = [next(iter(pipeline.eval_batches(d, 'val', batch_size=8, threads=0))) for d in (dataset, expected)]
  np.testing.assert_array_equal(batches[0]['image'], batches[1]['image'])


def test_half_precision_stays_half_and_is_mapped(tmp_path):
  arrays = features()
  path = write_features(tmp_path / 'half.safetensors', arrays | {'x': arrays['x'].astype(np.float16)})
  assert isinstance(feature_files.read(path).x, np.memmap)
  dataset = load(path)
  assert dataset.dtype == np.float16
  batch = next(iter(pipeline.eval_batches(dataset, 'train', batch_size=16, threads=0)))
  assert batch['image'].dtype == np.float16
  np.testing.assert_array_equal(batch['image'], arrays['x'][:16].astype(np.float16))


def test_rows_are_the_same_in_one_read_and_one_by_one(file):
  split = load(file).splits['val']
  assert split.load_rows is not None
  ids = np.array([5, 0, 3, 3])
  np.testing.assert_array_equal(split.load_rows(ids), np.stack([split.load(int(i)) for i in ids]))
  taken = split.take(ids)
  assert taken.load_rows is not None
  np.testing.assert_array_equal(taken.load_rows(np.array([0, 2])), np.stack([taken.load(0), taken.load(2)]))


def test_drawn_splits_are_stratified_and_stated(tmp_path):
  arrays = features()
  del arrays['split']
  path = write_features(tmp_path / 'f.npz', arrays)
  dataset = load(path)
  assert [dataset.splits[name].count for name in ('train', 'val', 'test')] == [144, 48, 48]
  assert all((np.bincount(split.label) == split.count // 2).all() for split in dataset.splits.values())
  assert '48 for val and 48 for test of 240' in dataset.remarks[0]
  assert dataset.notes['drawn'] == {'val': 0.2, 'test': 0.2, 'split_seed': 0}
  names = [dataset.splits['val'].name(i) for i in range(48)]
  other = load(path, split_seed=1).splits['val']
  assert names != [other.name(i) for i in range(48)]
  assert names == [load(path).splits['val'].name(i) for i in range(48)]
  with pytest.raises(UserError, match='a class has only 2 examples'):
    draw(np.array([0, 0, 0, 0, 1, 1]), {'val': 0.2, 'test': 0.2}, 0)


def test_weights_are_how_often_train_is_drawn(tmp_path):
  arrays = features()
  weight = np.where(np.arange(240) == 7, 1.0, 0.0)
  path = write_features(tmp_path / 'f.npz', arrays | {'weight': weight})
  dataset = load(path)
  batch = next(pipeline.train_batches(dataset, batch_size=4, seed=0, sampling='uniform', start=0, threads=0))
  assert batch['index'].tolist() == [7] * 4
  assert dataset.splits['val'].sampling_weight is None
  recorded = Fingerprint(dataset).record()
  changed = load(write_features(tmp_path / 'g.npz', arrays | {'weight': weight + 1}))
  assert Fingerprint(changed).differences(recorded) == 'the sampling weights of train differ'
  with pytest.raises(UserError, match=r'train.sampling is class_balanced, which reads no weights'):
    run(config_of(path, 'rwy'), tmp_path / 'w')


def test_other_features_are_other_data(file, tmp_path):
  arrays = features()
  arrays['x'][-1, 0] += 1
  recorded = Fingerprint(load(file)).record()
  changed = load(write_features(tmp_path / 'g.npz', arrays))
  assert Fingerprint(changed).differences(recorded) == 'the features of test differ'


def without(name):
  return lambda a: a.pop(name)


def at(name, row, value):
  def change(a):
    a[name] = a[name].copy()
    a[name][row] = value

  return change


def into(name, value):
  return lambda a: a.__setitem__(name, value(a[name]))


WRONG = [
  ('no x', without('x'), 'has no array x'),
  ('no label', without('label'), 'has no label: its columns are'),
  ('one axis', into('x', lambda x: x[:, 0]), r'has the shape \(240,\)'),
  ('images', into('x', lambda x: x[:, :, None, None]), 'flatten each example'),
  ('short', into('label', lambda v: v[:-1]), '239 values of label'),
  ('column matrix', into('label', lambda v: v[:, None]), r'label of .* has the shape \(240, 1\)'),
  ('nan', at('x', (9, 2), np.nan), r'row 9 \(row 9\) of x holds nan'),
  ('two inf', at('x', [[7], [8]], np.inf), 'row 7 of x holds inf, and 1 further rows'),
  ('too large', lambda a: into('x', lambda x: x.astype(np.float64) * 1e300)(a), 'of x holds -?inf'),
  ('missing label', at('label', 4, ''), 'row 4: row 4 has no label'),
  ('one class', into('label', lambda v: np.full(len(v), 'cat')), 'has only the label'),
  ('ids as labels', lambda a: a.__setitem__('label', a['id']), '240 classes and 240 rows'),
  ('float labels', into('label', lambda v: np.linspace(0, 1, len(v))), 'no whole number'),
  ('no class in test', at('label', slice(180, None), 'dog'), "no example of the class 'cat' to test"),
  ('bad split', at('split', 3, 'dev'), "has the split 'dev'"),
  ('no train', into('split', lambda v: np.full(len(v), 'test')), 'gives no example to train'),
  ('plural', lambda a: a.__setitem__('groups', a.pop('attribute')), "'groups' instead of group"),
  ('both', lambda a: a.__setitem__('group', a['attribute']), 'both a column group and a column attribute'),
  ('twice', at('id', 1, 'row 0'), 'twice'),
  ('weight', lambda a: a.__setitem__('weight', np.full(240, -1.0)), "has the weight '-1.0'"),
  ('complex', into('x', lambda x: x.astype(np.complex64)), 'is of type complex64'),
]


@pytest.mark.parametrize(('change', 'sentence'), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_bad_input_ends_with_one_sentence(change, sentence, tmp_path):
  arrays = features()
  change(arrays)
  if 'x' in arrays and arrays['x'].ndim == 2 and sentence.startswith('row 7'):
    del arrays['id']
  with pytest.raises(UserError, match=sentence) as error:
    load(write_features(tmp_path / 'f.npz', arrays))
  assert str(error.value).count('\n') == 0


def test_nothing_is_unpickled(tmp_path):
  class Bomb:
    def __reduce__(self):
      return (open, (str(tmp_path / 'ran'), 'w'))

  bombs = np.empty(240, object)
  bombs[:] = [Bomb() for _ in range(240)]
  np.savez(tmp_path / 'f.npz', **(features() | {'label': bombs}))  # pyright: ignore[reportArgumentType]
  np.save(tmp_path / 'g.npy', bombs)
  write_features(tmp_path / 'h.npy')
  (tmp_path / 'g.csv').write_bytes((tmp_path / 'h.csv').read_bytes())
  for name in ('f.npz', 'g.npy'):
    with pytest.raises(UserError, match='holds Python objects'):
      load(tmp_path / name)
  (tmp_path / 'h.npy').write_bytes(b'\x80\x04N.')
  with pytest.raises(UserError, match=r'h\.npy'):
    load(tmp_path / 'h.npy')
  assert not (tmp_path / 'ran').exists()


def test_what_does_not_fit_into_memory_is_refused(file, monkeypatch):
  monkeypatch.setattr(available, 'available_memory', lambda: 1000)
  with pytest.raises(UserError, match=r'are available: save it as \.npy'):
    load(file)


def test_damaged_and_missing_files_are_named(tmp_path):
  for path, sentence in (
    (tmp_path / 'none.npz', 'does not exist'),
    (tmp_path / 'x.txt', 'is no file of features'),
    (tmp_path / 'bad.npz', 'cannot be read'),
    (tmp_path / 'bad.npy', 'cannot be read'),
    (tmp_path / 'bad.safetensors', 'cannot be read'),
  ):
    if path.name.startswith('bad'):
      path.write_bytes(b'nothing')
    with pytest.raises(UserError, match=sentence):
      load(path)
  np.save(tmp_path / 'alone.npy', features()['x'])
  with pytest.raises(UserError, match=r'alone.csv does not exist'):
    load(tmp_path / 'alone.npy')
  with pytest.raises(UserError, match=r'give --config\.data\.file'):
    load('')


@pytest.mark.parametrize(
  ('flag', 'sentence'),
  [
    ('model.name=cnn', 'choose linear or mlp'),
    ('model.encoder=frozen', 'are features already'),
    ('method.at=image', 'have no images'),
    ('model.pixels=imagenet', 'model.pixels is of images'),
  ],
)
def test_options_for_images_are_refused(flag, sentence):
  with pytest.raises(UserError, match=sentence):
    validate_config(config_of('f.npz', 'ule', f'--config.{flag}'))


def test_a_run_predicts_what_it_evaluated(head, file, tmp_path):
  app.call('predict', [f'--run={head}', f'--input={file}', f'--out={tmp_path}/p.csv'])
  rows = list(csv.DictReader((tmp_path / 'p.csv').read_text().splitlines()))
  assert (rows[5]['filename'], len(rows)) == ('row 5', 240)
  predictions = np.load(head / 'predictions' / 'test.npz')
  chances = jax.nn.softmax(predictions['logits_teacher'])
  np.testing.assert_allclose([float(row['probability_dog']) for row in rows[180:]], chances[:, 1], atol=2e-6)
  assert 'features_teacher' not in predictions  # they are the input
  loaded = load_run(head)
  for inputs in (file, features()['x'].astype(np.float32)):
    np.testing.assert_allclose(loaded.predict(inputs).probabilities[180:], chances, atol=2e-6)
  recorded = json.loads((head / 'features.json').read_text())
  np.testing.assert_allclose(recorded['mean'], features()['x'][:120].astype(np.float64).mean(0))


def test_an_export_is_the_head_alone(head, tmp_path, capsys):
  app.call('export', [f'--run={head}', f'--out={tmp_path}/m.stablehlo'])
  assert 'the encoder that made the features is not in these files' in capsys.readouterr().out
  exported = jax.export.deserialize(bytearray((tmp_path / 'm.stablehlo').read_bytes()))
  x = features()['x'][180:]
  np.testing.assert_allclose(exported.call(x), np.load(head / 'predictions' / 'test.npz')['logits_teacher'], atol=1e-5)


@pytest.mark.full
def test_verbs_after_training_work_without_pictures(head, tmp_path, capsys):
  app.call('evaluate', [f'--run={head}'])
  assert 'the same numbers as in results.json' in capsys.readouterr().out
  app.call('diagnose', [f'--run={head}', f'--out={tmp_path}/d', '--split=test'])
  assert '<img' not in (tmp_path / 'd' / 'index.html').read_text()
  app.call('report', [str(head), f'--out={tmp_path}/r'])
  assert 'embeddings' in (tmp_path / 'r' / 'index.html').read_text()


def test_saliency_in_python_is_refused(head):
  with pytest.raises(UserError, match='was trained on features'):
    load_run(head).saliency()


@pytest.mark.parametrize(
  ('verb', 'flag'), [('evaluate', '--saliency=2'), ('predict', '--saliency=x'), ('predict', '--on-bad-image=skip')]
)
def test_flags_for_images_are_refused(verb, flag, head, file, tmp_path):
  more = [f'--input={file}', f'--out={tmp_path}/p.csv'] if verb == 'predict' else []
  with pytest.raises(UserError, match='was trained on features'):
    app.call(verb, [f'--run={head}', flag, *more])


def test_features_of_another_width_are_refused(head, tmp_path):
  np.save(tmp_path / 'x.npy', np.ones((4, 5), np.float32))
  with pytest.raises(UserError, match=r'has 5 features a row, and the run was trained on 6'):
    app.call('predict', [f'--run={head}', f'--input={tmp_path}/x.npy', f'--out={tmp_path}/p.csv'])


def test_the_data_check_counts_rows(file, capsys, tmp_path):
  app.call('data', ['--config=embeddings', f'--config.data.file={file}', f'--out={tmp_path}/s'])
  assert '6 finite features a row' in capsys.readouterr().out


@pytest.mark.full
def test_a_moved_file_resumes_and_another_does_not(head, file, tmp_path):
  import shutil

  workdir = shutil.copytree(head, tmp_path / 'w')
  moved = shutil.copy(file, tmp_path / 'moved.npz')
  longer = '--config.train.steps=6'
  run(config_of(moved, 'ule', '--config.method.trust_exponent=0', longer), workdir)
  arrays = features()
  arrays['x'][0] = 0
  other = write_features(tmp_path / 'other.npz', arrays)
  with pytest.raises(UserError, match='the features of train differ'):
    run(config_of(other, 'ule', '--config.method.trust_exponent=0', longer), workdir)


@pytest.mark.full
def test_a_sweep_is_its_single_runs(file, tmp_path):
  argv = ['--config=embeddings:ule', f'--config.data.file={file}', *SHORT, '--config.method.trust_exponent=0']
  app.call('sweep', [*argv, '--axis=seed=0,1', f'--workdir={tmp_path}/s'])
  single = run(config_of(file, 'ule', '--config.method.trust_exponent=0', '--config.seed=1'), tmp_path / 'w')
  member = json.loads((tmp_path / 's' / 'seed=1' / 'results.json').read_text())
  assert member['test']['accuracy'] == pytest.approx(single['test']['accuracy'])
  app.call('predict', [f'--run={tmp_path}/s/seed=1', f'--input={file}', f'--out={tmp_path}/p.csv'])


@pytest.mark.full
@pytest.mark.parametrize('method', ['dfr', 'afr'])
def test_a_refit_of_a_linear_head_has_its_features(method, file, tmp_path):
  results = run(config_of(file, method), tmp_path / 'w')
  assert results['test']['accuracy'] > 0.5
