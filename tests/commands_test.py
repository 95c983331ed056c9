"""Help and errors of the command line: one sentence and code 2, before jax is imported, for every verb."""

import json
import re
import subprocess
import sys

import pytest
from common import from_flags
from PIL import Image

from ule_jax.cli import app
from ule_jax.data.listing import SUFFIXES
from ule_jax.methods import METHODS
from ule_jax.runs.results import REQUIRED

# Runs the command lines of one verb in one process: their codes and what they said, and what was imported by then.
RUN = """
import contextlib, io, json, sys
from ule_jax.cli import app
verb, commands = sys.argv[1], json.loads(sys.argv[2])
ended = []
for argv in commands:
  said = io.StringIO()
  sys.argv = ['verb', *argv]
  with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    try:
      app.run_verb(verb)
    except SystemExit as end:
      code = end.code
    except BaseException as error:
      code = repr(error)
  ended.append((code, said.getvalue(), sorted({'jax', 'flax', 'torch', 'tensorflow'} & set(sys.modules))))
print(json.dumps(ended))
"""
CONFIG = [
  (['--config=nowhere'], 'config file nowhere does not exist'),
  (['--config=digits', '--config.optim.ls=1'], 'unknown field --config.optim.ls'),
  (['--config=digits', '--config.optim.lr=fast'], 'optim.lr'),
  (['--config=digits:ulee'], "unknown method 'ulee'"),
  (['--config=clip.npz'], '--config=clip.npz is no Python file'),
  (['--config=celeba'], 'no data folder'),
  (['--workdirs=x'], 'unknown flag --workdirs'),
  (['digits'], "unexpected argument 'digits'"),
]
OF_A_RUN = [
  (['--run=nowhere'], 'nowhere holds no run (no config.json)'),
  (['--run=bare'], 'bare holds no run (no config.json)'),
  (['--run=cut'], 'cut holds a run that is not done'),
  (['--run=torn'], 'config.json cannot be read'),
  (['--run=other'], 'is a run of another version of ule_jax (there is no optim.speed)'),
  (['--compilation-cache=off'], 'give --run'),
  (['--run'], '--run has no value'),
  (['run'], "unexpected argument 'run'"),
]
PREDICT = [([*argv, '--input=in'], message) for argv, message in OF_A_RUN if argv != ['--run']] + [
  (['--run=run'], 'give --input'),
  (['--run=run', '--input=nowhere'], '--input nowhere is no image and no folder'),
  (['--run=run', '--input=bare'], 'bare holds no image'),
  (
    ['--run=run', '--input=in', '--on-bad-image=drop'],
    'invalid value "drop" for --on-bad-image; choose from: "fail", "skip"',
  ),
  (['--run=run', '--input=in', '--out=in'], 'in cannot be written (it is a folder)'),
  (['--run=run', '--input=bad'], 'image x.png cannot be decoded'),
  (['--run=run', '--input=bad', '--on-bad-image=skip'], 'no image of the input can be decoded'),
  (['--run=run', '--input=in', '--threads=-1'], 'invalid value "-1" for --threads; must be >= 0'),
]
CASES = {
  'main': CONFIG,
  'data': [*CONFIG, (['--config=folder', '--config.data.dir=nowhere'], 'data.dir nowhere is not a folder')],
  'prepare': [
    *CONFIG,
    (['--config=digits'], 'give --out=NEW'),
    (['--config=digits', '--out=bare'], 'bare exists'),
    (['--config=folder', '--config.data.dir=nowhere', '--out=new'], 'data.dir nowhere is not a folder'),
  ],
  'embed': [
    *CONFIG,
    (['--config=digits', '--out=f.csv'], '--out f.csv ends on no kind of file'),
    (['--config=digits', '--checkpoint=x.pth'], '--checkpoint is of --timm'),
    (['--config=embeddings', '--config.data.file=f.npz'], 'embeddings are features already'),
    (['--config=folder:ule', '--config.data.dir=nowhere', '--timm=resnet18'], 'data.dir nowhere is not a folder'),
  ],
  'sweep': [
    *CONFIG,
    (['--config=digits'], 'give at least one axis'),
    (['--config=digits', '--axis=optim.ls=1'], "unknown field of --axis 'optim.ls'"),
    (['--config=digits', '--axis=train.steps=1,2'], 'train.steps cannot be an axis'),
    (['--config=digits', '--axis=seed=a'], '--axis=seed=a: write numbers'),
  ],
  'evaluate': [
    *OF_A_RUN,
    (['--run=run', '--saliency=few'], 'invalid value for --saliency: unable to convert "few"'),
  ],
  'report': [(['nowhere'], 'nowhere is no folder'), (['bare'], 'bare holds no run'), (['--outs=x'], 'unknown flag')],
  'predict': PREDICT,
  'export': [*OF_A_RUN, (['--run=run', '--out=model.onnx'], '--out model.onnx is for the StableHLO artifact')],
  'diagnose': [
    *OF_A_RUN,
    (['--run=run', '--clusters=1'], '--clusters is 1'),
    (['--run=run', '--out=in'], 'in exists and is no page of ule_jax.diagnose'),
  ],
  'detect': [
    *CONFIG,
    (['--config=digits', '--network=vgg'], "unknown --network 'vgg'"),
    (['--config=digits', '--split=tset'], "unknown split 'tset'"),
    (['--config=digits', '--out=in'], 'in exists and is no page of ule_jax.detect'),
  ],
  'models.pretrained': [
    (['nowhere.pth'], 'model.weights nowhere.pth is no file'),
    (['x.pth', '--model=resnet51'], "unknown network 'resnet51'"),
    (['x.pth', '--model=mlp'], 'mlp has sizes of its own'),
    (['a.pth', 'b.pth'], "unexpected argument 'b.pth'"),
    (['default', '--model=resnet20'], 'resnet20 has no usual weights'),
  ],
}

