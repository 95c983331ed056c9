"""Runs below folders of any name resume, are read and shown; URLs and unusable paths are refused at once."""

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from report_test import read
from writers import write_folder

from ule_jax import paths
from ule_jax.cli import app
from ule_jax.config import load
from ule_jax.errors import UserError
from ule_jax.runs.checkpoints import Checkpoints
from ule_jax.train import run as train_run

ODD = '[a]*?\\ -"\'%20%s#&=,;:<b>{}$x$é\u0301😀\n~'
NAMES = (ODD, '[ab]', '[!x]', '*', 'a?b', 'back\\slash', 'a\\', 'gs:', 'x' * 255, '~', '-x', ' ', '..x', '%', '3')
SMALL = [
  '--config.model.name=mlp', '--config.model.width=4', '--config.model.depth=1', '--config.model.weights=none',
  '--config.data.size=8', '--config.train.steps=2', '--config.train.eval_every=2', '--config.train.batch_size=8',
  '--config.train.eval_batch_size=16', '--config.loader.threads=0', '--config.compilation_cache=off',
]  # fmt: skip


def verb(name, *argv):
  app.call(name, argv)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  """Images below a folder of an odd name, with classes of odd names."""
  root = tmp_path_factory.mktemp('data') / ODD / 'photos'
  splits = ('train',) * 4 + ('val',) * 2 + ('test',) * 2
  classes = ('<b>&"cat', '$x$ 猫')
  rows = [(f'{k}/{i}.jpg', c, s) for k, c in enumerate(classes) for i, s in enumerate(splits)]
  return write_folder(root, rows)


def state_of(step):
  return {'kernel': jnp.arange(3000.0) + step, 'step': jnp.asarray(step)}


