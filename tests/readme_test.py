"""The README stays short, its loop learns, and the example of a new method runs as its page says."""

import json
import os
import re
import shutil
import subprocess
import sys


def blocks(page, language):
  return re.findall(rf'```{language}\n(.*?)```', page.read_text(), re.S)


def test_it_has_at_most_200_lines(root):
  assert len((root / 'README.md').read_text().splitlines()) <= 200


def test_no_commit_is_named_in_it(root):
  assert not re.findall(r'\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,40}\b', (root / 'README.md').read_text())


def test_the_loop_of_your_own_runs_and_learns(root):
  (code,) = (block for block in blocks(root / 'README.md', 'python') if 'make_train_step' in block)
  assert code in blocks(root / 'docs' / 'guides' / 'own-loop.md', 'python')
  assert len([line for line in code.splitlines() if line.strip()]) <= 30
  scope = {}
  exec(compile(code, 'README.md', 'exec'), scope)
  assert float(scope['metrics']['loss/teacher']) < 0.5


def copy_with_row(root, folder, table, row, file, code):
  """Copy the package, add one file to it and one row to a table, and return the arguments of a short run there."""
  for part in ('ule_jax', 'configs'):
    shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns('__pycache__'))
  (folder / file).write_text(code)
  path = (folder / file).parent / '__init__.py'
  text = path.read_text()
  assert text.count(f'\n{table} = {{\n') == 1
  path.write_text(text.replace(f'\n{table} = {{\n', f'\n{table} = {{\n  {row}\n', 1))
  name = row.split("'")[1] if table in ('METHODS', 'TWO_STAGE') else 'erm'
  fast = ['--config.train.steps=4', '--config.data.crops=1', '--workdir=run']
  return [sys.executable, '-m', 'ule_jax.main', f'--config=digits:{name}', *fast]


def run_in(folder, command):
  environment = os.environ | {'PYTHONPATH': str(folder)}
  return subprocess.run(command, cwd=folder, check=False, env=environment, capture_output=True, text=True)


def test_a_method_is_one_file_and_one_row(root, tmp_path):
  page = root / 'docs' / 'develop' / 'add-a-method.md'
  (code,) = blocks(page, 'python')
  row = "'focal': row('focal'),"
  assert row in page.read_text()
  command = copy_with_row(root, tmp_path, 'METHODS', row, 'ule_jax/methods/focal.py', code)
  refused = run_in(tmp_path, [*command, '--config.method.gamma=-1'])
  assert (refused.returncode, refused.stderr.strip()) == (2, 'error: method.gamma is -1.0: give a number from 0 on.')
  ended = run_in(tmp_path, [*command, '--config.method.gamma=1.5'])
  assert not ended.returncode, ended.stderr
  assert json.loads((tmp_path / 'run' / 'results.json').read_text())['method'] == 'focal'
  assert json.loads((tmp_path / 'run' / 'config.json').read_text())['method'] == {'name': 'focal', 'gamma': 1.5}


SHARES = '''"""The mistakes of a first run have a share of the draws, and its right answers the rest."""

import numpy as np

from ule_jax.options import Options, option
from ule_jax.two_stage.contract import FirstRun, SecondStage


class Shares(Options):
  mistakes: float = option(0.5, 'share of the draws that mistakes have', gt=0, lt=1)


def prepare(options: Shares, first: FirstRun) -> SecondStage:
  train = first.labelled('train')
  wrong = train['logits'].argmax(1) != train['label']
  weight = np.where(wrong, options.mistakes / max(wrong.sum(), 1), (1 - options.mistakes) / max((~wrong).sum(), 1))
  return SecondStage(sampling_weight=weight, notes={'mistakes': int(wrong.sum())})
'''


def test_a_method_of_two_runs_is_one_file_and_one_row(root, tmp_path):
  row = "'shares': row('shares', fields=EPOCH),"
  command = copy_with_row(root, tmp_path, 'TWO_STAGE', row, 'ule_jax/two_stage/shares.py', SHARES)
  command += ['--config.two_stage.steps=3']
  refused = run_in(tmp_path, [*command, '--config.two_stage.shares.mistakes=1'])
  message = 'error: two_stage.shares.mistakes is 1.0: give a number above 0 and below 1.'
  assert (refused.returncode, refused.stderr.strip()) == (2, message)
  ended = run_in(tmp_path, [*command, '--config.two_stage.shares.mistakes=0.7'])
  assert not ended.returncode, ended.stderr
  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert results['method'] == 'shares'
  assert results['first']['mistakes'] > 0


LINEAR = '''"""A linear network on the flattened image."""

import flax.linen as nn

from ule_jax.models.layers import classify


class Linear(nn.Module):
  """Return `(logits, features)`; the features are the pixels."""

  classes: int

  @nn.compact
  def __call__(self, x, train):
    return classify(x.reshape(x.shape[0], -1), self.classes, 0.0, train, 'lecun')
'''


def test_a_network_is_one_file_and_one_row(root, tmp_path):
  row = "'linear': (_network('linear', 'Linear'), ()),"
  command = copy_with_row(root, tmp_path, 'MODELS', row, 'ule_jax/models/linear.py', LINEAR)
  refused = run_in(tmp_path, [*command, '--config.model.name=linera'])
  assert refused.returncode == 2
  assert "did you mean 'linear'" in refused.stderr
  ended = run_in(tmp_path, [*command, '--config.model.name=linear'])
  assert not ended.returncode, ended.stderr
  assert json.loads((tmp_path / 'run' / 'results.json').read_text())['model'] == 'linear'


STRIPES = '''"""Stripes: bright or dark images, with a stripe that follows the class."""

import numpy as np

from ule_jax import options as declared
from ule_jax.data.dataset import Dataset, InputSpec, Split
from ule_jax.options import option


class Options(declared.Options):
  size: int = option(8, 'pixels, height and width', ge=4)


def input_spec(options: Options) -> InputSpec:
  return InputSpec((options.size, options.size, 3), None)


def load(options: Options) -> Dataset:
  label = np.arange(64, dtype=np.int32) % 2
  shade = (64 + 128 * label).astype(np.uint8)[:, None, None, None]
  images = np.tile(shade, (1, options.size, options.size, 3))
  images[:, 0] = 255 * (label[:, None, None] == 0)
  split = Split(label=label, group=label, load=images.__getitem__, name=lambda i: f"image {i}")
  return Dataset(
    splits={"train": split, "val": split, "test": split}, classes=("dark", "bright"), groups=("dark", "bright"),
    train_transform=None, **input_spec(options)._asdict(),
  )
'''
STRIPES_CONFIG = """from ule_jax.config import make


def get_config(method='ule'):
  config = make('stripes', method)
  config.model.name = 'mlp'
  config.train.batch_size = config.train.eval_batch_size = 32
  return config
"""


def test_a_data_set_is_one_file_and_one_row(root, tmp_path):
  row = "'stripes': row('stripes'),"
  copy_with_row(root, tmp_path, 'DATASETS', row, 'ule_jax/data/stripes.py', STRIPES)
  (tmp_path / 'configs' / 'stripes.py').write_text(STRIPES_CONFIG)
  command = [sys.executable, '-m', 'ule_jax.main', '--config=stripes:erm', '--config.train.steps=4', '--workdir=run']
  refused = run_in(tmp_path, [*command, '--config.data.size=2'])
  assert (refused.returncode, refused.stderr.strip()) == (2, 'error: data.size is 2: give a number from 4 on.')
  ended = run_in(tmp_path, command)
  assert not ended.returncode, ended.stderr
  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert (results['dataset'], results['classes']) == ('stripes', ['dark', 'bright'])
