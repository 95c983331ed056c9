"""Every network of the table trains, and every verb after training works on it: what is exported says what it says."""

import csv
import json

import jax
import numpy as np
import pytest
from common import from_flags
from PIL import Image
from writers import write_folder

from ule_jax.cli import app
from ule_jax.data.decoding import decode
from ule_jax.models import MODELS
from ule_jax.runs.restore import restore
from ule_jax.train.run import run as train_run

QUICK, FULLER = ('cnn', 'mlp'), ('vit', 'resnet20')
DEEP = ('resnet', 'efficientnet')
LARGE_PATCH = ('vit_ti16', 'vit_s16', 'vit_b16')
# of options that change what is exported; frozen: the network is the encoder, from weights that another run exported
VARIANTS = {
  'cnn': [(), ('batch_norm=batch',), ('precision=bfloat16',), ('depth=5',), ('encoder=frozen',)],
  'mlp': [(), ('precision=bfloat16',)],
  'vit': [(), ('precision=bfloat16', 'remat=True'), ('encoder=frozen', 'head_depth=1', 'head_width=4')],
  'resnet20': [(), ('batch_norm=none', 'remat=True'), ('precision=bfloat16',)],
}


def cases():
  for name in MODELS:
    for changes in VARIANTS.get(name, [()]):
      suite = pytest.mark.full if name in FULLER and not changes else pytest.mark.slow
      marks = () if name in QUICK and not changes else suite
      yield pytest.param(name, changes, id='-'.join([name, *changes]), marks=marks)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  splits = ('train',) * 6 + ('val',) * 3 + ('test',) * 3
  return write_folder(
    tmp_path_factory.mktemp('photos'), [(f'{c}/{i}.png', c, s) for c in ('cat', 'dog') for i, s in enumerate(splits)]
  )


def flags(name, photos, changes):
  """A run of two steps on images that are odd in size, where the network can."""
  size = 16 if name in LARGE_PATCH else 8 if name == 'vit' else 33 if name.startswith(DEEP) else 13
  model = {'name': name, 'width': '4', 'depth': '3', 'heads': '2', 'weights': 'none'}
  model['batch_norm'] = 'batch' if name.startswith(DEEP) else 'none'  # without it deep ones diverge at once
  model |= dict(change.split('=') for change in changes)
  steps = {'steps': 2, 'eval_every': 2, 'batch_size': 8, 'eval_batch_size': 16}
  fields = [f'model.{field}={value}' for field, value in model.items()]
  fields += [f'train.{field}={value}' for field, value in steps.items()]
  fields += [f'data.dir={photos}', f'data.size={size}', 'loader.threads=0', 'compilation_cache=off']
  return [f'--config.{field}' for field in fields]


def run(workdir, name, photos, changes, *more):
  method = 'ule' if name == 'cnn' else 'erm'
  config = from_flags(f'folder:{method}', *flags(name, photos, changes), *more)
  return train_run(config, workdir)


@pytest.mark.parametrize(('name', 'changes'), [*cases()])
def test_every_verb_after_training(name, changes, photos, tmp_path, capsys):
  workdir, more = tmp_path / 'w', []
  if 'encoder=frozen' in changes:
    run(tmp_path / 'first', name, photos, ())
    app.call('export', [f'--run={tmp_path / "first"}', f'--out={tmp_path / "first.stablehlo"}'])
    more = [f'--config.model.weights={tmp_path / "first.safetensors"}', f'--config.model.feature_cache={tmp_path}/f']
    more += ['--config.method.at=features'] if name == 'cnn' else []
  run(workdir, name, photos, changes, *more)
  capsys.readouterr()
  app.call('evaluate', [f'--run={workdir}', '--saliency=1'])
  assert 'the same numbers as in results.json' in capsys.readouterr().out
  app.call('diagnose', [f'--run={workdir}', f'--out={tmp_path / "d"}', '--examples=1'])
  assert (tmp_path / 'd' / 'clusters.csv').read_text().count('\n') == 1 + 6
  app.call(
    'predict', [f'--run={workdir}', f'--input={photos}', f'--out={tmp_path / "p.csv"}', f'--saliency={tmp_path / "s"}']
  )
  with (tmp_path / 'p.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  expected = np.array([[float(row[f'probability_{c}']) for c in ('cat', 'dog')] for row in rows])
  assert np.ptp(expected) > 1e-3
  app.call('export', [f'--run={workdir}', f'--out={tmp_path / "m.stablehlo"}'])
  exported = jax.export.deserialize(bytearray((tmp_path / 'm.stablehlo').read_bytes()))
  assert exported.platforms == ('cpu', 'cuda', 'tpu')
  assert json.loads((tmp_path / 'm.json').read_text())['model'] == name
  prepare = restore(workdir).input_spec.eval_transform
  assert prepare is not None
  rng = np.random.default_rng(0)
  images = np.stack([prepare(decode((photos / row['filename']).read_bytes(), '', ''), rng) for row in rows])
  # bfloat16 rounds differently in another order of its sums, and the CPU's depends on the batch's size.
  atol = 2e-2 if 'precision=bfloat16' in changes else 2e-5
  for count in (1, 2, 3, 8, len(rows)):
    logits = np.asarray(exported.call(images[:count]), np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(chances, expected[:count], atol=atol)
  with Image.open(next((tmp_path / 's').rglob('*.png'))) as picture:
    assert picture.width > 2 * 160  # the image, and a map for each network


def test_the_table_of_this_file_is_that_of_the_networks():
  assert {*QUICK, *FULLER} <= set(MODELS)
  assert set(VARIANTS) <= set(MODELS)
  ids = {param.values[0] for param in cases()}
  assert ids == set(MODELS)
