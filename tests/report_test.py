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
from ule_jax.report import colors, examples, figures, looks, numbers, panels, pictures, runs, sheet, verdict
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

  VOID = ('meta', 'img', 'br', 'wbr', 'link', 'input', 'hr')

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
  assert {'digits-groups.svg', 'digits-groups.png', 'digits-average-and-worst.svg', 'digits-ule-saliency.png'} <= names
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
  page = read(tmp_path / 'out')
  table = {cells[0]: cells for cells in page.cells if len(cells) == 6}  # the overview, which is the last of its width
  kept = json.loads((tmp_path / 'a' / 'copy' / 'results.json').read_text())['selected'][rule]['test']
  values = [100 * v for v in (*worst[:2], kept['worst_group_accuracy'])]
  assert table['ule'][3] == f'{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}n=3'
  assert table['ule'][1:3] == ['no run', 'no run']
  assert table['erm'][3] == '25.01 seed'
  assert table['mine'][1:5] == ['12.51 seed', table['mine'][2], 'no run', 'no run']
  text = ''.join(page.text)
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
  assert 'The map of teacher over digit' in (tmp_path / 'less' / 'index.html').read_text()
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
  random = arrays['category'] == 'group'
  look = looks.look(one, 'test')
  assert look is not None
  assert look.examples == random.sum() == 12
  assert look.cosine.mean == pytest.approx(np.abs(arrays['cosine'][random]).mean())
  size, mask = arrays['saliency_student'][random].astype(float), arrays['mask_digit'][random] / 255
  share = ((size * mask).sum((1, 2)) / size.sum((1, 2))).mean()
  assert look.on_mask['digit']['student'].mean == pytest.approx(share)
  assert look.area['digit'].mean == pytest.approx(mask.mean())
  drawn = panels.panels(one.runs[0], 'test', 640, 1)
  assert [panel.category for panel in drawn].count('group') == 4
  assert drawn[0].photograph.shape == (96, 96, 3)
  np.testing.assert_array_equal(drawn[0].photograph[::6, ::6], arrays['image'][0])  # small images keep their pixels
  assert drawn[0].name == arrays['name'][0]
  assert list(drawn[0].looks) == ['student', 'teacher']
  tile = drawn[0].looks['teacher']
  answer = one.runs[0].classes[arrays['prediction_teacher'][0]]
  assert tile.text == f'{"✓" if tile.right else "✗"} {answer}, {100 * arrays["probability_teacher"][0].max():.0f}\xa0%'
  assert tile.right == (arrays['prediction_teacher'][0] == arrays['label'][0])
  assert all(cell.mean is not None and cell.mean <= 1 for cell in look.colour.values())


def test_rank_correlation_with_ties_is_scipys():
  from scipy.stats import spearmanr

  rng = np.random.default_rng(0)
  a, b = rng.integers(0, 5, (2, 8, 8)).astype(float)
  assert looks.rank_correlation(a, b) == pytest.approx(spearmanr(a.ravel(), b.ravel())[0])
  assert looks.rank_correlation(a, np.ones((8, 8))) == 0
  large = np.random.default_rng(1).normal(size=(128, 128)).astype(np.float16)  # as saliency is stored
  assert looks.rank_correlation(large, large) == pytest.approx(1)


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


def test_the_first_screen_answers_for_each_method(page):
  """Before any table: a sentence for each method, and a chart with a dot for each run."""
  text = (page[0] / 'index.html').read_text()
  first = re.sub(r'<[^>]+>', '', text[text.index('<body>') : text.index('<table')])
  assert 'is a model taking a shortcut, and did a method help?' in first
  assert re.search(r'erm (took|cannot be judged).*ule (took|cannot be judged)', first, re.DOTALL)
  assert 'one run each' in first
  assert 'Its student: ' in first
  svg = (page[0] / 'figures' / 'digits-average-and-worst.svg').read_text()
  assert svg.count(f'fill: {colors.METHODS["erm"].lower()}') >= 2  # the dot and the legend
  assert svg.count(f'fill: {colors.METHODS["ule"].lower()}') >= 2


def test_what_is_the_same_everywhere_stands_once(page):
  text, visible = (page[0] / 'index.html').read_text(), ''.join(page[1].text)
  (commit,) = {row['commit'] for row in rows(page[0] / 'results.csv')}
  assert text.count(commit) == 1
  assert visible.count('20 steps of') == 1
  assert '2 runs of 2 methods' in visible
  assert not any('loss' in path.name for path in (page[0] / 'figures').iterdir())  # four batches are no curve
  headers = [cells for cells in page[1].cells if cells[0] in ('method', 'run')]
  assert [cells[1] for cells in headers if 'accuracy' in cells] == ['accuracy'] * 3