GREETING = '''
from typing import Annotated

from cyclopts import Parameter

from ule_jax.cli.arguments import ConfigFields


def greet(
  *,
  full_name: Annotated[str, Parameter(metavar='TEXT')],
  times: int = 1,
  loud: Annotated[bool, Parameter(negative='--no-loud')] = True,
  word: tuple[str, ...] = (),
  overrides: ConfigFields = (),
):
  """Greet somebody.

  For example:

    python -m greeting --name=Ada

  Args:
    full_name: who is greeted.
    times: how often.
  """
  print(full_name, times, loud, word, overrides)
'''


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """The folders of the command lines: a run as far as it is read before jax is imported, and defective ones."""
  root = tmp_path_factory.mktemp('place')
  config = from_flags('digits').to_dict()
  results = dict.fromkeys(REQUIRED) | {'step': 1, 'classes': ['a', 'b'], 'roles': {'student': {}, 'teacher': {}}}
  for name in ('run', 'cut', 'torn', 'other', 'bare', 'in', 'bad'):
    (root / name).mkdir()
  for name in ('run', 'cut', 'torn', 'other'):
    of = config | ({'optim': config['optim'] | {'speed': 3}} if name == 'other' else {})
    (root / name / 'config.json').write_text('{"seed":' if name == 'torn' else json.dumps(of))
    (root / name / 'results.json').write_text(json.dumps(results))
    (root / name / 'done').touch()
  (root / 'cut' / 'done').unlink()
  (root / 'clip.npz').write_bytes(b'PK')
  Image.new('RGB', (4, 4)).save(root / 'in' / 'x.png')
  (root / 'bad' / 'x.png').write_bytes(b'no image')
  return root


def test_every_verb_is_here():
  assert set(CASES) == set(app.VERBS)


@pytest.mark.parametrize('verb', CASES)
def test_help_and_usage_errors_come_before_jax(verb, place, monkeypatch):
  monkeypatch.delenv('ULE_DATA', raising=False)
  before = sorted(place.rglob('*'))
  commands = [['--help'], ['--nonsense=1'], *(argv for argv, _ in CASES[verb])]
  command = [sys.executable, '-c', RUN, verb, json.dumps(commands)]
  ended = json.loads(subprocess.run(command, cwd=place, capture_output=True, text=True, check=True).stdout)
  expected = [(0, 'Exit codes: 0 '), (2, 'unknown flag --nonsense'), *((2, message) for _, message in CASES[verb])]
  for argv, (code, said, imported), (due, message) in zip(commands, ended, expected, strict=True):
    assert (code, imported) == (due, []), (argv, said)
    assert message in said, argv
    assert code == 0 or len(said.splitlines()) == 1, argv
  assert sorted(place.rglob('*')) == before


def test_the_console_script_helps_before_jax(place):
  code = 'import sys\nfrom ule_jax.cli import app\nsys.argv = ["ule-jax", "predict", "--help"]\n'
  code += 'try:\n  app.command()\nfinally:\n  sys.exit("jax" in sys.modules)'
  ended = subprocess.run([sys.executable, '-c', code], cwd=place, capture_output=True, text=True, check=True)
  assert '--on-bad-image' in ended.stdout
  assert all(f' {suffix[1:]}' in ended.stdout.replace('\n', ' ') for suffix in SUFFIXES)


@pytest.mark.parametrize('module', [True, False])
def test_without_a_verb_it_greets_with_the_first_verbs_before_jax(module, place):
  code = 'import runpy, sys; sys.argv = ["ule_jax"]; '
  code += (
    'runpy.run_module("ule_jax", run_name="__main__")' if module else 'from ule_jax.cli.app import command; command()'
  )
  code += '; sys.exit("jax" in sys.modules or "cyclopts" in sys.modules)'
  text = subprocess.run([sys.executable, '-c', code], cwd=place, capture_output=True, text=True, check=True).stdout
  assert text.splitlines()[0] == app.HELP
  assert f'  {app.EXAMPLE}\n' in text
  assert re.findall(r'^  python -m ule_jax\.(\w+)  ', text, re.M) == [*app.FIRST]
  assert len(app.FIRST) == 5
  assert {*app.FIRST} < {*app.VERBS}
  assert 'ule-jax --help has all verbs' in text
  assert len(text.splitlines()) < 20


