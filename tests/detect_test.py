"""Shortcuts are found where there is one, and not where a rule is the class itself, hard, or chance."""

import csv
import json
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_test import read
from soak import shortcuts
from writers import write_folder

import ule_jax
from ule_jax import data
from ule_jax.cli import app
from ule_jax.detect import chance, properties
from ule_jax.detect.verdict import NONE, SOME, STRONG
from ule_jax.errors import UserError

QUICK = {'permutations': 100}


def embeddings(n=600, rate=0.95, seed=0):
  """Features whose loud part follows the label at a rate, and whose quiet part is the label; the groups."""
  rng = np.random.default_rng(seed)
  label = np.arange(n) % 2
  loud = np.where(rng.random(n) < rate, label, 1 - label)
  x = rng.normal(size=(n, 8)).astype(np.float32)
  x[:, 0] += 6 * (2 * loud - 1)
  x[:, 1:4] += 1.2 * (2 * label[:, None] - 1)
  return x, label, 2 * label + loud, loud


@pytest.fixture(scope='module')
def shortcut():
  x, label, group, loud = embeddings()
  noisy = loud + 0.1 * np.random.default_rng(1).normal(size=len(loud))
  return ule_jax.find_shortcuts(x, label, group, {'loudness': noisy}, classes=('low', 'high'), **QUICK)


@pytest.mark.full
def test_a_shortcut_of_embeddings_is_found_and_named(shortcut):
  assert shortcut.verdict in (SOME, STRONG)
  first = next(finding for finding in shortcut.findings if finding.name == 'loudness')
  assert first.verdict == shortcut.verdict
  assert first.agree - first.against > 0.15
  assert first.gain_interval[0] < first.gain < first.gain_interval[1]
  assert first.groups.auc > 0.95
  assert "high loudness (loudness) with 'high'" in shortcut.answer
  assert 'groups' in str(shortcut)
  assert '<pre>' in shortcut._repr_html_()


@pytest.mark.full
def test_groups_change_nothing_but_their_column(shortcut):
  x, label, _, loud = embeddings()
  noisy = loud + 0.1 * np.random.default_rng(1).normal(size=len(loud))
  other = ule_jax.find_shortcuts(x, label, None, {'loudness': noisy}, classes=('low', 'high'), **QUICK)
  assert [f._replace(groups=None) for f in shortcut.findings] == [f._replace(groups=None) for f in other.findings]
  assert not any(finding.groups for finding in other.findings)


@pytest.mark.full
def test_a_property_that_the_class_implies_is_no_shortcut():
  """It predicts the label as well as a shortcut would; where it is against it, a network is still right."""
  rng = np.random.default_rng(0)
  x, label, _, _ = embeddings(rate=0.5)
  x[:, 1:4] += 3 * (2 * label[:, None] - 1)
  implied = np.where(rng.random(len(label)) < 0.95, label, 1 - label) + 0.1 * rng.normal(size=len(label))
  result = ule_jax.find_shortcuts(x, label, None, {'implied': implied}, **QUICK)
  first = next(finding for finding in result.findings if finding.name == 'implied')
  assert first.effect > 0.9
  assert first.p < 0.05
  assert first.against_count >= 12
  assert (result.verdict, first.verdict) == (NONE, NONE)
  assert result.answer.startswith('No evidence of a shortcut')


@pytest.mark.full
def test_images_that_are_only_mislabelled_are_no_shortcut():
  """Students are wrong about them and a property is, too; no weight makes them right."""
  rng = np.random.default_rng(0)
  x, truth, _, _ = embeddings(rate=0.5)
  x[:, 1:4] += 3 * (2 * truth[:, None] - 1)
  label = np.where(rng.random(len(truth)) < 0.05, 1 - truth, truth)
  result = ule_jax.find_shortcuts(x, label, None, {'truth': truth + 0.1 * rng.normal(size=len(truth))}, **QUICK)
  first = next(finding for finding in result.findings if finding.name == 'truth')
  assert first.gap > 0.5
  assert result.verdict == NONE
  assert 'stays open' in result.answer


def test_there_is_no_verdict_without_a_shortcut():
  """The images of the page's test, but for their shortcut."""
  split = data.load('digits', {'shortcut': 'patch', 'rate': 0.5, 'crops': 1}).splits['train']
  x = np.stack([split.load(i) for i in range(split.count)])
  corner = x[:, 0, 0, 0].astype(float)
  result = ule_jax.find_shortcuts(x, split.label, split.group, {'corner': corner}, permutations=100, steps=64)
  assert result.verdict == NONE
  assert next(f.p for f in result.findings if f.name == 'quick students') < 0.05 < result.findings[-1].p


