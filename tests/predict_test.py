"""Predictions for files: those of the run on the same images, in order, whole or not at all."""

import csv
import inspect
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from configs import base
from ule_jax.cli import app
from ule_jax.cli.predict import predict as verb
from ule_jax.config.fields import flatten
from ule_jax.data.decoding import BY_TYPE
from ule_jax.data.listing import SUFFIXES
from ule_jax.deploy import predict
from ule_jax.errors import UserError
from ule_jax.report import sheet
from ule_jax.runs.recorded import HOST_BOUND, read_run
from ule_jax.runs.restore import load_data, restore


def rows(path):
  with path.open(newline='') as file:
    return list(csv.DictReader(file))


@pytest.fixture(scope='module')
def digits(ule_run, tmp_path_factory):
  """Images of the embedded test split as files, some of them deeper; name -> index."""
  root, split = tmp_path_factory.mktemp('digits'), load_data(restore(ule_run)).splits['test']
  names = {'b/1.png': 5, 'a.png': 0, 'b/c/2.PNG': 700, 'b/10.png': 9}
  for name, i in names.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(split.load(i)).save(root / name)
  (root / 'b' / 'notes.txt').write_text('no image')
  return root, names


def softmax(logits):
  shifted = np.exp(logits - logits.max(-1, keepdims=True))
  return shifted / shifted.sum(-1, keepdims=True)


def corner(picture, part):
  """Return the row and the column at which a picture holds another."""
  height, width = part.shape[:2]
  places = np.argwhere((picture[: 1 - height, : 1 - width] == part[0, 0]).all(-1))
  (place,) = (place for place in places if (picture[place[0] :, place[1] :][:height, :width] == part).all())
  return place


def test_predictions_are_those_of_the_run(ule_run, digits, tmp_path, capsys):
  root, names = digits
  out, looks = tmp_path / 'deep' / 'p.csv', tmp_path / 'looks'
  app.call('predict', [f'--run={ule_run}', f'--input={root}', f'--out={out}', f'--saliency={looks}'])
  found = rows(out)
  assert [row['filename'] for row in found] == sorted(names) == ['a.png', 'b/1.png', 'b/10.png', 'b/c/2.PNG']
  with np.load(ule_run / 'predictions' / 'test.npz') as recorded:
    expected = softmax(recorded['logits_teacher'][[names[row['filename']] for row in found]])
  classes = ('below five', 'five or more')
  for row, chances in zip(found, expected, strict=True):
    np.testing.assert_allclose([float(row[f'probability_{name}']) for name in classes], chances, atol=2e-6)
    assert row['prediction'] == classes[chances.argmax()]
  assert {p.relative_to(looks).as_posix() for p in looks.rglob('*.png')} == {f'{name}.png' for name in names}
  picture = np.asarray(Image.open(looks / 'a.png.png'))
  photograph = np.asarray(Image.open(root / 'a.png')).repeat(6, 0).repeat(6, 1)
  top, left, gap = *corner(picture, photograph), sheet.NARROWEST + sheet.GAP
  student, teacher = (picture[top : top + 96, left + n * gap : left + n * gap + 96] for n in (1, 2))
  assert student.shape == teacher.shape == photograph.shape  # in columns beside the photograph
  assert (student != photograph).any()
  assert (student != teacher).any()
  assert capsys.readouterr().out.startswith('4 images: ')
  assert not list(tmp_path.rglob('*.partial'))


def test_files_are_prepared_as_in_training_and_pass_a_frozen_encoder(frozen_run, tmp_path):
  """The run's own test files, which are larger than what the network sees, without its data set."""
  data = frozen_run.parent / 'celeba'
  with (data / 'list_eval_partition.csv').open(newline='') as file:
    names = [name for name, part in list(csv.reader(file))[1:] if part == '2']
  for name in names:
    (tmp_path / 'images').mkdir(exist_ok=True)
    shutil.copy(data / 'img_align_celeba' / name, tmp_path / 'images')
  hidden = data.rename(data.with_name('hidden'))
  try:
    app.call('predict', [f'--run={frozen_run}', f'--input={tmp_path / "images"}', f'--out={tmp_path / "p.csv"}'])
  finally:
    hidden.rename(data)
  with np.load(frozen_run / 'predictions' / 'test.npz') as recorded:
    expected = softmax(recorded['logits_teacher'])[:, 1]
  found = rows(tmp_path / 'p.csv')
  assert [row['filename'] for row in found] == names
  np.testing.assert_allclose([float(row['probability_Blond_Hair']) for row in found], expected, atol=1e-4)


