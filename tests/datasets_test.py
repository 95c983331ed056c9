"""Every data set of files: layouts, counts, official numbers, masks, and what is refused by name."""

import csv
import gzip
import re
import shutil
import tarfile

import numpy as np
import pytest
from writers import (
  BREEDS,
  LOCATIONS,
  table_of,
  write_celeba,
  write_csv,
  write_folder,
  write_spawrious,
  write_urbancars,
  write_waterbirds,
)

from configs import base
from ule_jax import data
from ule_jax.cli import app
from ule_jax.data import checks, pipeline, spawrious, urbancars
from ule_jax.errors import UserError

COUNTS = {
  'waterbirds': {
    'train': [3498, 184, 56, 1057], 'val': [467, 466, 133, 133], 'test': [2255, 2255, 642, 642],
  },
  'celeba': {
    'train': [71629, 66874, 22880, 1387], 'val': [8535, 8276, 2874, 182], 'test': [9767, 7535, 2480, 180],
  },
}  # fmt: skip
ROWS = [
  *((f'a/{i}.jpg', 'cat', 'train', 'indoors') for i in range(6)),
  *((f'b/{i}.jpg', 'dog', 'train', 'outdoors') for i in range(6)),
  ('c/0.jpg', 'cat', 'train', 'outdoors'),
  ('c/1.jpg', 'cat', 'val', 'indoors'),
  ('c/2.jpg', 'dog', 'val', 'outdoors'),
  ('c/3.jpg', 'cat', 'test', 'outdoors'),
  ('c/4.jpg', 'dog', 'test', 'indoors'),
]
WRITERS = {
  'waterbirds': write_waterbirds,
  'celeba': write_celeba,
  'spawrious': lambda root: write_spawrious(root, 4),
  'urbancars': write_urbancars,
  'folder': lambda root: write_folder(root, ROWS, ('filename', 'label', 'split', 'attribute')),
}


def load(name, root, *, official=False, **changes):
  options = base.DATA[name] | {'dir': str(root), 'size': 32} | changes
  return data.load(name, options | ({'official': official} if 'official' in options else {}))


@pytest.fixture(scope='module')
def trees(tmp_path_factory):
  """One small official tree of each data set; not to be changed."""
  return {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITERS.items()}


def one_batch(dataset, **changes):
  settings = {'batch_size': 8, 'seed': 0, 'sampling': 'uniform', 'start': 0, 'threads': 0} | changes
  return next(pipeline.train_batches(dataset, **settings))


def test_every_data_set_of_files_is_written_here():
  assert set(WRITERS) == {name for name, source in data.DATASETS.items() if not source.is_features} - {'digits'}


@pytest.mark.parametrize('name', WRITERS)
def test_every_layout_gives_batches(name, trees):
  dataset = load(name, trees[name])
  batch = one_batch(dataset)
  assert batch['image'].shape == (8, 32, 32, 3)
  assert batch['image'].std() > 10  # a picture, not a blank
  for split in dataset.splits.values():
    assert set(split.label) <= set(range(len(dataset.classes)))
    assert set(split.group) <= set(range(len(dataset.groups)))
    assert len({split.name(i) for i in range(split.count)}) == split.count
    batches = list(pipeline.eval_batches(dataset, 'val', batch_size=4, threads=0))
    assert sum(b['weight'].sum() for b in batches) == dataset.splits['val'].count


@pytest.mark.parametrize('name', WRITERS)
@pytest.mark.parametrize('resize', ['antialias', 'linear'])
def test_augmentation_is_random_in_training_only(name, resize, trees):
  plain = load(name, trees[name], augment=False, resize=resize)
  random = load(name, trees[name], augment=True, resize=resize)
  image = plain.splits['train'].load(0)
  keys = [np.random.default_rng(i) for i in range(4)]
  for dataset, expected in ((plain, 1), (random, 2)):
    in_training, in_evaluation = dataset.train_transform, dataset.eval_transform
    assert in_training is not None
    assert in_evaluation is not None
    assert len({in_training(image, key).tobytes() for key in keys}) >= expected
    assert len({in_evaluation(image, key).tobytes() for key in keys}) == 1
    if dataset is plain:
      np.testing.assert_array_equal(in_training(image, keys[0]), in_evaluation(image, keys[0]))


