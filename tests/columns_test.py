"""Lists as people write them: words for missing, names that look alike, quotes, and what lies beside the images."""

import contextlib
import io
import os
import shutil

import numpy as np
import pytest
from datasets_test import META, ROWS, load, rewrite
from PIL import Image
from writers import table_of, write_celeba, write_folder, write_spawrious, write_urbancars, write_waterbirds

from configs import base
from ule_jax import data
from ule_jax.cli import app
from ule_jax.data import checks, listing, tables
from ule_jax.errors import UserError
from ule_jax.runs import files, workdir

HEADER = ('filename', 'label', 'split', 'attribute')


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
  return write_folder(tmp_path_factory.mktemp('folder'), ROWS, HEADER, size=(12, 10))


@pytest.fixture
def own(tree, tmp_path):
  return shutil.copytree(tree, tmp_path / 'own')


def changed(root, *pairs, count=-1):
  """Replace texts in metadata.csv."""
  text = (root / META).read_bytes().decode()
  for old, new in pairs:
    assert old in text
    text = text.replace(old, new, count)
  (root / META).write_bytes(text.encode())
  return root


def refused(root, message, **changes):
  with pytest.raises(UserError, match=message) as error:
    load('folder', root, **changes)
  said = str(error.value)
  assert len(said.splitlines()) == 1
  assert len(said) < 500
  return said


# --- Words for missing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'word', ['', 'nan', 'NaN', 'None', 'NA', 'N/A', 'null', '<NA>', 'NULL', ' nan ', '\u200b', '\xa0', '-1', r'\N']
)
@pytest.mark.parametrize('column', ['attribute', 'group'])
def test_a_word_for_missing_is_an_unknown_group_and_is_said(word, column, own, capsys):
  changed(own, ('attribute', column))
  changed(own, ('train,indoors', f'train,{word}'), count=3)
  dataset = load('folder', own)
  said = capsys.readouterr().err.splitlines()
  assert dataset.splits['train'].group.tolist()[:3] == [-1] * 3
  assert (dataset.splits['train'].group[3:] >= 0).all()
  assert len(dataset.groups) == (4 if column == 'attribute' else 2)
  assert [text for text in said if '3 of 13 groups of train are unknown (' in text]
  shown = word.strip()
  assert (shown.encode('unicode_escape').decode() if not shown.isprintable() else shown or 'left empty') in said[
    0
  ] or shown == r'\N'


def test_several_words_are_named_and_the_data_verb_says_it_too(own, monkeypatch, capsys):

  changed(own, ('train,indoors', 'train,NA'), count=2)
  changed(own, ('train,outdoors', 'train,nan'), count=1)
  monkeypatch.setattr(
    'sys.argv', ['data', '--config=folder', f'--config.data.dir={own}', '--images=false', f'--out={own}/s']
  )
  with pytest.raises(SystemExit):
    app.run_verb('data')
  assert '3 of 13 groups of train are unknown (written NA, nan).' in capsys.readouterr().out


@pytest.mark.parametrize('word', ['', 'nan', 'None', '<NA>', 'null', 'N/A', '-1'])
def test_a_word_for_missing_is_no_class(word, own):
  changed(own, ('a/1.jpg,cat', f'a/1.jpg,{word}'), ('a/4.jpg,cat', f'a/4.jpg,{word}'))
  said = refused(own, r'metadata\.csv, line 3: a/1.jpg has no label .*; 2 examples of train have no label')
  assert ('data.classes' in said) == (word not in ('', '-1'))


def test_classes_may_be_called_so_if_they_are_listed_and_are_in_that_order(own):
  changed(own, (',dog,', ',nan,'))
  dataset = load('folder', own, classes=('nan', 'cat'))
  assert dataset.classes == ('nan', 'cat')
  assert dataset.splits['train'].label.tolist()[:7] == [1] * 6 + [0]
  refused(own, r"line 2: a/0.jpg has the label 'cat' instead of one of nan, dog", classes=('nan', 'dog'))
  refused(own, r'no image of the class .emu. to train', classes=('nan', 'cat', 'emu'))


@pytest.mark.parametrize('classes', [('cat',), 'cat', ('cat', 'cat'), ('cat', ''), (1.5, 2), ('cat', 'c\u200bat')])
def test_the_list_of_classes_is_checked(classes, own):
  refused(own, 'data.classes', classes=classes)