def series_of(*worst, method='ule', seeds=None, accuracy=None, count=1000):
  """Runs whose worst of two groups of one class has these accuracies; the other group has 95 %."""
  members = []
  for seed, value in zip(seeds or range(len(worst)), worst, strict=True):
    known = value is not None
    mean = accuracy if accuracy is not None else (value + 0.95) / 2
    groups = {'hard': value, 'easy': 0.95} if known else {}
    test = {
      'accuracy': mean, 'worst_group_accuracy': value, 'reasons': {},
      'classes': {name: {'accuracy': mean, 'count': count} for name in 'ab'},
      'groups': {name: {'accuracy': share, 'count': count, 'interval': None} for name, share in groups.items()},
    }  # fmt: skip
    val = {**test, 'accuracy': 0.97}
    entry = {'step': 1, 'test': test, 'val': val}
    results = Results(
      method=method, dataset='d', seed=seed, select='val/accuracy', needs_groups={'train': False, 'validation': False},
      classes=['a', 'b'], groups=list(groups), **entry, selected={'val/accuracy': entry}, last=entry,
      roles={'model': entry}, class_of_group=dict.fromkeys(groups, 'a'),
    )  # fmt: skip
    members.append(FinishedRun(f'{method}{seed}', Path('nowhere'), {'data.name': 'd'}, results))
  return Series('d', method, method, 0, tuple(members))


@pytest.mark.parametrize(
  ('method', 'plain', 'answer', 'clause'),
  [
    ((0.90, 0.92), (0.30, 0.34), 'took no shortcut that these groups show', 'It helps: its worst group is 59.0 points'),
    ((0.30, 0.34), (0.90, 0.92), 'took the shortcut', 'It does harm: its worst group is 59.0 points below that of erm'),
    ((0.40, 0.20), (0.20, 0.40), 'took the shortcut', 'Whether it helps cannot be told'),
    ((0.90,), (0.30,), 'took no shortcut that these groups show', 'It helps: its worst group is 60.0 points above'),
    ((0.31,), (0.30,), 'took the shortcut', 'Whether it helps cannot be told: its worst group is 1.0 points above'),
    ((0.92, 0.30), (0.30, 0.30), 'in 1 of 2 runs', 'Whether it helps cannot be told'),
  ],
)
def test_verdicts_follow_from_the_numbers(method, plain, answer, clause):
  member, erm = series_of(*method), series_of(*plain, method='erm')
  first, second = verdict.verdicts([erm, member], 'val/accuracy')
  assert (first.label, second.label) == ('erm', 'ule')
  assert answer in second.answer
  assert clause in second.text
  worst = 100 * statistics.fmean(method)
  assert f'{worst:.1f}' in second.text
  if len(method) > 1:
    assert f'{worst:.1f} ± {100 * statistics.stdev(method):.1f}' in second.text
  assert 'It helps' not in first.text


def test_the_interval_of_one_run_is_wilsons():
  text = verdict.verdicts([series_of(0.9)], 'last')[0].text
  assert '90.0\xa0% [88.0, 91.7] of the worst group, “hard”' in text
  notes = ' '.join(verdict.remarks([series_of(0.9)], 'last'))
  assert '95 % Wilson' in notes
  assert 'needs a run of plain training (erm) beside it: there is none' in notes


def test_runs_without_groups_say_that_they_cannot_tell():
  member = series_of(None, accuracy=0.5)
  (answer,) = verdict.verdicts([member], 'last')
  assert answer.answer == 'cannot be judged'
  assert 'Test is 47 points below val: it relies on something that holds in val and not in test.' in answer.text
  assert 'chance is 50.0\xa0%' in answer.text
  assert verdict.cannot([member], 'last').startswith('These runs cannot tell')
  assert not verdict.cannot([member, series_of(0.9, method='erm')], 'last')


def test_a_folder_has_its_own_name_and_a_stopped_sweep_is_named(real, undrawn, tmp_path):
  change(real / 'deep' / 'ule', tmp_path / 'a', dataset='folder')
  config = json.loads((tmp_path / 'a' / 'config.json').read_text())
  config['data']['dir'] = '/nowhere/my photos/'
  (tmp_path / 'a' / 'config.json').write_text(json.dumps(config))
  change(real / 'deep' / 'ule', tmp_path / 'sweep')
  (tmp_path / 'sweep' / 'done').unlink()
  (tmp_path / 'sweep' / 'config.json').write_text(json.dumps(config | {'axes': {'seed': [0, 1]}}))
  lines = build([tmp_path], tmp_path / 'out', images=False)
  page = read(tmp_path / 'out')
  text = ''.join(page.text)
  assert 'my photos: is a model' in text
  assert '1 run of 1 method,' in text
  assert 'sweep (sweep of seed, ule on folder)' in text
  assert lines[-1].startswith('1 run, ')
  assert {row['dataset'] for row in rows(tmp_path / 'out' / 'results.csv')} == {'my photos'}


