"""Never a result of other data than a run names: whatever changes behind its back is refused in one sentence."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from common import from_flags, leaves_equal, save_network
from PIL import Image
from writers import table_of, write_celeba, write_folder, write_urbancars

from ule_jax import two_stage
from ule_jax.cli import app
from ule_jax.config import fields
from ule_jax.data import digits
from ule_jax.data import load as load_dataset
from ule_jax.data.pack import pack
from ule_jax.errors import UserError
from ule_jax.models import build
from ule_jax.report import runs
from ule_jax.report.series import gather
from ule_jax.runs import fingerprint, inputs, workdir
from ule_jax.runs.fingerprint import Fingerprint
from ule_jax.runs.restore import restore
from ule_jax.sweep.axes import parse_axes
from ule_jax.sweep.run import run as sweep_run
from ule_jax.train import features
from ule_jax.train.run import run as train_run

SMALL = [
  '--config.data.size=8', '--config.model.name=mlp', '--config.model.width=8', '--config.model.depth=1',
  '--config.model.weights=none', '--config.model.batch_norm=none', '--config.train.steps=4',
  '--config.train.batch_size=8', '--config.train.eval_batch_size=8', '--config.train.eval_every=2',
  '--config.train.log_every=2', '--config.loader.threads=1',
]  # fmt: skip


def write_data(root):
  cells = [(split, label, i) for split in ('train', 'val', 'test') for label in 'ab' for i in range(8)]
  rows = ((f'{split}/{label}{i}.bmp', label, split, 'xy'[i % 2]) for split, label, i in cells)
  return write_folder(root, rows, ('filename', 'label', 'split', 'attribute'), size=(10, 8))


def config_of(data, *changes, method='erm'):
  return from_flags(f'folder:{method}', f'--config.data.dir={data}', *SMALL, *changes)


def run(place, data, *changes, method='erm', force=False):
  return train_run(config_of(data, *changes, method=method), place, force=force)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A finished run and its data: not to be changed."""
  root = tmp_path_factory.mktemp('finished')
  run(root / 'run', write_data(root / 'data'))
  return root


@pytest.fixture
def place(finished, tmp_path):
  """A copy of both, the data where the run expects them to be: a moved folder of equal data is the same."""
  shutil.copytree(finished, tmp_path / 'p')
  config = json.loads((tmp_path / 'p' / 'run' / 'config.json').read_text())
  config['data']['dir'] = str(tmp_path / 'p' / 'data')
  (tmp_path / 'p' / 'run' / 'config.json').write_text(json.dumps(config))
  return tmp_path / 'p'


def edit(data, change):
  """Change the rows of metadata.csv: `change(row) -> row`."""
  path = data / 'metadata.csv'
  with path.open(newline='') as file:
    rows = [change(dict(row)) for row in csv.DictReader(file)]
  with path.open('w', newline='') as file:
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)


def one_label(data):
  edit(data, lambda row: row | ({'label': 'b'} if row['filename'] == 'val/a3.bmp' else {}))


def other_image(data: Path, name: Path | str = 'train/a0.bmp'):
  """Another image of the same size in bytes."""
  before = (data / name).stat().st_size
  Image.fromarray(np.full((8, 10, 3), 7, np.uint8)).save(data / name)
  assert (data / name).stat().st_size == before


def labels_and_images(data):
  edit(data, lambda row: row | ({'label': 'a', 'attribute': 'x'} if row['filename'] == 'train/b1.bmp' else {}))
  other_image(data, 'val/a0.bmp')
  other_image(data, 'test/a0.bmp')


def renamed(data):
  (data / 'test' / 'a0.bmp').rename(data / 'test' / 'a00.bmp')
  edit(data, lambda row: row | {'filename': row['filename'].replace('test/a0.', 'test/a00.')})


def one_group(data):
  edit(data, lambda row: row | ({'attribute': 'y'} if row['filename'] == 'train/a0.bmp' else {}))


def moved_split(data):
  other = {'val/a0.bmp': 'test', 'test/a0.bmp': 'val'}
  edit(data, lambda row: row | {'split': other.get(row['filename'], row['split'])})


def fewer(data):
  rows = (data / 'metadata.csv').read_text().splitlines()
  (data / 'metadata.csv').write_text('\n'.join(row for row in rows if 'train/a0' not in row))
  (data / 'train' / 'a0.bmp').unlink()