def test_names_that_often_mean_nothing_are_said_to_be_names(own, capsys):
  changed(own, ('indoors', 'none'))
  assert 'cat, none' in load('folder', own).groups
  said = capsys.readouterr().err.splitlines()
  assert [text for text in said if "'none' is read as a name in the column attribute" in text]


# --- Names that look alike -----------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('column', 'old', 'new'),
  [
    ('label', 'a/0.jpg,cat', 'a/0.jpg,Cat'),
    ('label', 'a/0.jpg,cat', 'a/0.jpg,c at'),
    ('label', 'a/0.jpg,cat', 'a/0.jpg,c\xa0at'),
    ('label', 'a/0.jpg,cat', 'a/0.jpg,cat\u200b'),
    ('label', 'a/0.jpg,cat', 'a/0.jpg,\ufeffcat'),
    ('label', 'a/0.jpg,cat', 'a/0.jpg,c\u00adat'),
    ('label', 'a/0.jpg,cat', 'a/0.jpg,c\u0430t'),
    ('attribute', 'train,indoors', 'train,Indoors'),
    ('attribute', 'train,indoors', 'train,in doors'),
    ('split', 'cat,train', 'cat,Train'),
    ('split', 'cat,train', 'cat,train\u200b'),
  ],
)
def test_two_spellings_of_one_name_are_refused(column, old, new, own):
  changed(own, (old, new), count=1)
  said = refused(own, rf'line 2: a/0.jpg has the {column} .* and line 3 .*, which differ only by')
  assert said.isascii()


def test_two_forms_of_unicode_are_refused(own):
  changed(own, ('cat', 'caf\u00e9'))
  changed(own, ('caf\u00e9', 'cafe\u0301'), count=1)
  assert r"'cafe\u0301' and line 3 'caf\xe9'" in refused(own, 'differ only by')


def test_names_that_are_listed_may_differ_by_case(own):
  changed(own, ('cat', 'a'), ('dog', 'A'))
  refused(own, 'differ only by case')
  assert load('folder', own, classes=('a', 'A')).classes == ('a', 'A')


def test_two_groups_that_print_alike_are_refused(own):
  changed(own, (',cat,', ',a,'), (',dog,', ',"a, b",'), ('outdoors', 'c'), ('indoors', '"b, c"'))
  refused(own, r"two groups that look alike, 'a with b, c' and 'a, b with c'")


@pytest.mark.parametrize('zero', ['0.0', '0', '0.'])
def test_a_column_of_whole_floats_is_read_as_whole_numbers(zero, own):
  changed(own, ('cat', zero), ('dog', '1.0'), ('indoors', '0.0'), ('outdoors', '1.0'))
  changed(own, ('train', '0.0'), ('val', '1.0'), ('test', '2.0'))
  changed(own, (f'a/0.jpg,{zero},0.0,0.0', f'a/0.jpg,{zero},0.0,nan'))
  dataset = load('folder', own)
  assert dataset.classes == ('0', '1')
  assert dataset.groups == ('0, 0', '0, 1', '1, 0', '1, 1')
  assert dataset.splits['train'].group[0] == -1


@pytest.mark.parametrize(
  ('cat', 'dog', 'message'),
  [
    ('0.5', '1.5', 'has the label 0.5, which is no whole number'),
    ('0', 'inf', 'has the label inf, which is no whole number'),
    ('1.0', '2.0', 'has the label 1, but 0 is missing'),
    ('-1', '1', 'has the label 1, but 0 is missing'),
    ('0', '9' * 6000, 'which is no whole number'),
  ],
)
def test_numbers_that_are_no_classes_are_refused(cat, dog, message, own):
  refused(changed(own, ('cat', cat), ('dog', dog)), message)


def test_one_and_one_point_nought_are_one_class_in_two_spellings(own):
  changed(own, ('cat', '0'), ('dog', '1'))
  changed(own, (',1,', ',1.0,'), count=1)
  refused(own, "line 8: b/0.jpg has the label '1.0' and line 9 '1'")