def test_balanced_accuracy_and_its_correction():
  rng = np.random.default_rng(0)
  label = np.arange(300) % 3
  fold = chance.blocks(label, 3)
  codes = chance.binned(np.where(rng.random(300) < 0.9, label, rng.integers(0, 3, 300)).astype(float))
  probability, counts = chance.class_probability(codes, label, fold, 3)
  right = probability[fold, codes].argmax(1) == label
  assert chance.balanced_accuracy(probability, counts) == pytest.approx(right.mean())
  labels = chance.permuted(label, fold, 200, rng)
  assert all((np.sort(row[fold == 1]) == np.sort(label[fold == 1])).all() for row in labels[:5])
  null = chance.balanced_accuracy(*chance.class_probability(codes, labels, fold, 3))
  assert null.mean() == pytest.approx(1 / 3, abs=0.02)
  corrected = chance.correct(np.array([right.mean(), 1 / 3]), np.stack([null, null], 1))
  assert corrected.p[0] < 0.01 < 0.3 < corrected.p[1]
  assert corrected.low[0] < right.mean() < corrected.high[0]


def test_properties_measure_what_they_are_called(tmp_path):
  dark, bright = (np.full((40, 20, 3), level, np.uint8) for level in (30, 220))
  warm = bright.copy()
  warm[..., 2] = 60
  cornered = dark.copy()
  cornered[:5, :3] = 255
  measured = [properties.measure(image) for image in (dark, bright, warm, cornered)]
  value: dict[str, Any] = {name: [row[name] for row in measured] for name in measured[0]}
  assert value['brightness'][0] < value['brightness'][1]
  assert value['warmth'][2] > 0.1 > abs(value['warmth'][1])
  assert value['top left corner'][3] > 0.9 > 0.2 > value['top right corner'][3]
  assert value['aspect ratio'] == [0.5] * 4
  exif = Image.Exif()
  exif[0x010F] = 'Leica'
  exif.get_ifd(0x8769)[0x829D] = 2.8
  Image.fromarray(warm).save(tmp_path / 'a.jpg', quality=30, exif=exif)
  of_file: dict[str, Any] = properties.measure(warm, (tmp_path / 'a.jpg').read_bytes())
  assert of_file['EXIF Make'] == 'Leica'
  assert of_file['EXIF FNumber'] == pytest.approx(2.8)
  assert of_file['file format'] == 'JPEG'
  assert of_file['JPEG quantisation'] > 20
  assert of_file['file size'] == (tmp_path / 'a.jpg').stat().st_size
  assert properties.measure(warm, b'broken').keys() >= {'file size', 'warmth'}


def test_the_smallest_images_are_measured():
  for shape in ((1, 1, 3), (1, 9, 3), (3, 2, 3)):
    assert np.isfinite(list(properties.measure(np.zeros(shape, np.uint8)).values())).all()


def test_columns_keep_gaps_and_drop_constants():
  table = properties.columns([{'a': 1.0, 'b': 2.0}, {'a': 3.0, 'b': 2.0, 'make': 'x'}, {'b': 2.0}])
  assert set(table) == {'a', 'make'}
  assert np.isnan(table['a'][2])
  assert table['make'].tolist() == ['', 'x', '']


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'x': np.zeros((90, 4), np.int32)}, r'give uint8 images \[n h w c\] or float features'),
    ({'x': np.full((90, 4), np.nan)}, r'row 0 of x has a feature that is nan'),
    ({'y': np.zeros(80, int)}, r'y has the shape \[80\], and x has 90 examples'),
    ({'y': np.zeros(90, int)}, r'one class only'),
    ({'y': np.arange(90) % 2 - 1}, r'example 0 has no label'),
    ({'y': (np.arange(90) > 80).astype(int)}, r"the class '1' has 9 examples: give at least 30"),
    ({'y': np.array([{}] * 90)}, r'y holds object values'),
    ({'y': np.array(['a', 'b', 'c'] * 30), 'classes': ('a', 'b')}, r"the label 'c', which is not among the classes"),
    ({'classes': ('a',)}, r'1 names of classes'),
    ({'groups': [1, 2]}, r'groups has the shape \[2\]'),
    ({'properties': {'p': np.zeros(3)}}, r"the property 'p' is no array of 90"),
    ({'permutations': 5}, r'permutations is 5: give at least 100'),
    ({'steps': 1}, r'steps is 1'),
    ({'network': 'cnn'}, r'features are no images'),
    ({'network': 'vgg'}, r"network is 'vgg'"),
  ],
)
def test_bad_arguments_are_one_sentence(change, message):
  arguments = {'x': np.zeros((90, 4), np.float32), 'y': np.arange(90) % 2} | change
  with pytest.raises(ValueError, match=message) as end:
    ule_jax.find_shortcuts(**arguments)
  assert '\n' not in str(end.value)


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  out = tmp_path_factory.mktemp('detect') / 'look'
  argv = ['--config=digits', '--permutations=100', '--pictures=3', '--steps=64', f'--out={out}']
  app.call('detect', [*argv, *(f'--config.data.{name}' for name in ('crops=1', 'shortcut=patch', 'rate=0.95'))])
  return out