def class_names(data):
  edit(data, lambda row: row | {'label': {'a': 'cat', 'b': 'dog'}[row['label']]})


CHANGES = {
  one_label: 'the labels and the groups of val differ',
  other_image: 'the images of train differ',
  labels_and_images: 'the labels and the groups of train and the images of val and test differ',
  renamed: 'the image names or their order of test differ',
  one_group: 'the groups of train differ',
  moved_split: (
    'the image names or their order, the labels and the groups of val and the image names or their order of test differ'
  ),
  fewer: 'train has 15 examples where it had 16',
  class_names: 'the names of the classes differ; the names of the groups differ',
}


@pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.__name__)
def test_a_finished_run_does_not_answer_for_other_data(change, place, tmp_path, capsys):
  change(place / 'data')
  before = {path: path.read_bytes() for path in (place / 'run').rglob('*') if path.is_file()}
  expected = f'{place}/run was trained on other data than are there now: {CHANGES[change]}. '
  for more in ([], ['--config.train.steps=6']):
    with pytest.raises(UserError) as end:
      run(place / 'run', place / 'data', *more)
    assert str(end.value) == f'{expected}Restore the data, choose another --workdir, or continue with --force.'
  for verb, flags in (('evaluate', []), ('diagnose', [f'--out={tmp_path}/d'])):
    with pytest.raises(UserError) as end:
      app.call(verb, [f'--run={place}/run', *flags])
    assert str(end.value) == f'{expected}Restore them, or take them as they are with --force.'
  assert {path: path.read_bytes() for path in (place / 'run').rglob('*') if path.is_file()} == before
  found = runs.find([place / 'run'])
  assert found.changed == [f'run was trained on other data than its folder holds now: {CHANGES[change]}']
  shutil.rmtree(place / 'data')
  assert runs.find([place / 'run']).changed == []


def test_an_unfinished_run_does_not_go_on_with_other_data(place):
  for name in ('done', 'results.json'):
    (place / 'run' / name).unlink()
  one_label(place / 'data')
  with pytest.raises(UserError, match='the labels and the groups of val differ'):
    run(place / 'run', place / 'data')
  assert not (place / 'run' / 'results.json').exists()


def test_what_is_there_again_is_the_same(place, tmp_path, capsys, monkeypatch):
  """Touched, copied, moved, or written as records: the bytes decide, and are read once."""
  expected = json.loads((place / 'run' / 'results.json').read_text())
  for path in (place / 'data').rglob('*.bmp'):
    os.utime(path, (1, 1))
  assert run(place / 'run', place / 'data') == expected
  assert 'already done, nothing trained' in capsys.readouterr().err
  state = (place / 'run' / fingerprint.NAME).read_text()
  with monkeypatch.context() as patch:
    patch.setattr(fingerprint, '_content', None)
    assert run(place / 'run', place / 'data') == expected
  assert runs.find([place / 'run']).changed == []
  shutil.copytree(place / 'data', tmp_path / 'copy', copy_function=shutil.copyfile)
  assert run(place / 'run', tmp_path / 'copy') == expected
  assert (place / 'run' / fingerprint.NAME).read_text() != state
  options = config_of(place / 'data').data.to_dict()
  pack('folder', table_of(load_dataset(options.pop('name'), options)), tmp_path / 'records', skip=False)
  assert run(place / 'run', tmp_path / 'records') == expected
  one_label(tmp_path / 'copy')
  with pytest.raises(UserError, match='labels and the groups of val'):
    run(place / 'run', tmp_path / 'copy')


def test_records_that_are_written_again_are_compared_by_their_images(place, tmp_path):
  options = config_of(place / 'data').data.to_dict()
  table = table_of(load_dataset(options.pop('name'), options))
  pack('folder', table, tmp_path / 'records', skip=False)
  expected = run(tmp_path / 'w', tmp_path / 'records')
  shutil.rmtree(tmp_path / 'records')
  pack('folder', table, tmp_path / 'records', skip=False)
  for path in (tmp_path / 'records').iterdir():
    os.utime(path, (1, 1))
  assert json.dumps(run(tmp_path / 'w', tmp_path / 'records')) == json.dumps(expected)
  other_image(place / 'data')
  shutil.rmtree(tmp_path / 'records')
  pack('folder', table, tmp_path / 'records', skip=False)
  with pytest.raises(UserError, match='the images of train differ'):
    run(tmp_path / 'w', tmp_path / 'records')


