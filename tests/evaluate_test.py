"""A finished run evaluated again: the same numbers, and gradients that are those of its networks."""

import io
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import from_flags
from PIL import Image
from safetensors.numpy import load_file, save_file
from writers import write_urbancars

from ule_jax import data
from ule_jax.cli import app
from ule_jax.errors import UserError
from ule_jax.explain import saliency
from ule_jax.explain.photographs import visible_box
from ule_jax.runs.recorded import read_run
from ule_jax.runs.restore import load_data, restore


@pytest.fixture(scope='module')
def written(ule_run):
  with np.load(ule_run / 'saliency' / 'test.npz') as file:
    return dict(file)


def test_the_numbers_are_those_of_the_run_or_it_says_which_are_not(ule_run, tmp_path, capsys):
  app.call('evaluate', [f'--run={ule_run}', '--split=val_balanced'])
  said = capsys.readouterr().out
  assert 'val_balanced, %' in said
  assert 'the same numbers as in results.json' in said
  shutil.copytree(ule_run, tmp_path / 'w', ignore=shutil.ignore_patterns('saliency'))
  results = json.loads((tmp_path / 'w' / 'results.json').read_text())
  results['roles']['teacher']['test']['accuracy'] = 0.123
  (tmp_path / 'w' / 'results.json').write_text(json.dumps(results))
  app.call('evaluate', [f'--run={tmp_path / "w"}'])
  assert re.search(
    r'differ from results.json: teacher accuracy 0\.\d+ \(there 0.123\)$', capsys.readouterr().out.strip()
  )


def test_train_is_compared_by_the_deployed_role(ule_run, capsys):
  app.call('evaluate', ['--run', str(ule_run), '--split', 'train'])
  assert 'the same numbers' in capsys.readouterr().out


def test_saliency_is_the_gradient_by_finite_differences(ule_run, written, x64):
  run = restore(ule_run)
  double = jax.tree.map(lambda v: jnp.asarray(np.asarray(v), jnp.float64), run.networks)
  x = (written['image'].astype(np.float64) / 255 - 0.5) / 0.25
  row, eps = 2, 1e-5
  y = int(written['label'][row])
  for role in run.roles:

    def margin(image, role=role):
      variables = {'params': double.params[role], 'batch_stats': {}}
      logits = run.model.apply(variables, jnp.asarray(image[None]), train=False)[0][0]
      return float(logits[y] - logits[1 - y])

    size, signs = np.zeros(4), np.zeros((4, 3))
    for n, (i, j) in enumerate(((3, 4), (8, 8), (12, 6), (7, 9))):
      for c in range(3):
        step = np.zeros_like(x[row])
        step[i, j, c] = eps
        signs[n, c] = (margin(x[row] + step) - margin(x[row] - step)) / (2 * eps)
      size[n] = np.linalg.norm(signs[n])
      found = written[f'saliency_{role}'][row, i, j] * written[f'peak_{role}'][row]
      assert float(found) == pytest.approx(size[n], rel=2e-3, abs=1e-6)
      ours = written[f'gradient_{role}'][row, i, j] / 127.0
      scale = np.abs(ours).max() / np.abs(signs[n]).max()
      np.testing.assert_allclose(ours, signs[n] * scale, atol=1.5 / 127)
    assert written[f'saliency_{role}'].max() == 1
    assert written[f'saliency_{role}'].dtype == np.float16


def test_rows_say_what_the_predictions_say(ule_run, written):
  assert str(written['scalar']) == 'margin'
  assert written['step'] == 20
  with np.load(ule_run / 'predictions' / 'test.npz') as p:
    rows = written['index']
    np.testing.assert_array_equal(written['label'], p['label'][rows])
    right = {}
    for role in ('student', 'teacher'):
      np.testing.assert_array_equal(written[f'prediction_{role}'], p[f'logits_{role}'][rows].argmax(1))
      np.testing.assert_allclose(written[f'probability_{role}'].sum(1), 1, rtol=1e-5)
      right[role] = written[f'prediction_{role}'] == written['label']
  only = written['category'] == 'only teacher right'
  assert only.sum() == 3
  assert (right['teacher'] & ~right['student'])[only].all()
  of_groups = written['group'][written['category'] == 'group']
  assert np.bincount(of_groups).tolist() == [3, 3, 3, 3]
  a, b = (written[f'gradient_{role}'].reshape(len(rows), -1).astype(float) for role in ('student', 'teacher'))
  cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
  np.testing.assert_allclose(written['cosine'], cosine, atol=0.02)


