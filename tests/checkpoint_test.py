"""Checkpoints: retention, refusals, and damaged files."""

import gc
import shutil
import sys
import threading
from contextlib import contextmanager

import jax.numpy as jnp
import numpy as np
import pytest
from common import damage, leaves_equal

from ule_jax.errors import UserError
from ule_jax.runs.checkpoints import Checkpoints

# orbax leaves coroutines behind where it fails to read.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

RULES = ('val/a', 'val/b')


@pytest.fixture(autouse=True)
def no_garbage_for_other_tests():
  yield
  gc.collect()


def state_of(step):
  # Noise, that the file be no smaller than its arrays: a flipped bit then changes one of them.
  noise = np.random.default_rng(step).normal(size=(300, 50))
  return {'kernel': jnp.asarray(noise, jnp.float32), 'step': jnp.asarray(step)}


def fill(directory, scores, keep=2):
  """Save a state for each of the scores, at steps 10, 20, ..."""
  checkpoints = Checkpoints(directory, RULES, keep)
  for i, pair in enumerate(scores, start=1):
    checkpoints.save(10 * i, state_of(10 * i), dict(zip(RULES, pair, strict=True)) if pair else {})
  checkpoints.close()


def arrays_of(directory):
  return max((p for p in directory.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)


def newest(directory, capsys=None):
  """Restore the newest state; with capsys return also the lines that were printed meanwhile."""
  checkpoints = Checkpoints(directory, RULES, 2)
  try:
    step, state = checkpoints.restore_newest(state_of(0))
    return step, state, capsys.readouterr().err.splitlines() if capsys else []
  finally:
    checkpoints.close()


def test_the_newest_and_the_best_are_kept(tmp_path):
  fill(tmp_path, [(3, 1), (2, 4), (2, 4), (1, 2), (1, 1), ()])
  checkpoints = Checkpoints(tmp_path, RULES, 2)
  assert checkpoints.steps == [10, 30, 50, 60]
  assert checkpoints.best() == {'val/a': 10, 'val/b': 30}  # of equals the newest; never the one without scores
  assert (checkpoints.scored(50), checkpoints.scored(60), checkpoints.scored(20)) == (True, False, False)
  checkpoints.save(60, state_of(60), dict(zip(RULES, (9, 0), strict=True)))
  assert checkpoints.best() == {'val/a': 60, 'val/b': 30}
  checkpoints.close()
  assert sorted(int(p.name) for p in tmp_path.iterdir()) == [30, 50, 60]


@contextmanager
def snapshots(directory, place):
  """Copy a folder at every file that is opened, renamed or removed: what a process that is killed there leaves."""
  active, taken, busy = [True], [], threading.Lock()
  events = ('open', 'os.rename', 'os.remove', 'os.rmdir', 'os.mkdir', 'shutil.rmtree')

  def hook(event, args):
    if active and event in events and str(directory) in str(args[0]) and busy.acquire(blocking=False):
      copy = place / str(len(taken))
      try:
        shutil.copytree(directory, copy, dirs_exist_ok=True)
      except (OSError, shutil.Error):  # another thread renames something meanwhile
        shutil.rmtree(copy, ignore_errors=True)
      else:
        taken.append(copy)
      busy.release()

  sys.addaudithook(hook)
  try:
    yield taken
  finally:
    active.clear()  # a hook cannot be taken away


def test_a_process_that_is_killed_at_any_point_has_its_newest_and_best_checkpoints(tmp_path, capsys):
  """While scores are added to the newest one, as one is saved, and as others are deleted."""
  directory = tmp_path / 'w'
  fill(directory, [(3, 1), (1, 1), ()], keep=1)
  checkpoints = Checkpoints(directory, RULES, 1)
  least, moments = {}, []
  with snapshots(directory, tmp_path / 'copies') as taken:
    for step, pair in ((30, (2, 2)), (40, (4, 0)), (50, (5, 5))):
      before = len(taken)
      checkpoints.save(step, state_of(step), dict(zip(RULES, pair, strict=True)))
      checkpoints.wait()
      least |= dict.fromkeys(taken[before:], max(step - 10, 30))
      moments.append(len(taken) - before)
    checkpoints.close()
  assert min(moments) > 3, moments
  for copy in taken:
    step, state, said = newest(copy, capsys)  # `best` is asked there, too
    assert step >= least.get(copy, 50), copy
    assert leaves_equal(state, state_of(step))
    assert not said
  assert sorted(p.name for p in directory.iterdir()) == ['50']


def test_scores_are_added_to_a_checkpoint_without_writing_its_arrays(tmp_path):
  fill(tmp_path, [(1, 1), ()])
  before = {p: p.stat().st_mtime_ns for p in (tmp_path / '20' / 'state').rglob('*')}
  checkpoints = Checkpoints(tmp_path, RULES, 2)
  checkpoints.save(20, state_of(20), dict.fromkeys(RULES, 2.0))
  checkpoints.close()
  assert {p: p.stat().st_mtime_ns for p in (tmp_path / '20' / 'state').rglob('*')} == before
  checkpoints = Checkpoints(tmp_path, RULES, 2)
  assert checkpoints.best() == dict.fromkeys(RULES, 20)
  with pytest.raises(UserError, match=r'/20 holds another state of step 20: choose another --workdir'):
    checkpoints.save(20, state_of(21), {})
  assert leaves_equal(checkpoints.restore(20, state_of(0)), state_of(20))
  checkpoints.close()


@pytest.mark.parametrize('harm', ['arrays', 'scores', 'metadata', 'folder'])
def test_a_damaged_newest_one_is_named_and_the_one_before_serves(harm, tmp_path, capsys):
  fill(tmp_path, [(1, 1), (2, 2), (3, 3)], keep=3)
  for step in (20, 30):
    place = tmp_path / str(step)
    if harm == 'arrays':
      damage(arrays_of(place))
    elif harm == 'scores':
      path = place / 'scores' / 'metadata'
      path.write_text(path.read_text().replace('"val/a": ', '"val/a": 1'))  # 2 becomes 12
    elif harm == 'metadata':
      (place / 'state' / '_METADATA').write_text('')
    else:
      shutil.rmtree(place / 'state')
  step, state, said = newest(tmp_path, capsys)
  assert step == 10
  assert leaves_equal(state, state_of(10))
  assert [f'step {s} is damaged' in text for s, text in zip((30, 20), said, strict=True)] == [True, True]
  assert {p.name for p in tmp_path.iterdir()} == {'10', '20.damaged', '30.damaged'}
  fill(tmp_path, [(), (5, 5)][1:])  # step 10 again, from elsewhere: a step that exists is saved again
  assert leaves_equal(newest(tmp_path)[1], state_of(10))


def test_without_a_usable_one_nothing_is_touched(tmp_path):
  fill(tmp_path, [(1, 1), (2, 2)])
  for step in ('10', '20'):
    damage(arrays_of(tmp_path / step))
  with pytest.raises(UserError, match=r'no checkpoint in .* can be used, that of step 20 because of: its arrays'):
    newest(tmp_path)
  assert {p.name for p in tmp_path.iterdir()} == {'10', '20'}
  assert newest(tmp_path / 'none')[0] == 0


def test_another_network_is_no_reason_to_move_anything(tmp_path):
  fill(tmp_path, [(1, 1)])
  checkpoints = Checkpoints(tmp_path, RULES, 2)
  with pytest.raises(UserError, match='of another network, choose another --workdir'):
    checkpoints.restore_newest({'kernel': jnp.zeros((4, 5)), 'step': jnp.asarray(0)})
  checkpoints.close()
  assert {p.name for p in tmp_path.iterdir()} == {'10'}


def test_a_damaged_best_one_is_refused_by_name(tmp_path):
  fill(tmp_path, [(3, 3), (1, 1), (2, 2)], keep=1)
  damage(arrays_of(tmp_path / '10'))
  checkpoints = Checkpoints(tmp_path, RULES, 1)
  with pytest.raises(UserError, match=r'checkpoints?.*/10, which may be the best.*only 10 in it to choose among'):
    checkpoints.restore(10, state_of(0))
  checkpoints.close()
  damage(tmp_path / '10' / 'scores' / 'metadata')
  checkpoints = Checkpoints(tmp_path, RULES, 1)
  with pytest.raises(UserError, match=r'/10, .*its scores cannot be read'):
    checkpoints.restore_newest(state_of(0))
  checkpoints.save(40, state_of(40), dict.fromkeys(RULES, 0))
  checkpoints.close()
  assert (tmp_path / '10').is_dir()  # damaged ones are not deleted


def test_parts_are_read_alone_and_checked(tmp_path):
  fill(tmp_path, [(1, 1)])
  like = {'kernel': jnp.zeros((300, 50))}

  def read():
    checkpoints = Checkpoints(tmp_path, ())
    try:
      return checkpoints.restore_parts(10, like)
    finally:
      checkpoints.close()

  found = read()
  assert list(found) == ['kernel']
  assert isinstance(found['kernel'], np.ndarray)
  np.testing.assert_array_equal(found['kernel'], state_of(10)['kernel'])
  damage(arrays_of(tmp_path / '10'))
  with pytest.raises(UserError, match=r'/10 cannot be used \(its arrays do not have the checksums .*\): restore it'):
    read()


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path, RULES, 2)
  checkpoints.save(10, state_of(10), {})
  monkeypatch.setattr('ule_jax.runs.checkpoints.MARGIN', 1 << 60)
  with pytest.raises(UserError, match=r'a checkpoint cannot be written in .* MB needed\): make room'):
    checkpoints.save(20, state_of(20), {})
  checkpoints.close()
  assert newest(tmp_path)[0] == 10