def picture_of(path, level=120, **how):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', (20, 16), (level, 255 - level, 60)).save(path, **how)


@pytest.fixture
def mixed(tmp_path):
  """A folder as it comes: images, three that cannot be decoded or read, other files, companions, and a loop."""
  root = tmp_path / 'in'
  for i in range(6):
    picture_of(root / f'{i}.png', 20 * i)
  picture_of(root / 'deep' / 'a, "b"\nc.JPG')
  (root / '2.png').write_bytes(b'x')
  (root / '3.png').write_bytes((root / '3.png').read_bytes()[:50])
  (root / 'gone.png').symlink_to('nowhere')
  os.mkfifo(root / 'pipe.png')
  for name in ('._0.png', '__MACOSX/in/._1.png', '@eaDir/0.png/THUMB.jpg'):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b'\0\5\26\7\0\2\0\0Mac OS X        ')
  for name in ('x.heic', 'y.HEIC', 'notes.txt', 'README', 'deep/z.mp4'):
    (root / name).write_bytes(b'x')
  (root / 'deep' / 'again').symlink_to(root)
  (root / 'zz').symlink_to('deep')
  return root


def test_bad_images_are_skipped_with_a_row_and_a_count(ule_run, mixed, tmp_path, capsys):
  out, looks = tmp_path / 'p.csv', tmp_path / 'looks'
  flags = [f'--run={ule_run}', f'--input={mixed}', f'--out={out}', f'--saliency={looks}', '--on-bad-image=skip']
  app.call('predict', flags)
  found = rows(out)
  bad = ['2.png', '3.png', 'gone.png', 'pipe.png']
  good = ['0.png', '1.png', '4.png', '5.png', 'deep/a, "b"\nc.JPG']
  assert [row['filename'] for row in found] == sorted([*bad, *good])
  assert all(set(row.values()) == {row['filename'], ''} for row in found if row['filename'] in bad)
  assert {p.relative_to(looks).as_posix() for p in looks.rglob('*.png')} == {f'{name}.png' for name in good}
  said = capsys.readouterr()
  assert '9 images: ' in said.out
  assert ', 4 without a prediction\n' in said.out
  assert '5 files with other endings were passed over: (none) .heic .mp4 .txt\n' in said.out
  assert 'warning: 4 of 9 images have no prediction, the first: image 2.png cannot be decoded' in said.err
  for name in bad:
    (mixed / name).unlink()
  app.call('predict', [*flags[:-1], f'--out={tmp_path / "q.csv"}'])  # the same numbers as without them
  assert rows(tmp_path / 'q.csv') == [row for row in found if row['filename'] in good]


def test_a_bad_image_ends_it_before_anything_is_computed(ule_run, mixed, tmp_path, monkeypatch):
  def compute(*args, **more):
    raise AssertionError('a network was restored')

  monkeypatch.setattr('ule_jax.runs.restore.restore', compute)
  message = r'image 2.png cannot be decoded \(no known image format\): take .*--on-bad-image=skip. 3 more of 9 cannot.$'
  with pytest.raises(UserError, match=message):
    app.call('predict', [f'--run={ule_run}', f'--input={mixed}', f'--out={tmp_path / "p.csv"}'])
  for name in ('2.png', '3.png', 'gone.png'):
    (mixed / name).unlink()
  with pytest.raises(UserError, match=r'image pipe.png cannot be read \(it is no regular file\): take it out'):
    app.call('predict', [f'--run={ule_run}', f'--input={mixed}', f'--out={tmp_path / "p.csv"}'])
  assert not list(tmp_path.glob('*.csv*'))


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_every_ending_is_read(suffix, tmp_path):
  picture_of(tmp_path / f'x{suffix.upper()}')
  listing = predict.find(tmp_path)
  assert listing.names == [f'x{suffix.upper()}']
  look = predict.reader(tmp_path, BY_TYPE, older=False)
  assert predict.scan(listing, look, BY_TYPE, skip=False) == set()


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
  picture_of(tmp_path / 'a.png')
  (tmp_path / 'shut').mkdir()
  scandir = os.scandir

  def refuse(path):
    if str(path).endswith('shut'):
      raise PermissionError(13, 'Permission denied', str(path))
    return scandir(path)

  monkeypatch.setattr(os, 'scandir', refuse)
  with pytest.raises(UserError, match=r'shut cannot be read \(Permission denied\): make it readable, or move it away'):
    predict.find(tmp_path)