def test_the_digit_is_where_its_mask_is(written):
  """Strokes are white before the tint: on them the brightest channel is far above the background."""
  brightest, mask = written['image'].max(-1).astype(float), written['mask_digit']
  assert brightest[mask > 230].min() > 200
  assert brightest[mask == 0].mean() < 120


def test_masks_are_cropped_and_resized_as_images_are(tmp_path):
  options = {'dir': str(write_urbancars(tmp_path)), 'size': 24, 'resize': 'antialias', 'augment': False}
  dataset = data.load('urbancars', {**options, 'official': False})
  image, masks, photograph = saliency._transformed(dataset, dataset.splits['test'], 0)
  assert image.shape == (24, 24, 3)
  assert photograph.shape == (48, 48, 3)
  inside = np.zeros((24, 24), bool)
  inside[6:18, 4:20] = True  # the box of the writer, halved
  np.testing.assert_array_equal(masks['car_mask'] > 127, inside)


def test_what_is_chosen():
  label, group = np.array([0, 0, 1, 1, 1]), np.array([0, -1, 1, 1, 1])
  teacher = np.array([[9, 0], [0, 5], [0, 3], [0, 4], [0, 5]], float)  # example 1 is wrong
  student = np.array([[0, 9], [9, 0], [0, 3], [0, 3], [0, 3]], float)
  chosen = saliency.choose(label, group, {'student': student, 'teacher': teacher}, 1)
  assert dict(chosen[:2]) == {'hardest': 1, 'typical': 4 - 1}
  assert next(i for category, i in chosen if category == 'group') == 0
  assert [c for c, _ in chosen].count('group') == 2
  assert chosen[-2:] == [('only student right', 1), ('only teacher right', 0)]
  categories = {c for c, _ in saliency.choose(label, np.full(5, -1), {'model': teacher}, 2)}
  assert categories == {'hardest', 'typical', 'class'}


def test_a_config_comes_back_as_it_was(ule_run):
  given = from_flags('digits:ule').to_dict()
  found = read_run(ule_run)[0].to_dict()
  # tuples, too; the run has a method of its own
  assert {**found, **{part: given[part] for part in ('train', 'data', 'method')}} == given


def test_a_run_from_before_a_field_was_born_has_its_default(ule_run, tmp_path):
  shutil.copytree(ule_run, tmp_path / 'w', ignore=shutil.ignore_patterns('checkpoints', 'tensorboard', 'predictions'))
  config = json.loads((ule_run / 'config.json').read_text())
  del config['optim']['clip']
  (tmp_path / 'w' / 'config.json').write_text(json.dumps(config))
  assert read_run(tmp_path / 'w')[0].to_dict() == read_run(ule_run)[0].to_dict()


def test_heads_are_put_back_on_their_encoder(frozen_run, capsys):
  """The images go through the encoder again, in training its features came from the cache."""
  app.call('evaluate', [f'--run={frozen_run}', '--saliency=1'])
  assert 'the same numbers as in results.json' in capsys.readouterr().out
  with np.load(frozen_run / 'saliency' / 'test.npz') as file:
    assert file['saliency_teacher'].shape == (len(file['index']), 8, 8)
    assert file['peak_teacher'].min() > 0
    logits = {role: file[f'probability_{role}'] for role in ('student', 'teacher')}
    index = file['index']
  run, data_set = restore(frozen_run), load_data(restore(frozen_run))
  transform, split = data_set.eval_transform, data_set.splits['test']
  assert transform is not None
  images = np.stack([transform(split.load(int(i)), np.random.default_rng(0)) for i in index])
  for role in run.roles:
    variables = {part: value[role] for part, value in run.networks._asdict().items()}
    found, _ = run.model.apply(variables, run.preprocess(jnp.asarray(images)), train=False)
    np.testing.assert_allclose(jax.nn.softmax(found), logits[role], atol=1e-4)
    with np.load(frozen_run / 'predictions' / 'test.npz') as predictions:
      np.testing.assert_allclose(found, predictions[f'logits_{role}'][index], atol=1e-3)


