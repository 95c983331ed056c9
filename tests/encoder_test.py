"""A frozen encoder: what is cached under which key, and runs on its features."""

import json
import os

import numpy as np
import pytest
from common import from_flags, save_network
from writers import write_celeba

from ule_jax.data import load
from ule_jax.errors import UserError
from ule_jax.runs.fingerprint import Fingerprint
from ule_jax.train.features import encode_splits
from ule_jax.train.run import run as train_run

SMALL = {
  'size': 8, 'augment': False, 'official': False, 'on_bad_image': 'fail', 'resize': 'antialias',
  'target': 'Blond_Hair', 'attribute': 'Male',
}  # fmt: skip


@pytest.fixture(scope='module')
def celeba(tmp_path_factory):
  return write_celeba(tmp_path_factory.mktemp('celeba'))


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  """A file in the names of a CIFAR ResNet."""
  path = tmp_path_factory.mktemp('weights') / 'net.safetensors'
  save_network('resnet20', path)
  return path


def features(image):
  """A stand-in for an encoder: means over rows and over columns."""
  image = np.asarray(image, np.float32)
  return np.concatenate([image.mean((1, 3)), image.mean((2, 3))], 1)


@pytest.fixture
def encode(capsys):
  def encode(dataset, cache, name='one'):
    features = _encode(dataset, cache, name)
    return features, [line for line in capsys.readouterr().err.splitlines() if line.startswith('computing')]

  return encode


def _encode(dataset, cache, name):
  current = Fingerprint(dataset)
  contents = {split: current.content(split)['content'] for split in dataset.splits}
  return encode_splits(dataset, features, name, contents, cache, batch_size=16, threads=0)


def test_features_are_those_of_prepared_images_and_are_computed_once(celeba, tmp_path, encode):
  dataset = load('celeba', SMALL | {'dir': str(celeba)})
  found, said = encode(dataset, tmp_path)
  assert len(said) == 3
  transform = dataset.eval_transform
  assert transform is not None
  for name, split in dataset.splits.items():
    images = np.stack([transform(split.load(i), np.random.default_rng(0)) for i in range(split.count)])
    np.testing.assert_array_equal(np.stack([found.splits[name].load(i) for i in range(split.count)]), features(images))
    np.testing.assert_array_equal(found.splits[name].label, split.label)
  train_features = np.stack([found.splits['train'].load(i) for i in range(found.splits['train'].count)])
  np.testing.assert_allclose(found.mean, train_features.mean(0), rtol=1e-5)
  np.testing.assert_allclose(found.std, train_features.std(0), rtol=1e-4)
  assert encode(dataset, tmp_path)[1] == []
  # another target is other labels of the same images
  assert encode(load('celeba', SMALL | {'dir': str(celeba), 'target': 'Smiling'}), tmp_path)[1] == []


def test_what_features_depend_on_is_in_their_key(celeba, tmp_path, encode):
  options = SMALL | {'dir': str(celeba)}
  dataset = load('celeba', options)
  encode(dataset, tmp_path)
  assert len(encode(dataset, tmp_path, 'other weights')[1]) == 3
  assert len(encode(load('celeba', options | {'resize': 'linear'}), tmp_path)[1]) == 3
  assert len(encode(load('celeba', options | {'size': 12}), tmp_path)[1]) == 3
  last = next(celeba.rglob(dataset.splits['train'].name(dataset.splits['train'].count - 1)))
  os.utime(last, (1, 1))
  assert encode(dataset, tmp_path)[1] == []
  old = last.read_bytes()
  last.write_bytes(old + b'\0')  # behind the end of a JPEG: other bytes, the same pixels
  os.utime(last, (1, 1))
  assert len(encode(dataset, tmp_path)[1]) == 1
  last.write_bytes(old)


def test_damaged_features_are_computed_again(celeba, tmp_path, encode):
  dataset = load('celeba', SMALL | {'dir': str(celeba)})
  expected, _ = encode(dataset, tmp_path)
  expected = np.array(expected.splits['val'].load(3))
  for path in tmp_path.iterdir():
    path.write_bytes(path.read_bytes()[:-7])
  found, said = encode(dataset, tmp_path)
  assert len(said) == 3
  np.testing.assert_array_equal(found.splits['val'].load(3), expected)
  with pytest.raises(UserError, match=r'cannot be written to .*feature_cache'):
    encode(dataset, celeba / 'list_attr_celeba.csv')
  none = dict.fromkeys(dataset.splits, '')
  with pytest.raises(UserError, match=r'000\d+.jpg are not finite'):
    encode_splits(dataset, lambda x: np.full((16, 2), np.nan), 'nan', none, tmp_path, 16, 0)


