"""The line that is updated in a terminal: it has the width of the terminal, and what is printed stands above it."""

import contextlib
import io
import logging
import os
import re
import sys

import pytest

from ule_jax.runs import terminal
from ule_jax.runs.progress import Best, Progress

CLEAR = re.escape(terminal.CLEAR)


class Tty(io.StringIO):
  def isatty(self):
    return True

  def screen(self) -> list[str]:
    """The lines as they stand in the terminal after all, the one with the cursor last."""
    lines = [re.split(CLEAR, line)[-1] for line in self.getvalue().split('\n')]
    assert '\r' not in ''.join(lines)
    return lines


def connect(monkeypatch) -> Tty:
  """A terminal of 120 columns as stderr; not in a fixture, after which pytest captures stderr again."""
  stream = Tty()
  monkeypatch.setattr(sys, 'stderr', stream)
  monkeypatch.setattr(terminal, '_line', '')  # as it was, after the test
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.setenv('COLUMNS', '120')
  return stream


def test_reports_are_one_line_and_warnings_stand_above_it(monkeypatch):
  tty = connect(monkeypatch)
  with contextlib.closing(Progress(600, 0, 128)) as progress:
    assert tty.screen() == ['step 0/600  compiling']
    progress.report(100, {'loss/student': 0.25, 'loss/teacher': 0.5, 'trust': 0.8, 'term_share': 0.0004})
    assert re.fullmatch(
      r'step 100/600  0:\d\d left  student 0\.2500  teacher 0\.5000  trust 0\.8  term 0\.04 %  [\d,]+ examples/s',
      tty.screen()[-1],
    )
    logging.getLogger('ule_jax.train').warning('a bad image')
    print('of a library', file=sys.stderr)
    sys.stderr.write('half a li')
    progress.report(200, {'loss/student': 0.125}, Best('val/accuracy', 0.951, 150))
    sys.stderr.write('ne\n')
    progress.note('evaluating')
    assert tty.screen()[-1].startswith('step 200/600  evaluating  ')
  *lines, last, empty = tty.screen()
  assert lines == ['warning: a bad image', 'of a library', 'half a line']
  assert re.match(r'step 200/600  0:\d\d left  student 0\.1250  best 95\.1 % at 150  [\d,]+ examples/s$', last)
  assert empty == ''
  assert sys.stderr is tty


def test_a_narrow_terminal_drops_the_last_parts(monkeypatch):
  tty = connect(monkeypatch)
  monkeypatch.setenv('COLUMNS', '20')
  for parts, text in ((['a' * 10, 'b' * 7], 'a' * 10 + '  ' + 'b' * 7), (['a' * 10, 'b' * 8], 'a' * 10)):
    terminal.update(parts)
    assert tty.screen()[-1] == text
  terminal.update(['c' * 30])
  assert tty.screen()[-1] == 'c' * 19


@pytest.mark.parametrize('term', ['dumb', None])
def test_elsewhere_reports_are_lines_of_their_own(term, monkeypatch, capsys):
  if term:  # a terminal that cannot erase a line
    monkeypatch.setenv('TERM', term)
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
  with contextlib.closing(Progress(600, 0, 128)) as progress:
    progress.report(100, {'loss/student': 0.25, 'trust': 0.00052, 'term_share': 0.12}, Best('val/accuracy', 0.951, 50))
    progress.note('evaluating')
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('step 100/600  loss/student 0.2500  trust 0.00052  term 12 %  ')
  assert line.endswith(' left  best val/accuracy 95.1 % at step 50')


def test_a_terminal_that_is_gone_ends_no_run(monkeypatch):
  tty = connect(monkeypatch)
  progress = Progress(600, 0, 128)
  monkeypatch.setattr(os, 'dup2', lambda *files: None)

  def gone(text):
    raise OSError(5, 'Input/output error')

  monkeypatch.setattr(tty, 'write', gone)
  progress.report(100, {'loss/student': 0.25})
  progress.close()


def test_a_signal_is_acknowledged_above_the_line(monkeypatch):
  connect(monkeypatch)
  written = []
  monkeypatch.setattr(os, 'write', lambda file, content: written.append((file, content)))
  terminal.acknowledge('SIGTERM: stops')
  terminal.update(['step 1/2'])
  terminal.acknowledge('SIGTERM: stops')
  cleared = f'{terminal.CLEAR}SIGTERM: stops\nstep 1/2'.encode()
  assert written == [(2, b'SIGTERM: stops\n'), (2, cleared)]