def test_force_goes_on_and_the_results_say_so(place, capsys):
  old = (place / 'run' / 'results.json').read_text()
  one_label(place / 'data')
  results = run(place / 'run', place / 'data', force=True)
  said = capsys.readouterr().err
  assert 'warning: the labels and the groups of val differ; up to step 4' in said
  assert 'its results are kept as results-4.json and predictions-4' in said
  assert results['changed'] == [{'step': 4, 'what': 'the labels and the groups of val differ'}]
  assert results['val']['classes']['b']['count'] == 9  # of the data that are there
  assert (place / 'run' / 'results-4.json').read_text() == old
  assert run(place / 'run', place / 'data') == json.loads((place / 'run' / 'results.json').read_text())
  app.call('evaluate', [f'--run={place}/run', '--split=val'])
  assert 'the same numbers' in capsys.readouterr().out
  changed = runs.find([place / 'run']).changed
  assert changed == ['run resumed with --force at step 4, although the labels and the groups of val differ']


def test_evaluate_takes_other_data_by_force_and_keeps_them_out_of_the_run(place, capsys):
  other_image(place / 'data', 'test/a0.bmp')
  app.call('evaluate', [f'--run={place}/run', '--force'])
  assert 'warning: ' in capsys.readouterr().err
  with pytest.raises(UserError, match='--saliency writes into the folder of the run'):
    app.call('evaluate', [f'--run={place}/run', '--force', '--saliency=1'])


def test_a_run_from_before_fingerprints_is_read_and_gets_one(place, capsys):
  (place / 'run' / fingerprint.NAME).unlink()
  expected = json.loads((place / 'run' / 'results.json').read_text())
  assert run(place / 'run', place / 'data') == expected
  assert 'recorded without a fingerprint of its data' in capsys.readouterr().err
  app.call('evaluate', [f'--run={place}/run'])
  assert 'recorded without a fingerprint of its data' in capsys.readouterr().err
  assert not (place / 'run' / fingerprint.NAME).exists()
  run(place / 'run', place / 'data', '--config.train.steps=6')
  assert capsys.readouterr().err.count('has no fingerprint of its data: those that are there now are recorded') == 1
  one_label(place / 'data')
  with pytest.raises(UserError, match='the labels and the groups of val differ'):
    run(place / 'run', place / 'data', '--config.train.steps=6')


@pytest.mark.parametrize('content', ['{', '[]', '{"version": 2}', '{"version": 1, "splits": {"train": {}}}'])
def test_a_damaged_fingerprint_is_named(content, place):
  (place / 'run' / fingerprint.NAME).write_text(content)
  with pytest.raises(UserError, match=f'{fingerprint.NAME} .*: remove it, and the data that are there'):
    run(place / 'run', place / 'data')


def test_masks_and_skipped_images(tmp_path):
  root = write_urbancars(tmp_path / 'cars')
  options = {'dir': str(root), 'size': 8, 'resize': 'antialias', 'augment': False, 'official': False}
  recorded = Fingerprint(load_dataset('urbancars', options)).record()
  masks = sorted(root.rglob('*co_occur_obj_mask.png'))
  shutil.copy(next(path for path in root.rglob('*_mask.png') if path not in masks), masks[0])
  assert Fingerprint(load_dataset('urbancars', options)).differences(recorded) == 'the masks of test differ'
  for path in root.rglob('*_mask.png'):
    path.unlink()
  differs = Fingerprint(load_dataset('urbancars', options)).differences(recorded)
  assert differs == 'the masks of train, val and test differ'
  data = write_data(tmp_path / 'data')
  (data / 'train' / 'a0.bmp').write_bytes(b'none')
  skip = config_of(data).data.to_dict() | {'on_bad_image': 'skip'}
  skip.pop('name')
  recorded = Fingerprint(load_dataset('folder', skip)).record()
  (data / 'train' / 'a1.bmp').write_bytes(b'none')
  assert 'train has 14 examples where it had 15' in Fingerprint(load_dataset('folder', skip)).differences(recorded)


