"""Some of the cases of benchmarks/fuzz.py and fuzz_inputs.py, the same ones each time; they have thousands."""

import sys

import pytest

from ule_jax import data
from ule_jax.errors import UserError
from ule_jax.train import run


@pytest.fixture
def fuzz(root, monkeypatch):
  monkeypatch.syspath_prepend(str(root / 'benchmarks'))
  import fuzz

  # What would be run need not be: a case that gets so far ends there.
  def arrive(*args):
    raise UserError('it would train')

  monkeypatch.setattr(run, 'train', arrive)
  yield fuzz
  sys.modules.pop('fuzz')


@pytest.mark.parametrize('number', range(40))
def test_edited_commands_end_with_one_sentence(number, fuzz):
  assert fuzz.attempt('command', number) in ('0', '2')


@pytest.mark.parametrize('number', range(20))
def test_damaged_data_end_with_one_sentence(number, fuzz):
  assert fuzz.attempt('data', number) in ('0', '2')


def test_a_case_that_ends_otherwise_is_seen(fuzz, monkeypatch):
  def broken(*args):
    raise RuntimeError('a defect')

  monkeypatch.setattr(data, 'load', broken)
  assert fuzz.attempt('data', 0).startswith('traceback')


@pytest.mark.parametrize(('kind', 'count'), [('csv', 40), ('words', 40), ('image', 30), ('alpha', 10), ('damaged', 20)])
def test_inputs_come_to_what_they_mean_or_are_refused(kind, count, fuzz):
  import fuzz_inputs

  ended = {fuzz_inputs.attempt(kind, number) for number in range(count)}
  assert ended <= {'0', '2'}, ended
  assert '0' in ended


def test_data_that_are_read_as_others_are_seen(fuzz, monkeypatch):
  """An oracle that could not fail would be none: here words for missing are names."""
  import fuzz_inputs

  from ule_jax.data import words

  monkeypatch.setattr(words, 'is_missing', lambda value: False)
  assert any(fuzz_inputs.attempt('words', number).startswith('wrong') for number in range(20))
