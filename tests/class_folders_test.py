"""A folder for each class, without metadata.csv: layouts, splits that are drawn, and what a run writes down of them."""

import csv
import io
import itertools
import json
import os
import shutil
import time

import numpy as np
import pytest
from common import from_flags
from datasets_test import load
from PIL import Image
from writers import photograph, table_of

from ule_jax import data
from ule_jax.cli import app
from ule_jax.data import class_folders, draw_units, near_duplicates
from ule_jax.data.near_duplicates import DISTANCE, difference_hash, near_pairs, units
from ule_jax.errors import UserError
from ule_jax.train.run import run

TINY = (
  'train.steps=2', 'train.eval_every=1', 'train.batch_size=8', 'train.eval_batch_size=16', 'loader.threads=0',
  'data.size=8', 'model.name=mlp', 'model.width=4', 'model.weights=none', 'model.batch_norm=none',
)  # fmt: skip


def grow(root, *names):
  """Write an image of its own for each name, in which `{}` is 0 to 9."""
  rng = np.random.default_rng(5)
  for name in (form.format(i) for form in names for i in (range(10) if '{}' in form else [0])):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((12, 10)).save(root / name, format='BMP')
  return root


def splits_of(dataset):
  return {part: [split.name(i) for i in range(split.count)] for part, split in dataset.splits.items()}


def labels_of(dataset):
  """Return the class of each image, by its name."""
  splits = dataset.splits.values()
  return {split.name(i): dataset.classes[split.label[i]] for split in splits for i in range(split.count)}


def refused(root, message, **changes):
  with pytest.raises(UserError, match=message) as error:
    load('folder', root, **changes)
  assert '\n' not in str(error.value)
  assert len(str(error.value)) < 500


# --- Layouts -------------------------------------------------------------------------------------------