def test_data_that_are_made_in_memory_are_compared_by_their_pixels(tmp_path, monkeypatch):
  flags = ['--config=digits:erm', '--config.data.crops=1', '--config.train.steps=2', '--config.train.eval_every=2']
  config = from_flags(*flags)
  train_run(config, tmp_path / 'w')
  drawn = digits._draw
  monkeypatch.setattr(digits, '_draw', lambda *args: drawn(*args) ^ np.uint8(1))
  with pytest.raises(UserError, match='the images of train, val, val_balanced and test differ'):
    train_run(config, tmp_path / 'w')


def test_a_second_run_takes_no_first_one_of_other_images(tmp_path, capsys):
  data = write_data(tmp_path / 'data')
  shared = ['--config.two_stage.steps=2', f'--config.two_stage.workdir={tmp_path}/first']
  run(tmp_path / 'one', data, *shared, method='jtt')
  capsys.readouterr()
  run(tmp_path / 'two', data, *shared, '--config.optim.lr=0.01', '--config.two_stage.lr=0.001', method='jtt')
  assert f'already done, nothing trained: {tmp_path}/first' in capsys.readouterr().err
  for path in data.rglob('*.bmp'):
    other_image(data, path.relative_to(data))
  with pytest.raises(UserError, match=f'{tmp_path}/first was trained on other data.*the images of train, val and test'):
    run(tmp_path / 'three', data, *shared, method='jtt')
  assert not (tmp_path / 'three').exists()


def test_a_second_run_does_not_go_on_with_another_first_one(tmp_path, monkeypatch):
  data = write_data(tmp_path / 'data')
  flags = ['--config.two_stage.steps=2', '--config.train.steps=2']
  run(tmp_path / 'w', data, *flags, method='jtt')
  original = two_stage.TWO_STAGE['jtt']

  def other(options, first):
    prepared = original.prepare(options, first)
    assert prepared.sampling_weight is not None
    return prepared._replace(sampling_weight=prepared.sampling_weight + 1)

  monkeypatch.setitem(two_stage.TWO_STAGE, 'jtt', original._replace(prepare=other))
  with pytest.raises(UserError, match='the first run gives other groups or chances than'):
    run(tmp_path / 'w', data, '--config.two_stage.steps=2', method='jtt')


@pytest.fixture(scope='module')
def frozen(tmp_path_factory):
  """A run of heads on a frozen encoder, done, with its weights and data beside it: not to be changed."""
  root = tmp_path_factory.mktemp('frozen')
  save_network('resnet20', root / 'net.safetensors')
  write_celeba(root / 'data')
  train_run(frozen_config(root, root), root / 'run')
  return root


def frozen_config(root, cache, *changes):
  flags = [
    '--config=celeba:erm,frozen', f'--config.data.dir={root}/data', '--config.data.official=False',
    '--config.data.size=8', '--config.model.name=resnet20', f'--config.model.weights={root}/net.safetensors',
    '--config.train.batch_size=8', '--config.train.eval_batch_size=16', '--config.train.steps=4',
    '--config.train.eval_every=4', '--config.loader.threads=1', f'--config.model.feature_cache={cache}/cache',
  ]  # fmt: skip
  return from_flags(*flags, *changes)


def other_weights(path):
  """Other weights of the same size."""
  from safetensors.numpy import load_file, save_file

  tensors = load_file(path)
  size = path.stat().st_size
  save_file({name: 2 * value for name, value in tensors.items()}, path)
  assert path.stat().st_size == size


def test_heads_do_not_go_on_with_other_weights(frozen):
  weights, run = frozen / 'net.safetensors', frozen / 'run'
  old = weights.read_bytes()
  about = (run / 'weights.json').read_text()
  try:
    other_weights(weights)
    for steps in (4, 6):
      with pytest.raises(UserError, match=f'^{weights} are other weights than those of {run}: restore them'):
        train_run(frozen_config(frozen, frozen, f'--config.train.steps={steps}'), run)
    assert (run / 'weights.json').read_text() == about
    with pytest.raises(UserError, match='are other weights than those that'):
      app.call('evaluate', [f'--run={run}'])
  finally:
    weights.write_bytes(old)


