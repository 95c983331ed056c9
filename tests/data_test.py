"""Data sets and the pipeline: counts, order, hosts, padding, and what is refused."""

import gzip
import re
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image
from writers import write_celeba

from ule_jax.data import celeba, digits, pipeline, transforms
from ule_jax.errors import UserError

DIGITS = {'shortcut': 'tint', 'rate': 0.9, 'crops': 1, 'brightness': 0.5, 'seed': 0}
CELEBA = {'target': 'Blond_Hair', 'attribute': 'Male', 'size': 32, 'augment': True}
OFFICIAL = {
  'train': [71629, 66874, 22880, 1387], 'val': [8535, 8276, 2874, 182], 'test': [9767, 7535, 2480, 180],
}  # fmt: skip


@pytest.fixture(scope='module')
def tint():
  return digits.load(**DIGITS)


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
  return celeba.load(dir=str(write_celeba(tmp_path_factory.mktemp('celeba'))), **CELEBA)


@pytest.mark.parametrize('shortcut', digits.SHORTCUTS)
def test_digits_follow_the_shortcut_in_train_and_not_in_test(shortcut):
  data = digits.load(**DIGITS | {'shortcut': shortcut})
  for name, follows in (('train', 0.9), ('val', 0.9), ('val_balanced', 0.5), ('test', 0.5)):
    split = data.splits[name]
    assert (split.group // 2 == split.label).all()
    assert (split.group % 2 == split.label).mean() == pytest.approx(follows, abs=0.0 if follows == 0.5 else 0.05)
  assert [data.splits[n].count for n in ('train', 'val', 'val_balanced', 'test')] == [1000, 297, 594, 1000]


def test_no_digit_is_in_two_splits_and_every_test_digit_stands_under_both_values(tint):
  def ids(name):
    split = tint.splits[name]
    return [split.name(i).split(',')[0] for i in range(split.count)]

  assert not set(ids('train')) & set(ids('val'))
  assert not set(ids('test')) & set(ids('train') + ids('val'))
  assert set(ids('val')) == set(ids('val_balanced'))
  assert {name: ids('test').count(name) for name in ids('test')} == dict.fromkeys(ids('test'), 2)


def test_the_tint_is_in_the_pixels(tint):
  split = tint.splits['test']
  warmth = np.array([np.subtract(*split.load(i).astype(float).mean((0, 1))[[0, 2]]) for i in range(split.count)])
  warm = split.group % 2 == 1
  assert warmth[warm].mean() > warmth[~warm].mean() + 15


def test_digits_are_the_same_for_the_same_seed_only(tint):
  same, other = digits.load(**DIGITS), digits.load(**DIGITS | {'seed': 1})
  a, b, c = (np.stack([d.splits['train'].load(i) for i in range(50)]) for d in (tint, same, other))
  np.testing.assert_array_equal(a, b)
  assert (a != c).any()


@pytest.mark.parametrize(('field', 'value'), [('rate', 1.5), ('crops', 0), ('brightness', 2.0), ('shortcut', 'tnt')])
def test_digits_options_out_of_range_are_named(field, value):
  with pytest.raises(UserError, match=field):
    digits.load(**DIGITS | {field: value})


def batches(data, count, **changes):
  settings = {'batch_size': 32, 'seed': 3, 'sampling': 'uniform', 'start': 0, 'threads': 2} | changes
  stream = pipeline.train_batches(data, **settings)
  return [next(stream) for _ in range(count)]


def test_an_epoch_has_every_example_once_and_epochs_differ(tint):
  index = np.concatenate([b['index'] for b in batches(tint, 125, batch_size=16)])
  first, second = index[:1000], index[1000:2000]
  assert sorted(first) == sorted(second) == list(range(1000))
  assert (first != second).any()


@pytest.mark.parametrize('source', ['tint', 'faces'])
@pytest.mark.parametrize('changes', [{'threads': 0}, {'start': 3}, {'seed': 4}])
def test_the_order_depends_on_the_seed_alone(source, changes, request):
  data = request.getfixturevalue(source)
  reference = batches(data, 6)[changes.get('start', 0) :]
  found = batches(data, len(reference), **changes)
  same = all(np.array_equal(a[k], b[k]) for a, b in zip(reference, found, strict=True) for k in a)
  assert same == ('seed' not in changes)


@pytest.mark.parametrize('hosts', [2, 4])
def test_global_batches_do_not_depend_on_the_host_count(hosts, faces):
  whole = batches(faces, 4)
  shares = [batches(faces, 4, host=h, hosts=hosts) for h in range(hosts)]
  for step, batch in enumerate(whole):
    for name in batch:  # images too: the augmentation is keyed by the position in the global batch
      np.testing.assert_array_equal(np.concatenate([share[step][name] for share in shares]), batch[name])


@pytest.mark.parametrize('hosts', [1, 3])
def test_evaluation_sees_every_example_once(hosts, tint):
  seen = []
  for host in range(hosts):
    for batch in pipeline.eval_batches(tint, 'val', batch_size=120, threads=1, host=host, hosts=hosts):
      assert ((batch['index'] >= 0) == (batch['weight'] == 1)).all()
      seen.extend(batch['index'][batch['weight'] == 1])
  assert sorted(seen) == list(range(297))


@pytest.mark.parametrize(('sampling', 'part'), [('class_balanced', 'label'), ('group_balanced', 'group')])
def test_balanced_batches_are_balanced(sampling, part, tint):
  for batch in batches(tint, 5, sampling=sampling):
    assert len(set(np.bincount(batch[part]))) == 1


def test_group_balance_needs_groups(tint):
  split = tint.splits['train']
  blind = tint._replace(splits=tint.splits | {'train': split._replace(group=np.full_like(split.group, -1))})
  with pytest.raises(UserError, match='group_balanced'):
    batches(blind, 1, sampling='group_balanced')


@pytest.mark.parametrize('form', ['csv', 'txt'])
@pytest.mark.parametrize('nested', [False, True])
def test_celeba_layouts_are_equal(form, nested, faces, tmp_path):
  data = celeba.load(dir=str(write_celeba(tmp_path, form=form, nested=nested)), **CELEBA)
  for name, counts in (('train', [12, 8, 6, 4]), ('val', [4, 4, 3, 3]), ('test', [4, 4, 3, 2])):
    np.testing.assert_array_equal(data.group_counts(name), counts)
  for a, b in zip(batches(data, 3), batches(faces, 3), strict=True):
    np.testing.assert_array_equal(a['image'], b['image'])


def test_celeba_takes_any_pair_of_attributes(tmp_path):
  data = celeba.load(dir=str(write_celeba(tmp_path)), **CELEBA | {'target': 'Male', 'attribute': 'Smiling'})
  np.testing.assert_array_equal(data.group_counts(), [0, 18, 0, 12])
  assert data.groups[3] == 'Male, Smiling'


def rewrite(path, old, new):
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))


