"""Warnings of pixels that differ from the file's appearance: by data, prepare, a run, and a run that resumes."""

import json
import re

import numpy as np
import pytest
from common import from_flags
from PIL import Image
from writers import write_csv

from ule_jax.cli import app
from ule_jax.errors import UserError
from ule_jax.runs import workdir
from ule_jax.train.run import run as train_run

SMALL = [
  '--config.model.name=mlp', '--config.model.width=8', '--config.model.depth=1', '--config.model.weights=none',
  '--config.data.size=8', '--config.train.steps=2', '--config.train.eval_every=2', '--config.train.batch_size=8',
  '--config.train.eval_batch_size=8', '--config.loader.threads=1', '--config.train.log_every=2',
]  # fmt: skip
NAMES = [f'{split}/{i}' for split in ('train', 'val', 'test') for i in range(8)]


def picture(kind: str, i: int) -> Image.Image:
  rng = np.random.default_rng(i)
  noise = rng.integers(0, 256, (12, 12, 3))
  if kind == 'transparent':
    return Image.fromarray(np.dstack([noise, np.where(np.arange(144).reshape(12, 12) < 70, 0, 255)]).astype(np.uint8))
  if kind == 'twelve bits':
    return Image.fromarray((noise[..., 0] * 16 + 15).astype(np.uint16))
  if kind == 'few levels':
    return Image.fromarray((noise[..., 0] * 255 // 255).astype(np.uint16))
  if kind == 'floats':
    return Image.fromarray(np.float32(noise[..., 0] / 255))
  return Image.fromarray(noise.astype(np.uint8))


def folder(root, kind: str, form: str = 'png'):
  for i, name in enumerate(NAMES):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    picture(kind, i).save(root / f'{name}.{form}')
  rows = [(f'{name}.{form}', 'ab'[i % 2], name.split('/')[0]) for i, name in enumerate(NAMES)]
  write_csv(root / 'metadata.csv', ('filename', 'label', 'split'), rows)
  return root


def flags(root, *changes):
  return ['--config=folder:erm', f'--config.data.dir={root}', '--config.select=last', *SMALL, *changes]


def run(place, root, *changes, force=False):
  return train_run(from_flags(*flags(root, *changes)), place, force)


def warnings_of(capsys) -> list[str]:
  said = capsys.readouterr()
  return [line for line in (said.out + said.err).splitlines() if 'warning' in line]


@pytest.mark.parametrize('on_bad_image', ['fail', 'skip'])
def test_a_run_says_once_that_images_are_transparent(on_bad_image, tmp_path, capsys):
  root = folder(tmp_path / 'data', 'transparent')
  skip = f'--config.data.on_bad_image={on_bad_image}'
  run(tmp_path / 'run', root, skip)
  (said,) = warnings_of(capsys)
  assert '24 of 24 images that were decoded are transparent in places and were put on white (data.background)' in said
  app.call('data', ['--config=folder', f'--config.data.dir={root}', f'--out={tmp_path / "sheets"}', skip])
  (said,) = warnings_of(capsys)
  assert '24 of 24' in said
  run(tmp_path / 'plain', folder(tmp_path / 'plain_data', 'plain'), skip)
  assert not warnings_of(capsys)


def test_a_range_of_which_little_is_used_is_said_until_white_is_given(tmp_path, capsys):
  root = folder(tmp_path / 'data', 'twelve bits')
  run(tmp_path / 'run', root)
  (said,) = warnings_of(capsys)
  assert re.search(r'use less than a quarter of their range, 0 to 15 of 255: .*--config.data.white', said)
  run(tmp_path / 'white', root, '--config.data.white=4095')
  assert not warnings_of(capsys)
  app.call('data', ['--config=folder', f'--config.data.dir={root}', f'--out={tmp_path / "sheets"}'])
  (said,) = warnings_of(capsys)
  assert 'less than a quarter' in said
  with pytest.raises(UserError, match=r'data.white \(4095.0 there, 0.0 here\)'):
    run(tmp_path / 'white', root)
  with pytest.raises(UserError, match=r'\w+/\d.png cannot be decoded \(its values go from .* white 1000: set'):
    run(tmp_path / 'other', root, '--config.data.white=1000')


def test_prepared_data_are_looked_at_too(tmp_path, capsys):
  root = folder(tmp_path / 'data', 'transparent')
  app.call('prepare', ['--config=folder', f'--config.data.dir={root}', f'--out={tmp_path / "records"}'])
  assert len(warnings_of(capsys)) == 3  # a line for each part
  expected = run(tmp_path / 'a', root)
  capsys.readouterr()
  found = run(tmp_path / 'b', tmp_path / 'records')
  (said,) = warnings_of(capsys)
  assert '24 of 24' in said
  assert found['test'] == expected['test']


def older(place) -> None:
  """Remove the fields that a run recorded by an older version lacks."""
  path = place / 'config.json'
  config = json.loads(path.read_text())
  del config['data']['white'], config['data']['background']
  path.write_text(json.dumps(config))


@pytest.mark.parametrize('kind', ['transparent', 'few levels', 'floats', 'plain'])
def test_a_recorded_run_whose_pixels_are_others_now_says_so(kind, tmp_path, capsys):
  root = folder(tmp_path / 'data', kind, 'tif' if kind == 'floats' else 'png')
  place = tmp_path / 'run'
  run(place, root)
  older(place)
  capsys.readouterr()

  def changes() -> list[str]:
    return [said for said in warnings_of(capsys) if 'other pixels than when this run was recorded' in said]

  due = 0 if kind == 'plain' else 1
  app.call('evaluate', [f'--run={place}'])
  assert len(changes()) == due
  app.call('predict', [f'--run={place}', f'--input={root / "test"}', f'--out={tmp_path / "p.csv"}'])
  said = changes()
  assert len(said) == due
  assert all('8 of 8' in text for text in said)
  run(place, root, '--config.train.steps=4')
  said = changes()
  assert len(said) == due
  assert all('24 of 24' in text for text in said)
  assert json.loads((place / 'config.json').read_text())['data']['white'] == 0.0
  run(place, root, '--config.train.steps=6')  # it has the field now
  assert not changes()


def test_a_recorded_run_does_not_go_on_with_another_white(tmp_path):
  root = folder(tmp_path / 'data', 'plain')
  run(tmp_path / 'run', root)
  older(tmp_path / 'run')
  for change in ('white=100', 'background=black'):
    with pytest.raises(UserError, match=rf'data.{change.split("=")[0]} \(.* there, .* here\)'):
      run(tmp_path / 'run', root, f'--config.data.{change}', '--config.train.steps=4')
  assert not workdir.lacks(tmp_path / 'nothing', 'data.white')


def test_a_run_predicts_with_the_white_and_the_background_that_it_was_trained_with(tmp_path, capsys):
  root = folder(tmp_path / 'data', 'twelve bits')
  run(tmp_path / 'run', root, '--config.data.white=4095', '--config.data.background=black')

  def predicted(source):
    app.call('predict', [f'--run={tmp_path / "run"}', f'--input={source}', f'--out={tmp_path / "p.csv"}'])
    return [line.split(',', 1)[1] for line in (tmp_path / 'p.csv').read_text().splitlines()]

  ours = predicted(root / 'test')
  eight = tmp_path / 'eight'
  eight.mkdir()
  for i in range(8):
    levels = np.asarray(Image.open(root / f'test/{i}.png')).astype(int) * 255 // 4095
    clear = np.dstack([levels] * 3 + [np.where(levels == 0, 0, 255)]).astype(np.uint8)
    Image.fromarray(clear).save(eight / f'{i}.png')
  assert predicted(eight) == ours
  Image.fromarray(np.full((9, 9), 5000, np.uint16)).save(eight / '9.png')
  with pytest.raises(UserError, match=r'9.png cannot be decoded \(its values go from 0 to 5000.*white 4095'):
    predicted(eight)


def test_features_of_a_frozen_encoder_are_of_one_white(tmp_path):
  from ule_jax import data
  from ule_jax.train import features

  root = folder(tmp_path / 'data', 'few levels')
  options = {'dir': str(root), 'size': 8, 'fit': 'crop', 'resize': 'antialias', 'augment': False}
  options |= {'scale': (0.7, 1.0), 'ratio': (0.75, 1.3), 'jitter': 0.0, 'unlisted': 'fail'}
  keys = set()
  for changes in ({}, {'white': 255.0}, {'white': 4095.0}, {'background': 'black'}):
    dataset = data.load('folder', options | changes)
    keys.add(features.key(dataset, dataset.splits['train'], 'net', content='of the files'))
  assert len(keys) == 4