def test_features_of_other_code_are_not_used_and_not_gone_on_with(frozen, tmp_path, monkeypatch, capsys):
  shutil.copytree(frozen / 'run', tmp_path / 'w')
  config = frozen_config(frozen, frozen, '--config.train.steps=6')
  monkeypatch.setattr(features, 'feature_code', lambda: 'other')
  train_run(config, tmp_path / 'w')  # the same features
  assert capsys.readouterr().err.count('computing the features') == 3
  monkeypatch.setattr(features, 'feature_code', lambda: 'another')
  monkeypatch.setattr(features, 'headless', doubled(build.headless))
  with pytest.raises(UserError, match=r'the encoder makes other features than .*, as its code is another one'):
    train_run(frozen_config(frozen, frozen, '--config.train.steps=8'), tmp_path / 'w')


def doubled(headless):
  import jax

  return lambda *args: jax.tree.map(lambda leaf: leaf * 2, headless(*args))


def test_features_are_of_the_images_that_are_there(frozen, tmp_path):
  """Two data sets of the same names, sizes and times have features of their own."""
  for name in 'ab':
    data = write_folder(
      tmp_path / name, [(f'{i}.bmp', 'ab'[i % 2], p) for i, p in enumerate(['train', 'val', 'test'] * 12)]
    )
    for i, path in enumerate(sorted(data.rglob('*.bmp'))):
      if name == 'b' and i == 30:
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(path)
      os.utime(path, (1, 1))
  keys = []
  for name in 'ab':
    options = config_of(tmp_path / name).data.to_dict()
    current = Fingerprint(load_dataset(options.pop('name'), options))
    keys.append(
      [features.key(current.dataset, s, 'e', current.content(n)['content']) for n, s in current.dataset.splits.items()]
    )
  assert sum(a != b for a, b in zip(*keys, strict=True)) == 1


def test_a_sweep_and_its_members(tmp_path, capsys):
  data = write_data(tmp_path / 'data')
  config = config_of(data, '--config.data.augment=False')
  axes = parse_axes(config, ['optim.lr=0.001,0.01'])
  sweep_run(config, axes, tmp_path / 's')
  capsys.readouterr()
  sweep_run(config, axes, tmp_path / 's')
  assert 'already done, nothing trained' in capsys.readouterr().err
  longer = config_of(data, '--config.data.augment=False', '--config.train.steps=6')
  results = sweep_run(longer, axes, tmp_path / 's')
  assert results['steps'] == 6
  assert json.loads((tmp_path / 's' / 'sweep-4.json').read_text())['steps'] == 4
  member = tmp_path / 's' / 'optim.lr=0.01'
  assert json.loads((member / 'results-4.json').read_text())['last']['step'] == 4
  with pytest.raises(UserError, match='is a sweep, not a run'):
    app.call('evaluate', [f'--run={tmp_path}/s'])
  with pytest.raises(UserError, match='beyond the 4 steps asked for'):
    sweep_run(config, axes, tmp_path / 's')
  assert (tmp_path / 's' / 'done').exists()
  one_label(data)
  for where, call in (
    (tmp_path / 's', lambda: sweep_run(longer, axes, tmp_path / 's')),
    (member, lambda: app.call('evaluate', [f'--run={member}'])),
  ):
    with pytest.raises(
      UserError, match=rf'^{where} was trained on other data.*the labels and the groups of val differ'
    ):
      call()
  (tmp_path / 's' / 'done').unlink()
  found = runs.find([tmp_path / 's'])
  assert [run.name for run in found.runs] == ['optim.lr=0.001', 'optim.lr=0.01']
  assert found.unfinished == ['s (sweep of optim.lr, erm on folder): its last logged step is 6']
  for name in ('optim.lr=0.001', 'optim.lr=0.01'):
    shutil.rmtree(tmp_path / 's' / name)
  with pytest.raises(UserError, match=r'only unfinished runs, the first is s \(sweep of optim.lr'):
    runs.find([tmp_path / 's'])


def test_runs_of_one_folder_with_two_data_sets_in_its_time_are_no_series(place, tmp_path):
  shutil.copytree(place / 'run', tmp_path / 'runs' / 'a')
  shutil.copytree(place / 'run', tmp_path / 'runs' / 'b')
  for name, seed in (('a', 0), ('b', 1)):
    for file, content in (
      (f, json.loads((tmp_path / 'runs' / name / f).read_text())) for f in ('config.json', 'results.json')
    ):
      (tmp_path / 'runs' / name / file).write_text(json.dumps(content | {'seed': seed}))
  assert [[run.seed for run in one.runs] for one in gather(runs.find([tmp_path / 'runs']).runs)[0]] == [[0, 1]]
  recorded = json.loads((place / 'run' / fingerprint.NAME).read_text())
  recorded['splits']['train']['content'] = 'of other images'
  (tmp_path / 'runs' / 'b' / fingerprint.NAME).write_text(json.dumps(recorded))
  series, _ = gather(runs.find([tmp_path / 'runs']).runs)
  assert [[run.seed for run in one.runs] for one in series] in ([[0], [1]], [[1], [0]])
  assert all('fingerprint=' in one.dataset for one in series)