def test_waterbirds_groups(trees):
  dataset = load('waterbirds', trees['waterbirds'])
  for split, counts in (('train', [8, 3, 2, 6]), ('val', [3, 3, 2, 2]), ('test', [4, 4, 2, 2])):
    np.testing.assert_array_equal(dataset.group_counts(split), counts)
  assert dataset.groups[1] == 'landbird on water'
  train = dataset.splits['train']
  assert [train.name(i).split('/')[0] for i in np.flatnonzero(train.group == 2).tolist()] == ['001.Albatross'] * 2


@pytest.mark.parametrize('below', ['cub/data/waterbird_complete95_forest2water2', 'waterbirds_v1.0'])
def test_waterbirds_is_found_below_the_roots_that_others_use(below, tmp_path):
  write_waterbirds(tmp_path / below)
  assert load('waterbirds', tmp_path).splits['train'].count == 19


@pytest.mark.parametrize('form', ['csv', 'txt'])
@pytest.mark.parametrize('nested', [False, True])
def test_celeba_layouts_are_equal(form, nested, trees, tmp_path):
  dataset = load('celeba', write_celeba(tmp_path, form=form, nested=nested))
  for name, counts in (('train', [12, 8, 6, 4]), ('val', [4, 4, 3, 3]), ('test', [4, 4, 3, 2])):
    np.testing.assert_array_equal(dataset.group_counts(name), counts)
  np.testing.assert_array_equal(one_batch(dataset)['image'], one_batch(load('celeba', trees['celeba']))['image'])


def test_celeba_takes_any_pair_of_attributes(trees):
  dataset = load('celeba', trees['celeba'], target='Male', attribute='Smiling')
  np.testing.assert_array_equal(dataset.group_counts(), [0, 18, 0, 12])
  assert dataset.groups[3] == 'Male, Smiling'
  with pytest.raises(UserError, match=r"'Blond_Hiar': did you mean 'Blond_Hair'"):
    load('celeba', trees['celeba'], target='Blond_Hiar')
  with pytest.raises(UserError, match='choose two'):
    load('celeba', trees['celeba'], attribute='Blond_Hair')


@pytest.fixture(scope='module')
def full_spawrious(tmp_path_factory):
  """All 152,064 names of the release, as hard links."""
  return write_spawrious(tmp_path_factory.mktemp('full'), spawrious.CELL, size=None)


# The tables of the release, in the order bulldog, dachshund, labrador, corgi.
TRAIN = {
  'o2o_easy': 'desert jungle dirt snow',
  'o2o_medium': 'mountain beach dirt jungle',
  'o2o_hard': 'jungle mountain snow desert',
}
FILLER = {'o2o_easy': 'beach', 'o2o_medium': 'desert', 'o2o_hard': 'beach'}


@pytest.mark.parametrize('challenge', spawrious.CHALLENGES)
def test_spawrious_has_the_official_size_and_rates(challenge, full_spawrious):
  dataset = load('spawrious', full_spawrious, challenge=challenge, official=True)
  splits = dataset.splits
  assert splits['train'].count + splits['val'].count == 25_344
  assert splits['test'].count == 25_344
  assert splits['val'].count == pytest.approx(0.2 * 25_344, abs=20)
  names = {s: [tuple(split.name(i).split('/')[:3]) for i in range(split.count)] for s, split in splits.items()}
  assert len({split.name(i) for split in splits.values() for i in range(split.count)}) == 2 * 25_344
  train = names['train'] + names['val']
  cells = {cell[1:] for cell in train}
  assert not cells & {cell[1:] for cell in names['test']}
  if challenge.startswith('o2o'):
    for breed, location in zip(('bulldog', 'dachshund', 'labrador', 'corgi'), TRAIN[challenge].split(), strict=True):
      for directory, spurious in (('0', 3072), ('1', 2756)):
        assert train.count((directory, location, breed)) == spurious
        assert train.count((directory, FILLER[challenge], breed)) == spawrious.CELL - spurious
    assert len({cell[1:] for cell in names['test']}) == 4
  else:
    assert {cell[0] for cell in train + names['test']} == {'0'}
    assert len(cells) == len({cell[1:] for cell in names['test']}) == 8
  assert dataset.notes['locations']['train']['bulldog'] == spawrious.CHALLENGES[challenge].train['bulldog']
  assert sorted({r[2] for r in train}) == sorted(BREEDS)


