"""metadata.csv as people have it: a test for each row of the table in docs/guides/data/folder.md."""

import re
import shutil

import pytest
from datasets_test import META, ROWS, load
from writers import write_folder

from ule_jax.errors import UserError


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
  return write_folder(tmp_path_factory.mktemp('folder'), ROWS, ('filename', 'label', 'split', 'note'), size=(12, 10))


def swap(*pairs):
  def change(text, root):
    for old, new in pairs:
      assert old in text
      text = text.replace(old, new.replace('ROOT', str(root)))
    return text

  return change


def indexed(text, root):
  header, *rows = text.splitlines()
  return '\n'.join([f',{header}', *(f'{i},{row}' for i, row in enumerate(rows))])


def upper(text, root):
  (root / 'a/0.jpg').rename(root / 'a/0.JPG')
  return text.replace('a/0.jpg', 'a/0.JPG')


# First cell of the table -> the change of a good file, and the sentence that refuses it, or '' where it is read.
CASES = {
  'a column `file_name` in place of `filename`': (swap(('filename', 'file_name')), ''),
  'both of them': (swap(('filename,', 'filename,file_name,'), ('.jpg,', '.jpg,x,')), 'both a column filename and'),
  'a byte order mark': (lambda text, root: '\ufeff' + text, ''),
  'lines that end with CR LF, or CR': (lambda text, root: text.replace('\n', '\r\n', 5).replace('\n', '\r', 1), ''),
  'values in quotes, with commas inside': (swap(('cat,', '"cat, tabby",')), ''),
  'the index column that pandas writes': (indexed, ''),
  'another column without a name': (swap(('note', 'note,'), ('doors', 'doors,x')), 'a column without a name'),
  'further columns': (swap(('note', 'note,camera'), ('doors', 'doors,x')), ''),
  'labels `0.0`, `1.0`': (swap(('cat', '0.0'), ('dog', '1.0')), ''),
  'labels `1`, `2` without 0': (swap(('cat', '1'), ('dog', '2')), 'the label 1, but 0 is missing'),
  'blank lines': (swap(('\n', '\n\n \n')), ''),
  'blanks around values': (swap((',', ' , ')), ''),
  'an ending in upper case, `a/0.JPG`': (upper, ''),
  'a name in other letters than the file': (swap(('a/0.jpg', 'A/0.JPG')), 'the file is a/0.jpg, in other letters'),
  'a path with `./`': (swap(('a/', './a/'), ('b/', 'b//./')), ''),
  'an absolute path inside the folder': (swap(('a/', 'ROOT/a/')), ''),
  'a path that leaves the folder': (swap(('a/0.jpg', '/elsewhere/0.jpg')), 'which is not below'),
  'a path with backslashes': (swap(('a/0.jpg', 'a\\0.jpg')), 'which is not below'),
  'a file in two rows': (swap(('a/0.jpg', 'a/1.jpg')), 'lists a/1.jpg twice'),
  'splits `valid`, `validation`, or 0, 1, 2': (swap((',val,', ',validation,')), ''),
  'splits in capitals, `Train`': (swap((',train,', ',Train,')), "the split 'Train' instead of train"),
  'a column `Label`': (swap(('label', 'Label')), "the column 'Label' instead of label"),
  'no label in a row': (swap(('a/0.jpg,cat', 'a/0.jpg,')), 'has no label'),
  'semicolons or tabs in place of commas': (swap((',', ';')), 'separated by semicolons'),
  'another encoding than UTF-8': (lambda text, root: text.replace('cat', 'caf\u00e9').encode('latin-1'), 'save it as'),
  'a quote that is not closed': (swap(('a/2.jpg', '"a/2.jpg')), 'is opened and not closed'),
}  # fmt: skip


@pytest.mark.parametrize('case', CASES)
def test_a_csv_is_read_or_refused_in_one_sentence(case, tree, tmp_path):
  change, message = CASES[case]
  root, expected = shutil.copytree(tree, tmp_path / 'x'), load('folder', tree)
  text = change((root / META).read_bytes().decode().replace('\r\n', '\n'), root)
  (root / META).write_bytes(text if isinstance(text, bytes) else text.encode())
  if message:
    with pytest.raises(UserError, match=message) as error:
      load('folder', root)
    assert '\n' not in str(error.value)
    return
  dataset = load('folder', root)
  for part, split in expected.splits.items():
    read = dataset.splits[part]
    assert [read.name(i).lower() for i in range(read.count)] == [split.name(i) for i in range(split.count)]
    assert read.label.tolist() == split.label.tolist()
  assert dataset.splits['train'].load(0).shape == (10, 12, 3)


def test_the_table_of_the_docs_has_the_same_rows(root):
  page = (root / 'docs' / 'guides' / 'data' / 'folder.md').read_text()
  table = dict(re.findall(r'^\| (.+?) \| ((?:read|refused|passed over).*?) \|$', page, re.M))
  assert list(table) == list(CASES)
  for case, (_, message) in CASES.items():
    assert table[case].startswith('refused') == bool(message), case
