"""The wheel: what is in it, and that it works from another folder, quietly."""

import os
import subprocess
import sys
import zipfile
from email import message_from_string

import pytest

backend = pytest.importorskip('hatchling.build')


@pytest.fixture(scope='module')
def wheel(root, tmp_path_factory):
  out = tmp_path_factory.mktemp('wheel')
  before = os.getcwd()
  os.chdir(root)
  try:
    return out / backend.build_wheel(str(out))
  finally:
    os.chdir(before)


def test_what_is_in_the_wheel(wheel, root):
  with zipfile.ZipFile(wheel) as file:
    names = set(file.namelist())
    (metadata,) = (name for name in names if name.endswith('.dist-info/METADATA'))
    about = message_from_string(file.read(metadata).decode())
    scripts = file.read(metadata.replace('METADATA', 'entry_points.txt')).decode()
  for path in (root / 'ule_jax').rglob('*'):
    if path.is_file() and '__pycache__' not in path.parts:
      assert path.relative_to(root).as_posix() in names
  assert {'ule_jax/py.typed', 'ule_jax/report/page.html', 'ule_jax/explain/page.html'} <= names
  assert {f'ule_jax/configs/{p.name}' for p in (root / 'configs').glob('*.py')} <= names
  assert not [n for n in names if not n.startswith(('ule_jax/', 'ule_jax-'))]  # no tests, no benchmarks
  assert set(about.get_all('Provides-Extra', [])) == {
    'cuda', 'tpu', 'torch', 'weights', 'parquet', 'embed', 'bench', 'docs', 'dev',
  }  # fmt: skip
  assert 'ule-jax = ule_jax.cli.app:command' in scripts
  core = [line for line in about.get_all('Requires-Dist', []) if 'extra ==' not in line]
  assert not [line for line in core if line.startswith(('torch', 'tensorflow>', 'tensorflow-cpu'))]


def test_the_wheel_trains_reports_and_says_nothing_that_is_not_ours(wheel, tmp_path):
  with zipfile.ZipFile(wheel) as file:
    file.extractall(tmp_path / 'site')
  run = 'import sys; from ule_jax.cli.app import command; sys.exit(command())'
  environment = os.environ | {'PYTHONPATH': str(tmp_path / 'site')}

  def ule_jax(*argv):
    command = [sys.executable, '-c', run, *argv]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

  short = ['--config.train.steps=4', '--config.train.log_every=2', '--config.data.crops=1', '--workdir=run']
  done = ule_jax('main', '--config=digits', *short)
  assert done.returncode == 0, done.stderr
  lines = done.stderr.splitlines()
  assert lines[0].startswith('ule on digits: ')
  assert [line.split()[0] for line in lines[1:]] == ['step', 'step']
  printed = done.stdout.splitlines()
  assert printed[0].startswith('ule on digits, seed 0: accuracy, % (step ')
  assert any(line.startswith("The teacher's worst group is ") for line in printed)
  assert [line.split('#')[0].split() for line in printed[-3:]] == [
    ['python', '-m', 'ule_jax.diagnose', '--run=run'],
    ['python', '-m', 'ule_jax.report', 'run', '--out=report'],
    ['python', '-m', 'ule_jax.export', '--run=run'],
  ]
  done = ule_jax('report', 'run', '--out=page')
  assert (done.returncode, done.stderr) == (0, '')
  assert (tmp_path / 'page' / 'index.html').is_file()
  done = ule_jax('predict', '--run=run', '--input=nowhere')
  assert (done.returncode, done.stdout) == (2, '')
  assert done.stderr == 'error: --input nowhere is no image and no folder.\n'
