"""The report: numbers over seeds against a loop, a page that is sound and stands alone, and no jax."""

import copy
import csv
import io
import json
import re
import shutil
import statistics
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ule_jax import selection
from ule_jax.errors import UserError
from ule_jax.methods import METHODS
from ule_jax.report import build as build_module
from ule_jax.report import colors, numbers, panels, pictures, runs
from ule_jax.report.build import build
from ule_jax.report.series import Series, gather
from ule_jax.runs.recorded import FinishedRun
from ule_jax.runs.results import Results


@pytest.fixture(scope='module')
def real(ule_run, tmp_path_factory):
  """A run of two networks with what it looks at, another method, and an unfinished run."""
  root = tmp_path_factory.mktemp('runs')
  change(ule_run, root / 'deep' / 'ule')
  change(ule_run, root / 'erm', method='erm')
  change(ule_run, root / 'cut', seed=7)
  (root / 'cut' / 'done').unlink()
  return root


@pytest.fixture
def undrawn(monkeypatch):
  """Omit the charts, which take most of a report's time."""
  monkeypatch.setattr(build_module, 'draw', lambda series: {name: [] for name in build_module.datasets(series)})


def change(source, target, values=(), **new):
  """Copy a run with other words in config.json and results.json, and other test numbers under some rules."""
  shutil.copytree(source, target, ignore=shutil.ignore_patterns('checkpoints', 'tensorboard'))
  config, results = (json.loads((target / f'{name}.json').read_text()) for name in ('config', 'results'))
  for name, value in new.items():
    results[name] = value
    if name == 'seed':
      config['seed'] = value
    elif name in ('method', 'dataset'):
      config['method' if name == 'method' else 'data']['name'] = value
    else:
      config['method'][name] = value
  if new.get('method') == 'erm':
    results['roles'] = {'model': results['roles']['teacher']}
    shutil.rmtree(target / 'saliency', ignore_errors=True)
  for rule, value in dict(values).items():
    (results['last'] if rule == 'last' else results['selected'][rule])['test']['worst_group_accuracy'] = value
  for name, content in (('config', config), ('results', results)):
    (target / f'{name}.json').write_text(json.dumps(content))


