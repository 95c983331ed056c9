"""The README's Python runs as printed, and its table is what the data says."""

import re
import subprocess
import sys

import pytest


def blocks(root, language):
  return re.findall(rf'```{language}\n(.*?)```', (root / 'README.md').read_text(), re.S)


def test_the_loop_of_your_own_runs_and_learns(root):
  (code,) = (block for block in blocks(root, 'python') if 'make_train_step' in block)
  assert len([line for line in code.splitlines() if line.strip()]) <= 30
  scope = {}
  exec(compile(code, 'README.md', 'exec'), scope)
  assert float(scope['metrics']['loss/teacher']) < 0.5


def test_the_results_table_is_generated(root):
  data = root / 'benchmarks' / 'results' / 'digits_grid.jsonl'
  if not data.exists():
    pytest.fail('benchmarks/results/digits_grid.jsonl is missing')
  command = [sys.executable, root / 'benchmarks' / 'digits_grid.py', '--markdown']
  made = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
  first, second = made.split('\n\n')
  for table in (first, second):
    assert table in (root / 'README.md').read_text()


def test_the_options_table_names_every_option_of_ule(root):
  from configs import base

  text = (root / 'README.md').read_text()
  for option in base.METHODS['ule']:
    assert f'`{option}`' in text, option