def test_a_folder_of_other_files_says_which(tmp_path):
  for i in range(20):
    (tmp_path / f'{i}.e{i:02}').touch()
  with pytest.raises(
    UserError, match=r'holds no image, only files that end on \.e00 .* \.e11 and 8 more: images end on'
  ):
    predict.find(tmp_path)


def test_one_ending_is_named_in_the_singular(tmp_path):
  picture_of(tmp_path / 'a.png')
  (tmp_path / 'a.png.part').touch()
  assert predict.find(tmp_path).passed_over == ['1 file with another ending was passed over: .part']


def test_a_run_names_no_cache_and_no_threads_to_its_reader(ule_run, frozen_run, tmp_path, monkeypatch):
  """A folder that somebody passes on would else name executables and features to load."""
  for name, run in (('ule', ule_run), ('frozen', frozen_run)):
    shared = tmp_path / name
    shutil.copytree(run, shared, ignore=shutil.ignore_patterns('tensorboard', 'predictions'))
    config = json.loads((shared / 'config.json').read_text())
    trap = tmp_path / f'{name}-trap'
    config['compilation_cache'] = config['model']['feature_cache'] = config['two_stage']['workdir'] = str(trap)
    config['loader'] = {'threads': 10**6, 'workers': 10**6}
    (shared / 'config.json').write_text(json.dumps(config))
    picture_of(tmp_path / 'x.png')
    chosen = []
    monkeypatch.setattr('ule_jax.devices.runtime.use_cache', lambda choice, to=chosen: to.append(choice))
    app.call('predict', [f'--run={shared}', f'--input={tmp_path / "x.png"}', f'--out={tmp_path / "p.csv"}'])
    app.call('evaluate', [f'--run={shared}'])
    app.call('export', [f'--run={shared}', f'--out={tmp_path / name}.stablehlo'])
    app.call('diagnose', [f'--run={shared}', f'--out={tmp_path / "page"}', '--no-images'])
    assert chosen == ['default'] * 4
    assert not trap.exists()
    found = restore(shared, 3, 'off').config
    assert (found.loader.threads, found.loader.workers, chosen[-1]) == (3, 0, 'off')
    assert found.model.feature_cache == found.two_stage.workdir == ''


@pytest.mark.parametrize('function', [verb, read_run, restore])
def test_the_default_of_the_flag_is_that_of_the_config(function):
  defaults = flatten(base.make('digits', 'ule').to_dict())
  flags = inspect.signature(function).parameters
  assert flags['threads'].default == defaults['loader.threads']
  assert flags['compilation_cache'].default == defaults['compilation_cache']
  assert set(HOST_BOUND) <= set(defaults)


def test_one_file_of_another_size(ule_run, tmp_path):
  Image.new('L', (40, 30), 200).save(tmp_path / 'x.jpg')
  app.call('predict', [f'--run={ule_run}', f'--input={tmp_path / "x.jpg"}', f'--out={tmp_path / "p.csv"}'])
  (row,) = rows(tmp_path / 'p.csv')
  assert row['filename'] == 'x.jpg'


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--input=images'], r'give --run'),
    (['--run=w'], r'give --input'),
    (['--run=w', '--input=nowhere'], r'--input nowhere is no image and no folder'),
    (['--run=w', '--input=empty'], r'empty holds no image'),
    (['--run=nowhere', '--input=images'], r'nowhere holds no run'),
    (['--run=w', '--input=bad'], r'image cut.jpg cannot be decoded \(.*\): take it out of the input'),
    (['--run=w', '--input=images', '--out=images'], r'images cannot be written \(it is a folder\): choose another'),
    (['--run=w', '--input=images', '--saliency=images/a.jpg'], r'a.jpg.png cannot be written .*: choose another --sal'),
    (['--run=w', '--input=images', '--output=x'], r'unknown flag --output: did you mean'),
  ],
)
def test_bad_usage_is_one_sentence_and_leaves_nothing(flags, message, ule_run, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'w').symlink_to(ule_run)
  for name in ('empty', 'images', 'bad'):
    (tmp_path / name).mkdir()
  Image.new('RGB', (16, 16)).save('images/a.jpg')
  Image.new('RGB', (16, 16)).save('bad/a.jpg')
  (tmp_path / 'bad' / 'cut.jpg').write_bytes((tmp_path / 'bad' / 'a.jpg').read_bytes()[:200])
  with pytest.raises(UserError, match=message) as end:
    app.call('predict', flags)
  assert '\n' not in str(end.value)
  assert not list(tmp_path.glob('*.csv*'))