def remove(path):
  shutil.rmtree(path) if path.is_dir() else path.unlink()


DAMAGE = {
  'no folder': (lambda r: remove(r), r'data.dir .*celeba.* is not a folder'),
  'no attributes': (lambda r: remove(r / 'list_attr_celeba.csv'), 'neither list_attr_celeba.csv nor'),
  'no partition': (lambda r: remove(r / 'list_eval_partition.csv'), 'neither list_eval_partition.csv nor'),
  'no images': (lambda r: remove(r / 'img_align_celeba'), 'no folder img_align_celeba'),
  'missing image': (lambda r: remove(r / 'img_align_celeba' / '000007.jpg'), r'1 images .*000007.jpg'),
  'one list only': (lambda r: rewrite(r / 'list_eval_partition.csv', '000003.jpg,0\n', ''), '000003.jpg is in only'),
  'twice': (lambda r: rewrite(r / 'list_eval_partition.csv', '000004', '000003'), '000003.jpg twice'),
  'bad split': (lambda r: rewrite(r / 'list_eval_partition.csv', '000003.jpg,0', '000003.jpg,7'), "split code '7'"),
  'bad value': (lambda r: rewrite(r / 'list_attr_celeba.csv', '000003.jpg,-1,-1', '000003.jpg,-1,x'), "value 'x'"),
  'short row': (lambda r: rewrite(r / 'list_attr_celeba.csv', '000003.jpg,-1,', '000003.jpg,'), '000003.jpg has'),
  'escape': (lambda r: rewrite(r / 'list_attr_celeba.csv', '000003.jpg', '../x.jpg'), r'\.\./x.jpg'),
  'binary': (lambda r: (r / 'list_attr_celeba.csv').write_bytes(b'\xff\xfe\x00'), 'not a text file'),
  'empty': (lambda r: (r / 'list_attr_celeba.csv').write_text(''), 'lists no image'),
}  # fmt: skip


@pytest.mark.parametrize('damage', DAMAGE)
def test_damaged_celeba_is_named(damage, tmp_path):
  root = write_celeba(tmp_path / 'celeba', counts=((2, 2, 2, 2), (1, 1, 1, 1), (1, 1, 1, 1)))
  apply, message = DAMAGE[damage]
  apply(root)
  with pytest.raises(UserError, match=message):
    celeba.load(dir=str(root), **CELEBA)


def test_an_unknown_attribute_gets_the_nearest_names(tmp_path):
  root = write_celeba(tmp_path)
  with pytest.raises(UserError, match=r"'Blond_Hiar': did you mean 'Blond_Hair'"):
    celeba.load(dir=str(root), **CELEBA | {'target': 'Blond_Hiar'})
  with pytest.raises(UserError, match='choose two'):
    celeba.load(dir=str(root), **CELEBA | {'attribute': 'Blond_Hair'})


