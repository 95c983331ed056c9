"""Every command of the README and of the pages in docs/ runs, in order, on small data; and so does the notebook."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings

import pytest
import yaml
from PIL import Image
from writers import write_celeba, write_features, write_folder, write_spawrious, write_urbancars, write_waterbirds

from ule_jax.cli import app
from ule_jax.data import DATASETS
from ule_jax.estimators import parameters
from ule_jax.runs.result_keys import KEYS, METRICS

FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.S | re.M)

# Pages with commands. `python -m` of a README block in a new environment is left to .ci/run, which makes one.
PAGES = (
  'docs/guides/you-have-a-folder',
  'README', 'docs/start/first-run', 'docs/start/tutorial', 'docs/guides/which-method', 'docs/guides/data',
  *(f'docs/guides/data/{name}' for name in DATASETS), 'docs/guides/shards', 'docs/guides/sweeps',
  'docs/guides/resume', 'docs/guides/report', 'docs/guides/detect', 'docs/guides/diagnose', 'docs/guides/predict',
  'docs/guides/own-loop', 'docs/guides/notebook', 'docs/guides/embeddings',
  'docs/guides/questions', 'docs/concepts/method', 'docs/concepts/controls', 'docs/concepts/holding-back',
  'docs/concepts/two-stage', 'docs/concepts/reading-results', 'docs/reference/config', 'docs/reference/python',
)  # fmt: skip
# Pages for developers: readme_test.py adds the method, and the examples of style are lines.
ELSEWHERE = ('docs/develop/add-a-method', 'docs/develop/style')
DEVELOP = ('architecture', 'glossary', 'style', 'add-a-method', 'add-a-data-set', 'add-a-network', 'add-a-verb')

RELEASED = ('celeba', 'waterbirds', 'spawrious', 'urbancars')
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
  write_features(data / 'features.npz')
  (root / 'pictures').mkdir()
  for i in range(2):
    Image.new('RGB', (20, 20), (100 * i, 50, 0)).save(root / 'pictures' / f'{i}.png')
  return root


@pytest.fixture
def photos(place):
  """A folder of images by class, without metadata.csv."""
  shutil.rmtree(place / 'photos', ignore_errors=True)
  splits = ('train',) * 12 + ('val',) * 4 + ('test',) * 4
  write_folder(place / 'photos', [(f'{c}/{i}.jpg', c, s) for c in ('serious', 'smiling') for i, s in enumerate(splits)])
  (place / 'photos' / 'metadata.csv').unlink()


def blocks(path):
  return FENCE.findall(path.read_text())


def markdown(root):
  """The pages by their names from the root, without their ending."""
  pages = (root / 'README.md', *(root / 'docs').rglob('*.md'))
  return {page.relative_to(root).with_suffix('').as_posix(): page for page in pages}


def test_every_page_with_commands_is_run(root):
  runs = {
    name for name, page in markdown(root).items() if any(language in ('bash', 'python') for language, _ in blocks(page))
  }
  assert runs == {*PAGES, *ELSEWHERE}


def test_every_page_is_in_the_table_of_contents(root):
  contents = yaml.safe_load((root / 'docs' / '_toc.yml').read_text())
  entries = [entry for part in contents['parts'] for entry in part['chapters']]
  entries += [section for entry in entries for section in entry.get('sections', [])]
  listed = {f'docs/{entry["file"]}' for entry in entries} | {'docs/index'}
  pages = {*markdown(root)} - {'README'} | {
    path.relative_to(root).with_suffix('').as_posix() for path in (root / 'docs').rglob('*.ipynb')
  }
  assert listed == pages


def test_links_lead_somewhere(root):
  """Pages and files. Sphinx checks the headings, too, where it is installed."""
  for page in markdown(root).values():
    for target in re.findall(r'\]\(([^)#\s]+)', page.read_text()):
      assert '://' in target or (page.parent / target).exists(), f'{page.name}: {target}'


@pytest.mark.full
def test_the_site_builds(root, tmp_path):
  pytest.importorskip('sphinx_external_toc')
  command = [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', 'docs', str(tmp_path / 'site')]
  environment = os.environ | {'PYTHONPATH': str(root)}
  ended = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True, env=environment)
  assert not ended.returncode, ended.stderr
  assert 'id="how-many-seeds"' in (tmp_path / 'site' / 'concepts' / 'reading-results.html').read_text()


def test_generated_pages_are_those_of_the_declarations(root):
  command = [sys.executable, 'docs/generate.py', '--check']
  environment = os.environ | {'PYTHONPATH': str(root)}
  ended = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True, env=environment)
  assert not ended.returncode, ended.stdout + ended.stderr


def test_the_pages_for_developers_are_of_the_tree_that_is_there(root):
  """Files in backticks exist, and the table of floors has every room."""
  package, pages = root / 'ule_jax', [root / 'docs' / 'develop' / f'{page}.md' for page in DEVELOP]
  for page in pages:
    for path in re.findall(r'`([a-z_/]+\.(?:py|txt))`', page.read_text()):
      new = path == 'ule_jax/methods/focal.py'
      assert new or (root / path).exists() or (package / path).exists(), f'{page.name}: {path}'
  floors = re.findall(r'^\| (`.*?) \|', pages[0].read_text(), re.M)
  rooms = [path.stem for path in package.iterdir() if path.suffix == '.py' or (path / '__init__.py').exists()]
  assert sorted(re.findall(r'`(\w+)`', ' '.join(floors))) == sorted({*rooms} - {'__init__'})


def test_configs_of_all_data_sets_have_a_page(root):
  configs = {path.stem for path in (root / 'configs').glob('*.py')} - {'__init__', 'base'}
  assert configs == {*DATASETS} == {path.stem for path in (root / 'docs' / 'guides' / 'data').glob('*.md')}


def commands(text):
  """The commands of a block, as (verb, arguments)."""
  for line in text.replace('\\\n', ' ').splitlines():
    words = shlex.split(line, comments=True)
    if words and words[:3] != ['python3', '-m', 'venv']:
      assert words[:2] == ['python', '-m'], line
      assert words[2].startswith('ule_jax.'), line
      yield words[2].removeprefix('ule_jax.'), words[3:]


def smaller(verb, argv):
  """The same command with less to do."""
  (name,) = [a.removeprefix('--config=') for a in argv if a.startswith('--config=')] or ['']
  kind = name.split(':')[0]
  changes = []
  if kind in RELEASED and verb in ('main', 'data', 'prepare'):
    changes += ['data.official=False']
  if kind == 'digits' and verb in ('main', 'sweep', 'detect'):
    changes += ['data.crops=1']
  if verb in ('main', 'sweep'):
    # A config file that the page writes is small already: its network is the one that readers train.
    changes += SHORT if kind in ('digits', 'embeddings') or kind.endswith('.py') else TINY
  fast = ['--permutations=100', '--steps=16'] if verb == 'detect' else []
  return [*(f'--config.{change}' for change in changes), *fast]


# The README, whose data are drawn, and a page whose data are read, in the quick suite
QUICK = ('README', 'docs/guides/data/folder')


@pytest.mark.parametrize('page', [p if p in QUICK else pytest.param(p, marks=pytest.mark.full) for p in PAGES])
def test_every_command_runs(page, root, place, photos, monkeypatch, capsys):
  monkeypatch.chdir(place)
  monkeypatch.setattr(parameters, 'length', lambda *_: 2)  # as SHORT for commands
  for made in ('runs', 'report', 'shards'):
    shutil.rmtree(place / made, ignore_errors=True)  # pages do not lean on each other
  scope, ran = {}, 0
  for language, text in blocks(root / f'{page}.md'):
    if language == 'python' and (name := re.match(r'# (\w+\.py)\n', text)):
      (place / name[1]).write_text(text)
    elif language == 'python':
      exec(compile(text, page, 'exec'), scope)
      ran += 1
    elif language == 'bash':
      for verb, argv in commands(text):
        app.call(verb, [*argv, *smaller(verb, argv)])
        ran += 1
  assert ran
  if page == 'docs/start/tutorial':
    recorded = [json.loads((place / 'runs' / run / 'config.json').read_text()) for run in ('erm', 'ule')]
    assert all((c['model']['name'], c['model']['width'], c['data']['size']) == ('cnn', 16, 32) for c in recorded)
    made = ('report/index.html', 'diagnosis/index.html', 'predictions.csv', 'model.safetensors', 'model.json')
    assert all((place / name).is_file() for name in made)
    assert "['serious', 'smiling'] (2, 2)" in capsys.readouterr().out


@pytest.mark.full
def test_every_key_of_the_results_is_declared(place, monkeypatch):
  monkeypatch.chdir(place)
  argv = ['--config=digits:ule', '--workdir=runs/keys']
  app.call('main', [*argv, *smaller('main', argv)])
  results = json.loads((place / 'runs' / 'keys' / 'results.json').read_text())
  keys, metrics = ({name for names in table for name in names} for table in (KEYS, METRICS))
  assert {key for key in results if not key.startswith('val_')} <= keys
  assert results['test'].keys() <= metrics


def kinds(cell) -> list[str]:
  """Return the kind of each output of a notebook's cell: the name of a stream, or the best format of a display."""
  formats = ('image/png', 'text/html', 'text/plain')
  return [
    out['name'] if out['output_type'] == 'stream' else next(kind for kind in formats if kind in out['data'])
    for out in cell['outputs']
  ]


