"""Sixty of the cases of benchmarks/fuzz.py, the same ones each time; it has thousands."""

import sys

import pytest

from ule_jax import data, train


@pytest.fixture
def fuzz(root, monkeypatch):
  monkeypatch.syspath_prepend(str(root / 'benchmarks'))
  import fuzz

  # What would be run need not be: a case that gets so far ends there.
  def arrive(*args):
    raise train.UserError('it would train')

  monkeypatch.setattr(train, '_train', arrive)
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