# --- Fields that may change on resume -----------------------------------------------------------------

# field -> another value than SMALL's and the default
OTHER = {
  'train.steps': 6,
  'train.epochs': 2.0,  # under train.steps
  'train.eval_every': 1,
  'train.log_every': 1,
  'loader.threads': 2,
  'loader.workers': 1,
  'two_stage.workdir': 'elsewhere',
  'model.feature_cache': 'elsewhere',
  'checkpoint.keep': 1,
  'compilation_cache': 'off',
  'parallel': 'pmap',
  'fsdp': True,
}


def final_state(place, step=4):
  import orbax.checkpoint as ocp

  return ocp.StandardCheckpointer().restore((place / 'checkpoints' / str(step) / 'state').absolute())


@pytest.mark.parametrize('field', [*workdir.MAY_CHANGE, *workdir.LENGTH])
def test_a_field_that_may_change_changes_no_step(field, finished, frozen, tmp_path):
  """Two steps, and two more under another value, are the steps under that value from the start: the same bits."""
  value = OTHER[field]
  if value == 'elsewhere':
    value = tmp_path / value

  def go(name, *changes):
    if field == 'model.feature_cache':
      train_run(frozen_config(frozen, tmp_path, *changes), tmp_path / name)
    elif field == 'two_stage.workdir':
      run(tmp_path / name, finished / 'data', '--config.two_stage.steps=2', *changes, method='jtt')
    else:
      run(tmp_path / name, finished / 'data', *changes)

  go('turns', '--config.train.steps=2')
  go('turns', f'--config.{field}={value}')
  go('whole', f'--config.{field}={value}')
  last = OTHER[field] if field == 'train.steps' else 4
  assert leaves_equal(final_state(tmp_path / 'turns', last), final_state(tmp_path / 'whole', last))


def test_every_other_field_is_refused_by_its_name(tmp_path):
  """Under a constant schedule, and under another one the length, too."""
  for changes, free in (
    ((), (*workdir.MAY_CHANGE, *workdir.LENGTH)),
    (['--config.optim.schedule=cosine'], workdir.MAY_CHANGE),
  ):
    config = config_of('data', *changes, method='ule').to_dict()
    place = tmp_path / f'w{len(changes)}'
    with workdir.owned(place, config, False):
      (place / 'results.json').touch()
    for field in fields.flatten(config):
      *parts, last = field.split('.')
      changed = json.loads(json.dumps(config))
      inner = changed
      for part in parts:
        inner = inner[part]
      inner[last] = (
        {'data': 'celeba', 'method': 'lff'}[parts[0]]
        if last == 'name' and parts[0] in ('data', 'method')
        else [inner[last]]
      )
      if field in workdir.LENGTH:
        inner[last] = 7
      if field in free or (field == 'train.epochs' and changes):  # steps are set
        assert workdir.compare(place, changed, False), field
        continue
      with pytest.raises(UserError, match=rf'these fields differ: {field} \('):
        workdir.compare(place, changed, False)


def test_a_cosine_goes_on_only_at_its_length(finished, tmp_path):
  cosine = '--config.optim.schedule=cosine'
  expected = run(tmp_path / 'w', finished / 'data', cosine)
  with pytest.raises(UserError, match=r'train.steps \(4 there, 6 here\), and with optim.schedule=cosine the length'):
    run(tmp_path / 'w', finished / 'data', cosine, '--config.train.steps=6')
  # 16 examples in batches of 8: two steps an epoch
  epochs = [cosine, '--config.train.steps=0', '--config.train.epochs=2']
  assert run(tmp_path / 'w', finished / 'data', *epochs) == json.loads(json.dumps(expected))
  with pytest.raises(UserError, match=r'train.epochs \(.* 3.0 here\)'):
    run(tmp_path / 'w', finished / 'data', *epochs, '--config.train.epochs=3')
  assert run(tmp_path / 'w', finished / 'data', cosine, '--config.train.steps=6', force=True)['last']['step'] == 6