def test_the_package_runs_verbs_as_the_script_does(place):
  command = [sys.executable, '-m', 'ule_jax', 'mein']
  ended = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
  assert ended.returncode == 2
  assert ended.stderr.startswith("error: unknown verb 'mein': did you mean 'main'?")


def test_help_says_which_method_as_the_readme_does(root, capsys):
  """The three rows of the README, which has Markdown's marks beside them."""
  assert run('main', '--help') == 0
  text = ' '.join(capsys.readouterr().out.split())
  title = f'Which of the {len(METHODS)} methods?'
  page = (root / 'README.md').read_text().partition(f'## {title}')[2].partition('\n## ')[0]
  rows = [line.strip('| ').replace('`', '').split(' | ') for line in page.splitlines() if line.startswith('| ')][1:]
  assert len(rows) == 3
  assert f'{title} {" ".join(cell for row in rows for cell in row)} ' in text


def run(*argv):
  """Run `ule-jax ...` in this process: its exit code."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('sys.argv', ['ule-jax', *argv])
    with pytest.raises(SystemExit) as end:
      app.command()
  return end.value.code


@pytest.mark.parametrize('verb', app.VERBS)
def test_help_is_one_screen_of_plain_text_with_examples(verb, monkeypatch, capsys):
  for argv in ([], ['--help'], ['-h'], ['-help'], ['--nonsense', '--help']):
    assert run(verb, *argv) == 0
    text = capsys.readouterr().out
    assert text.startswith('Usage: ule-jax ')
    assert f'python -m ule_jax.{verb} ' in text
    assert app.EXIT_CODES in text
    assert max(map(len, text.splitlines())) <= 100
    assert len(text.splitlines()) <= 40
    assert text.isascii()
    assert text.isprintable() or set(filter(lambda c: not c.isprintable(), text)) == {'\n'}


def test_a_verb_is_one_file_and_one_row(tmp_path, monkeypatch, capsys):
  (tmp_path / 'greeting.py').write_text(GREETING)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setitem(app.VERBS, 'greet', 'greeting:greet')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('sys.argv', ['ule-jax', '--help'])
    app.command()
  assert any(line.split() == ['greet', 'Greet', 'somebody.'] for line in capsys.readouterr().out.splitlines())
  assert run('greet', '--help') == 0
  text = capsys.readouterr().out
  assert 'python -m greeting --name=Ada' in text
  assert '--full-name TEXT  who is greeted. [required]' in ' '.join(text.split()).replace('TEXT who', 'TEXT  who')
  assert '[default: 1]' in text
  for argv, said in (
    (['--full-name=Ada'], 'Ada 1 True () []'),
    (['--full_name', 'Ada', '--times=2', '--loud=false', '--word=a', '--word', 'b'], "Ada 2 False ('a', 'b') []"),
    (['--full-name=Ada', '--no-loud', '--full-name=Bob'], 'Bob 1 False () []'),
    (
      ['--full-name=A', '--config.a.b=c=d', '--config.e', 'f', '--config.g='],
      "[('a.b', 'c=d'), ('e', 'f'), ('g', '')]",
    ),
  ):
    assert run('greet', *argv) == 0
    assert said in capsys.readouterr().out
  for argv, message in (
    (['--times=2'], 'give --full-name=TEXT, who is greeted; see --help.'),
    (['--fullname=Ada'], 'unknown flag --fullname: did you mean --full-name?'),
    (['--full-name'], '--full-name has no value: write --full-name=VALUE.'),
    (['--full-name='], '--full-name has no value: write --full-name=VALUE.'),
    (['--full-name=Ada', '--config.a'], '--config.a has no value: write --config.a=VALUE.'),
    (['--full-name=Ada', '--times'], '--times has no value: write --times=VALUE.'),
    (['--full-name=Ada', '--times=two'], 'invalid value for --times: unable to convert "two" into int.'),
    (['--full-name=Ada', '--loud=maybe'], 'invalid value for --loud: unable to convert "maybe" into bool.'),
    (['--full-name=Ada', 'Bob'], "unexpected argument 'Bob': flags look like --NAME=VALUE; see --help."),
    (['--full-name=Ada', '-x'], 'unknown flag -x: see --help.'),
  ):
    assert run('greet', *argv) == 2
    assert capsys.readouterr().err == f'error: {message}\n'


def test_a_verb_without_a_config_refuses_fields_of_one(capsys):
  assert run('report', 'runs', '--config.seed=1') == 2
  assert capsys.readouterr().err == 'error: unknown flag --config.seed: report takes no config; see --help.\n'
