"""Prepared array_record data: every data set, every option, bytes as they were, and nothing half-made."""

import re
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from datasets_test import WRITERS, load, one_batch
from writers import table_of, write_celeba

from ule_jax.cli import app
from ule_jax.data import pack as pack_module
from ule_jax.data import tables
from ule_jax.data.pack import pack
from ule_jax.errors import UserError


@pytest.fixture(scope='module')
def trees(tmp_path_factory):
  return {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITERS.items()}


@pytest.fixture(scope='module')
def prepared(trees, tmp_path_factory):
  """Every tree, prepared."""
  root = tmp_path_factory.mktemp('prepared')
  for name, tree in trees.items():
    pack(name, table_of(load(name, tree)), root / name, skip=False)
  return root


def assert_equal(found, expected):
  assert found.classes == expected.classes
  assert found.groups == expected.groups
  assert found.splits.keys() == expected.splits.keys()
  for name, split in expected.splits.items():
    np.testing.assert_array_equal(found.splits[name].label, split.label)
    np.testing.assert_array_equal(found.splits[name].group, split.group)
    assert [found.splits[name].name(i) for i in range(split.count)] == [split.name(i) for i in range(split.count)]
  a, b = one_batch(found), one_batch(expected)
  assert all(a[key].tobytes() == b[key].tobytes() for key in b)


@pytest.mark.parametrize('name', WRITERS)
def test_prepared_data_equal_the_folder(name, trees, prepared):
  assert_equal(load(name, prepared / name), load(name, trees[name]))


def test_every_option_works_on_prepared_data(trees, prepared):
  cases: tuple[tuple[str, dict[str, Any]], ...] = (
    ('celeba', {'target': 'Male', 'attribute': 'Smiling'}),
    ('spawrious', {'challenge': 'm2m_hard', 'seed': 3}),
    ('folder', {'fit': 'stretch', 'augment': False}),
  )
  for name, changes in cases:
    assert_equal(load(name, prepared / name, **changes), load(name, trees[name], **changes))


def test_masks_and_original_bytes_survive(trees, prepared):
  found, expected = load('urbancars', prepared / 'urbancars'), load('urbancars', trees['urbancars'])
  found_masks, expected_masks = found.splits['test'].masks, expected.splits['test'].masks
  assert found_masks is not None
  assert expected_masks is not None
  for name, mask in expected_masks(5).items():
    np.testing.assert_array_equal(found_masks(5)[name], mask)
  rows, source = table_of(found).parts['val'], table_of(expected).parts['val']
  assert [rows.read(i) for i in range(len(rows.names))] == [source.read(i) for i in range(len(source.names))]


def test_labels_can_be_read_from_the_records_themselves(trees, prepared, tmp_path):
  """As for a `celeb_a` that TFDS prepared: nested attributes, `validation`, no list beside the records."""
  import tensorflow_datasets as tfds

  table = table_of(load('celeba', trees['celeba']))

  class CelebA(tfds.core.GeneratorBasedBuilder):
    name = 'celeb_a'
    VERSION = tfds.core.Version('2.0.1')
    pkg_dir_path = tmp_path

    def _info(self):
      features = {
        'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
        'attributes': dict.fromkeys(table.parts['train'].columns, np.bool_),
        'landmarks': {'nose_x': np.int64},
        'identity': {'Identity_No': np.int64},
      }
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True)

    def _split_generators(self, dl_manager):
      return {{'val': 'validation'}.get(part, part): self._generate(rows) for part, rows in table.parts.items()}

    def _generate_examples(self):
      pass

    def _generate(self, rows):
      import io

      for i in range(len(rows.names)):
        attributes = {name: bool(values[i]) for name, values in rows.columns.items()}
        yield i, {
          'image': io.BytesIO(rows.read(i)), 'attributes': attributes,
          'landmarks': {'nose_x': i}, 'identity': {'Identity_No': i},
        }  # fmt: skip

  CelebA(data_dir=tmp_path, file_format='array_record').download_and_prepare()
  expected = load('celeba', trees['celeba'])
  for place in (tmp_path, tmp_path / 'celeb_a' / '2.0.1'):
    found = load('celeba', place)
    for split in expected.splits:
      np.testing.assert_array_equal(found.group_counts(split), expected.group_counts(split))
    assert one_batch(found)['image'].tobytes() == one_batch(expected)['image'].tobytes()
  shutil.copytree(prepared / 'folder', tmp_path / 'own')
  (tmp_path / 'own' / tables.COLUMNS).unlink()
  assert_equal(load('folder', tmp_path / 'own'), load('folder', trees['folder']))


