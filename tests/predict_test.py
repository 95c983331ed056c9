"""Predictions for files: those of the run on the same images, in order, whole or not at all."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from ule_jax import predict
from ule_jax.errors import UserError
from ule_jax.restore import load_data, restore


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


def test_predictions_are_those_of_the_run(ule_run, digits, tmp_path, capsys):
  root, names = digits
  out, looks = tmp_path / 'deep' / 'p.csv', tmp_path / 'looks'
  predict.main([f'--run={ule_run}', f'--input={root}', f'--out={out}', f'--saliency={looks}'])
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
  assert picture.shape == (192, 3 * 192 + 2 * 3, 3)  # the image, the student's map, the teacher's
  np.testing.assert_array_equal(picture[::12, :192:12], np.asarray(Image.open(root / 'a.png')))
  assert picture[:, 195:387].std() > 20
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
    predict.main([f'--run={frozen_run}', f'--input={tmp_path / "images"}', f'--out={tmp_path / "p.csv"}'])
  finally:
    hidden.rename(data)
  with np.load(frozen_run / 'predictions' / 'test.npz') as recorded:
    expected = softmax(recorded['logits_teacher'])[:, 1]
  found = rows(tmp_path / 'p.csv')
  assert [row['filename'] for row in found] == names
  np.testing.assert_allclose([float(row['probability_Blond_Hair']) for row in found], expected, atol=1e-4)


def test_one_file_of_another_size(ule_run, tmp_path):
  Image.new('L', (40, 30), 200).save(tmp_path / 'x.jpg')
  predict.main([f'--run={ule_run}', f'--input={tmp_path / "x.jpg"}', f'--out={tmp_path / "p.csv"}'])
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
    predict.main(flags)
  assert '\n' not in str(end.value)
  assert not list(tmp_path.glob('*.csv*'))