class Page(HTMLParser):
  """The elements of a page; fails where tags do not match."""

  VOID = ('meta', 'img', 'br', 'link', 'input', 'hr')

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.cells, self.text = [], [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag == 'tr':
      self.cells.append([])
    if tag in ('td', 'th'):
      self.cells[-1].append('')
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag, f'</{tag}> at {self.getpos()}'

  def handle_data(self, data):
    self.text.append(data)
    if {'td', 'th'} & set(self.open):
      self.cells[-1][-1] += data.strip()

  def of(self, tag):
    return [attrs for name, attrs in self.tags if name == tag]


def read(out):
  return Page((out / 'index.html').read_text())


def rows(path):
  return list(csv.DictReader(io.StringIO(path.read_text())))


@pytest.fixture(scope='module')
def page(real, tmp_path_factory):
  out = tmp_path_factory.mktemp('out') / 'report'
  said = build([real], out)
  return out, read(out), said


def test_the_page_stands_alone_and_is_accessible(page):
  out, found, _ = page
  text = (out / 'index.html').read_text()
  assert not re.findall(r'(?:https?:)?//[a-z]', re.sub(r'base64,[^"]*', '', text))
  for tag in ('script', 'link', 'iframe'):
    assert not found.of(tag)
  images = found.of('img')
  assert len(images) > 15
  assert all(image['src'].startswith('data:image/') and len(image['alt']) > 20 for image in images)
  assert all('scope' in cell for cell in found.of('th'))
  assert len(found.of('caption')) == len(found.of('table')) > 5
  ids = [attrs['id'] for _, attrs in found.tags if 'id' in attrs]
  assert len(ids) == len(set(ids))
  assert {a['href'] for a in found.of('a')} <= {f'#{name}' for name in ids}
  assert any(m.get('name') == 'viewport' for m in found.of('meta'))
  assert len(text) < build_module.LIMIT


def test_files_beside_the_page(page):
  out, _, said = page
  names = {p.name for p in (out / 'figures').iterdir()}
  assert {'digits-groups.svg', 'digits-groups.png', 'digits-loss-student.svg', 'digits-ule-saliency.png'} <= names
  assert {f'digits-{s}-worst-group-accuracy.svg' for s in ('val', 'val-balanced')} <= names
  assert (out / 'figures' / 'digits-groups.svg').read_text().count('<svg') == 1
  assert said[0].startswith('unfinished, not in the numbers: cut (ule on digits): its last logged step is 20')
  assert 'cut' in ''.join(page[1].text)
  commits = {row['commit'] for row in rows(out / 'results.csv')}
  assert all(any(commit in text for text in page[1].text) for commit in commits)


def test_the_same_runs_give_the_same_page(page, real, tmp_path):
  out, _, _ = page
  build([real], tmp_path / 'again')
  for path in (p for p in out.rglob('*') if p.is_file()):
    assert path.read_bytes() == (tmp_path / 'again' / path.relative_to(out)).read_bytes(), path.name


def test_every_number_of_the_results_is_in_the_csv(page, real):
  results = json.loads((real / 'deep' / 'ule' / 'results.json').read_text())
  found = [row for row in rows(page[0] / 'results.csv') if row['method'] == 'ule']

  def value(*of):
    (row,) = (r for r in found if [r[k] for k in ('role', 'rule', 'split', 'metric', 'group')] == list(of))
    return row

  assert {row['rule'] for row in found if row['role'] == 'teacher'} == {*results['selected'], 'last'}
  rule = 'val_balanced/accuracy'
  assert float(value('teacher', rule, 'test', 'accuracy', '')['value']) == results['selected'][rule]['test']['accuracy']
  student = results['roles']['student']['test']
  row = value('student', results['select'], 'test', 'group_accuracy', 'below five, warm')
  group = student['groups']['below five, warm']
  assert [float(row[k]) for k in ('value', 'low', 'high')] == [group['accuracy'], *group['interval']]
  assert int(row['count']) == group['count']


def test_changes_are_counted(page, real):
  with np.load(real / 'deep' / 'ule' / 'predictions' / 'test.npz') as p:
    student, teacher = (p[f'logits_{role}'].argmax(1) == p['label'] for role in ('student', 'teacher'))
    here = p['group'] == 1
  counted = (student & teacher, student & ~teacher, ~student & teacher, ~student & ~teacher)
  expected = [str(int((here & one).sum())) for one in counted]
  (row,) = (r for r in rows(page[0] / 'changes.csv') if r['group'] == 'below five, warm')
  assert [row[k] for k in ('both_right', 'only_first', 'only_last', 'both_wrong')] == expected
  (cells,) = (c for c in page[1].cells if c[0] == 'below five, warm' and len(c) == 6)
  assert cells[2:] == expected


def test_means_over_seeds_and_missing_cells(real, undrawn, tmp_path):
  rule, oracle, worst = 'val/worst_class_accuracy', 'val_balanced/worst_group_accuracy', [0.5, 0.61, 0.66]
  source = real / 'deep' / 'ule'
  for seed, value in enumerate(worst):
    change(source, tmp_path / 'a' / f'u{seed}', seed=seed, values={rule: value, oracle: 0.9, 'last': None})
  change(source, tmp_path / 'a' / 'e', method='erm', values={rule: 0.25})
  change(source, tmp_path / 'a' / 'copy', seed=2)
  change(source, tmp_path / 'a' / 'new', method='mine', dataset='celeba', values={rule: 0.125})
  said = build([tmp_path / 'a'], tmp_path / 'out', images=False)
  assert any(text.startswith('left out: u2 has the config and the seed of copy') for text in said)
  table = {cells[0]: cells for cells in read(tmp_path / 'out').cells[:6]}
  kept = json.loads((tmp_path / 'a' / 'copy' / 'results.json').read_text())['selected'][rule]['test']
  values = [100 * v for v in (*worst[:2], kept['worst_group_accuracy'])]
  assert table['ule'][4] == f'{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}n=3'
  assert table['ule'][2:4] == ['no run', 'no run']
  assert table['erm'][4] == '25.01 seed'
  assert table['mine'][2:] == ['12.51 seed', table['mine'][3], 'no run', 'no run']
  text = ''.join(read(tmp_path / 'out').text)
  assert 'CelebA is for non-commercial research' in text
  assert 'left out of this page (--no-images)' in text
  assert not list((tmp_path / 'out').rglob('*saliency*'))
  summary = {(r['method'], r['rule'], r['metric']): r for r in rows(tmp_path / 'out' / 'summary.csv')}
  assert float(summary['ule', rule, 'worst_group_accuracy']['mean']) == pytest.approx(statistics.mean(values) / 100)
  assert summary['ule', rule, 'worst_group_accuracy']['needs_groups'] == 'no'
  assert summary['ule', oracle, 'worst_group_accuracy']['needs_groups'] == 'validation'


def test_configs_that_differ_are_not_averaged(real, tmp_path):
  source = real / 'deep' / 'ule'
  for n, weight in enumerate((1.0, 1.0, 5.0)):
    change(source, tmp_path / f'r{n}', seed=n % 2, weight=weight)
  found, _ = gather(runs.find([tmp_path]).runs)
  assert [(one.label, len(one.runs)) for one in found] == [('ule, weight=1.0', 2), ('ule, weight=5.0', 1)]
  assert colors.style('ule', 0).color == colors.style('ule', 1).color
  assert colors.style('ule', 0) != colors.style('ule', 1)


def test_first_runs_and_foreign_folders_are_no_runs(real, tmp_path):
  source = real / 'deep' / 'ule'
  change(source, tmp_path / 'jtt')
  change(source, tmp_path / 'jtt' / 'first', method='erm')
  change(source, tmp_path / 'shared', method='erm')
  config = json.loads((tmp_path / 'jtt' / 'config.json').read_text())
  config['two_stage'] |= {'rule': 'jtt', 'workdir': str(tmp_path / 'shared')}
  (tmp_path / 'jtt' / 'config.json').write_text(json.dumps(config))
  (tmp_path / 'model').mkdir()
  (tmp_path / 'model' / 'config.json').write_text('{"architectures": ["ViT"]}')
  assert [run.name for run in runs.find([tmp_path, tmp_path / 'jtt']).runs] == [f'{tmp_path.name}/jtt']


def test_rules_without_group_labels_come_first():
  names = ['val_balanced/worst_group_accuracy', 'val/worst_class_accuracy', 'val/accuracy', 'val/worst_group_accuracy']
  names += ['val_balanced/accuracy']  # balanced by groups: no rule without them
  run = FinishedRun('r', Path(), {}, Results(selected=dict.fromkeys(names)))
  order = numbers.rules([Series('d', 'm', 'm', 0, (run,))])
  assert order[:3] == ['val/worst_class_accuracy', 'val/accuracy', 'last']
  assert [selection.is_label_free(rule) for rule in order] == [True] * 3 + [False] * 3
  assert selection.oracle_rule(order) == 'val_balanced/worst_group_accuracy'


def test_a_page_that_is_too_large_shows_less(real, undrawn, tmp_path, monkeypatch):
  def size_of(name, limit):
    monkeypatch.setattr(build_module, 'LIMIT', limit)
    said = build([real], tmp_path / name)
    return (tmp_path / name / 'index.html').stat().st_size, said

  size, _ = size_of('all', build_module.LIMIT)
  less, said = size_of('less', size - 1)
  assert less < size
  assert not any('images' in text for text in said)
  assert 'Image and saliency of test' in (tmp_path / 'less' / 'index.html').read_text()
  build([real], tmp_path / 'bare', images=False)
  none, said = size_of('none', (tmp_path / 'bare' / 'index.html').stat().st_size + 200)
  assert any('images are left out' in text for text in said)
  assert 'would be too large' in (tmp_path / 'none' / 'index.html').read_text()
  with pytest.raises(UserError, match='fewer runs'):
    size_of('never', none - 1)
  assert not (tmp_path / 'never').exists()


def test_names_cannot_break_the_page(real, tmp_path):
  change(real / 'deep' / 'ule', tmp_path / 'r')
  path, bad = tmp_path / 'r' / 'results.json', '<script>a</b>$x_$'
  path.write_text(path.read_text().replace('below five, cold', bad))
  build([tmp_path / 'r'], tmp_path / 'out')
  found = read(tmp_path / 'out')
  assert not found.of('script')
  assert bad in [cells[0] for cells in found.cells]


def test_pictures_and_numbers_of_saliency(real, page):
  (one,) = (s for s in gather(runs.find([real]).runs)[0] if s.method == 'ule')
  with np.load(real / 'deep' / 'ule' / 'saliency' / 'test.npz') as file:
    arrays = dict(file)
  drawn = arrays['category'] == 'group'
  look = panels.look(one, 'test')
  assert look is not None
  assert look.examples == drawn.sum() == 12
  assert look.cosine.mean == pytest.approx(np.abs(arrays['cosine'][drawn]).mean())
  size, mask = arrays['saliency_student'][drawn].astype(float), arrays['mask_digit'][drawn] / 255
  share = ((size * mask).sum((1, 2)) / size.sum((1, 2))).mean()
  assert look.on_mask['digit']['student'].mean == pytest.approx(share)
  assert look.area['digit'].mean == pytest.approx(mask.mean())
  made = list(panels.panels(one.runs[0], 'test', 48, 1))
  assert [panel.category for panel in made].count('group') == 4
  assert made[0].pixels.shape == (48, 5 * 48 + 4 * pictures.GAP, 3)
  np.testing.assert_array_equal(made[0].pixels[::3, :48:3], arrays['image'][0])  # small images keep their pixels
  assert 'rank correlation' in made[0].text
  assert all(cell.mean is not None and cell.mean <= 1 for cell in look.colour.values())


def test_rank_correlation_with_ties_is_scipys():
  from scipy.stats import spearmanr

  rng = np.random.default_rng(0)
  a, b = rng.integers(0, 5, (2, 8, 8)).astype(float)
  assert panels.rank_correlation(a, b) == pytest.approx(spearmanr(a.ravel(), b.ravel())[0])
  assert panels.rank_correlation(a, np.ones((8, 8))) == 0
  large = np.random.default_rng(1).normal(size=(128, 128)).astype(np.float16)  # as saliency is stored
  assert panels.rank_correlation(large, large) == pytest.approx(1)


def test_every_method_has_its_own_look():
  assert set(colors.METHODS) <= set(METHODS)  # a new method needs no row: its name decides
  assert len(set(colors.METHODS.values())) == len(colors.METHODS)
  looks = [colors.style(name) for name in colors.METHODS]
  assert len({(look.marker, look.dash) for look in looks}) == len(looks)
  assert colors.style('mine') == colors.style('mine')
  assert len({colors.style(f'mine{i}').color for i in range(20)}) > 3


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
BLIND = {
  'protanopia': [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
  'deuteranopia': [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


@pytest.mark.parametrize('kind', BLIND)
def test_the_methods_compared_most_differ_to_the_colour_blind(kind):
  def lab(color):
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    rgb = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    rgb = (np.array(BLIND[kind]) @ rgb).clip(0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    f = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

  often = ['erm', 'ule', 'gradient_penalty', 'shuffled_student', 'group_dro']
  seen = {name: lab(colors.METHODS[name]) for name in often}
  for a in often:
    for b in often[: often.index(a)]:
      assert np.linalg.norm(seen[a] - seen[b]) > 12, (a, b)


def test_it_never_imports_jax(real, tmp_path):
  code = (
    'import sys; from ule_jax.cli.app import call; call("report", sys.argv[1:]); '
    'bad = {"jax", "flax", "orbax", "tensorflow", "torch", "matplotlib.pyplot"} & set(sys.modules); '
    'sys.exit(str(bad) if bad else 0)'
  )
  out = tmp_path / 'out'
  done = subprocess.run([sys.executable, '-c', code, str(real), f'--out={out}'], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip().endswith(f'MiB: {out / "index.html"}')


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--out=x'], r'give the folders of runs'),
    (['nowhere'], r'nowhere is no folder'),
    (['empty'], r'empty holds no run'),
    (['cut'], r'cut holds only unfinished runs, the first is cut \(ule on digits\)'),
    (['torn'], r'torn/results.json cannot be read'),
    (['bare'], r'bare/results.json lacks roles'),
    (['old'], r'test.npz is of step 3, the results of 20: write it again'),
    (['short'], r'saliency/test.npz cannot be read'),
    (['ule', '--out=thesis'], r'thesis exists and is no page of ule_jax.report'),
    (['ule', '--figures'], r'unknown flag --figures'),
    (['ule', '-x'], r'unknown flag -x'),
  ],
)
def test_bad_input_is_one_sentence(flags, message, real, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('ule', 'cut', 'torn', 'bare', 'old', 'short'):
    if name in flags:
      change(real / 'deep' / 'ule', tmp_path / name)
  spoil = {
    'empty': lambda path: path.mkdir(),
    'cut': lambda path: (path / 'done').unlink(),
    'torn': lambda path: (path / 'results.json').write_text('{'),
    'bare': lambda path: (path / 'results.json').write_text(
      json.dumps({k: v for k, v in json.loads((path / 'results.json').read_text()).items() if k != 'roles'})
    ),
    'old': lambda path: np.savez(
      path / 'saliency' / 'test.npz', allow_pickle=False, **saliency(path) | {'step': np.int32(3)}
    ),
    'short': lambda path: (path / 'saliency' / 'test.npz').write_bytes(b'PK'),
  }
  if flags[0] in spoil:
    spoil[flags[0]](tmp_path / flags[0])
  (tmp_path / 'thesis').mkdir()
  (tmp_path / 'thesis' / 'thesis.tex').write_text('irreplaceable')
  from ule_jax.cli import app

  with pytest.raises(UserError, match=message) as end:
    app.call('report', flags)
  assert '\n' not in str(end.value)
  assert (tmp_path / 'thesis' / 'thesis.tex').read_text() == 'irreplaceable'


def saliency(path):
  with np.load(path / 'saliency' / 'test.npz') as file:
    return copy.deepcopy(dict(file))