def test_other_prepared_data_are_refused_by_name(prepared, tmp_path):
  with pytest.raises(UserError, match='no column y'):
    load('waterbirds', prepared / 'celeba')
  with pytest.raises(UserError, match='was not prepared from Spawrious'):
    load('spawrious', prepared / 'celeba')
  with pytest.raises(UserError, match='not prepared from a folder of images, as it has no column label'):
    load('folder', prepared / 'urbancars')
  with pytest.raises(UserError, match='no part train'):
    load('celeba', prepared / 'spawrious')
  for name in ('celeba', 'folder'):
    shutil.copytree(prepared / name, tmp_path / name / '1.0.0')
  with pytest.raises(UserError, match='holds 2 prepared data sets'):
    load('celeba', tmp_path)


def damaged(prepared, target, apply):
  shutil.copytree(prepared / 'celeba', target)
  apply(target)
  return target


@pytest.mark.parametrize(
  ('apply', 'message'),
  [
    (lambda r: next(r.glob('*train*')).unlink(), 'is not a data set that TFDS wrote as array_record'),
    (lambda r: (r / 'dataset_info.json').write_text('{'), 'is not a data set that TFDS wrote'),
    (lambda r: (r / tables.COLUMNS).write_bytes(b'PK\x03\x04 broken'), 'is damaged'),
    (
      lambda r: np.savez(r / tables.COLUMNS, allow_pickle=False, **{'train/Male': np.zeros(3)}),
      'does not fit the 30 records',
    ),
  ],
)
def test_damaged_prepared_data_are_named(apply, message, prepared, tmp_path):
  root = damaged(prepared, tmp_path / 'x', apply)
  with pytest.raises(UserError, match=message) as error:
    load('celeba', root)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('size', [100, 70_000])
def test_a_truncated_shard_is_named(size, prepared, tmp_path):
  def cut(root):
    shard = next(root.glob('*train*'))
    shard.write_bytes(shard.read_bytes()[:size])

  root = damaged(prepared, tmp_path / 'x', cut)
  with pytest.raises(UserError, match='prepare'):
    one_batch(load('celeba', root), batch_size=30)


def test_an_undecodable_image_ends_preparation_or_is_left_out(tmp_path):
  root = write_celeba(tmp_path / 'celeba')
  (root / 'img_align_celeba' / '000005.jpg').write_bytes(b'no image')
  table = table_of(load('celeba', root))
  with pytest.raises(UserError, match=r'000005\.jpg cannot be decoded'):
    pack('celeba', table, tmp_path / 'out', skip=False)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['celeba']
  assert pack('celeba', table, tmp_path / 'out', skip=True) == sum((30, 14, 13)) - 1
  found = load('celeba', tmp_path / 'out')
  assert found.splits['train'].count == 29
  assert '000005.jpg' not in {found.splits['train'].name(i) for i in range(29)}


def test_an_interrupted_preparation_leaves_nothing(trees, tmp_path, monkeypatch):
  table = table_of(load('celeba', trees['celeba']))
  write = pack_module._write

  def interrupt(*args):
    write(*args)
    raise KeyboardInterrupt

  monkeypatch.setattr(pack_module, '_write', interrupt)
  with pytest.raises(KeyboardInterrupt):
    pack('celeba', table, tmp_path / 'out', skip=False)
  assert not list(tmp_path.iterdir())


def test_a_killed_preparation_leaves_nothing_that_a_run_accepts(trees, tmp_path):
  code = (
    'import os, sys; import numpy as np; from ule_jax.cli.app import call\n'
    'np.savez_compressed = lambda *a, **k: os._exit(9)\n'
    'call("prepare", sys.argv[1:])'
  )
  arguments = [f'--config.data.dir={trees["celeba"]}', '--config.data.official=False', f'--out={tmp_path}/out']
  done = subprocess.run([sys.executable, '-c', code, '--config=celeba', *arguments], capture_output=True, check=False)
  assert done.returncode == 9, done.stderr
  assert not (tmp_path / 'out').exists()
  with pytest.raises(UserError, match='not a folder'):
    load('celeba', tmp_path / 'out')


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config=celeba', '--config.data.dir=x'], 'give --out'),
    (['--config=celeba', '--config.data.dir=x', '--out=.'], r'\. exists'),
    (['--config=digits', '--out=new'], 'digits is not made of image files'),
    (['--config=celeba', '--config.data.dir=x', '--out=new'], 'data.dir x is not a folder'),
  ],
)
def test_bad_usage_is_one_sentence_with_code_2(arguments, message, monkeypatch, capsys, tmp_path):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr('sys.argv', ['prepare', *arguments])
  with pytest.raises(SystemExit) as end:
    app.run_verb('prepare')
  assert end.value.code == 2
  said = capsys.readouterr().err.strip()
  assert re.search(message, said), said
  assert len(said.splitlines()) == 1
