"""The README's Python runs as printed, and its table of options is complete."""

import json
import os
import re
import shutil
import subprocess
import sys


def blocks(root, language):
  return re.findall(rf'```{language}\n(.*?)```', (root / 'README.md').read_text(), re.S)


def test_the_loop_of_your_own_runs_and_learns(root):
  (code,) = (block for block in blocks(root, 'python') if 'make_train_step' in block)
  assert len([line for line in code.splitlines() if line.strip()]) <= 30
  scope = {}
  exec(compile(code, 'README.md', 'exec'), scope)
  assert float(scope['metrics']['loss/teacher']) < 0.5


def test_a_method_is_one_file_and_one_line(root, tmp_path):
  (code,) = (block for block in blocks(root, 'python') if 'Focal loss' in block)
  for folder in ('ule_jax', 'configs'):
    shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns('__pycache__'))
  (tmp_path / 'ule_jax' / 'methods' / 'focal.py').write_text(code)
  for path, old, new in (
    ('ule_jax/methods/__init__.py', '  erm,\n', '  erm,\n  focal,\n'),
    ('ule_jax/methods/__init__.py', 'METHODS = {\n', "METHODS = {\n  'focal': focal.make_method,\n"),
    ('configs/base.py', 'METHODS = {\n', "METHODS = {\n  'focal': dict(gamma=2.0),\n"),
  ):
    text = (tmp_path / path).read_text()
    assert old in text
    (tmp_path / path).write_text(text.replace(old, new, 1))
  command = [sys.executable, '-m', 'ule_jax.main', '--config=digits:focal', '--config.method.gamma=1.5']
  fast = ['--config.train.steps=20', '--config.data.crops=1', '--workdir=run']
  subprocess.run(command + fast, cwd=tmp_path, check=True, env=os.environ | {'PYTHONPATH': str(tmp_path)})
  assert json.loads((tmp_path / 'run' / 'results.json').read_text())['method'] == 'focal'


def test_the_options_table_names_every_option_of_ule(root):
  from configs import base

  text = (root / 'README.md').read_text()
  for option in base.METHODS['ule']:
    assert f'`{option}`' in text, option