def test_a_folder_for_each_class_is_enough(tmp_path):
  dataset = load('folder', grow(tmp_path, 'cats/{}.JPG', 'dogs/below/{}.png'))
  assert dataset.classes == ('cats', 'dogs')
  assert {part: split.count for part, split in dataset.splits.items()} == {'train': 12, 'val': 4, 'test': 4}
  for split in dataset.splits.values():
    assert np.bincount(split.label).tolist() == [split.count // 2] * 2
  assert all(label == name.split('/')[0] for name, label in labels_of(dataset).items())
  assert dataset.notes['drawn'] == {
    'val': 0.2, 'test': 0.2, 'split_seed': 0, 'together': 'none', 'images': {'val': 4, 'test': 4},
  }  # fmt: skip
  assert (dataset.notes['layout'], dataset.groups) == ('class', ())


@pytest.mark.parametrize('val', ['val', 'valid', 'validation', 'VAL'])
def test_folders_of_splits_are_recognised(val, tmp_path):
  dataset = load('folder', grow(tmp_path, *(f'{s}/{c}/{{}}.bmp' for s in ('Train', val, 'test') for c in 'ab')))
  assert {part: {name.split('/')[0] for name in names} for part, names in splits_of(dataset).items()} == {
    'train': {'Train'}, 'val': {val}, 'test': {'test'},
  }  # fmt: skip
  assert 'drawn' not in dataset.notes
  assert not [text for text in dataset.remarks if 'drawn' in text]


@pytest.mark.parametrize(('absent', 'counts'), [('val', (16, 4, 20)), ('test', (16, 20, 4))])
def test_an_absent_split_is_drawn_from_train(absent, counts, tmp_path):
  given = [s for s in ('train', 'val', 'test') if s != absent]
  dataset = load('folder', grow(tmp_path, *(f'{s}/{c}/{{}}.bmp' for s in given for c in 'ab')))
  assert tuple(dataset.splits[part].count for part in ('train', 'val', 'test')) == counts
  assert all(name.startswith('train/') for name in splits_of(dataset)[absent])
  (text,) = [text for text in dataset.remarks if 'are drawn' in text]
  assert f'has no {absent}: 4 for {absent} of the 20 images of train are drawn' in text
  assert 'by data.split_seed=0; they have the shortcuts of train' in text


def test_further_validation_splits_have_folders_too(tmp_path):
  dataset = load('folder', grow(tmp_path, *(f'{s}/{c}/{{}}.bmp' for s in ('train', 'val_night', 'test') for c in 'ab')))
  assert {part: split.count for part, split in dataset.splits.items()} == {
    'train': 16, 'val': 4, 'val_night': 20, 'test': 20,
  }  # fmt: skip


@pytest.mark.parametrize('tops', [('train/', 'test/'), ('',)])
def test_names_may_begin_with_the_class(tops, tmp_path):
  names = [f'{top}{c}_{{}}.jpg' for top in tops for c in ('pole vaulting', 'race_car')]
  dataset = load('folder', grow(tmp_path, *names), layout='prefix')
  assert dataset.classes == ('pole vaulting', 'race_car')
  assert dataset.splits['test'].count == (20 if tops[0] else 4)
  grow(tmp_path, f'{tops[0]}poster.jpg')
  refused(tmp_path, 'an image in .* is not of the form .*poster.jpg', layout='prefix')
  assert load('folder', tmp_path, layout='prefix', unlisted='ignore').splits['val'].count == 4


def test_classes_are_in_natural_order_unless_they_are_given(tmp_path):
  grow(tmp_path, 'class10/{}.bmp', 'class9/{}.bmp', 'nan/{}.bmp')
  dataset = load('folder', tmp_path)
  assert dataset.classes == ('class9', 'class10', 'nan')
  assert all(name.startswith(label + '/') for name, label in labels_of(dataset).items())
  assert load('folder', tmp_path, classes=('nan', 'class9', 'class10')).classes == ('nan', 'class9', 'class10')
  refused(tmp_path, "has the class 'class10' instead of one of nan, class9", classes=('nan', 'class9'))
  refused(tmp_path, "no image of the class 'x' to train", classes=('nan', 'class9', 'class10', 'x'))


REFUSED = {
  'no image': ((), 'no metadata.csv and no images in a folder', {}),
  'loose images only': (('{}.jpg',), 'no metadata.csv and no images in a folder', {}),
  'one class': (('a/{}.jpg',), 'only one folder with images, a, and a classifier needs two: add', {}),
  'a folder around it': (('a/b/{}.jpg', 'a/c/{}.jpg'), r'point --config.data.dir at .*/a\.', {}),
  'one class of a split': (('train/a/{}.jpg', 'test/a/{}.jpg'), "only the label 'a'", {}),
  'a loose image': (('a/{}.jpg', 'b/{}.jpg', 'x.jpg'), 'an image in .* form CLASS/.*, the first is x.jpg', {}),
  'loose in a split': (('train/a/{}.jpg', 'train/b/{}.jpg', 'train/x.jpg'), 'form SPLIT/CLASS.*train/x.jpg', {}),
  'split below class': (('a/train/{}.jpg', 'b/test/{}.jpg'), 'a/train, a split below a class', {}),
  'train is a class': (('train/{}.jpg', 'bus/{}.jpg'), 'folder train beside bus.*data.layout=class', {}),
  'no train': (('val/a/{}.jpg', 'test/a/{}.jpg'), 'a folder test, and no folder train', {}),
  'prefixes': (('train/a_{}.jpg', 'test/a_{}.jpg'), 'train has no folder for each class.*data.layout=prefix', {}),
  'two val': (('train/a/{}.jpg', 'val/a/0.jpg', 'valid/a/0.jpg'), 'both val and valid, which are one split', {}),
  'case': (('train/a/{}.jpg', 'train/b/{}.jpg', 'test/A/0.jpg'), "the label 'A' and folder train/a 'a'", {}),
  'new in test': (('train/a/{}.jpg', 'train/b/{}.jpg', 'test/c/0.jpg'), "no image of the class 'c' to train", {}),
  'two of a class': (('a/{}.jpg', 'b/0.jpg', 'b/1.jpg'), "val and test cannot be drawn .* 'b' has only 2 images", {}),
  'all of one name': (
    ('a/0.jpg', 'a/x/0.jpg', 'a/y/0.jpg', 'b/{}.jpg'), "'a' has only 3 .* count once .1.: add", {'together': 'names'},
  ),
  'no splits': (('a/{}.jpg', 'b/{}.jpg'), 'no folder train, which data.layout', {'layout': 'split_class'}),
  'no prefix': (('a/{}.jpg', 'b/{}.jpg'), 'set another --config.data.layout', {'layout': 'prefix'}),
  'unknown layout': (('a/{}.jpg', 'b/{}.jpg'), "unknown data.layout 'x'", {'layout': 'x'}),
  'half for val': (('a/{}.jpg', 'b/{}.jpg'), 'data.val is 0.5', {'val': 0.5}),
}  # fmt: skip


@pytest.mark.parametrize('case', REFUSED)
def test_what_is_no_layout_is_refused(case, tmp_path):
  names, message, changes = REFUSED[case]
  refused(grow(tmp_path, *names), message, **changes)


@pytest.mark.parametrize('empty', ['c', 'train/c', 'test'])
def test_an_empty_folder_of_a_class_or_split_is_refused(empty, tmp_path):
  top = '' if empty == 'c' else 'train/'
  grow(tmp_path, f'{top}a/{{}}.jpg', f'{top}b/{{}}.jpg')
  (tmp_path / empty).mkdir()
  refused(tmp_path, f'/{empty} holds no image: put some there, or move the folder away')


def test_classes_may_be_called_as_splits_are_if_the_layout_is_given(tmp_path):
  grow(tmp_path, 'train/{}.jpg', 'bus/test/{}.jpg')
  assert load('folder', tmp_path, layout='class').classes == ('bus', 'train')


def test_other_files_are_counted_and_named(tmp_path):
  grow(tmp_path, 'a/{}.jpg', 'b/{}.jpg', 'x.jpg')
  for name in ('.DS_Store', 'a/Thumbs.db', 'a/notes.txt', 'b/._0.jpg'):
    (tmp_path / name).write_bytes(b'x')
  dataset = load('folder', tmp_path, unlisted='ignore')
  assert len(labels_of(dataset)) == 20
  (text,) = [text for text in dataset.remarks if 'ignored are' in text]
  assert 'images in no class (1: x.jpg)' in text
  assert 'files that do not end as an image does (1: a/notes.txt)' in text
  assert 'operating systems (3: .DS_Store ...)' in text


def test_links_are_followed_and_counted_once(tmp_path):
  grow(tmp_path / 'away', 'b/{}.jpg')
  grow(tmp_path / 'x', 'train/a/{}.jpg')
  (tmp_path / 'x/train/b').symlink_to(tmp_path / 'away/b')
  assert load('folder', tmp_path / 'x').classes == ('a', 'b')
  grow(tmp_path / 'x', 'test/a/0.jpg')
  (tmp_path / 'x/test/b').symlink_to('../train/b')
  refused(tmp_path / 'x', '(test|train)/b holds no image, as it is a link to a folder that was read already')


def test_a_split_may_lack_a_class_and_says_so(tmp_path):
  dataset = load('folder', grow(tmp_path, 'train/a/{}.jpg', 'train/b/{}.jpg', 'train/c/{}.jpg', 'test/a/{}.jpg'))
  assert "test has no image of the class 'b' and of 1 more classes." in dataset.remarks


def test_metadata_is_read_where_there_is_one_and_the_layout_is_auto(tmp_path):
  grow(tmp_path, 'a/{}.jpg', 'b/{}.jpg')
  rows = [f'{c}/{i}.jpg,{c},{("train", "val", "test")[i % 3]}' for c in 'ab' for i in range(10)]
  (tmp_path / 'metadata.csv').write_text('\n'.join(['filename,label,split', *rows]))
  dataset = load('folder', tmp_path, split_seed=3)
  assert dataset.splits['train'].count == 8
  assert 'data.split_seed has no effect: metadata.csv gives the splits.' in dataset.remarks
  assert [text for text in dataset.remarks if 'metadata.csv is read, and the folders beside it give neither' in text]
  dataset = load('folder', tmp_path, layout='class')
  assert dataset.splits['train'].count == 12
  assert '(data.layout=class; its metadata.csv is not read)' in dataset.remarks[0]


def test_what_is_drawn_is_listed_without_decoding(tmp_path):
  for i in range(3000):
    (tmp_path / f'class{i % 3}' / f'{i // 300}').mkdir(parents=True, exist_ok=True)
    (tmp_path / f'class{i % 3}' / f'{i // 300}' / f'{i}.jpg').touch()  # no image: decoding it would fail
  began = time.process_time()
  dataset = load('folder', tmp_path)
  assert time.process_time() - began < 2
  assert [split.count for split in dataset.splits.values()] == [1800, 600, 600]


# --- The draw ------------------------------------------------------------------------------------------

SHARES = {'val': 0.2, 'test': 0.1}


def names_and_labels(count=300):
  return [f'{i}.jpg' for i in range(count)], np.arange(count) % 3


def draw(names, labels, seed=0, unit=None, shares=SHARES):
  splits = draw_units.draw(names, np.asarray(labels), 'abc', shares, seed, None if unit is None else np.asarray(unit))
  return dict(zip(names, splits, strict=True))


def test_the_draw_is_stratified_and_follows_from_names_and_seed():
  names, labels = names_and_labels()
  first = draw(names, labels)
  for code in range(3):
    drawn = [first[name] for name, label in zip(names, labels, strict=True) if label == code]
    assert (drawn.count('val'), drawn.count('test')) == (20, 10)
  order = np.random.default_rng(0).permutation(300)
  assert draw([names[i] for i in order], labels[order]) == first
  assert draw(names, labels, seed=1) != first


def test_examples_that_are_added_move_few_others():
  names, labels = names_and_labels()
  first = draw(names, labels)
  second = draw([*names, *(f'new{i}.jpg' for i in range(6))], [*labels, 0, 1, 2, 0, 1, 2])
  assert sum(first[name] != second[name] for name in names) <= 12


def test_a_unit_is_never_divided_and_shares_hold_nearly():
  names, labels = names_and_labels()
  unit = np.random.default_rng(1).integers(0, 80, 300)  # over classes
  splits = draw(names, labels, unit=unit)
  parts = np.array([splits[name] for name in names])
  assert all(len(set(parts[unit == index])) == 1 for index in np.unique(unit))
  for code in range(3):
    assert 15 <= (parts[labels == code] == 'val').sum() <= 20
    assert 6 <= (parts[labels == code] == 'test').sum() <= 10


def test_a_class_of_large_units_has_one_in_every_split():
  names, unit = [f'{i}.jpg' for i in range(12)], [0] * 4 + [1] * 3 + [2] * 2 + [3, 4, 5]
  splits = draw(names, [0] * 9 + [1] * 3, unit=unit)
  assert sorted({splits[name] for name in names[:9]}) == ['test', 'train', 'val']
  assert sorted(splits[name] for name in names[9:]) == ['test', 'train', 'val']
  with pytest.raises(UserError, match=r"'a' has only 9 images, and those that are kept together count once \(2\): add"):
    draw(names, [0] * 9 + [1] * 3, unit=[0] * 4 + [1] * 5 + [3, 4, 5])


def test_train_keeps_a_unit_of_each_class():
  """The small unit of both classes is the last of the second one in train, so that the large one has to move."""
  names, labels, unit = list('uvwxyzab'), [0, 1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 2, 2, 2, 2, 2]
  for seed in range(10):
    splits = draw(names, labels, seed, unit, {'val': 0.2})
    for part in ('train', 'val'):
      assert {label for name, label in zip(names, labels, strict=True) if splits[name] == part} == {0, 1}


# --- Near-duplicates -----------------------------------------------------------------------------------


def encoded(image, **options):
  file = io.BytesIO()
  image.save(file, **options)
  return file.getvalue()


def bits(first, second):
  hashes = [np.array(difference_hash(image, ''), np.uint64) for image in (first, second)]
  return int(np.bitwise_count(hashes[0] ^ hashes[1]).sum())


@pytest.fixture(scope='module')
def crops():
  rng = np.random.default_rng(2)
  return [photograph(rng, 400, 300).resize((160, 120)) for _ in range(12)]


def test_copies_are_near_and_other_photographs_are_not(crops):
  for image in crops:
    original = encoded(image, format='PNG')
    turned = encoded(
      image.transpose(Image.Transpose.ROTATE_90),
      format='JPEG',
      exif=b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0',
    )
    for copy in (
      encoded(image, format='JPEG', quality=40),
      encoded(image.resize((80, 60)), format='JPEG', quality=85),
      encoded(image.point(lambda value: min(255, round(1.05 * value))), format='PNG'),
      turned,
    ):
      assert bits(original, copy) <= DISTANCE
  others = [bits(*(encoded(image, format='PNG') for image in pair)) for pair in itertools.pairwise(crops)]
  assert min(others) > DISTANCE


@pytest.mark.parametrize('block', [near_duplicates.BLOCK, 400])
def test_near_pairs_are_those_of_all_comparisons(block, monkeypatch):
  monkeypatch.setattr(near_duplicates, 'BLOCK', block)
  rng = np.random.default_rng(3)
  hashes = rng.integers(0, 2**63, (60, 2)).astype(np.uint64)
  hashes[40:50] = hashes[:10] ^ np.uint64(0b1011)
  hashes[50:] = hashes[30]
  near = {(i, j) for i in range(60) for j in range(i) if np.bitwise_count(hashes[i] ^ hashes[j]).sum() <= DISTANCE}
  roots = list(range(60))
  for i, j in near_pairs(hashes).tolist():
    assert i == j or (max(i, j), min(i, j)) in near
    old, new = roots[i], roots[j]
    roots = [new if label == old else label for label in roots]
  assert {(i, j) for i in range(60) for j in range(i) if roots[i] == roots[j]} == near


def test_units_join_names_and_copies(crops):
  images = [*(encoded(image, format='PNG') for image in crops[:4]), encoded(crops[0], format='JPEG'), b'no image']
  names = ['a/0.png', 'a/1.png', 'b/X.png', 'b/2.png', 'b/x.jpg', 'b/3.jpg']

  def sets(together):
    index = units(names, together, lambda i: images[i])
    assert index is not None
    return sorted({tuple(np.flatnonzero(index == value).tolist()) for value in index})

  assert units(names, 'none', lambda i: images[i]) is None
  assert sets('names') == [(0,), (1,), (2, 4), (3,), (5,)]
  assert sets('near_duplicates') == [(0, 4), (1,), (2,), (3,), (5,)]
  assert sets('both') == [(0, 2, 4), (1,), (3,), (5,)]


def test_copies_are_kept_in_one_split(tmp_path):
  grow(tmp_path, 'a/{}.bmp', 'b/{}.bmp')
  for name in ('a/1', 'b/2', 'b/7'):
    shutil.copy(tmp_path / f'{name}.bmp', tmp_path / f'{name}copy.bmp')
  parts = splits_of(load('folder', tmp_path, together='near_duplicates'))
  part = {name: part for part, names in parts.items() for name in names}
  assert all(part[f'{name}.bmp'] == part[f'{name}copy.bmp'] for name in ('a/1', 'b/2', 'b/7'))
  (text,) = [text for text in load('folder', tmp_path, together='near_duplicates').remarks if '128 bits' in text]
  assert text.startswith('3 sets of images, the largest of 2, are kept in one split')


# --- metadata.csv from it, and runs on it --------------------------------------------------------------


def write_metadata(root, *flags):
  app.call('data', ['--config=folder', f'--config.data.dir={root}', '--write-metadata', *flags])


def test_the_written_csv_is_read_as_the_folder(tmp_path, capsys):
  grow(tmp_path, 'a, "b"/{}.jpg', 'c/é {}.jpg', 'd/x/{}.jpg')
  expected = load('folder', tmp_path)
  write_metadata(tmp_path)
  text = capsys.readouterr().out
  assert f'30 rows in {tmp_path}/metadata.csv, which is read from now on.\n' in text
  assert 'are drawn, stratified' in text
  dataset = load('folder', tmp_path)
  assert dataset.classes == expected.classes
  assert splits_of(dataset) == splits_of(expected)
  assert labels_of(dataset) == labels_of(expected)


def test_metadata_is_replaced_only_with_force(tmp_path):
  grow(tmp_path, 'a/{}.jpg', 'b/{}.jpg')
  write_metadata(tmp_path)
  before = (tmp_path / 'metadata.csv').read_text()
  with pytest.raises(UserError, match=r'metadata.csv exists: edit it, move it away, or replace it with --force'):
    write_metadata(tmp_path, '--config.data.split_seed=1')
  assert (tmp_path / 'metadata.csv').read_text() == before
  write_metadata(tmp_path, '--config.data.split_seed=1', '--force')
  assert (tmp_path / 'metadata.csv').read_text() != before
  assert not [name for name in os.listdir(tmp_path) if name.endswith('.partial')]


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (['--config=digits', '--write-metadata'], 'is for --config=folder, and digits has lists of its own'),
    (['--config=folder', '--config.data.dir=x', '--force'], '--force is for --write-metadata'),
    (['--config=folder', '--config.data.dir=x', '--write-metadata'], 'data.dir x is not a folder'),
  ],
)
def test_flags_that_do_nothing_are_refused(argv, message):
  with pytest.raises(UserError, match=message):
    app.call('data', argv)


