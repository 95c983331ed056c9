"""Every config with every method makes a step; every field is read; mistyped ones are refused."""

import importlib
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import from_flags
from sources import SOURCES

from ule_jax import load_config
from ule_jax.cli import app
from ule_jax.config.fields import flatten
from ule_jax.config.validate import parse_config, validate_config
from ule_jax.errors import UserError
from ule_jax.methods import METHODS, Batch, Sizes
from ule_jax.models import make_model, make_network
from ule_jax.models.build import make_preprocess
from ule_jax.optim import make_optimizer
from ule_jax.train.assemble import make_method
from ule_jax.train.step import create_state, make_train_step
from ule_jax.two_stage import TWO_STAGE

SOMEWHERE, FEATURES = ('--config.data.dir=somewhere',), ('--config.data.file=some.npz',)
CONFIGS = {'digits': ()} | dict.fromkeys(('waterbirds', 'celeba', 'spawrious', 'urbancars', 'folder'), SOMEWHERE)
CONFIGS['embeddings'] = FEATURES


SMALL = ('--config.model.name=cnn', '--config.model.width=8', '--config.model.depth=1', '--config.data.size=16')


def load(name, method='ule', *changes):
  return from_flags(f'{name}:{method}', *CONFIGS[name], *changes)


def test_every_config_file_is_listed_here(root):
  assert {p.stem for p in (root / 'configs').glob('*.py')} - {'__init__', 'base'} == set(CONFIGS)


@pytest.mark.parametrize('name', CONFIGS)
def test_the_tables_of_options_and_of_methods_name_the_same(name):
  from configs import base

  assert set(base.METHODS) == set(METHODS)
  assert load(name, 'erm').method.name == 'erm'


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.parametrize('method', METHODS)
def test_every_config_and_method_makes_a_step(name, method):
  """Traced: shapes and types only, with a small network."""
  traced(name, load(name, method, *(() if name in ('digits', 'embeddings') else SMALL)))


@pytest.mark.full
@pytest.mark.parametrize('name', [name for name in CONFIGS if name not in ('digits', 'embeddings')])
def test_every_config_makes_a_step_of_ule_at_full_size(name):
  traced(name, load(name, 'ule'))