def test_spawrious_choice_depends_on_its_seed_alone(trees, tmp_path):
  def names(root, seed):
    split = load('spawrious', root, seed=seed).splits['train']
    return [split.name(i) for i in range(split.count)]

  again = write_spawrious(tmp_path, 4)
  assert names(trees['spawrious'], 0) == names(again, 0) != names(again, 1)
  assert set(LOCATIONS) == set(spawrious.LOCATIONS)


def test_spawrious_names_what_an_archive_lacks(tmp_path):
  root = write_spawrious(tmp_path, 3)
  shutil.rmtree(root / 'spawrious224' / '0' / 'desert' / 'bulldog')
  with pytest.raises(UserError, match=r'no image in 0/desert/bulldog'):
    load('spawrious', root, challenge='o2o_easy')
  (root / 'spawrious224' / '1' / 'moon').mkdir()
  with pytest.raises(UserError, match=r"unknown location in .*'moon'"):
    load('spawrious', root, challenge='o2o_hard')


def test_urbancars_groups_masks_and_metrics(trees, tmp_path):
  dataset = load('urbancars', trees['urbancars'])
  np.testing.assert_array_equal(dataset.group_counts(), [12, 4, 4, 2, 2, 4, 4, 12])
  np.testing.assert_array_equal(dataset.group_counts('test'), [3] * 8)
  read_masks = dataset.splits['test'].masks
  assert read_masks is not None
  masks = read_masks(0)
  assert masks.keys() == {'car_mask', 'co_occur_obj_mask'}
  assert masks['car_mask'].shape == (48, 48)
  assert masks['car_mask'][20, 20] == 255
  assert masks['car_mask'][0, 0] == 0
  assert load('urbancars', write_urbancars(tmp_path, masks=False)).splits['train'].masks is None
  # Both classes: aligned 1.0, object off 0.8, background off 0.5, both off 0.1
  accuracy = {(True, True): 1.0, (True, False): 0.8, (False, True): 0.5, (False, False): 0.1}
  groups = np.array([accuracy[bg == obj, co == obj] for obj, bg, co in urbancars.CELLS])
  found = {name: float(groups @ weights) for name, weights in urbancars.combinations().items()}
  identical = 0.9025 * 1.0 + 0.0475 * 0.8 + 0.0475 * 0.5 + 0.0025 * 0.1
  assert found == pytest.approx(
    {
      'id_accuracy': identical,
      'bg_gap': 0.5 - identical,
      'co_occur_obj_gap': 0.8 - identical,
      'bg_co_occur_obj_gap': 0.1 - identical,
    }
  )


def test_urbancars_names_the_cell_although_val_and_test_have_the_same_counts(tmp_path):
  dataset = load('urbancars', write_urbancars(tmp_path))
  found = checks.differences(dataset._replace(official={**dataset.official, 'val': (2,) * 8, 'test': (3,) * 8}))
  assert found[0].startswith('train / urban car, urban bg, urban obj has 12 instead of 3,610')
  same = dataset._replace(official={'train': (9,) * 8, 'val': (2,) * 8, 'test': (2,) * 8})
  assert not [text for text in checks.differences(same) if 'swap' in text]


def test_urbancars_official_counts():
  assert sum(urbancars.OFFICIAL['train']) == 8000
  assert urbancars.OFFICIAL['train'] == (3610, 190, 190, 10, 10, 190, 190, 3610)