@pytest.mark.parametrize(
  'form', [' a/{}.jpg', 'a\\b/{}.jpg', 'a:b/{}.jpg', 'a/\n{}.jpg', 'a/x{}\r.jpg', os.fsdecode(b'a/\xff{}.jpg')]
)
def test_names_that_no_csv_can_have_are_refused(form, tmp_path):
  grow(tmp_path, 'z/{}.jpg', 'y/{}.jpg', form)
  with pytest.raises(UserError, match='rename') as error:
    write_metadata(tmp_path)
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'metadata.csv').exists()


def test_another_order_of_classes_is_said_with_the_remedy(tmp_path, capsys):
  grow(tmp_path, '10/{}.jpg', '9/{}.jpg')
  write_metadata(tmp_path)
  assert """Give its classes in their order: --config.data.classes="('9', '10')".""" in capsys.readouterr().out
  assert load('folder', tmp_path, classes=('9', '10')).classes == ('9', '10')


def start(root, workdir, *flags, force=False):
  config = from_flags('folder:erm', *(f'--config.{flag}' for flag in (f'data.dir={root}', *TINY, *flags)))
  return run(config, workdir, force=force)


def test_a_run_records_the_split_and_notices_files_that_were_added(tmp_path, capsys):
  root, workdir = grow(tmp_path / 'x', 'a/{}.bmp', 'b/{}.bmp'), tmp_path / 'w'
  results = start(root, workdir)
  assert results['data']['drawn']['images'] == {'val': 4, 'test': 4}
  assert 'data.split_seed=0' in capsys.readouterr().err
  rows = list(csv.reader((workdir / 'split.csv').read_text().splitlines()))
  assert rows[0] == ['filename', 'label', 'split']
  parts = splits_of(load('folder', root))
  assert rows[1:] == [[name, name[0], part] for part, names in parts.items() for name in names]
  write_metadata(root)  # the same splits, from now on by a list
  assert start(root, workdir) == json.loads((workdir / 'results.json').read_text())
  (root / 'metadata.csv').unlink()
  with pytest.raises(UserError, match=r'data.split_seed \(0 there, 1 here\)'):
    start(root, workdir, 'data.split_seed=1')
  grow(root, 'a/new.bmp')
  with pytest.raises(UserError, match='was trained on other data than are there now: '):
    start(root, workdir)