def test_a_finished_run_goes_on_and_keeps_its_results(place, capsys):
  old = (place / 'run' / 'results.json').read_text()
  shutil.copytree(place / 'run' / 'predictions', place / 'predictions')
  with pytest.raises(UserError, match='beyond the 2 steps asked for'):
    run(place / 'run', place / 'data', '--config.train.steps=2')
  assert run(place / 'run', place / 'data') == json.loads(old)  # still done
  capsys.readouterr()
  assert run(place / 'run', place / 'data', '--config.train.steps=6')['last']['step'] == 6
  said = (
    f'{place}/run was done at step 4: its results are kept as results-4.json and predictions-4; continuing to step 6'
  )
  assert capsys.readouterr().err.count(said) == 1
  assert (place / 'run' / 'results-4.json').read_text() == old
  for path in (place / 'predictions').iterdir():
    assert path.read_bytes() == (place / 'run' / 'predictions-4' / path.name).read_bytes()
  assert restore(place / 'run').results['last']['step'] == 6


def test_anneal_and_warm_up_count_steps_of_their_own(tmp_path):
  """The computation of a method at a step does not depend on the length of the run."""
  data, flags = write_data(tmp_path / 'data'), ['--config.method.anneal_steps=3', '--config.optim.warmup_steps=3']
  run(tmp_path / 'turns', data, *flags, '--config.train.steps=2', method='irm')
  run(tmp_path / 'turns', data, *flags, method='irm')
  run(tmp_path / 'whole', data, *flags, method='irm')
  assert leaves_equal(final_state(tmp_path / 'turns'), final_state(tmp_path / 'whole'))


# --- Failed starts ------------------------------------------------------------------------------------


def test_a_start_that_comes_to_nothing_leaves_nothing(tmp_path):
  data = write_data(tmp_path / 'data')
  (data / 'test' / 'a0.bmp').write_bytes(b'none')
  for changes, method in (([], 'erm'), (['--config.two_stage.steps=2'], 'jtt')):
    with pytest.raises(UserError, match=r'test/a0.bmp cannot be decoded'):
      run(tmp_path / 'w', data, *changes, method=method)
    assert not (tmp_path / 'w').exists()
  (data / 'test' / 'a0.bmp').write_bytes((data / 'test' / 'a1.bmp').read_bytes())
  with pytest.raises(UserError, match='is no file'):
    run(
      tmp_path / 'w',
      data,
      '--config.model.name=resnet20',
      '--config.model.batch_norm=batch',
      '--config.model.weights=x',
    )
  assert not (tmp_path / 'w').exists()
  (tmp_path / 'own').mkdir()
  (data / 'train' / 'a0.bmp').write_bytes(b'none')
  with pytest.raises(UserError, match=r'train/a0.bmp cannot be decoded'):  # in training, before anything is saved
    run(tmp_path / 'own', data)
  assert list((tmp_path / 'own').iterdir()) == []


def test_a_report_passes_over_what_older_starts_left(place, tmp_path):
  start = tmp_path / 'start'
  start.mkdir()
  shutil.copy(place / 'run' / 'config.json', start)
  with pytest.raises(UserError, match='holds only failed starts'):
    runs.find([start])
  assert runs.find([start, place / 'run']).unfinished == []
  (start / workdir.LOCK).touch()
  assert len(runs.find([start, place / 'run']).unfinished) == 1


def test_the_feature_comparison_allows_for_rounding(tmp_path):
  (tmp_path / 'results.json').touch()
  (tmp_path / 'features.json').write_text(json.dumps({'mean': [1.0, 2.0], 'std': [0.5, 1.0]}))
  dataset = load_dataset('digits', dict(shortcut='tint', rate=0.9, crops=1, brightness=0.5, seed=0))
  near = dataset._replace(mean=(1.001, 2.001), std=(0.501, 1.0))
  assert inputs.compare_features(tmp_path, near, '', False) == ''
  with pytest.raises(UserError, match='the encoder makes other features'):
    inputs.compare_features(tmp_path, near._replace(mean=(1.1, 2.0)), '', False)