def test_folder_groups_are_label_and_attribute(trees):
  dataset = load('folder', trees['folder'])
  assert dataset.classes == ('cat', 'dog')
  assert dataset.groups == ('cat, indoors', 'cat, outdoors', 'dog, indoors', 'dog, outdoors')
  np.testing.assert_array_equal(dataset.group_counts(), [6, 1, 0, 6])


def folder_of(tmp_path, rows, header):
  return load('folder', write_folder(tmp_path, rows, header))


def test_folder_takes_groups_as_they_are_and_splits_by_number(tmp_path):
  rows = [(f'{i}.png', i % 2, i % 3, i % 5) for i in range(30)]
  dataset = folder_of(tmp_path, rows, ('filename', 'label', 'split', 'group'))
  assert dataset.groups == ('0', '1', '2', '3', '4')
  assert dataset.classes == ('0', '1')
  np.testing.assert_array_equal(dataset.group_counts('val'), [2] * 5)


def test_folder_groups_may_be_missing_in_train(tmp_path):
  rows = [(n, label, split, '' if split == 'train' else a) for n, label, split, a in ROWS]
  dataset = folder_of(tmp_path, rows, ('filename', 'label', 'split', 'attribute'))
  assert (dataset.splits['train'].group == -1).all()
  assert (dataset.splits['val'].group >= 0).all()
  with pytest.raises(UserError, match='13 training examples have no group'):
    one_batch(dataset, sampling='group_balanced')


@pytest.mark.parametrize('column', [False, True])
def test_folder_groups_may_be_missing_everywhere(column, tmp_path):
  rows = [(n, label, split, *([''] if column else [])) for n, label, split, _ in ROWS]
  dataset = folder_of(tmp_path, rows, ('filename', 'label', 'split', 'group')[: 3 + column])
  assert dataset.groups == ()
  assert all((split.group == -1).all() for split in dataset.splits.values())


def test_folder_further_validation_splits(tmp_path):
  rows = [*ROWS, ('d.jpg', 'cat', 'val_field', 'outdoors')]
  assert list(folder_of(tmp_path, rows, ('filename', 'label', 'split', 'attribute')).splits) == [
    'train', 'val', 'val_field', 'test',
  ]  # fmt: skip


def rewrite(name, old, new):
  def apply(root):
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new, 1))

  return apply


def remove(name):
  return lambda r: shutil.rmtree(r / name) if (r / name).is_dir() else (r / name).unlink()