def traced(name, config):
  size = config.data.size if 'size' in config.data else 16
  k, g = {'spawrious': (4, 24), 'urbancars': (2, 8)}.get(name, (2, 4))
  config = parse_config(config)
  made = make_method(config, Sizes(1000, k, g, np.full(g, 1000 // g)))
  model = make_model(config.model, k)
  tx = make_optimizer(config.optim, made.roles, 100)
  width = 5 if name == 'embeddings' else 3
  preprocess, key = make_preprocess((0.5,) * width, (0.2,) * width), jax.random.key(0)
  image = jnp.zeros((8, width), jnp.float16) if name == 'embeddings' else jnp.zeros((8, size, size, 3), jnp.uint8)
  ids = jnp.zeros(8, jnp.int32)
  state = jax.eval_shape(lambda: create_state(made, model, tx, preprocess(image), key))
  batch = Batch(image, ids, ids, ids, jnp.ones(8))
  after, metrics = jax.eval_shape(make_train_step(made, model, tx, key, preprocess), state, batch)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
  assert f'loss/{made.roles[-1]}' in metrics


@pytest.mark.parametrize(
  ('name', 'model'),
  [
    *((name, 'resnet50') for name in ('waterbirds', 'celeba', 'spawrious', 'urbancars')),
    *((name, 'vit_b16') for name in ('waterbirds', 'celeba')),
  ],
)
def test_full_recipes_fine_tune_or_train_heads_on_frozen_features(name, model):
  """ULE at full size: heads on the features of the network, which itself is traced above."""
  variant = '' if model == 'resnet50' else f',{model}'
  tuned, frozen = (load(name, f'ule{variant}{more}') for more in ('', ',frozen'))
  assert tuned.model.name == frozen.model.name == model
  assert tuned.model.weights == frozen.model.weights == 'default'
  assert (tuned.method.at, frozen.method.at) == ('image', 'features')
  assert (tuned.model.encoder, frozen.model.encoder) == ('trained', 'frozen')
  for config in (tuned, frozen):
    validate_config(config)
  width, size = {'resnet50': 2048, 'vit_b16': 768}[model], tuned.data.size
  network = make_network(SimpleNamespace(**tuned.model), 2)
  out = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False))
  assert out[0][1].shape == (1, width)
  head = make_model(SimpleNamespace(**frozen.model), 2)
  logits, _ = jax.eval_shape(lambda: head.init_with_output(jax.random.key(0), jnp.zeros((1, width)), train=False))[0]
  assert logits.shape == (1, 2)


def built(name, method):
  """The config that a row of tests/sources.py speaks of; that of `base` is made for a data set without a recipe."""
  from configs import base

  if name != 'base':
    return load(name, method)
  first, variant = method.startswith('two_stage.'), method.startswith(',')
  config = base.make('folder', 'erm' if first or variant else method)
  return base.vary(config, [base.VARIANTS[method[1:]]]) if variant else config


@pytest.mark.parametrize('place', SOURCES, ids=' '.join)
def test_what_claims_a_source_is_what_the_source_says(place):
  fields = flatten(built(*place).to_dict())
  for source, claims in SOURCES[place]:
    assert source.startswith('ours') or re.search(r'^arXiv \d{4}\.\d{5}|^[\w-]+/[\w-]+[ ,]', source), source
    assert {field: fields[field] for field in claims} == claims, source


def test_every_number_of_a_recipe_has_its_source():
  """Of `digits` they are measured: setting `methods` of benchmarks/robustness."""
  for name in CONFIGS:
    module = importlib.import_module(f'configs.{name}')
    for method, changes in () if name == 'digits' else getattr(module, 'RECIPES', {}).items():
      said = {field for _, claims in SOURCES.get((name, method), ()) for field in claims}
      assert not changes.keys() - said, f'{name}:{method} has no source in tests/sources.py for {changes.keys() - said}'


def test_every_default_that_names_a_source_is_in_the_table():
  """The meaning of an option that ends in the name of a repository is such a claim."""
  named = 'group_DRO|LfF|DomainBed|LISA|correct-n-contrast|jtt|Whac-A-Mole|SpuCo|DFR|afr'
  rows = {('base', name): (row, 'method.{}') for name, row in METHODS.items()}
  rows |= {('base', f'two_stage.{name}'): (row, f'two_stage.{name}.{{}}') for name, row in TWO_STAGE.items()}
  claims = {
    (option, field.description): [
      dotted.format(option)
      for place, (other, dotted) in rows.items()
      if getattr(other.options.model_fields.get(option), 'description', '') == field.description
      for _, fields in SOURCES.get(place, ())
      if dotted.format(option) in fields
    ]
    for row, _ in rows.values()
    for option, field in row.options.model_fields.items()
    if re.search(rf'\b(?:{named})(?:, \w+)?$', field.description or '')
  }
  assert len(claims) > 20
  for (option, meaning), sources in claims.items():
    assert sources, f'{option} ({meaning}) claims a source that tests/sources.py lacks'


def test_every_repository_that_a_config_names_is_in_the_table(root):
  ours = ('configs', 'benchmarks', 'docs', 'val', 'OWNER', 'HOME')
  for name in CONFIGS:
    text = (root / 'configs' / f'{name}.py').read_text()
    pairs = re.findall(r'(?<![\w./<$-])([\w-]+)/([A-Za-z][\w-]+)', text)
    named = {f'{owner}/{project}' for owner, project in pairs if owner not in ours} - {'p-lambda/wilds'}  # an issue
    said = {re.split('[ ,]', source)[0] for place, rows in SOURCES.items() if place[0] == name for source, _ in rows}
    assert named <= said, f'{name}.py names {named - said}, of which tests/sources.py has nothing'


@pytest.mark.parametrize('name', ['waterbirds', 'celeba'])
@pytest.mark.parametrize('method', ['lff', 'irm', 'vrex', 'coral', 'mmd', 'mixup'])
def test_recipes_of_subpopbench_keep_the_statistics_of_batchnorm(name, method):
  """Its networks put BatchNorm into evaluation mode whenever they go into training mode."""
  assert load(name, method).model.batch_norm == 'frozen'
  assert load(name, 'erm').model.batch_norm == 'batch'
  validate_config(load(name, method))


def test_every_field_is_read_somewhere(root):
  source = '\n'.join(p.read_text() for p in (root / 'ule_jax').rglob('*.py'))
  fields = {f for name in CONFIGS for method in METHODS for f in flatten(load(name, method).to_dict())}
  unread = [f for f in fields if not re.search(rf'\b{f.split(".")[-1]}\b', source)]
  assert not unread


def test_a_config_is_locked():
  with pytest.raises(AttributeError):
    load('digits').optim.learning_rate = 1


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (['--config=digits', '--config.optim.ls=1'], r'unknown field --config.optim.ls: did you mean --config.optim.lr'),
    (['--config=digits:ulee'], r"unknown method 'ulee': did you mean 'ule'"),
    (['--config=digitz'], r'digitz does not exist: did you mean digits'),
    (['--config=digits', '--config.optim.lr=fast'], r'optim.lr'),
    (['--config=digits', '--wrkdir=x'], r'unknown flag --wrkdir: did you mean --workdir'),
    (['--config=digits', '--workdir'], r'--workdir has no value'),
    (['--config=digits', '--force=maybe'], r'invalid value for --force: unable to convert "maybe" into bool'),
    (['--config=digits', 'extra'], r"unexpected argument 'extra'"),
    (['--workdir=x'], r'give --config=FILE.*, a file, or the name of a shipped config; see --help'),
    (['--config=digits', '--config=celeba'], r'parameter --config specified multiple times'),
    (['--config=celeba'], r'ULE_DATA'),
    (['--config=folder', '--config.data.on_bad_image=drop', *SOMEWHERE], r"unknown data.on_bad_image 'drop'"),
    (['--config=folder', *SOMEWHERE], r'data.dir somewhere is not a folder'),
    (['--config=digits', '--config.method.term=opose'], r"unknown method.term 'opose': did you mean 'oppose'"),
    (['--config=digits', '--config.model.name=resnet51'], r"unknown model.name 'resnet51': did you mean 'resnet5"),
    (['--config=digits', '--config.method.weight=-1'], r'method.weight is -1.0: give a number from 0 on'),
    (['--config=digits', '--config.method.weight=nan'], r'method.weight is nan'),
    (['--config=digits', '--config.method.q=0'], r'method.q is 0'),
    (
      ['--config=digits', '--config.method.trust_exponent=-1'],
      r'method.trust_exponent is -1.0: give a number from 0 on',
    ),
    (['--config=digits', '--config.method.mistake_share=7'], r'method.mistake_share is 7.0: give a number from 0 to 1'),
    (['--config=digits', '--config.train.steps=0'], r'train.steps and train.epochs are both 0'),
    (['--config=digits', '--config.select=val/acuracy'], r"unknown selection rule 'val/acuracy'"),
    (['--config=digits', '--config.train.sampling=balanced'], r"unknown train.sampling 'balanced'"),
    (['--config=digits', '--config.optim.trainable=('], r'optim.trainable'),
    (['--config=digits', '--config.model.name=vit', '--config.model.heads=5'], r'not a multiple of model.heads 5'),
    (
      ['--config=digits', '--config.model.name=vit', '--config.model.depth=0'],
      r'model.depth is 0, but a vision transf',
    ),
    (['--config=digits', '--config.model.head_init=tim'], r"unknown model.head_init 'tim': did you mean 'timm'"),
    (['--config=digits', '--config.model.fast_variance=False'], r'model.fast_variance=False changes nothing here'),
    (['--config=digits', '--config.model.name=cnn', '--config.model.fast_variance=False'], r'changes nothing here'),
    (
      ['--config=folder', *SOMEWHERE, '--config.model.batch_norm=frozen', '--config.model.fast_variance=False'],
      r'changes nothing here',
    ),
    (
      ['--config=folder', *SOMEWHERE, '--config.model.keep_head=True', '--config.model.head_init=zero'],
      r'model.head_init is of a new last layer',
    ),
    (['--config=celeba:ule,frozn', *SOMEWHERE], r"unknown variant 'frozn': did you mean 'frozen'"),
    (['--config=celeba:,frozen', *SOMEWHERE], r'names a variant without a method'),
    (['--config=digits', '--config.model.precision=half'], r"unknown model.precision 'half'"),
  ],
)
def test_bad_usage_is_one_sentence_with_code_2(argv, message, monkeypatch, capsys, tmp_path):
  from ule_jax.cli import app

  monkeypatch.setattr('sys.argv', ['main', *argv])
  monkeypatch.delenv('ULE_DATA', raising=False)
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as end:
    app.run_verb('main')
  assert end.value.code == 2
  said = capsys.readouterr().err.strip()
  assert re.search(message, said), said
  assert 'Traceback' not in said
  assert len(said.splitlines()) == 1
  assert not list(tmp_path.iterdir())