@pytest.mark.parametrize('threads', [0, 2])
def test_a_truncated_image_is_named_in_mid_stream(threads, tmp_path):
  root = write_celeba(tmp_path)
  path = root / 'img_align_celeba' / '000002.jpg'
  path.write_bytes(path.read_bytes()[:300])
  with pytest.raises(UserError, match=r'000002.jpg cannot be decoded'):
    batches(celeba.load(dir=str(root), **CELEBA), 4, threads=threads)


def test_official_celeba_counts(real_data, tmp_path):
  """The loaders on the real label files; empty files stand for the images, which are not read."""
  for name in ('list_attr_celeba.csv', 'list_eval_partition.csv'):
    with gzip.open(real_data / 'celeba' / f'{name}.gz') as source, (tmp_path / name).open('wb') as target:
      shutil.copyfileobj(source, target)
  folder = tmp_path / 'img_align_celeba'
  folder.mkdir()
  for line in (tmp_path / 'list_eval_partition.csv').read_text().splitlines()[1:]:
    (folder / line.split(',')[0]).touch()
  data = celeba.load(dir=str(tmp_path), **CELEBA)
  for name, counts in OFFICIAL.items():
    np.testing.assert_array_equal(data.group_counts(name), counts)


def test_real_celeba_images(real_data, tmp_path):
  with tarfile.open(real_data / 'celeba' / 'celeba_8k.tar') as tar:
    tar.extractall(tmp_path, filter='data')
  data = celeba.load(dir=str(tmp_path / 'celeba_8k'), **CELEBA)
  np.testing.assert_array_equal(data.group_counts(), [2129, 1932, 677, 37])
  batch = batches(data, 1)[0]
  assert batch['image'].shape == (32, 32, 32, 3)
  assert 60 < batch['image'].mean() < 190


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'CMYK', 'P', 'I;16', 'LA', '1'])
def test_every_mode_becomes_rgb(mode, tmp_path):
  ramp = np.tile(np.arange(0, 256, 4, np.uint8), (8, 1))
  if mode == 'I;16':
    image = Image.fromarray(ramp.astype(np.uint16) * 257)
  else:
    grey = Image.fromarray(ramp)
    image = grey.convert(mode) if mode in 'LP1' else grey.convert('RGB').convert(mode)
  path = tmp_path / ('x.tif' if mode == 'CMYK' else 'x.png')
  image.save(path)
  found = transforms.read_image(path)
  assert found.shape == (8, 64, 3)
  assert found.dtype == np.uint8
  assert np.abs(found.astype(int).mean(-1) - ramp).max() <= (255 if mode == '1' else 2)


def test_exif_rotation_is_applied(tmp_path):
  image = Image.fromarray(np.r_[np.full((8, 32, 3), 250, np.uint8), np.zeros((8, 32, 3), np.uint8)])
  exif = Image.Exif()
  exif[0x0112] = 6  # shown turned by 90 degrees clockwise
  image.save(tmp_path / 'x.jpg', exif=exif, quality=95)
  found = transforms.read_image(tmp_path / 'x.jpg')
  assert found.shape == (32, 16, 3)
  assert found[:, 10:].mean() > 200 > 50 > found[:, :6].mean()


def test_a_file_that_is_no_image_is_named(tmp_path):
  (tmp_path / 'x.jpg').write_text('hello')
  with pytest.raises(UserError, match=re.escape('x.jpg cannot be decoded')):
    transforms.read_image(tmp_path / 'x.jpg')
  with pytest.raises(UserError, match=re.escape('y.jpg is missing')):
    transforms.read_image(tmp_path / 'y.jpg')


def test_random_resized_crop_has_the_stated_scale_and_ratio(monkeypatch):
  boxes = []
  monkeypatch.setattr(transforms, 'resize', lambda crop, size: boxes.append(crop.shape[:2]))
  rng, image = np.random.default_rng(0), np.zeros((218, 178, 3), np.uint8)
  for _ in range(2000):
    transforms.random_resized_crop(image, (8, 8), rng, scale=(0.3, 0.8), ratio=(0.75, 4 / 3))
  h, w = np.array(boxes).T
  share, ratio = h * w / (218 * 178), w / h
  assert 0.29 < share.min() < 0.33
  assert 0.7 < share.max() < 0.81
  assert 0.74 < ratio.min() < 0.78
  assert 1.28 < ratio.max() < 1.35


def test_center_square_and_resize():
  image = np.zeros((218, 178, 3), np.uint8)
  image[20:198] = 200
  assert (transforms.center_square(image) == 200).all()
  assert transforms.resize(image, (32, 16)).shape == (32, 16, 3)