ATTR, PART = 'list_attr_celeba.csv', 'list_eval_partition.csv'
META, BIRD = 'metadata.csv', '001.Albatross/bird_0011.jpg'
CITY = 'bg-0.95_co_occur_obj-0.95/train/obj-urban_bg-urban_co_occur_obj-urban'
DAMAGE = [
  ('celeba', '', lambda r: shutil.rmtree(r), r'data.dir .* is not a folder'),
  ('celeba', 'no attributes', remove(ATTR), 'neither list_attr_celeba.csv nor'),
  ('celeba', 'no partition', remove(PART), 'neither list_eval_partition.csv nor'),
  ('celeba', 'no images', remove('img_align_celeba'), 'no folder img_align_celeba'),
  ('celeba', 'missing image', remove('img_align_celeba/000007.jpg'), r'1 images .*000007.jpg'),
  ('celeba', 'no row', lambda r: shutil.copy(r / 'img_align_celeba/000007.jpg', r / 'img_align_celeba/9.jpg'),
   r'no row .*9.jpg'),
  ('celeba', 'one list only', rewrite(PART, '000003.jpg,0', ''), '000003.jpg is in only'),
  ('celeba', 'twice', rewrite(PART, '000004', '000003'), '000003.jpg twice'),
  ('celeba', 'bad split', rewrite(PART, '000003.jpg,0', '000003.jpg,7'), "000003.jpg has the split code '7'"),
  ('celeba', 'bad value', rewrite(ATTR, '000003.jpg,-1,-1', '000003.jpg,-1,x'), "000003.jpg has Blond_Hair 'x'"),
  ('celeba', 'short row', rewrite(ATTR, '000003.jpg,-1,', '000003.jpg,'), '000003.jpg has 4 values instead of 5'),
  ('celeba', 'escape', rewrite(ATTR, '000003.jpg', '../x.jpg'), r'\.\./x.jpg'),
  ('celeba', 'binary', lambda r: (r / ATTR).write_bytes(b'\xff\xfe\x00'), 'not a comma-separated text file'),
  ('celeba', 'empty', lambda r: (r / ATTR).write_text(''), 'no column image_id'),
  ('celeba', 'header only', lambda r: (r / ATTR).write_text('image_id,Male\n'), 'lists no image'),
  ('waterbirds', 'no metadata', remove(META), 'has no metadata.csv'),
  ('waterbirds', 'no column', rewrite(META, 'place,', 'site,'), 'has no column place'),
  ('waterbirds', 'missing image', remove(BIRD), 'bird_0011.jpg'),
  ('waterbirds', 'no row', lambda r: shutil.copy(r / BIRD, r / '002.Sparrow/z.png'), r'no row .*002.Sparrow/z.png'),
  ('waterbirds', 'twice', rewrite(META, '\n2,', '\n1,'), 'lists img_id 1 twice'),
  ('waterbirds', 'same file', rewrite(META, 'bird_0001', 'bird_0000'), 'bird_0000.jpg twice'),
  ('waterbirds', 'bad split', rewrite(META, 'bird_0000.jpg,0,0', 'bird_0000.jpg,0,5'), "bird_0000.jpg has split '5'"),
  ('waterbirds', 'bad label', rewrite(META, 'bird_0000.jpg,0,0', 'bird_0000.jpg,2,0'), "bird_0000.jpg has y '2'"),
  ('waterbirds', 'escape', rewrite(META, '002.Sparrow/bird_0000', '../other/bird'), r'\.\./other/bird'),
  ('waterbirds', 'absolute', rewrite(META, '002.Sparrow/bird_0000', '/etc/bird'), r'/etc/bird.jpg, which is not below'),
  ('urbancars', 'no folder', remove('bg-0.5_co_occur_obj-0.5/val'), r'no folder .*/val'),
  ('urbancars', 'unknown cell', lambda r: (r / CITY).rename((r / CITY).with_name('obj-sea')), 'obj-sea'),
  ('urbancars', 'wrong dir', remove('bg-0.95_co_occur_obj-0.95'), 'has no bg-0.95'),
  ('folder', 'no metadata', lambda r: shutil.rmtree(r) or r.mkdir(), 'has no metadata.csv and no images in a folder'),
  ('folder', 'label gap', lambda r: relabel(r, {'cat': '0', 'dog': '2'}), r'b/0.jpg has the label 2, but 1 is missing'),
  ('folder', 'label from 1', lambda r: relabel(r, {'cat': '1', 'dog': '2'}), r'a/0.jpg has the label 1, but 0 is miss'),
  ('folder', 'one label', lambda r: relabel(r, {'cat': 'x', 'dog': 'x'}), r"only the label 'x'"),
  ('folder', 'no label', lambda r: relabel(r, {'cat': '', 'dog': 'x'}), r'a/0.jpg has no label'),
  ('folder', 'bad split', rewrite(META, 'a/0.jpg,cat,train', 'a/0.jpg,cat,trian'), r"a/0.jpg has the split 'trian'"),
  ('folder', 'no val', lambda r: rewrite(META, 'dog,val', 'dog,test')(r) or rewrite(META, 'cat,val', 'cat,test')(r),
   'gives no image to val'),
  ('folder', 'class not in train', rewrite(META, 'dog,val', 'emu,val'), "no image of the class 'emu' to train"),
  ('folder', 'escape', rewrite(META, 'a/0.jpg', 'a/../../0.jpg'), r'a/\.\./\.\./0.jpg, which is not below'),
  ('folder', 'windows', rewrite(META, 'a/0.jpg', r'a\0.jpg'), r'which is not below'),
  ('folder', 'missing image', remove('a/3.jpg'), r'a/3.jpg'),
  ('folder', 'no row', lambda r: shutil.copy(r / 'a/3.jpg', r / 'a/4.PNG'), r'have no row .*a/4.PNG'),
  ('folder', 'no name', rewrite(META, 'a/0.jpg', ''), "names '', which is no plain path"),
  ('folder', 'two spellings', rewrite(META, 'a/0.jpg', './a/1.jpg'), r'lists a/1.jpg twice'),
  ('folder', 'long name', rewrite(META, 'a/0.jpg', 'a' * 300 + '.jpg'), r'images of metadata.csv are missing'),
  ('celeba', 'one column', lambda r: (r / PART).write_text('image_id\n000001.jpg\n'), 'only the column image_id'),
  ('urbancars', 'some masks', lambda r: next(r.rglob('*_mask.png')).unlink(), '1 masks in .* are missing'),
  ('folder', 'two columns', rewrite(META, 'split,attribute', 'split,split'), 'two columns of the same name'),
]  # fmt: skip