# --- CSV as it comes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ((('a/2.jpg', '"a/2.jpg'),), 'line 4: a quote is opened and not closed'),
    ((('a/2.jpg,cat', 'a/2.jpg,cat"'),), "line 4: the label 'cat\"' has a quote too many"),
    ((('a/2.jpg,cat,train,indoors', 'a/2.jpg,cat,train,"in'), ('b/2.jpg,dog,train,outdoors', 'b/2.jpg,dog,train,out"')),
     'line 4: the value .* holds a line break'),
    ((('a/2.jpg', '"a/2\n.jpg"'),), 'line 4: the value .* holds a line break'),
    ((('a/2.jpg,cat,train,indoors', 'a/2.jpg,cat,train,in\u2028doors'),), 'line 4: the value .* holds a line break'),
    ((('a/2.jpg', '"a/2".jpg'),), 'line 4: .* expected after'),
    ((('a/2.jpg,cat', 'a/2.jpg,cat' + 'x' * 200_000),), 'line 4: field larger than field limit'),
    ((('a/2.jpg,cat,train', 'a/2.jpg,cat,' + 'x' * 5000),), "line 4: a/2.jpg has the split 'x+\\.\\.\\.x+'"),
    ((('a/2.jpg,cat,train,indoors', 'a/2.jpg,cat,train,indoors,'),), 'line 4: the row of a/2.jpg has 5 values'),
    ((('a/2.jpg,cat', 'a/2.jpg,c\0at'),), 'line 4 holds a null byte'),
    ((('a/2.jpg', 'a/1.jpg'),), 'lists a/1.jpg twice, in line 3 and line 4'),
    ((('a/2.jpg', 'a' * 5000 + '.jpg'),), r'missing, the first is .*\.\.\..* \(line 4\)'),
    (((',', ';'),), 'separated by semicolons'),
    (((',', '\t'),), 'separated by tabs'),
    ((('attribute', 'Group'),), "has the column 'Group' instead of group"),
    ((('attribute', 'attribute\u200b'),), 'instead of attribute'),
    ((('label', 'Label'),), "has the column 'Label' instead of label"),
    ((('attribute', 'Label'),), "two columns of the same name, 'label' and 'Label'"),
  ],
)  # fmt: skip
def test_odd_files_are_refused_with_their_line(change, message, own):
  refused(changed(own, *change), message)


@pytest.mark.parametrize(
  ('encoding', 'message'),
  [
    ('utf-16', 'in UTF-16: save it'),
    ('utf-16-le', 'line 1 holds a null byte'),
    ('latin-1', 'line 2 holds the byte 0xe9'),
  ],
)
def test_other_encodings_are_named(encoding, message, own):
  text = changed(own, ('cat', 'caf\u00e9')).joinpath(META).read_text(encoding='utf-8')
  (own / META).write_text(text, encoding=encoding)
  refused(own, message)


@pytest.mark.parametrize(
  'change',
  [
    lambda text: '\ufeff' + text,
    lambda text: text.replace('\r\n', '\r'),
    lambda text: text.replace('\r\n', '\n', 3).replace('\r\n', '\r', 2),
    lambda text: text.replace('\r\n', '\r\n\r\n   \r\n,,,\r\n'),
    lambda text: text.replace('attribute', 'attribute,').replace('doors', 'doors,'),
    lambda text: text.replace('attribute', 'attribute,note').replace('doors', 'doors,a 6" by 4" print'),
    lambda text: text.replace('attribute', 'attribute,note').replace('doors', 'doors,"a ""very, very"" old one"'),
    lambda text: text.replace(',', ' , '),
    lambda text: text.replace('attribute', 'attribute,note').replace('doors', 'doors,"5"" wide"'),
  ],
)
def test_odd_files_that_say_the_same_are_read(change, own, tree):
  text = (own / META).read_bytes().decode()
  (own / META).write_bytes(change(text).encode())
  found, expected = load('folder', own), load('folder', tree)
  assert found.groups == expected.groups
  for part, split in expected.splits.items():
    np.testing.assert_array_equal(found.splits[part].group, split.group)