@pytest.mark.parametrize(
  ('harm', 'message'),
  [
    ('scores', r'/20 cannot be used \(its scores do not have the checksum'),
    ('metadata', r'/20 cannot be used'),
    ('field', r'is a run of another version of ule_jax \(there is no optim.speed\)'),
    ('results', r'results.json lacks method, .*, classes, .*, roles: the folder of the run is damaged'),
    ('weights', r'net.safetensors are other weights than those that'),
    ('features', r'features.json cannot be read'),
  ],
)
def test_a_damaged_run_is_named(harm, message, ule_run, frozen_run, tmp_path):
  ours = harm not in ('weights', 'features')
  shutil.copytree(ule_run if ours else frozen_run, tmp_path / 'w')
  place, config = tmp_path / 'w' / 'checkpoints' / '20', tmp_path / 'w' / 'config.json'
  if harm == 'scores':
    path = place / 'scores' / 'metadata'
    path.write_text(path.read_text().replace('"arrays": [', '"arrays": [1'))
  elif harm == 'metadata':
    (place / 'state' / '_METADATA').write_text('')
  elif harm == 'field':
    content = json.loads(config.read_text())
    content['optim']['speed'] = 3
    config.write_text(json.dumps(content))
  elif harm == 'results':
    (tmp_path / 'w' / 'results.json').write_text('{"step": 20}')
  elif harm == 'weights':
    save_file(
      {n: t + 1 for n, t in load_file(frozen_run.parent / 'net.safetensors').items()}, tmp_path / 'net.safetensors'
    )
    config.write_text(config.read_text().replace(str(frozen_run.parent / 'net'), str(tmp_path / 'net')))
  else:
    (tmp_path / 'w' / 'features.json').unlink()
  with pytest.raises(UserError, match=message) as end:
    restore(tmp_path / 'w')
  assert '\n' not in str(end.value)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ([], r'give --run=DIR'),
    (['--run=nowhere'], r'nowhere holds no run'),
    (['--run=cut'], r'cut holds a run that is not done'),
    (['--run=empty'], r'no checkpoint of step 20'),
    (['--run=torn'], r'config.json cannot be read .* damaged\.$'),
    (['--run=w', '--split=tests'], r"unknown split 'tests': did you mean 'test'"),
    (['--run=w', '--saliency=few'], r'invalid value for --saliency: unable to convert "few" into int'),
    (['--run=w', '--config=digits'], r'unknown flag --config'),
    (['w'], r"unexpected argument 'w': flags look like --NAME=VALUE"),
  ],
)
def test_bad_usage_is_one_sentence(flags, message, ule_run, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('w', 'cut', 'empty', 'torn'):
    shutil.copytree(ule_run, name, ignore=shutil.ignore_patterns('tensorboard', 'predictions'))
  (tmp_path / 'cut' / 'done').unlink()
  (tmp_path / 'torn' / 'config.json').write_text('{"seed":')
  shutil.rmtree(tmp_path / 'empty' / 'checkpoints')
  with pytest.raises(UserError, match=message) as end:
    app.call('evaluate', flags or ['--saliency=1'])
  assert '\n' not in str(end.value)


@pytest.mark.parametrize(
  ('fit', 'size', 'expected'),
  [
    ('crop', (60, 100), (0.2, 0, 0.8, 1)),
    ('crop', (90, 30), (0, 1 / 3, 1, 2 / 3)),
    ('stretch', (60, 100), (0, 0, 1, 1)),
  ],
)
def test_the_part_of_a_photograph_that_a_network_sees(fit, size, expected):
  spec = data.input_spec('folder', {'size': 32, 'fit': fit, 'dir': ''})
  assert visible_box(spec.eval_transform)(*size) == pytest.approx(expected, abs=0.01)
  assert visible_box(None)(*size) == (0, 0, 1, 1)


def test_photographs_are_kept_beside_their_maps(written):
  """Of the embedded task, whose images have no transform: the same pixels."""
  ends = written['photograph_end']
  for i, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
    pixels = np.asarray(Image.open(io.BytesIO(written['photograph'][begin:end].tobytes())))
    np.testing.assert_array_equal(pixels, written['image'][i])
  assert (written['box'] == [0, 0, 1, 1]).all()
  assert written['name'][0].startswith('digit ')