def test_losses_of_single_batches_are_smoothed():
  lines = [{'step': i, 'train/loss/model': float(i % 2)} for i in range(100)]
  smooth = figures._running_mean(lines, 'train/loss/model')
  assert [line['loss'] for line in smooth] == [0.5] * 91
  assert smooth[-1]['step'] == 99
  assert figures._running_mean(lines[:19], 'train/loss/model') == []


def panel(name, student, teacher, erm=None, category='group'):
  outcomes = {'ERM': erm, 'student': student, 'teacher': teacher}
  shown = {role: sheet.Tile(None, 'a', right) for role, right in outcomes.items() if right is not None}
  return panels.Panel(category, name, name[0], np.zeros((4, 4, 3), np.uint8), shown, len({*outcomes.values()}) > 1)


def test_the_first_photographs_are_those_that_tell_most():
  """With a map of plain training, then those that only the deployed network has right, the groups in turn."""
  shown = [
    panel('a1', True, True, True), panel('a2', False, True), panel('a3', False, True, False),
    panel('a4', False, True, False), panel('b1', False, True, False), panel('b2', True, False, True),
    panel('b3', False, True, False, 'hardest'),
  ]  # fmt: skip
  assert [shown[i].name for i in examples.lead(shown, 'teacher')] == ['a3', 'b1', 'a4', 'b2', 'a1', 'a2']


def test_plain_training_has_a_column_where_it_has_a_map(real, undrawn, tmp_path):
  """Of the same example; an example without one says so."""
  source = real / 'deep' / 'ule'
  change(source, tmp_path / 'ule')
  change(source, tmp_path / 'erm', method='erm')
  (tmp_path / 'erm' / 'saliency').mkdir()
  both = saliency(source)
  kept = {name.replace('_teacher', '_model'): values for name, values in both.items() if '_student' not in name}
  keep = kept['category'] == 'group'
  ends = np.flatnonzero(keep)
  assert (np.diff(ends) == 1).all()  # so that their files stay one after another
  kept = {name: values[keep] if values.ndim and name != 'photograph' else values for name, values in kept.items()}
  begin = both['photograph_end'][ends[0] - 1]
  kept |= {'photograph': kept['photograph'][begin:], 'photograph_end': kept['photograph_end'] - begin}
  np.savez(tmp_path / 'erm' / 'saliency' / 'test.npz', allow_pickle=False, **kept)
  build([tmp_path], tmp_path / 'out')
  page = read(tmp_path / 'out')
  (heads,) = {tuple(cells) for cells in page.cells if cells[:2] == ['photograph', 'ERM'] and len(cells) == 4}
  assert heads == ('photograph', 'ERM', 'student', 'teacher')
  assert any(image['alt'].startswith('The map of ERM over digit') for image in page.of('img'))


def test_a_map_is_blurred_over_the_photograph_at_its_own_size():
  photograph = np.full((60, 100, 3), 128, np.uint8)
  values = np.zeros((10, 10))
  values[5, 5] = 3.0
  drawn = pictures.overlay(photograph, values, (0.2, 0.0, 0.8, 1.0))
  assert drawn.shape == photograph.shape
  change = np.abs(drawn.astype(int) - 128).sum(-1)
  row, column = np.unravel_index(change[:, 20:80].argmax(), (60, 60))
  assert abs(row - 33) <= 3
  assert abs(column - 33) <= 3  # the cell's centre is at 0.55 of the part that the network sees
  assert (drawn[:, :20] > 200).all()
  assert (drawn[:, 80:] > 200).all()
  assert (pictures.smooth(np.zeros((4, 4))) == 0).all()


def test_a_slide_has_headings_captions_and_a_legend():
  tile = sheet.Tile(np.full((60, 80, 3), 200, np.uint8), 'a name that is far too long for a column of this width', True)
  page = sheet.draw(['photograph', 'teacher'], [[tile, tile._replace(right=False)]])
  assert page.shape[1] == 2 * sheet.NARROWEST + 3 * sheet.GAP
  assert (page == pictures.colour_bar(90, 1)[0, -1]).all(-1).any()  # the brightest colour of the legend
  caption = page[-90:-40]
  assert (caption[:, : sheet.NARROWEST].astype(int) @ [-1, 1, 0]).max() > 50  # green
  assert (caption[:, -sheet.NARROWEST :].astype(int) @ [1, -1, 0]).max() > 50  # red
