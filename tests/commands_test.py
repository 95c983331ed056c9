"""Help and errors of the command line: one sentence and code 2, before jax is imported, for every verb."""

import json
import subprocess
import sys

import pytest
from common import from_flags
from PIL import Image

from ule_jax.cli import app
from ule_jax.runs.results import REQUIRED

# Runs the command lines of one verb in one process: their codes and what they said, and what was imported by then.
RUN = """
import contextlib, importlib, io, json, sys
from ule_jax.cli import app
module, commands = sys.argv[1], json.loads(sys.argv[2])
ended = []
for argv in commands:
  said = io.StringIO()
  sys.argv = ['verb', *argv]
  with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    try:
      app.main(importlib.import_module(module).main)
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
  (['--run=run', '--input=in', '--on-bad-image=drop'], "unknown --on-bad-image 'drop'"),
  (['--run=run', '--input=in', '--out=in'], 'in cannot be written (it is a folder)'),
  (['--run=run', '--input=bad'], 'image x.png cannot be decoded'),
  (['--run=run', '--input=bad', '--on-bad-image=skip'], 'no image of the input can be decoded'),
  (['--run=run', '--input=in', '--threads=-1'], '--threads is a whole number'),
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
  'sweep': [
    *CONFIG,
    (['--config=digits'], 'give at least one axis'),
    (['--config=digits', '--axis=optim.ls=1'], "unknown field of --axis 'optim.ls'"),
    (['--config=digits', '--axis=train.steps=1,2'], 'train.steps cannot be an axis'),
    (['--config=digits', '--axis=seed=a'], '--axis=seed=a: write numbers'),
  ],
  'evaluate': [*OF_A_RUN, (['--run=run', '--saliency=few'], '--saliency is a whole number')],
  'report': [(['nowhere'], 'nowhere is no folder'), (['bare'], 'bare holds no run'), (['--outs=x'], 'unknown flag')],
  'predict': PREDICT,
  'export': [*OF_A_RUN, (['--run=run', '--out=model.onnx'], '--out model.onnx is for the StableHLO artifact')],
  'diagnose': [
    *OF_A_RUN,
    (['--run=run', '--clusters=1'], '--clusters is 1'),
    (['--run=run', '--out=in'], 'in exists and is no page of ule_jax.diagnose'),
  ],
  'models.pretrained': [
    (['nowhere.pth'], 'model.weights nowhere.pth is no file'),
    (['x.pth', '--model=resnet51'], "unknown network 'resnet51'"),
    (['x.pth', '--model=mlp'], 'mlp has sizes of its own'),
    (['a.pth', 'b.pth'], 'give one file of weights'),
    (['default', '--model=resnet20'], 'resnet20 has no usual weights'),
  ],
}


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
  command = [sys.executable, '-c', RUN, app.VERBS[verb], json.dumps(commands)]
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