def test_the_notebook_has_its_outputs(root):
  """Those of a run in order from the first cell: numbers as text, pictures as PNG, no error, and not many bytes."""
  path = root / 'docs' / 'start' / 'digits.ipynb'
  cells = [cell for cell in json.loads(path.read_text())['cells'] if cell['cell_type'] == 'code']
  assert [cell['execution_count'] for cell in cells] == [*range(1, len(cells) + 1)]
  assert {kind for cell in cells for kind in kinds(cell)} == {'stdout', 'image/png'}
  assert path.stat().st_size < 300_000


@pytest.mark.full
def test_the_notebook_runs_and_shows_what_it_has(root, tmp_path):
  """A shorter run has the same kinds of output in every cell."""
  nbformat, nbclient = pytest.importorskip('nbformat'), pytest.importorskip('nbclient')
  notebook = nbformat.read(root / 'docs' / 'start' / 'digits.ipynb', as_version=4)
  committed = [kinds(cell) for cell in notebook.cells if cell.cell_type == 'code']
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      cell.source = cell.source.replace('STEPS = 600', 'STEPS = 20').replace('CROPS = 8', 'CROPS = 1')
  with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of the notebook's machinery
    patch.setenv('PYTHONPATH', os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')]))
    nbclient.NotebookClient(notebook, timeout=120, resources={'metadata': {'path': str(tmp_path)}}).execute()
  assert [kinds(cell) for cell in notebook.cells if cell.cell_type == 'code'] == committed


@pytest.mark.full
def test_the_notebook_of_arrays_runs(root, tmp_path):
  nbformat, nbclient = pytest.importorskip('nbformat'), pytest.importorskip('nbclient')
  path = root / 'docs' / 'start' / 'arrays.ipynb'
  notebook = nbformat.read(path, as_version=4)
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert len(code) < 10
  assert path.stat().st_size < 100_000, 'its outputs are kept: keep them small'
  with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of the notebook's machinery
    patch.setenv('PYTHONPATH', os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')]))
    nbclient.NotebookClient(notebook, timeout=120, resources={'metadata': {'path': str(tmp_path)}}).execute()
  assert not [out for cell in code for out in cell.outputs if out.output_type == 'error']
  assert (tmp_path / 'model.safetensors').is_file()