def test_the_page_answers_and_stands_alone(page):
  result, text = read(page), (page / 'index.html').read_text()
  assert not re.findall(r'(?:https?:)?//[a-z]', re.sub(r'base64,[^"]*', '', text))
  assert not result.of('script') + result.of('link')
  images = result.of('img')
  assert images
  assert all(image['src'].startswith('data:image/') and len(image['alt']) > 20 for image in images)
  assert all('scope' in cell for cell in result.of('th'))
  findings = json.loads((page / 'findings.json').read_text())
  assert findings['verdict'] in (SOME, STRONG)
  assert findings['answer'].replace("'", '') in ''.join(result.text).replace("'", '').replace('&#39;', '')
  corner = next(finding for finding in findings['findings'] if finding['name'] == 'top left corner')
  assert corner['verdict'] in (SOME, STRONG)
  assert corner['groups']['auc'] > 0.95
  with (page / 'images.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == findings['examples'] == 1000
  against = [row['group'] for row in rows if row['top left corner'] == 'contradicts']
  assert len(against) == corner['against_count']
  assert set(against) == {'below five, bright', 'five or more, dark'}


@pytest.mark.full
def test_files_are_read_and_the_next_command_is_named(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  splits = ('train',) * 30 + ('val',) + ('test',)
  write_folder(tmp_path / 'photos', [(f'{c}/{i}.jpg', c, s) for c in ('cat', 'dog') for i, s in enumerate(splits)])
  argv = ['--config=folder', '--config.data.dir=photos', '--config.data.size=8', '--permutations=100', '--steps=16']
  app.call('detect', [*argv, '--no-images'])
  text = capsys.readouterr().out
  assert 'folder, 60 examples of train' in text
  assert re.search(r'next: python -m ule_jax\.main --config=folder:\w+ --config\.data\.dir=photos', text)
  assert max(map(len, text.split('No evidence')[0].split('Quick students')[0].splitlines())) <= 100
  assert not read(tmp_path / 'shortcuts').of('img')


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--split=tset'], r"unknown split 'tset': did you mean 'test'"),
    (['--examples=20'], r'of the 20 examples of train, and detect needs 30 of each: choose more with --examples'),
    (['--permutations=10'], r'--permutations is 10: give at least 100'),
    (['--network=vgg'], r"unknown --network 'vgg'"),
    (['--out=thesis'], r'thesis exists and is no page of ule_jax.detect'),
  ],
)
def test_bad_usage_is_one_sentence(flags, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'thesis').mkdir()
  (tmp_path / 'thesis' / 'thesis.tex').write_text('irreplaceable')
  with pytest.raises(UserError, match=message) as end:
    app.call('detect', ['--config=digits', '--config.data.crops=1', *flags])
  assert '\n' not in str(end.value)


@pytest.mark.full
@pytest.mark.parametrize('kind', ['permuted', 'none', 'patch'])
def test_verdicts_where_the_truth_is_known(kind):
  result = shortcuts.attempt(kind, 3)
  assert (result['verdict'] == STRONG) if kind == 'patch' else (result['verdict'] == NONE)


def test_the_share_of_verdicts_has_its_interval():
  assert shortcuts.summary([NONE] * 199 + [SOME]) == '1 of 200 verdicts are "some" or "strong": [0.0%, 2.8%]'
