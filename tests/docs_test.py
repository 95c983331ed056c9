"""Every command of the pages in docs/ runs, in order, on small data; and so does the notebook."""

import json
import os
import re
import shlex
import shutil
import warnings

import pytest
from writers import write_celeba, write_folder, write_spawrious, write_urbancars, write_waterbirds

from ule_jax.cli import app

FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.S | re.M)
PAGES = (
  'tutorial', 'method', 'results', 'faq', 'data/digits', 'data/waterbirds', 'data/celeba', 'data/spawrious',
  'data/urbancars', 'data/folder',
)  # fmt: skip
DEVELOP = ('develop/architecture', 'develop/glossary', 'develop/style')

SHORT = ['train.steps=2', 'train.eval_every=2', 'loader.threads=0']
TINY = [*SHORT, 'train.batch_size=8', 'train.eval_batch_size=16', 'data.size=12', 'model.name=mlp', 'model.width=4']
TINY += ['model.weights=none', 'model.batch_norm=none']


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder with small data of every kind where the pages say they are."""
  root = tmp_path_factory.mktemp('docs')
  data = root / 'data'
  write_celeba(data / 'celeba')
  write_waterbirds(data / 'waterbirds')
  write_spawrious(data / 'spawrious', 4, size=16)
  write_urbancars(data / 'urbancars')
  splits = ('train',) * 6 + ('val',) * 2 + ('test',) * 2
  write_folder(data / 'folder', [(f'{c}/{i}.jpg', c, s) for c in ('cat', 'dog') for i, s in enumerate(splits)])
  write_folder(root / 'photos', [(f'{c}/{i}.jpg', c, 'train') for c in ('serious', 'smiling') for i in range(20)])
  (root / 'photos' / 'metadata.csv').unlink()
  return root


def blocks(path):
  return FENCE.findall(path.read_text())


def test_every_page_is_here(root):
  found = {p.relative_to(root / 'docs').with_suffix('').as_posix() for p in (root / 'docs').rglob('*.md')}
  assert (
    set(PAGES) <= found <= {*PAGES, *DEVELOP, 'README', 'robustness', 'scale', 'research/2026-11', 'reference/config'}
  )
  assert {p.stem for p in (root / 'configs').glob('*.py')} - {'__init__', 'base'} == {
    p.removeprefix('data/') for p in PAGES if p.startswith('data/')
  }


def test_links_lead_somewhere(root):
  for path in (root / 'docs').rglob('*.md'):
    for target in re.findall(r'\]\(([^)#]+)\)', path.read_text()):
      assert '://' in target or (path.parent / target).exists(), f'{path.name}: {target}'


def test_the_pages_for_developers_are_of_the_tree_that_is_there(root):
  """Files in backticks exist, and the table of floors has every room."""
  package, pages = root / 'ule_jax', [root / 'docs' / f'{page}.md' for page in DEVELOP]
  for page in pages:
    for path in re.findall(r'`([a-z_/]+\.(?:py|txt))`', page.read_text()):
      assert (root / path).exists() or (package / path).exists(), f'{page.name}: {path}'
  floors = re.findall(r'^\| (`.*?) \|', pages[0].read_text(), re.M)
  rooms = [path.stem for path in package.iterdir() if path.suffix == '.py' or (path / '__init__.py').exists()]
  assert sorted(re.findall(r'`(\w+)`', ' '.join(floors))) == sorted({*rooms} - {'__init__'})


def commands(text):
  """The commands of a block, as (verb, arguments)."""
  for line in text.replace('\\\n', ' ').splitlines():
    words = shlex.split(line, comments=True)
    if words:
      assert words[:2] == ['python', '-m'], line
      assert words[2].startswith('ule_jax.'), line
      yield words[2].removeprefix('ule_jax.'), words[3:]


def smaller(verb, argv):
  """The same command with less to do."""
  (name,) = [a.removeprefix('--config=') for a in argv if a.startswith('--config=')] or ['']
  if verb == 'data' and name in ('celeba', 'waterbirds', 'spawrious', 'urbancars'):
    return ['config.data.official=False']
  if verb != 'main':
    return []
  changes = ['data.crops=1'] if name.startswith('digits') else []
  # A config file that the page writes is small already: its network is the one that readers train.
  own = name.startswith('digits') or name.split(':')[0].endswith('.py')
  changes += SHORT if own else TINY
  if name.split(':')[0] in ('celeba', 'waterbirds', 'spawrious', 'urbancars'):
    changes += ['data.official=False']
  return [f'config.{change}' for change in changes]


def run(verb, argv):
  """Run a command as the console script does; it ends well or raises."""
  app.call(verb, [*argv, *(f'--{change}' for change in smaller(verb, argv))])


# One page of each kind in the quick suite: data that are drawn, and data that are read.
QUICK = ('data/digits', 'data/folder')


@pytest.mark.parametrize('page', [p if p in QUICK else pytest.param(p, marks=pytest.mark.full) for p in PAGES])
def test_every_command_runs(page, root, place, monkeypatch, capsys):
  monkeypatch.chdir(place)
  shutil.rmtree(place / 'runs', ignore_errors=True)  # pages do not lean on each other
  scope, ran = {}, 0
  for language, text in blocks(root / 'docs' / f'{page}.md'):
    if language == 'python' and (name := re.match(r'# (\w+\.py)\n', text)):
      (place / name[1]).write_text(text)
    elif language == 'python':
      exec(compile(text, page, 'exec'), scope)
    elif language == 'bash':
      for verb, argv in commands(text):
        run(verb, argv)
        ran += 1
  assert ran
  if page == 'tutorial':
    recorded = [json.loads((place / 'runs' / run / 'config.json').read_text()) for run in ('erm', 'ule')]
    assert all((c['model']['name'], c['model']['width'], c['data']['size']) == ('cnn', 16, 32) for c in recorded)
    made = ('report/index.html', 'diagnosis/index.html', 'predictions.csv', 'model.safetensors', 'model.json')
    assert all((place / name).is_file() for name in made)
    assert "['serious', 'smiling'] (2, 2)" in capsys.readouterr().out


@pytest.mark.full
def test_the_notebook_runs(root, tmp_path):
  nbformat, nbclient = pytest.importorskip('nbformat'), pytest.importorskip('nbclient')
  notebook = nbformat.read(root / 'docs' / 'digits.ipynb', as_version=4)
  assert all(not cell.get('outputs') for cell in notebook.cells), 'outputs are not kept: clear them'
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      cell.source = cell.source.replace('STEPS = 600', 'STEPS = 20').replace('CROPS = 8', 'CROPS = 1')
  with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of the notebook's machinery
    patch.setenv('PYTHONPATH', os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')]))
    nbclient.NotebookClient(notebook, timeout=120, resources={'metadata': {'path': str(tmp_path)}}).execute()
  shown = [out for cell in notebook.cells for out in cell.get('outputs', [])]
  assert not [out for out in shown if out.output_type == 'error']
  assert any('image/png' in out.get('data', {}) for out in shown)