def test_the_method_can_be_named_as_a_field():
  assert load('digits', 'ule', '--config.method.name=erm').method.name == 'erm'


def test_configs_are_found_by_path_and_from_any_folder(root, tmp_path, monkeypatch):
  by_path = load_config(f'{root}/configs/digits.py:erm')
  monkeypatch.chdir(tmp_path)
  for spec in ('digits:erm', 'configs/digits.py:erm'):
    assert load_config(spec) == by_path
  own = tmp_path / 'mine.py'
  text = 'from configs import digits\n\ndef get_config(method="ule"):\n  c = digits.get_config(method)\n'
  own.write_text(f'{text}  c.seed = 7\n  return c\n')
  assert load_config('mine.py:erm').seed == load_config(own).seed == 7
  own.write_text('def get_config(:\n')
  with pytest.raises(UserError, match=r'mine.py:1: invalid syntax'):
    load_config('mine.py')


BODY = 'from configs import base\n\ndef get_config():\n  c = base.make("digits", "ule")\n  {}\n  return c\n'


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('clip.npz', 'PK', r'--config=clip.npz is no Python file: give a config as a .py file, or a shipped one: celeba, '),
    ('config.json', '{}', r'--config=config.json is no Python file'),
    ('without', 'x = 1', r'--config=without is no Python file'),
    ('folders', None, r'--config=folders is a folder'),
    ('dir.py', None, r'--config=dir.py is a folder'),
    ('mine.py', 'x = 1', r'mine.py has no function get_config: write one'),
    ('mine.py', 'get_config = 3', r'mine.py has no function get_config'),
    ('mine.py', '', r'mine.py has no function get_config'),
    ('mine.py', 'def get_config():\n  raise RuntimeError("a\\nb")', r'^mine.py:2: a b$'),
    ('mine.py', 'def get_config():\n  return', r'mine.py: get_config returns NoneType None: return what'),
    ('mine.py', '\n\ndef get_config(:', r'^mine.py:3: invalid syntax$'),
    ('mine.py', 'x = 1\0', r'mine.py: source code string cannot contain null bytes'),
    ('mine.py', 'import nothing_of_this_name', r"^mine.py:1: No module named 'nothing_of_this_name'$"),
    ('mine.py', 'raise SystemExit(3)', r'^mine.py:1: it exits \(3\)'),
    ('mine.py', 'def get_config(): return {}["x"]', r"^mine.py:1: there is no 'x'\.$"),
    ('mine.py', BODY.format('c.method.wieght = 1'), r'^mine.py:5: there is no field wieght: did you mean weight\?$'),
    ('mine.py', BODY.format('c.optmi.lr = 1'), r'^mine.py:5: there is no field optmi: did you mean optim\?$'),
    ('mine.py', BODY.format('c["train"]["stps"] = 1'), r'^mine.py:5: there is no field stps: did you mean steps\?$'),
    ('mine.py', BODY.format('c.update({"optim": {"lrr": 1}})'), r'^mine.py:5: there is no field lrr: did you mean lr'),
    (
      'mine.py',
      BODY.format('c.update_from_flattened_dict({"methd.weight": 1})'),
      r'^mine.py:5: there is no field methd.weight: did you mean method.weight\?$',
    ),
    ('mine.py', BODY.format('c.train.qqqq = 1'), r'^mine.py:5: there is no field qqqq: docs/reference/config.md has'),
    ('mine.py', BODY.format('c.unlock().method.wieght = 1'), r'no field method.wieght: did you mean method.weight'),
    ('mine.py', BODY.format('c.optim.lr = "fast"'), r"^mine.py:5: .* 'lr' .*fast is of original type str"),
    ('mine.py', BODY.format('base.make("digitz", "ule")'), r"^mine.py:5: unknown data set 'digitz': did you mean 'dig"),
    ('mine.py', BODY.format('raise ValueError("x" * 9999)'), r'^mine.py:5: x{300}$'),
  ],
)  # fmt: skip
def test_what_a_config_file_does_wrong_is_one_sentence(name, content, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  if content is None:
    (tmp_path / name).mkdir()
  else:
    (tmp_path / name).write_text(content)
  with pytest.raises(UserError, match=message) as end:
    load_config(name)
  assert '\n' not in str(end.value)


def test_a_folder_of_the_name_of_a_shipped_config_does_not_hide_it(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'digits').mkdir()
  assert load_config('digits').data.name == 'digits'


def test_data_dir_comes_from_the_environment(monkeypatch):
  monkeypatch.setenv('ULE_DATA', '/data')
  assert load_config('celeba').data.dir == '/data/celeba'


def test_the_console_script_mirrors_the_modules(monkeypatch, capsys):
  monkeypatch.setattr('sys.argv', ['ule-jax', '--help'])
  app.command()
  listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith('  ')]
  assert listed == list(app.VERBS)
  monkeypatch.setattr('sys.argv', ['ule-jax', 'mian'])
  with pytest.raises(SystemExit) as end:
    app.command()
  assert end.value.code == 2
  assert "did you mean 'main'" in capsys.readouterr().err
