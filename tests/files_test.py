"""Files that are replaced as a whole or not at all."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ule_jax.errors import UserError
from ule_jax.runs import files


def test_the_new_content_replaces_the_old(tmp_path):
  path = tmp_path / 'a.json'
  files.write_json(path, {'old': 1})
  files.write_json(path, {'new': [1, 2]})
  assert files.read_json(path) == {'new': [1, 2]}
  assert [p.name for p in tmp_path.iterdir()] == ['a.json']


def write_half(path, error):
  with files.write_atomic(path) as file:
    file.write(b'half')
    raise error


@pytest.mark.parametrize('error', [OSError, ValueError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_the_old_content_and_no_other_file(error, tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('old')
  with pytest.raises(error):
    write_half(path, error)
  assert path.read_text() == 'old'
  assert [p.name for p in tmp_path.iterdir()] == ['a.txt']


def test_the_old_content_is_there_until_the_block_ends(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('old')
  with files.write_atomic(path) as file:
    file.write(b'new')
    file.flush()
    assert path.read_text() == 'old'
    (partial,) = (p for p in tmp_path.iterdir() if p != path)
    assert files.is_partial(partial)
    assert not files.is_partial(path)
  assert path.read_text() == 'new'


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path):
  path = tmp_path / ('n' * os.pathconf(tmp_path, 'PC_NAME_MAX'))
  files.write_text(path, 'x')
  assert path.read_text() == 'x'


def test_a_folder_in_the_place_of_the_file_is_named_and_stays(tmp_path):
  (tmp_path / 'a').mkdir()
  with pytest.raises(IsADirectoryError, match='it is a folder'):
    files.write_text(tmp_path / 'a', 'x')
  assert (tmp_path / 'a').is_dir()


def test_several_writers_leave_the_whole_content_of_one(tmp_path):
  contents = [{'writer': i, 'values': [i] * 20_000} for i in range(8)]
  with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda content: files.write_json(tmp_path / 'a.json', content), contents))
  assert files.read_json(tmp_path / 'a.json') in contents
  assert len(list(tmp_path.iterdir())) == 1


def test_arrays_come_back_and_their_folder_is_created(tmp_path):
  files.write_arrays(tmp_path / 'new' / 'a.npz', {'x': np.arange(3), 'name': np.array(['a', 'b'])})
  with np.load(tmp_path / 'new' / 'a.npz', allow_pickle=False) as arrays:
    np.testing.assert_array_equal(arrays['x'], np.arange(3))
    assert arrays['name'].tolist() == ['a', 'b']


@pytest.mark.parametrize('content', ['{', '[1]', '"text"', b'\xff'])
def test_a_file_that_holds_no_object_is_one_sentence(content, tmp_path):
  path = tmp_path / 'a.json'
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(UserError, match=r'a\.json cannot be read \(.*\): restore it\.$'):
    files.read_json(path, 'restore it')


def test_text_is_utf_8(tmp_path):
  files.write_json(tmp_path / 'a.json', {'class': 'Rötel'})
  assert json.loads((tmp_path / 'a.json').read_bytes()) == {'class': 'Rötel'}