def relabel(root, names):
  with (root / META).open(newline='') as file:
    header, *rows = csv.reader(file)
  write_csv(root / META, header, [[row[0], names[row[1]], *row[2:]] for row in rows])


@pytest.mark.parametrize(('name', 'damage', 'apply', 'message'), DAMAGE, ids=[f'{d[0]} {d[1]}' for d in DAMAGE])
def test_damage_is_named(name, damage, apply, message, trees, tmp_path):
  root = shutil.copytree(trees[name], tmp_path / name)
  apply(root)
  with pytest.raises(UserError, match=message) as error:
    load(name, root)
  assert '\n' not in str(error.value)


def test_files_without_a_row_can_be_ignored(trees, tmp_path):
  root = shutil.copytree(trees['folder'], tmp_path / 'x')
  shutil.copy(root / 'a/0.jpg', root / 'a/99.jpg')
  assert load('folder', root, unlisted='ignore').splits['train'].count == 13


@pytest.mark.parametrize(
  ('name', 'changes', 'message'),
  [
    ('folder', {'fit': 'pad'}, "unknown data.fit 'pad'"),
    ('folder', {'unlisted': 'x'}, "unknown data.unlisted 'x'"),
    ('folder', {'scale': (0.0, 1.0)}, 'data.scale'),
    ('folder', {'ratio': (2.0, 1.0)}, 'data.ratio'),
    ('folder', {'jitter': 0.7}, 'data.jitter'),
    ('folder', {'scale': 'abc'}, 'data.scale'),
    ('folder', {'scale': (0.5,)}, 'data.scale'),
    ('folder', {'on_bad_image': 'Skip'}, 'data.on_bad_image'),
    ('spawrious', {'val_fraction': 0.001}, 'no example for val'),
    ('folder', {'size': 0}, 'data.size is 0'),
    ('celeba', {'size': 0}, 'data.size is 0'),
    ('spawrious', {'challenge': 'o2o_esay'}, "did you mean 'o2o_easy'"),
    ('spawrious', {'val_fraction': 1.0}, 'data.val_fraction'),
    ('waterbirds', {'resize': 'cubic'}, "unknown data.resize 'cubic'"),
  ],
)
def test_options_out_of_range_are_named(name, changes, message, trees):
  with pytest.raises(UserError, match=message):
    load(name, trees[name], **changes)


@pytest.mark.parametrize('name', ['waterbirds', 'celeba', 'spawrious', 'urbancars'])
def test_other_counts_than_the_release_are_refused_by_cell(name, trees, capsys):
  dataset = load(name, trees[name])
  split, group = 'test', int(np.flatnonzero(dataset.group_counts('test'))[0])
  due = dataset.official[split][group]
  sentence = f'{split} / {dataset.groups[group]} has {dataset.group_counts(split)[group]} instead of {due:,}'
  with pytest.raises(UserError, match=r'--config\.data\.official=False') as error:
    load(name, trees[name], official=True)
  assert sentence in '; '.join(checks.differences(dataset))
  assert len(str(error.value)) < 700
  capsys.readouterr()
  load(name, trees[name])
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 1
  assert said[0].startswith('warning: ')