def run(place, celeba, weights, method, *changes):
  flags = [
    f'--config=celeba:{method}', f'--config.data.dir={celeba}', '--config.data.official=False', '--config.data.size=8',
    '--config.model.name=resnet20', f'--config.model.weights={weights}', '--config.train.batch_size=8',
    '--config.train.eval_batch_size=16', '--config.train.steps=4', '--config.train.eval_every=2',
    '--config.loader.threads=0', f'--config.model.feature_cache={place}/cache',
  ]  # fmt: skip
  return train_run(from_flags(*flags, *changes), place / method.replace(',', '_'))


@pytest.mark.parametrize('method', ['ule,frozen', 'dfr,frozen', 'jtt,frozen'])
def test_methods_run_on_features(method, celeba, weights, tmp_path, capsys):
  first = ('--config.two_stage.epochs=1',) if method.startswith('jtt') else ()
  results = run(tmp_path, celeba, weights, method, '--config.select=last', *first)
  assert 0 <= results['test']['accuracy'] <= 1
  about = json.loads((tmp_path / method.replace(',', '_') / 'weights.json').read_text())
  assert about['layout'] == 'CIFAR ResNet'
  assert len(about['sha256']) == 64
  assert about['tensors']['linear.weight'] == 'the last layer, not kept'
  assert capsys.readouterr().err.count('computing the features') == 3


def test_a_frozen_run_goes_on_bitwise(celeba, weights, tmp_path):
  whole = run(tmp_path / 'a', celeba, weights, 'ule,frozen')
  run(tmp_path / 'b', celeba, weights, 'ule,frozen', '--config.train.steps=2')
  again = run(tmp_path / 'b', celeba, weights, 'ule,frozen')
  assert again == whole
  a, b = (np.load(tmp_path / p / 'ule_frozen' / 'predictions' / 'test.npz') for p in 'ab')
  for name in a.files:
    np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.full
def test_fine_tuning_starts_from_the_weights(celeba, weights, tmp_path):
  """With a learning rate of 0 and frozen statistics, the features are those of the file in both roles."""
  flags = ('--config.optim.lr=0', '--config.optim.weight_decay=0', '--config.model.batch_norm=frozen')
  run(tmp_path, celeba, weights, 'ule', *flags)
  run(tmp_path, celeba, weights, 'erm,frozen')
  tuned = np.load(tmp_path / 'ule' / 'predictions' / 'test.npz')
  frozen = np.load(tmp_path / 'erm_frozen' / 'predictions' / 'test.npz')
  dataset = load('celeba', SMALL | {'dir': str(celeba)})
  (path,) = [p for p in (tmp_path / 'cache').iterdir() if len(np.load(p)) == dataset.splits['train'].count]
  mean, std = np.load(path).mean(0), np.load(path).std(0)
  for role in ('student', 'teacher'):
    same = (tuned[f'features_{role}'] - mean) / np.where(std > 1e-6, std, 1)
    np.testing.assert_allclose(same, frozen['features_model'], rtol=1e-3, atol=1e-3)
  assert (tuned['logits_student'] != tuned['logits_teacher']).any()  # heads of their own


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (('--config.method.at=features',), 'method.at is features and model.encoder is trained'),
    (('--config.model.encoder=frozen',), 'method.at is image and model.encoder is frozen'),
    (('--config.model.weights=none', '--config.model.encoder=frozen'), 'needs model.weights'),
    (('--config.model.weights=default',), 'resnet20 has no usual weights'),
    (('--config.model.batch_norm=none',), 'weights of resnet20 have BatchNorm'),
    (('--config.model.weights=nowhere.npz',), 'nowhere.npz is no file'),
    (('--config.model.dropout=1',), 'model.dropout is 1.0: give a number from 0 to below 1'),
    (('--config.model.name=cnn', '--config.model.weights=none', '--config.model.remat=True'), 'cnn has no such option'),
    (('--config.train.accumulate=2',), 'statistics of BatchNorm'),
    (('--config.train.accumulate=3', '--config.model.batch_norm=frozen'), 'does not divide into train.accumulate=3'),
    (('--config.optim.trainable=stage9',), 'optim.trainable'),
  ],
)
def test_what_does_not_go_together_is_refused(changes, message, celeba, weights, tmp_path):
  with pytest.raises(UserError, match=message):
    run(tmp_path, celeba, weights, 'ule', *changes)