@pytest.mark.parametrize('relative', [False, True])
@pytest.mark.parametrize('name', NAMES)
def test_checkpoints_are_found_again(name, relative, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  place = (paths.Path() if relative else tmp_path) / 'deep' / name / 'checkpoints'
  with contextlib.closing(Checkpoints(place, ('r',), 2)) as checkpoints:
    for step in (1, 2, 3):
      checkpoints.save(step, state_of(step), {'r': step})
  with contextlib.closing(Checkpoints(place, ('r',), 2)) as checkpoints:
    step, state = checkpoints.restore_newest(state_of(0))
    assert (step, float(state['kernel'][1]), checkpoints.best()) == (3, 4.0, {'r': 3})
  assert capsys.readouterr().err == ''
  with contextlib.closing(Checkpoints(place, ())) as checkpoints:
    assert checkpoints.restore_parts(3, {'kernel': state['kernel']})['kernel'][1] == 4
  assert [p.name for p in (tmp_path / 'deep').iterdir()] == [name]  # nothing was written beside it


def test_a_pattern_does_not_reach_the_neighbours(tmp_path):
  """The remains of another run's interrupted save must not be merged into this one's."""
  for name in ('run-a', 'run-*'):
    with contextlib.closing(Checkpoints(tmp_path / name / 'checkpoints', ())) as checkpoints:
      checkpoints.save(1, state_of(1 if name == 'run-a' else 7), {})
  left = tmp_path / 'run-a' / 'checkpoints'
  shutil.copytree(left / '1' / 'state', left / '2.orbax-checkpoint-tmp' / 'state.orbax-checkpoint-tmp')
  with contextlib.closing(Checkpoints(tmp_path / 'run-*' / 'checkpoints', ())) as checkpoints:
    checkpoints.save(2, state_of(8), {})
    checkpoints.wait()
    assert float(checkpoints.restore(2, state_of(0))['kernel'][0]) == 8


def test_no_link_is_left(tmp_path, monkeypatch):
  monkeypatch.setattr(paths.tempfile, 'tempdir', str(tmp_path))
  with contextlib.closing(Checkpoints(tmp_path / '[a]' / 'checkpoints', ())):
    assert len(list(tmp_path.glob('ule_jax-*'))) == 1
  assert [p.name for p in tmp_path.iterdir()] == ['[a]']
  monkeypatch.setattr(paths.tempfile, 'tempdir', str(tmp_path / '[a]'))
  with pytest.raises(UserError, match='set TMPDIR'):
    Checkpoints(tmp_path / '[a]' / 'checkpoints', ())
  assert [p.name for p in (tmp_path / '[a]').iterdir()] == ['checkpoints']


def test_a_run_below_an_odd_folder_goes_on_and_every_verb_reads_it(photos, tmp_path, monkeypatch, capsys):
  home = tmp_path / ODD
  (home / 'in').mkdir(parents=True)
  monkeypatch.chdir(home / 'in')
  config = home / 'a:b,c.py'
  config.write_text('from configs import folder\ndef get_config(spec="erm"):\n  return folder.get_config(spec)\n')
  common = [f'--config={config}:ule', f'--config.data.dir={photos}', *SMALL, '--workdir=../in/../runs/w/']
  verb('main', *common)
  run = home / 'runs' / 'w'
  assert (run / 'done').exists()
  (run / 'done').unlink()
  (run / 'results.json').unlink()
  capsys.readouterr()
  verb('main', *common[:-1], '--config.train.steps=4', '--workdir=../runs/w')
  assert 'from step 2' in capsys.readouterr().err
  assert json.loads((run / 'results.json').read_text())['last']['step'] == 4
  verb('evaluate', f'--run={run}', '--saliency=1')
  assert 'the same numbers as in results.json' in capsys.readouterr().out
  verb('predict', f'--run={run}', f'--input={photos}', f'--out={home}/p.csv', f'--saliency={home}/looks')
  with (home / 'p.csv').open(newline='') as file:
    assert len(list(csv.DictReader(file))) == 16
  assert len(list((home / 'looks').rglob('*.png'))) == 16
  verb('export', f'--run={run}', f'--out={home}/m.stablehlo')
  verb('main', *common[:-1], f'--config.model.weights={home}/m.safetensors', f'--workdir={home}/runs/next')
  verb('diagnose', f'--run={run}', f'--out={home}/diagnosis')
  verb('report', str(home), f'--out={home}/report')
  for page in ('report', 'diagnosis'):
    found = read(home / page)
    ids = {attrs['id'] for _, attrs in found.tags if 'id' in attrs}
    assert all(a['href'].startswith('#') and a['href'][1:] in ids for a in found.of('a'))
    assert found.of('img')
    assert all(i['src'].startswith('data:image/') for i in found.of('img'))
    assert not found.of('b')
    assert '<b>&"cat' in ''.join(found.text)
  assert 'runs/w' in ''.join(read(home / 'report').text)
  with (home / 'report' / 'results.csv').open(newline='') as file:
    assert {row['run'] for row in csv.DictReader(file)} == {'runs/w', 'runs/next'}


def test_two_stages_a_cache_and_a_sweep_below_odd_folders(frozen_run, tmp_path, capsys):
  root = frozen_run.parent
  weights = tmp_path / ODD / 'net.safetensors'
  weights.parent.mkdir()
  shutil.copy(root / 'net.safetensors', weights)
  flags = [
    f'--config.data.dir={root}/celeba', '--config.data.official=False', '--config.data.size=8',
    '--config.model.name=resnet20', f'--config.model.weights={weights}', '--config.train.batch_size=8',
    '--config.train.eval_batch_size=16', '--config.train.steps=2', '--config.loader.threads=0',
    f'--config.model.feature_cache={tmp_path / ODD}/cache',
  ]  # fmt: skip
  first = f'--config.two_stage.workdir={tmp_path / ODD}/first'
  verb('main', '--config=celeba:jtt,frozen', *flags, first, f'--workdir={tmp_path / ODD}/second')
  verb('main', '--config=celeba:jtt,frozen', *flags, first, f'--workdir={tmp_path / ODD}/third')
  assert capsys.readouterr().err.count('computing the features of') == 3  # once for each split
  sweep = ['--config=celeba:erm,frozen', *flags, '--axis=seed=0,1', f'--workdir={tmp_path / ODD}/sweep']
  verb('sweep', *sweep)
  verb('evaluate', f'--run={tmp_path / ODD}/sweep/seed=1')
  assert 'the same numbers' in capsys.readouterr().out
  verb('report', f'{tmp_path / ODD}', f'--out={tmp_path}/report', '--no-images')
  text = ''.join(read(tmp_path / 'report').text)
  assert all(name in text for name in ('second', 'third', 'sweep/seed=0', 'sweep/seed=1'))


@pytest.mark.parametrize('name', ['[a]', ODD])
def test_prepared_data_below_odd_folders(name, photos, tmp_path):
  out = tmp_path / name / 'up' / 'folder' / '1.0.0'
  verb('prepare', '--config=folder', f'--config.data.dir={photos}', f'--out={out}')
  verb('data', '--config=folder', f'--config.data.dir={tmp_path / name / "up"}', f'--out={tmp_path / name / "sheets"}')
  assert len(list((tmp_path / name / 'sheets').glob('*.png'))) == 2


ELSEWHERE = (
  'gs://bucket/x', 's3://bucket/x', 'az://bucket/x', 'https://host/x', 'hdfs://host/x', 'file:///tmp/x', 'memory://x',
  'gs:/bucket/x', 'C:\\data', 'C:/data',
)  # fmt: skip
PLACES = [
  ('main', '--workdir='), ('main', '--config.model.feature_cache='), ('main', '--config.two_stage.workdir='),
  ('main', '--config.model.weights='), ('sweep', '--workdir='), ('data', '--out='), ('prepare', '--out='),
  ('evaluate', '--run='), ('report', ''), ('report', '--out='), ('predict', '--run='), ('predict', '--input='),
  ('predict', '--out='), ('predict', '--saliency='), ('export', '--run='), ('export', '--out='), ('diagnose', '--run='),
  ('diagnose', '--out='), ('models.pretrained', ''),
]  # fmt: skip
NO_NAMES = {
  '~nobody-of-this-name/x': 'user who is not known', 'x' * 300: 'File name too long', 'y/' * 2200: 'File name too long',
  '\udcff': 'is not UTF-8', 'dangling': 'a link to nowhere, which does not exist',
}  # fmt: skip


def given(name, flag, value, ule_run, photos):
  """A command line that has everything it needs, and a path in one place."""
  config = ['--config=folder', f'--config.data.dir={photos}', *SMALL]
  needed = {
    'main': config, 'data': config[:2], 'prepare': config[:2], 'sweep': [*config, '--axis=seed=0'], 'report': [],
    'evaluate': [], 'models.pretrained': [], 'predict': [f'--input={photos}', f'--run={ule_run}'],
    'export': [f'--run={ule_run}'], 'diagnose': [f'--run={ule_run}'],
  }  # fmt: skip
  kept = [a for a in needed[name] if not flag or not a.startswith(flag)]
  return [*kept, *([str(ule_run)] if (name, flag) == ('report', '--out=') else []), f'{flag}{value}']


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
  """A folder with a link to nothing and a file, from which nothing may be made."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'dangling').symlink_to('nowhere')
  (tmp_path / 'file').touch()
  yield tmp_path
  assert sorted(p.name for p in tmp_path.iterdir()) == ['dangling', 'file']


@pytest.mark.parametrize('place', PLACES)
def test_what_is_no_path_of_this_machine_is_refused_before_anything(place, ule_run, photos, nowhere, monkeypatch):
  monkeypatch.setattr(train_run, 'train', lambda *args: pytest.fail('it trains'))
  name, flag = place
  for value in (*ELSEWHERE, *NO_NAMES):
    message = NO_NAMES.get(value, 'is no path of this machine: mount the bucket')
    with pytest.raises(UserError, match=message) as end:
      verb(name, *given(name, flag, value, ule_run, photos))
    assert '\n' not in str(end.value)
    assert len(str(end.value)) < 400


def test_data_in_a_bucket_are_prepared_ones_or_refused(nowhere, monkeypatch, tmp_path_factory):
  for value in (*ELSEWHERE, *NO_NAMES):
    message = NO_NAMES.get(value, 'no path of this machine|cannot be read .*: install the package')
    with pytest.raises(UserError, match=message):
      verb('data', '--config=folder', f'--config.data.dir={value}')


def test_a_home_folder_is_one_wherever_the_shell_left_it(photos, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  (tmp_path / 'home').mkdir()
  (tmp_path / 'here').mkdir()
  monkeypatch.chdir(tmp_path / 'here')
  os.symlink(photos, tmp_path / 'home' / 'photos')
  shutil.copy(load.configs_folder() / 'folder.py', tmp_path / 'home' / 'mine.py')
  flags = ['--config=~/mine.py:erm', '--config.data.dir=~/photos', *SMALL]
  verb('main', *flags, '--workdir=~/run')
  recorded = json.loads((tmp_path / 'home' / 'run' / 'config.json').read_text())
  assert recorded['data']['dir'] == f'{tmp_path}/home/photos'
  verb('predict', '--run=~/run', '--input=~/photos', '--out=~/p.csv')
  monkeypatch.setenv('ULE_DATA', '~')
  shutil.copytree(photos, tmp_path / 'home' / 'folder')
  verb('data', '--config=folder', '--out=~/sheets')
  assert not list((tmp_path / 'here').iterdir())
  assert {'run', 'p.csv', 'sheets'} <= {p.name for p in (tmp_path / 'home').iterdir()}
  verb('main', *flags, '--workdir=./~/run')  # a folder of that name, for whoever wants one
  assert (tmp_path / 'here' / '~' / 'run' / 'done').exists()


def test_a_workdir_that_leaves_no_room_for_its_files_is_refused_at_once(photos, tmp_path):
  deep = tmp_path / '/'.join(['x' * 200] * ((3900 - len(str(tmp_path))) // 201))
  with pytest.raises(UserError, match=r'the path of --workdir has 3,\d+ bytes'):
    verb('main', '--config=folder', f'--config.data.dir={photos}', *SMALL, f'--workdir={deep}')
  assert not list(tmp_path.iterdir())
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='Not a directory'):
    verb('main', '--config=folder', f'--config.data.dir={photos}', *SMALL, f'--workdir={tmp_path}/file/w')
  deep = tmp_path / '/'.join(['x' * 200] * ((3650 - len(str(tmp_path))) // 201))
  verb('main', '--config=folder', f'--config.data.dir={photos}', *SMALL, f'--workdir={deep}')
  verb('evaluate', f'--run={deep}')


def test_outputs_that_cannot_be_written_are_refused_before_the_work(ule_run, photos, tmp_path, monkeypatch):
  (tmp_path / 'file').touch()
  monkeypatch.setattr(jax, 'jit', lambda *a, **k: pytest.fail('it computes'))
  for name, flag in (('diagnose', '--out='), ('export', '--out='), ('predict', '--out='), ('report', '--out=')):
    with pytest.raises(UserError, match='file is no folder'):
      verb(name, *given(name, flag, f'{tmp_path}/file/below', ule_run, photos))
  monkeypatch.setattr(os, 'access', lambda path, mode: False)
  with pytest.raises(UserError, match=r'new cannot be written \(Permission denied\): choose another --out'):
    verb('diagnose', f'--run={ule_run}', f'--out={tmp_path}/new')


def test_names_that_are_no_text_are_shown_and_end_nothing(ule_run, tmp_path):
  """On a page, in a CSV, and in a terminal whose locale has no such letters."""
  place = tmp_path / os.fsdecode(b'runs\xff') / 'w'
  shutil.copytree(ule_run, place, ignore=shutil.ignore_patterns('checkpoints', 'tensorboard', 'saliency'))
  code = 'from ule_jax.cli.app import run_verb; run_verb("report")'
  settings = {**os.environ, 'PYTHONIOENCODING': 'ascii', 'PYTHONPATH': os.pathsep.join(map(str, sys.path))}
  done = subprocess.run(
    [sys.executable, '-c', code, str(tmp_path), f'--out={tmp_path}/é'], env=settings, capture_output=True, text=True
  )
  assert (done.returncode, done.stderr) == (0, '')
  assert r'\xe9/index.html' in done.stdout
  assert r'runs\udcff/w' in ''.join(read(tmp_path / 'é').text)
  with (tmp_path / 'é' / 'results.csv').open(newline='', errors='surrogateescape') as file:
    assert next(row['run'] for row in csv.DictReader(file)) == os.fsdecode(b'runs\xff/w')


def test_a_name_with_a_line_break_does_not_break_the_sentence(capsys, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['ule_jax', '--run=a\nb'])
  with pytest.raises(SystemExit) as end:
    app.run_verb('evaluate')
  assert end.value.code == 2
  assert capsys.readouterr().err.count('\n') == 1


def test_a_report_has_runs_that_lie_behind_links_and_names_in_their_own_letters(ule_run, tmp_path):
  runs = tmp_path / 'runs'
  runs.mkdir()
  skip = shutil.ignore_patterns('checkpoints', 'tensorboard', 'saliency')
  for number, name in enumerate(('猫', '犬')):
    shutil.copytree(ule_run, tmp_path / 'scratch' / name, ignore=skip)
    path = tmp_path / 'scratch' / name / 'config.json'
    config = json.loads(path.read_text())
    config['data']['shortcut'], config['seed'] = name, number
    path.write_text(json.dumps(config))
    (runs / f'link{number}').symlink_to(tmp_path / 'scratch' / name)
  (runs / 'back').symlink_to(runs)
  (runs / 'gone').symlink_to('nowhere')
  verb('report', str(runs), f'--out={tmp_path}/report', '--no-images')
  text = ''.join(read(tmp_path / 'report').text)
  assert all(name in text for name in ('link0', 'link1', '猫', '犬'))
  ids = [attrs['id'] for _, attrs in read(tmp_path / 'report').tags if 'id' in attrs]
  assert len(set(ids)) == len(ids)
  drawn = [p.name for p in (tmp_path / 'report' / 'figures').glob('*.svg')]
  assert len({name.rsplit('-', 1)[1] for name in drawn if 'groups' in name}) == 2  # a file for each data set


def test_a_sweep_whose_folders_would_have_names_too_long_is_refused_at_once(photos, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  options = ('weight', 'a', 'q', 'student_noise', 'mistake_share', 'hold_back')
  axes = [f'--axis=method.{name}=0.1234567890123456' for name in options]
  axes += [f'--axis=optim.{name}=0.1234567890123456' for name in ('lr', 'weight_decay', 'clip')]
  with pytest.raises(UserError, match=r'9 axes make folders of \d+ letters, as method.weight=.* sweeps of fewer axes'):
    verb('sweep', '--config=folder:ule', f'--config.data.dir={photos}', *SMALL, *axes)
  assert not list(tmp_path.iterdir())
