"""Features of images as a file: of networks of ours and of timm, resumed, and read again as embeddings."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from writers import write_folder

from ule_jax import data
from ule_jax.cli import app
from ule_jax.data.feature_files import WRITTEN
from ule_jax.deploy import embed as files
from ule_jax.deploy.encoders import ImageEncoder
from ule_jax.errors import Interrupted, UserError

DIGITS = {'crops': 1}


def means(image):
  """A stand-in for an encoder: means over rows and over columns."""
  image = np.asarray(image, np.float32)
  return np.concatenate([image.mean((1, 3)), image.mean((2, 3))], 1)


@pytest.fixture
def encoder():
  return ImageEncoder(data.load('digits', DIGITS), means, {'name': 'means', 'weights': 'none', 'transform': 'none'})


def written(path, encoder, **changes):
  settings = {'contents': {'train': 'x'}, 'batch_size': 64, 'threads': 0} | changes
  return files.embed(encoder, out=path, **settings)


@pytest.mark.parametrize('ending', WRITTEN)
def test_a_file_is_read_as_the_data_that_it_is_of(ending, encoder, tmp_path):
  path = tmp_path / f'f{ending}'
  assert written(path, encoder)
  images, dataset = encoder.dataset, data.load('embeddings', {'file': str(path)})
  assert list(dataset.splits) == ['train', 'val', 'val_balanced', 'test']
  assert (dataset.classes, dataset.groups) == (images.classes, images.groups)
  for name, split in images.splits.items():
    np.testing.assert_array_equal(dataset.splits[name].label, split.label)
    np.testing.assert_array_equal(dataset.splits[name].group, split.group)
  expected = means(images.splits['test'].load(7)[None])[0]
  np.testing.assert_array_equal(dataset.splits['test'].load(7), expected)
  assert not written(path, encoder)
  assert not path.with_name(f'{path.name}.parts').exists()
  with pytest.raises(UserError, match='is of other images or another encoder'):
    written(path, encoder, half=True)


def test_an_interrupted_command_continues(encoder, tmp_path, monkeypatch):
  monkeypatch.setattr(files, 'PART', 256)
  whole = tmp_path / 'whole.npy'
  written(whole, encoder)
  seen = []

  def count(image):
    seen.append(len(image))
    if len(seen) == 10:
      raise Interrupted('SIGTERM')
    return means(image)

  path = tmp_path / 'f.npy'
  with pytest.raises(Interrupted):
    written(path, encoder._replace(apply=count))
  assert not path.exists()
  assert len(list((tmp_path / 'f.npy.parts').glob('*.npy'))) == 2  # of four batches each
  written(path, encoder._replace(apply=count))
  assert len(seen) == 10 + 16 - 8 + 5 + 10 + 16  # batches of train, val, val_balanced, test; eight were done
  assert path.read_bytes() == whole.read_bytes()
  assert path.with_suffix('.csv').read_bytes() == whole.with_suffix('.csv').read_bytes()


def test_half_precision_is_refused_where_it_ends(encoder, tmp_path):
  written(tmp_path / 'f.npz', encoder, half=True)
  assert np.load(tmp_path / 'f.npz')['x'].dtype == np.float16
  with pytest.raises(UserError, match='half precision ends at 65504: leave --half out'):
    written(tmp_path / 'g.npz', encoder._replace(apply=lambda image: 1e6 * means(image)), half=True)


@pytest.mark.parametrize(
  ('flags', 'sentence'),
  [
    (['--out=f.csv'], 'ends on no kind of file'),
    (['--checkpoint=x.pth'], '--checkpoint is of --timm'),
    (['--timm=resnet18', '--config.model.name=vit'], '--config.model.name is not read with --timm'),
    (['--timm=resnet18', '--checkpoint=absent.pth'], 'absent.pth does not exist'),
    ([], 'features of a random mlp say nothing'),
  ],
)
def test_wrong_flags_end_with_one_sentence(flags, sentence, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=sentence):
    app.call('embed', ['--config=digits', '--config.data.crops=1', *flags])


def test_features_are_those_that_a_frozen_run_trains_on(frozen_run, tmp_path):
  config = json.loads((frozen_run / 'config.json').read_text())
  changes = {'data.dir', 'data.official', 'data.size', 'model.name', 'model.weights', 'train.eval_batch_size'}
  flags = [f'--config.{name}={config[name.split(".")[0]][name.split(".")[1]]}' for name in sorted(changes)]
  app.call('embed', ['--config=celeba:ule,frozen', *flags, '--config.loader.threads=0', f'--out={tmp_path}/f.npz'])
  x = np.load(tmp_path / 'f.npz')['x']
  cached = [np.load(path) for path in (frozen_run.parent / 'cache').glob('*.npy')]
  assert sum(map(len, cached)) == len(x)
  rows = {row.tobytes() for rows in cached for row in rows}
  assert all(row.tobytes() in rows for row in x)
  statistics = json.loads((frozen_run / 'features.json').read_text())
  np.testing.assert_allclose(data.load('embeddings', {'file': f'{tmp_path}/f.npz'}).mean, statistics['mean'], rtol=1e-6)


@pytest.mark.full
def test_a_network_of_timm_has_its_own_transform(tmp_path, torchvision):
  torch, timm = pytest.importorskip('torch'), pytest.importorskip('timm')
  from timm.data.config import resolve_model_data_config
  from timm.data.transforms_factory import create_transform

  torch.manual_seed(0)
  model = timm.create_model('test_resnet', pretrained=False, num_classes=7).eval()
  torch.save({'state_dict': {f'module.{name}': v for name, v in model.state_dict().items()}}, tmp_path / 'net.pth')
  splits = ('train',) * 3 + ('val', 'test')
  root = write_folder(tmp_path / 'photos', [(f'{c}/{i}.jpg', c, s) for c in 'ab' for i, s in enumerate(splits)])
  flags = ['--config=folder', f'--config.data.dir={root}', '--timm=test_resnet', '--config.train.eval_batch_size=4']
  app.call('embed', [*flags, f'--checkpoint={tmp_path}/net.pth', f'--out={tmp_path}/f.npz'])
  transform: Any = create_transform(**resolve_model_data_config(model), is_training=False)
  names = np.load(tmp_path / 'f.npz')['id'][:5]
  images = torch.stack([transform(Image.open(root / name)) for name in names])
  with torch.inference_mode():
    expected = model.forward_head(model.forward_features(images), pre_logits=True)
  np.testing.assert_allclose(np.load(tmp_path / 'f.npz')['x'][:5], expected, rtol=1e-3, atol=1e-4)
  about = json.loads((tmp_path / 'f.json').read_text())['encoder']
  assert about['mean'] == list(resolve_model_data_config(model)['mean'])
  assert 'Normalize' in about['transform']
  torch.save({'conv1.weight': torch.zeros(3)}, tmp_path / 'other.pth')
  with pytest.raises(UserError, match='give the weights of this network'):
    app.call('embed', [*flags, f'--checkpoint={tmp_path}/other.pth', f'--out={tmp_path}/g.npz'])
  with pytest.raises(UserError, match='give a name of timm'):
    app.call('embed', [*flags[:2], '--timm=resnot', f'--checkpoint={tmp_path}/net.pth', f'--out={tmp_path}/g.npz'])


@pytest.mark.full
def test_real_weights_make_the_features_of_their_network(real_data, tmp_path):
  """Of the CIFAR ResNet-20 on images that are normalised as its authors do, by ImageNet's mean and deviation."""
  import jax
  import jax.numpy as jnp
  from common import network

  from ule_jax.models.pretrained import mapping

  pytest.importorskip('torch')
  weights = real_data / 'weights' / 'resnet20-12fca82f.th'
  if not weights.exists():
    pytest.skip('no CIFAR ResNet-20')
  flags = ['--config.model.name=resnet20', '--config.model.batch_norm=frozen', f'--config.model.weights={weights}']
  flags += ['--config.model.pixels=imagenet', '--config.data.crops=1', f'--out={tmp_path}/f.npz']
  app.call('embed', ['--config=digits', *flags])
  model = network('resnet20', 10, batch_norm='frozen')
  template = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False))
  pretrained = mapping.load_pretrained(str(weights), 'resnet20', template, keep_head=True)
  split = data.load('digits', DIGITS).splits['test']
  pixels = np.stack([split.load(i) for i in range(4)]) / 255
  image = (pixels - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
  variables = {'params': pretrained.params, 'batch_stats': pretrained.batch_stats}
  expected: Any = model.apply(variables, jnp.asarray(image, jnp.float32), train=False)[1]
  arrays = np.load(tmp_path / 'f.npz')
  first = int(np.flatnonzero(arrays['split'] == 'test')[0])
  np.testing.assert_allclose(arrays['x'][first : first + 4], expected, rtol=1e-3, atol=1e-4)