@pytest.mark.full
def test_a_forced_run_has_the_split_of_its_data(tmp_path):
  root, workdir = grow(tmp_path / 'x', 'a/{}.bmp', 'b/{}.bmp'), tmp_path / 'w'
  start(root, workdir)
  grow(root, 'a/new.bmp')
  start(root, workdir, 'train.steps=3', force=True)
  assert 'a/new.bmp' in (workdir / 'split.csv').read_text()
  assert (workdir / 'split.csv').read_text() == data.drawn_split(load('folder', root))
  write_metadata(root)
  (root / 'metadata.csv').write_text((root / 'metadata.csv').read_text().replace('a/new.bmp,a', 'a/new.bmp,b'))
  start(root, workdir, 'train.steps=4', force=True)
  assert not (workdir / 'split.csv').exists()


@pytest.mark.full
def test_every_verb_works_on_it(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  root = grow(tmp_path / 'photos', *(f'{s}/{c}/{{}}.bmp' for s in ('train', 'test') for c in 'ab'))
  flags = [f'--config.{flag}' for flag in (f'data.dir={root}', *TINY)]
  app.call('main', ['--config=folder:ule', '--workdir=runs/ule', *flags])
  app.call('evaluate', ['--run=runs/ule', '--saliency=1'])
  assert 'the same numbers as in results.json' in capsys.readouterr().out
  app.call('diagnose', ['--run=runs/ule', '--out=diagnosis', '--split=train'])
  app.call('predict', ['--run=runs/ule', f'--input={root}', '--out=predictions.csv'])
  app.call(
    'sweep', ['--config=folder:erm', '--axis=seed=0,1', '--workdir=runs/sweep', *flags, '--config.data.augment=False']
  )
  app.call('report', ['runs', '--out=report'])
  assert (tmp_path / 'runs/sweep/split.csv').read_text() == (tmp_path / 'runs/ule/split.csv').read_text()
  app.call('prepare', ['--config=folder', f'--config.data.dir={root}', '--out=shards'])
  shards, folder = (load('folder', path) for path in (tmp_path / 'shards', root))
  assert table_of(shards).is_array_record
  assert splits_of(shards) == splits_of(folder)
  assert labels_of(shards) == labels_of(folder)
  app.call('main', ['--config=folder:erm', '--workdir=runs/erm', *flags, f'--config.data.dir={tmp_path}/shards'])
  assert (tmp_path / 'runs/erm/done').exists()
  assert class_folders.as_csv(table_of(folder)) == (tmp_path / 'runs/ule/split.csv').read_text()


def without_border(image, share):
  width, height = image.size
  x, y = round(width * share), round(height * share)
  return image.crop((x, y, width - x, height - y))


COPIES = {
  'quality': lambda image: image,
  'size': lambda image: image.resize((image.width // 2, image.height // 2)),
  'aspect': lambda image: image.resize((image.width, image.height * 4 // 5)),
  'brightness': lambda image: image.point(lambda value: min(255, round(1.1 * value))),
  'narrow border': lambda image: without_border(image, 0.02),
  'wide border': lambda image: without_border(image, 0.05),
  'mirrored': lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


@pytest.mark.full
@pytest.mark.parametrize(
  ('archive', 'layout', 'counts'),
  [('bar/bar_256.tar', 'prefix', (1553, 388, 654)), ('cats_dogs/cats_dogs_160.tar', 'auto', (1600, 400, 1000))],
)
def test_real_folders_are_read(archive, layout, counts, real_data, tmp_path):
  shutil.unpack_archive(real_data / archive, tmp_path, filter='data')
  (root,) = tmp_path.iterdir()
  dataset = load('folder', root, layout=layout, together='near_duplicates')
  assert tuple(split.count for split in dataset.splits.values()) == counts
  (text,) = [text for text in dataset.remarks if '128 bits' in text]
  assert text.startswith(('1 sets', '2 sets'))
  train = dataset.splits['train']
  within = {name: [] for name in COPIES}
  for i in np.linspace(0, train.count - 1, 100).astype(int).tolist():
    image = Image.fromarray(train.load(i))
    original = encoded(image, format='PNG')
    for name, change in COPIES.items():
      within[name].append(bits(original, encoded(change(image), format='JPEG', quality=50)) <= DISTANCE)
  share = {name: np.mean(values) for name, values in within.items()}
  assert all(share[name] >= 0.95 for name in ('quality', 'size', 'aspect', 'brightness'))
  assert share['narrow border'] >= 0.7
  assert share['wide border'] <= 0.2
  assert share['mirrored'] == 0