@pytest.mark.full
def test_official_counts_of_the_real_labels(real_data, tmp_path):
  """The loaders on the real label files; empty files stand for the images, which are not read."""
  folder = tmp_path / 'celeba' / 'img_align_celeba'
  folder.mkdir(parents=True)
  for name in (ATTR, PART):
    with gzip.open(real_data / 'celeba' / f'{name}.gz') as source, (folder.parent / name).open('wb') as target:
      shutil.copyfileobj(source, target)
  for line in (folder.parent / PART).read_text().splitlines()[1:]:
    (folder / line.split(',')[0]).touch()
  birds = tmp_path / 'waterbirds'
  birds.mkdir()
  shutil.copy(real_data / 'waterbirds' / META, birds / META)
  with (birds / META).open(newline='') as file:
    for row in csv.DictReader(file):
      (birds / row['img_filename']).parent.mkdir(exist_ok=True)
      (birds / row['img_filename']).touch()
  for name, root in (('waterbirds', birds), ('celeba', folder.parent)):
    dataset = load(name, root, official=True)
    for split, counts in COUNTS[name].items():
      np.testing.assert_array_equal(dataset.group_counts(split), counts)
  # A swapped partition is found by its size.
  swap = {'0': '0', '1': '2', '2': '1'}
  lines = (folder.parent / PART).read_text().splitlines()
  (folder.parent / PART).write_text(
    '\n'.join([lines[0], *(f'{line[:-1]}{swap[line[-1]]}' for line in lines[1:])]) + '\n'
  )
  for changes in ({}, {'attribute': 'Young'}):
    with pytest.raises(UserError, match='swap them back'):
      load('celeba', folder.parent, official=True, **changes)


def test_another_draw_of_waterbirds_is_found_by_its_counts(real_data, tmp_path):
  with gzip.open(real_data / 'waterbirds' / 'metadata_other_draw.csv.gz') as source:
    (tmp_path / META).write_bytes(source.read())
  with (tmp_path / META).open(newline='') as file:
    for row in csv.DictReader(file):
      (tmp_path / row['img_filename']).parent.mkdir(exist_ok=True)
      (tmp_path / row['img_filename']).touch()
  with pytest.raises(UserError, match='train / landbird on land has 3,525 instead of 3,498'):
    load('waterbirds', tmp_path, official=True)


@pytest.mark.parametrize('threads', [0, 2])
def test_a_truncated_image_is_named_in_mid_stream(threads, tmp_path):
  root = write_celeba(tmp_path)
  path = root / 'img_align_celeba' / '000002.jpg'
  path.write_bytes(path.read_bytes()[:300])
  with pytest.raises(UserError, match=r'000002.jpg cannot be decoded'):
    one_batch(load('celeba', root), threads=threads, batch_size=30)


def test_bad_images_can_be_left_out_and_are_reported(tmp_path, capsys):
  root = write_celeba(tmp_path)
  for name in ('000002.jpg', '000030.jpg', '000031.jpg'):
    (root / 'img_align_celeba' / name).write_bytes(b'no image')
  dataset = load('celeba', root, on_bad_image='skip')
  said = capsys.readouterr().err.splitlines()
  assert [split.count for split in dataset.splits.values()] == [28, 13, 13]
  assert dataset.notes['skipped_images'] == {'train': ['000002.jpg', '000030.jpg'], 'val': ['000031.jpg']}
  assert [s for s in said if 'left out' in s and '000002.jpg' in s and '2 of 30' in s]
  whole = {dataset.splits['train'].name(i) for i in range(28)}
  assert '000001.jpg' in whole
  assert '000002.jpg' not in whole
  for i in range(28):
    dataset.splits['train'].load(i)
  for path in (root / 'img_align_celeba').iterdir():
    path.write_bytes(b'no image')
  with pytest.raises(UserError, match='no image of train can be decoded'):
    load('celeba', root, on_bad_image='skip')


