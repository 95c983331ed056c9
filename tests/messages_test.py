"""Log records of the package: lines of the command line, Python's defaults in a program that imports it."""

import logging
import subprocess
import sys

import pytest

from ule_jax.runs import progress

MESSAGES = 'log = logging.getLogger("ule_jax.data.checks"); log.info("progress 5 %"); log.warning("a bad image")'


def stderr_of(code: str) -> list[str]:
  command = [sys.executable, '-c', f'import logging; from ule_jax.runs import progress; {code}; {MESSAGES}']
  return subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()


def test_the_command_line_prints_progress_and_marks_warnings():
  assert stderr_of('progress.to_terminal()') == ['progress 5 %', 'warning: a bad image']


def test_a_library_user_gets_warnings_only_as_python_prints_them():
  assert stderr_of('None') == ['a bad image']


def test_a_library_user_may_have_all_records_in_a_format_of_theirs():
  lines = stderr_of('logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s")')
  assert lines == ['INFO ule_jax.data.checks: progress 5 %', 'WARNING ule_jax.data.checks: a bad image']


def test_lines_are_printed_once_although_a_library_sets_up_the_root_logger():
  assert stderr_of('progress.to_terminal(); logging.basicConfig(level="INFO")') == [
    'progress 5 %',
    'warning: a bad image',
  ]


def test_another_process_of_the_run_prints_nothing():
  assert stderr_of('progress.to_terminal(); progress.hush()') == []


def test_a_terminal_that_is_gone_is_no_error(monkeypatch):
  class Gone:
    def write(self, text):
      raise OSError(5, 'Input/output error')

    def flush(self):
      raise OSError(5, 'Input/output error')

  monkeypatch.setattr(sys, 'stderr', Gone())
  monkeypatch.setattr('ule_jax.runs.signals.os.dup2', lambda *files: None)
  logging.getLogger('ule_jax.train').warning('unread')


@pytest.mark.parametrize('level', [logging.INFO, logging.WARNING])
def test_a_percent_sign_is_printed_as_it_is(level, capsys):
  progress.log.log(level, '100 % of %s')
  assert capsys.readouterr().err.endswith('100 % of %s\n')