def test_columns_of_other_data_sets_are_read_by_the_same_rules(tmp_path):
  birds = write_waterbirds(tmp_path / 'birds')
  rewrite(META, 'bird_0000.jpg,0,0', 'bird_0000.jpg,nan,0')(birds)
  with pytest.raises(UserError, match=r"metadata\.csv, line 2: 002.*bird_0000.jpg has y 'nan' instead of one of 0, 1"):
    load('waterbirds', birds)
  rewrite(META, 'bird_0000.jpg,nan,0', 'bird_0000.jpg,0.0,0')(birds)
  with pytest.raises(UserError, match=r"has the y '0.0' and line 3 '0', which differ only"):
    load('waterbirds', birds)
  faces = write_celeba(tmp_path / 'faces', form='txt')
  rewrite('list_attr_celeba.txt', '000003.jpg  -1', '000003.jpg  NA')(faces)
  with pytest.raises(UserError, match=r"list_attr_celeba\.txt, line 5: 000003.jpg has Bald 'NA' instead of one of"):
    load('celeba', faces)


# --- Prepared data -------------------------------------------------------------------------------------

PARTS = ('train', 'validation', 'test')


def write_records(root, features, example, parts=PARTS):
  """Write a data set of 8 images a part with TFDS; `example(part, i)` returns the other features of an image."""
  import tensorflow_datasets as tfds

  made = {'image': tfds.features.Image(shape=(None, None, 3)), **features(tfds.features)}

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = 'own'
    VERSION = tfds.core.Version('1.0.0')
    pkg_dir_path = root

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(made), disable_shuffling=True)

    def _split_generators(self, dl_manager):
      return {part: self._generate_examples(part) for part in parts}

    def _generate_examples(self, part):
      for i in range(8):
        file = io.BytesIO()
        Image.new('RGB', (12, 12), (30 * i, 0, 0)).save(file, 'PNG')
        file.seek(0)
        yield i, {'image': file, **example(part, i)}

  with contextlib.redirect_stderr(io.StringIO()):
    Builder(data_dir=root, file_format='array_record').download_and_prepare()
  return root


def label(features):
  return {'label': features.ClassLabel(names=['a', 'b'])}


def also(**more):
  return lambda features: {**label(features), **{name: make(features) for name, make in more.items()}}


@pytest.mark.parametrize(
  ('features', 'example', 'parts', 'message'),
  [
    (label, lambda part, i: {'label': -1 if part == 'test' else i % 2}, PARTS, '8 examples of test have no label'),
    (label, lambda part, i: {'label': -1 if part == 'train' and i < 3 else i % 2}, PARTS,
     'record 0 of train: .* has no label .*; 3 examples of train have no label'),
    (label, lambda part, i: {'label': i % 2}, ('train', 'test'), 'gives no image to val'),
    (label, lambda part, i: {'label': i % 2}, (*PARTS, 'valid'), 'more than one part that is val'),
    (lambda f: {'label': np.int64}, lambda part, i: {'label': 1 + i % 2}, PARTS, 'has the label 1, but 0 is missing'),
    (lambda f: {'label': np.float32}, lambda part, i: {'label': i / 2}, PARTS, 'has the label 0.5, which is no whole'),
    (lambda f: {'label': np.float32}, lambda part, i: {'label': np.nan if i == 3 else i % 2}, PARTS, 'has no label'),
    (lambda f: {'label': f.Text()}, lambda part, i: {'label': ('dog', 'Dog')[i % 2]}, PARTS, 'differ only by case'),
    (lambda f: {'label': f.Text()}, lambda part, i: {'label': ('dog', 'nan')[i % 2]}, PARTS, 'no label .written nan'),
    (lambda f: {'label': f.Tensor(shape=(2,), dtype=np.int64)}, lambda part, i: {'label': [0, 1]}, PARTS,
     r'the feature label of .* has the shape \(2,\)'),
    (also(group=lambda f: f.Text(), attribute=lambda f: f.Text()),
     lambda part, i: {'label': i % 2, 'group': 'x', 'attribute': 'y'}, PARTS, 'both a column group and'),
  ],
)  # fmt: skip
def test_prepared_data_are_checked_as_a_list_is(features, example, parts, message, tmp_path):
  root = write_records(tmp_path, features, example, parts)
  refused(root, message)
  with pytest.raises(UserError, match=message):  # `ule_jax.data` reads them so
    data.read('folder', {'dir': str(root), **FOLDER})


