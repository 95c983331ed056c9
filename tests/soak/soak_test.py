"""Some cases of each soak test, the same ones each time; the soak tests have thousands."""

import pytest

from soak import fuzz, images, inputs, kill, runner
from ule_jax import data
from ule_jax.data import codes, decoding
from ule_jax.errors import UserError
from ule_jax.train import run


@pytest.fixture
def untrained(monkeypatch):
  """A case that gets so far as to train ends there."""

  def arrive(*args):
    raise UserError('it would train')

  monkeypatch.setattr(run, 'train', arrive)


@pytest.mark.parametrize('number', range(40))
def test_edited_commands_end_with_one_sentence(number, untrained):
  assert fuzz.attempt('command', number) in ('0', '2')


@pytest.mark.parametrize('number', range(20))
def test_damaged_data_end_with_one_sentence(number, untrained):
  assert fuzz.attempt('data', number) in ('0', '2')


def test_a_case_that_ends_otherwise_is_seen(untrained, monkeypatch):
  def broken(*args):
    raise RuntimeError('a defect')

  monkeypatch.setattr(data, 'load', broken)
  assert fuzz.attempt('data', 0).startswith('traceback')


@pytest.mark.parametrize(('kind', 'count'), [('csv', 40), ('words', 40), ('image', 30), ('alpha', 10), ('damaged', 20)])
def test_inputs_come_to_what_they_mean_or_are_refused(kind, count):
  ends = {inputs.attempt(kind, number) for number in range(count)}
  assert ends <= {'0', '2'}, ends
  assert '0' in ends


def test_data_that_are_read_as_others_are_seen(monkeypatch):
  """An oracle that could not fail would be none: here words for missing are names."""
  monkeypatch.setattr(codes, 'is_missing', lambda value: False)
  assert any(inputs.attempt('words', number).startswith('wrong') for number in range(20))


def test_damaged_images_are_images_or_bad_images():
  ends = [images.attempt('image', number) for number in range(400)]
  assert set(ends) == {'image', 'bad'}
  assert 50 < ends.count('image') < 350


def test_a_decoder_that_raises_is_seen(monkeypatch):
  def broken(*args):
    raise RuntimeError('a defect')

  monkeypatch.setattr(decoding, 'read', broken)
  assert 'RuntimeError: a defect' in images.attempt('image', 0)


def test_damaged_weights_are_read_or_refused():
  pytest.importorskip('torch')
  from soak import weights

  ends = {weights.attempt('file', number) for number in range(60)}
  assert {'read', 'refused'} <= ends <= set(weights.SUITE.outcomes)


def test_a_file_that_runs_code_is_seen(monkeypatch):
  pytest.importorskip('torch')
  from soak import weights

  monkeypatch.setattr(weights.weight_files, 'read', lambda path: weights.watch('os.system', ('touch x',)))
  assert weights.attempt('file', 0).startswith('ran os.system')


def hang_or_die(kind: str, number: int) -> str:
  """Run a case of a suite that misbehaves."""
  import os
  import time

  if kind == 'hang':
    time.sleep(60)
  if kind == 'die':
    os._exit(1)
  return 'wrong end' if number else 'fine'


def limit(kind: str) -> float:
  """Return the seconds that a case may take: the others have to start a process."""
  return 2.0 if kind == 'hang' else 60.0


def test_a_case_that_hangs_or_dies_is_counted_and_the_others_go_on(tmp_path, capsys):
  suite = runner.Suite(hang_or_die, ('fine',), {'hang': 1, 'die': 1, 'fine': 1}, limit)
  cases = [runner.Case(kind, 0) for kind in ('fine', 'hang', 'die', 'fine')] + [runner.Case('fine', 1)]
  assert runner.run(suite, cases, str(tmp_path / 'log')) == {'fine': 2, 'wrong': 3}
  lines = [line for line in capsys.readouterr().out.splitlines() if line]
  assert lines == ['hang:0 no end after 2 s', 'die:0 the process died', 'fine:1 wrong end']


def test_cases_are_shared_out_and_seeds_have_their_own():
  first, second = (runner.cases_of({'a': 0.9, 'b': 0.1, 'c': 0.001}, 20, seed) for seed in (0, 1))
  assert [sum(case.kind == kind for case in first) for kind in 'abc'] == [18, 2, 1]
  assert not set(first) & set(second)


def test_outcomes_are_compared_to_the_bit():
  assert kill.equal({'a': [1.0, 2.0]}, {'a': [1.0, 2.0]})
  assert not kill.equal({'a': [1.0, 2.0]}, {'a': [1.0, 2.0 + 1e-15]})