def test_real_celeba_images_are_equal_in_every_form(real_data, tmp_path):
  """The 8,000 faces: csv, txt, a folder with metadata.csv and array_record give byte-equal batches."""
  from ule_jax.data.pack import pack

  with tarfile.open(real_data / 'celeba' / 'celeba_8k.tar') as tar:
    tar.extractall(tmp_path, filter='data')
  root = tmp_path / 'celeba_8k'
  reference = load('celeba', root)
  np.testing.assert_array_equal(reference.group_counts(), [2129, 1932, 677, 37])
  with (root / ATTR).open(newline='') as file:
    header, *rows = csv.reader(file)
  codes = dict(line.split(',') for line in (root / PART).read_text().splitlines()[1:])
  txt, own = tmp_path / 'txt', tmp_path / 'own'
  for other in (txt, own):
    other.mkdir()
    (other / 'img_align_celeba').symlink_to(root / 'img_align_celeba')
  lines = [str(len(rows)), ' '.join(header[1:]), *(' '.join(row) for row in rows)]
  (txt / 'list_attr_celeba.txt').write_text('\n'.join(lines) + '\n')
  (txt / 'list_eval_partition.txt').write_text('\n'.join(f'{name} {code}' for name, code in codes.items()) + '\n')
  blond, male = header.index('Blond_Hair'), header.index('Male')
  numbers = {'-1': 0, '1': 1}
  listed = ((f'img_align_celeba/{r[0]}', numbers[r[blond]], codes[r[0]], numbers[r[male]]) for r in sorted(rows))
  write_csv(own / META, ('filename', 'label', 'split', 'attribute'), listed)
  pack('celeba', table_of(reference), tmp_path / 'records', skip=False)
  others = {
    'txt': load('celeba', txt),
    'folder': load('folder', own, ratio=(1.0, 4 / 3)),
    'array_record': load('celeba', tmp_path / 'records'),
  }
  for start in (0, 50, 100):
    expected = one_batch(reference, batch_size=64, start=start, threads=2)
    assert 60 < expected['image'].mean() < 190
    for name, dataset in others.items():
      found = one_batch(dataset, batch_size=64, start=start, threads=2)
      assert all(found[key].tobytes() == expected[key].tobytes() for key in expected), name


def test_the_counts_table_and_the_sheets(trees, tmp_path, monkeypatch, capsys):
  from PIL import Image

  def run(name, *changes):
    monkeypatch.setattr('sys.argv', ['data', f'--config={name}', *changes, f'--out={tmp_path}/{name}'])
    with pytest.raises(SystemExit) as end:
      app.run_verb('data')
    said = capsys.readouterr()
    return end.value.code, said.out, said.err.strip()

  code, out, _ = run('waterbirds', f'--config.data.dir={trees["waterbirds"]}', '--config.data.official=False')
  assert code == 0
  assert re.search(r'waterbird on land +2 +2 +2', out)
  assert re.search(r'all +19 +10 +12', out)
  assert 'train / landbird on land has 8 instead of 3,498' in out
  sheets = sorted((tmp_path / 'waterbirds').iterdir())
  assert [s.name for s in sheets][1] == '01-landbird-on-water.png'
  with Image.open(sheets[0]) as sheet:
    assert sheet.width == 8 * 112
    assert np.asarray(sheet).std() > 20
  code, out, err = run('waterbirds', f'--config.data.dir={trees["waterbirds"]}')
  assert code == 2
  assert 'the counts differ from the release' in err
  code, out, err = run('digits')
  assert code == 0
  broken = shutil.copytree(trees['folder'], tmp_path / 'broken')
  for name in ('a/1.jpg', 'c/3.jpg'):
    (broken / name).write_bytes(b'\xff\xd8 broken')
  code, out, err = run('folder', f'--config.data.dir={broken}')
  assert code == 2
  assert '2 images cannot be decoded' in err
  assert 'a/1.jpg' in out
  assert 'c/3.jpg' in out
  code, out, err = run('folder', f'--config.data.dir={broken}', '--config.data.on_bad_image=skip')
  assert code == 0