FOLDER = {
  'size': 8, 'fit': 'crop', 'resize': 'antialias', 'augment': False, 'scale': (0.7, 1.0), 'ratio': (1.0, 1.0),
  'jitter': 0.0, 'unlisted': 'fail',
}  # fmt: skip


@pytest.mark.parametrize(
  ('features', 'example', 'classes', 'groups', 'first'),
  [
    (lambda f: {'label': np.int64}, lambda i: {'label': i % 2}, ('0', '1'), (), -1),
    (lambda f: {'label': np.bool_}, lambda i: {'label': i % 2 == 1}, ('0', '1'), (), -1),
    (lambda f: {'label': np.float32}, lambda i: {'label': i % 2}, ('0', '1'), (), -1),
    (lambda f: {'label': f.Text()}, lambda i: {'label': 'ba'[i % 2]}, ('a', 'b'), (), -1),
    (lambda f: {'label': f.ClassLabel(names=['nan', 'a'])}, lambda i: {'label': i % 2}, ('nan', 'a'), (), -1),
    (also(group=lambda f: f.Text()), lambda i: {'label': i % 2, 'group': 'yx'[i % 2]}, ('a', 'b'), ('x', 'y'), 1),
    (also(group=lambda f: f.Text()), lambda i: {'label': i % 2, 'group': '' if i < 2 else 'x'}, ('a', 'b'), ('x',), -1),
    (also(group=lambda f: np.int64), lambda i: {'label': i % 2, 'group': i % 3 - 1}, ('a', 'b'), ('0', '1'), -1),
    (also(attribute=lambda f: f.ClassLabel(names=['NA', 'x'])), lambda i: {'label': i % 2, 'attribute': i % 2},
     ('a', 'b'), ('a, x', 'b, x'), -1),
    (also(identity=lambda f: np.int64), lambda i: {'label': i % 2, 'identity': 2**40}, ('a', 'b'), (), -1),
  ],
)  # fmt: skip
def test_prepared_data_are_read_as_a_list_is(features, example, classes, groups, first, tmp_path, capsys):
  root = write_records(tmp_path, features, lambda part, i: example(i))
  capsys.readouterr()
  dataset = load('folder', root)
  said = capsys.readouterr().err.splitlines()
  assert (dataset.classes, dataset.groups) == (classes, groups)
  assert dataset.splits['train'].group[0] == first
  assert dataset.splits['train'].label.dtype == np.int32
  assert bool([text for text in said if 'unknown' in text]) == bool(groups and first < 0)


@pytest.mark.parametrize(
  ('name', 'write', 'key', 'value', 'message'),
  [
    ('waterbirds', write_waterbirds, 'test/y', -1, 'record 1 of test: .* has the y -1 instead of 0 to 1'),
    ('waterbirds', write_waterbirds, 'val/place', -1, 'has the place -1 instead of 0 to 1'),
    ('celeba', write_celeba, 'train/Male', -1, 'has the Male -1 instead of 0 to 1'),
    ('urbancars', write_urbancars, 'train/bg', 2, 'has the bg 2 instead of 0 to 1'),
    (
      'spawrious',
      lambda root: write_spawrious(root, 4),
      'images/location',
      6,
      'has the location 6 instead of 0 to 5',
    ),
    ('folder', lambda root: write_folder(root, ROWS, HEADER), 'test/label', -1, 'has no label'),
    (
      'folder',
      lambda root: write_folder(root, ROWS, HEADER),
      'test/label',
      2,
      'has the label 2, and the feature label names 2',
    ),
  ],
)
def test_codes_of_prepared_data_have_a_meaning(name, write, key, value, message, tmp_path):
  from ule_jax.data.pack import pack

  pack(name, table_of(load(name, write(tmp_path / 'tree'))), tmp_path / 'out', skip=False)
  arrays = dict(np.load(tmp_path / 'out' / tables.COLUMNS))
  arrays[key][1] = value
  np.savez(tmp_path / 'out' / tables.COLUMNS, **arrays)
  with pytest.raises(UserError, match=message):
    load(name, tmp_path / 'out')


def test_whatever_a_loader_gives_is_checked(tree):
  dataset = load('folder', tree)
  for change, message in (({'label': -1}, '1 examples of val have no label'), ({'group': 9}, 'have no group of the 4')):
    split = dataset.splits['val']
    ((field, code),) = change.items()
    values = getattr(split, field).copy()
    values[0] = code
    with pytest.raises(UserError, match=message):
      checks.refuse_unlabelled(dataset._replace(splits=dataset.splits | {'val': split._replace(**{field: values})}))


# --- What lies beside the images -----------------------------------------------------------------------

BESIDE = ('._{}', '.{}', '__MACOSX/{}', '@eaDir/{}/SYNOPHOTO_THUMB_M.jpg', '.ipynb_checkpoints/{}', '#recycle/{}')


def litter(root):
  """Write the companion files of other systems beside every image, and a link to the root."""
  images = listing.list_images(root)
  for name in images:
    folder, _, file = name.rpartition('/')
    for form in BESIDE:
      path = root / folder / form.format(file)
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(b'\0\5\26\7\0\2\0\0Mac OS X        ')
    for file in ('.DS_Store', 'Thumbs.db'):
      (root / folder / file).write_bytes(b'\0')
  (root / '__MACOSX').mkdir(exist_ok=True)
  return images


@pytest.mark.parametrize(
  ('name', 'write'),
  [
    ('folder', lambda root: write_folder(root, ROWS, HEADER, size=(12, 10))),
    ('celeba', write_celeba),
    ('waterbirds', write_waterbirds),
    ('spawrious', lambda root: write_spawrious(root, 4)),
    ('urbancars', write_urbancars),
  ],
)
def test_companion_files_are_passed_over_everywhere(name, write, tmp_path):
  root = write(tmp_path)
  expected = load(name, root)
  images = litter(root)
  assert listing.list_images(root) == images
  found = load(name, root)
  for part, split in expected.splits.items():
    assert [found.splits[part].name(i) for i in range(found.splits[part].count)] == [
      split.name(i) for i in range(split.count)
    ]


@pytest.mark.parametrize('name', ['a/._0.jpg', '__MACOSX/0.jpg', 'a/@eaDir/0.jpg'])
def test_a_row_that_names_a_companion_is_refused(name, own):
  (own / name).parent.mkdir(exist_ok=True)
  shutil.copy(own / 'a/0.jpg', own / name)
  refused(changed(own, ('a/0.jpg', name)), rf'line 2 names {name}, which another system wrote')


def test_a_row_may_name_a_hidden_file(own):
  (own / '.hidden').mkdir()
  shutil.move(own / 'a/0.jpg', own / '.hidden/0.jpg')
  dataset = load('folder', changed(own, ('a/0.jpg', '.hidden/0.jpg')))
  assert dataset.splits['train'].load(0).shape == (10, 12, 3)


@pytest.mark.parametrize('target', ['.', '..', '../b', '/', 'self', 'nowhere'])
def test_links_are_walked_once(target, own, tmp_path):
  expected = listing.list_images(own)
  (own / 'a' / 'self').symlink_to(target)
  (own / 'b' / 'back').symlink_to('../a')
  assert listing.list_images(own) == expected
  assert load('folder', own).splits['train'].count == 13


def test_a_link_to_another_place_is_walked(own, tmp_path):
  expected = listing.list_images(own)
  shutil.move(own / 'a', tmp_path / 'elsewhere')
  (own / 'a').symlink_to(tmp_path / 'elsewhere')
  (tmp_path / 'elsewhere' / 'home').symlink_to(own)
  assert listing.list_images(own) == expected
  assert load('folder', own).splits['train'].count == 13


@pytest.mark.skipif(os.geteuid() == 0, reason='root reads everything')
def test_a_folder_that_cannot_be_read_is_named(own):
  (own / 'locked').mkdir(mode=0)
  refused(own, 'locked cannot be read')


def test_a_run_that_was_recorded_without_the_list_of_classes_is_the_same_run(tmp_path):
  recorded = base.make('folder', 'erm').to_dict()
  del recorded['data']['classes']
  files.write_json(tmp_path / 'config.json', recorded)
  config = base.make('folder', 'erm')
  assert workdir.compare(tmp_path, config.to_dict(), force=False)
  config.data.classes = ('a', 'b')
  assert not workdir.compare(tmp_path, config.to_dict(), force=False)
