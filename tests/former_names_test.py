"""Former names of options work in files, in code, on the command line and in recorded runs, with one line each."""

import json

import pytest
from common import from_flags

import ule_jax
from ule_jax.config import former, validate
from ule_jax.config.fields import flatten
from ule_jax.errors import UserError
from ule_jax.runs import workdir
from ule_jax.train.run import run

NAMES = {  # present name, a value, and its text on the command line
  'method.hold_back': ('method.trust_exponent', 2.0, '2'),
  'first.prepare': ('two_stage.rule', 'eiil', 'eiil'),
  'first.steps': ('two_stage.steps', 5, '5'),
  'first.epochs': ('two_stage.epochs', 1.5, '1.5'),
  'first.workdir': ('two_stage.workdir', '/a', '/a'),
  'first.spare.clusters': ('two_stage.spare.clusters', 3, '3'),
}


@pytest.fixture(autouse=True)
def _announce_again(monkeypatch):
  monkeypatch.setattr(former, '_announced', set())


def nest(fields):
  nested = {}
  for name, value in fields.items():
    *parts, last = name.split('.')
    place = nested
    for part in parts:
      place = place.setdefault(part, {})
    place[last] = value
  return nested


def in_former_names(config):
  """A recorded config as it was before the renames."""
  fields = flatten(json.loads(json.dumps(config)))
  old = {
    name.replace('two_stage.rule', 'first.prepare').replace('two_stage.', 'first.'): v for name, v in fields.items()
  }
  if 'method.trust_exponent' in old:
    old['method.hold_back'] = old.pop('method.trust_exponent')
  return nest(old | {f'first.method.{name}': v for name, v in former.REMOVED['two_stage.method'].items()})


def said(capsys):
  return capsys.readouterr().err.splitlines()


def test_every_former_name_is_tested():
  present = {new for new, _, _ in NAMES.values()}
  assert {new for new in former.former_names().values() if new != 'two_stage'} <= present
  assert former.former_names().keys() >= {'first', 'two_stage.prepare', 'method.hold_back'}


@pytest.mark.parametrize('old', NAMES)
def test_former_names_in_a_users_file(old, tmp_path, capsys):
  new, value, _ = NAMES[old]
  path = tmp_path / 'mine.py'
  path.write_text(
    'from configs import base\n\ndef get_config():\n  c = base.make("digits", "ule")\n'
    f'  c.train.steps = 3\n  c.{old} = {value!r}\n  assert c.{old} == c.{new} == {value!r}\n  return c\n'
  )
  config = ule_jax.load_config(path)
  assert flatten(config.to_dict())[new] == value
  assert validate.parse_config(config).flat()[new] == value
  first, *others = said(capsys)
  below = ['note: two_stage.prepare is called two_stage.rule now; the former name still works.']
  assert others == (below if old == 'first.prepare' else [])
  assert first.endswith('the former name still works.')
  assert new.partition('.')[0] in first


@pytest.mark.parametrize('old', NAMES)
def test_former_names_in_code(old, capsys):
  new, value, _ = NAMES[old]
  config = ule_jax.load_config('digits:ule')
  config.update_from_flattened_dict({old: value})
  assert flatten(config.to_dict())[new] == value
  assert ule_jax.load_config('digits:ule', {old: value}) == config
  other = ule_jax.load_config('digits:ule')
  other.update(nest({old: value}))
  assert other == config
  assert said(capsys)


@pytest.mark.parametrize('old', NAMES)
def test_former_names_on_the_command_line(old, capsys):
  new, value, text = NAMES[old]
  assert flatten(from_flags('digits:ule', f'--config.{old}={text}').to_dict())[new] == value
  (line,) = said(capsys)
  assert line.startswith('note: ')
  assert line.endswith('now; the former name still works.')
  with pytest.raises(UserError, match=r'unknown field --config.method.hold_bak: did you mean'):
    from_flags('digits:ule', '--config.method.hold_bak=1')


def test_the_method_of_a_first_run_can_no_longer_be_named():
  assert from_flags('digits:jtt', '--config.first.method.name=erm').two_stage.rule == 'jtt'
  with pytest.raises(UserError, match=r"first.method.name is 'ule': a first run is erm with its defaults"):
    from_flags('digits:jtt', '--config.first.method.name=ule')


@pytest.mark.parametrize('method', ['ule', 'jtt', 'dfr'])
def test_recorded_configs_with_former_names_are_the_same_configs(method, tmp_path, capsys):
  config = ule_jax.load_config(f'digits:{method}')
  recorded = in_former_names(config.to_dict())
  assert 'first' in recorded
  assert 'two_stage' not in recorded
  assert validate.complete_config(recorded, {}) == validate.parse_config(config)
  (tmp_path / 'config.json').write_text(json.dumps(recorded))
  (tmp_path / 'checkpoints' / '3').mkdir(parents=True)
  assert workdir.compare(tmp_path, config.to_dict(), force=False)
  assert not workdir.lacks(tmp_path, 'model.head_init')
  lines = said(capsys)
  assert sum('first.* is called two_stage.*' in line for line in lines) == 1
  assert len(lines) == (3 if method == 'ule' else 2)  # two_stage.rule, and the exponent


FAST = ('--config.train.eval_every=2', '--config.data.crops=1', '--config.optim.schedule=constant')


def record_in_former_names(folder):
  recorded = in_former_names(json.loads((folder / 'config.json').read_text()))
  if recorded['first']['prepare'] == 'none':  # older first runs were recorded with no more than these
    recorded['first'] = {name: recorded['first'][name] for name in ('prepare', 'workdir', 'steps', 'epochs', 'method')}
  (folder / 'config.json').write_text(json.dumps(recorded))


def test_a_run_of_an_older_version_resumes(tmp_path):
  config = from_flags('digits:ule', *FAST, '--config.train.steps=4')
  whole = run(config, tmp_path / 'whole')
  run(from_flags('digits:ule', *FAST, '--config.train.steps=2'), tmp_path / 'w')
  record_in_former_names(tmp_path / 'w')
  with pytest.raises(UserError, match=r'these fields differ: method.trust_exponent'):
    run(from_flags('digits:ule', *FAST, '--config.train.steps=4', '--config.method.trust_exponent=1'), tmp_path / 'w')
  assert run(config, tmp_path / 'w') == whole
  assert 'two_stage' in json.loads((tmp_path / 'w' / 'config.json').read_text())


def test_a_first_run_of_an_older_version_is_shared(tmp_path):
  flags = (*FAST, '--config.train.steps=2', '--config.two_stage.steps=2')
  results = run(from_flags('digits:jtt', *flags), tmp_path / 'w')
  assert results['first']['prepare'] == 'jtt'
  for folder in (tmp_path / 'w', tmp_path / 'w' / 'first'):
    record_in_former_names(folder)
  stamp = (tmp_path / 'w' / 'first' / 'results.json').stat().st_mtime_ns
  shared = from_flags('digits:jtt', *flags, f'--config.first.workdir={tmp_path}/w/first')
  assert run(shared, tmp_path / 'again') == results
  assert (tmp_path / 'w' / 'first' / 'results.json').stat().st_mtime_ns == stamp


def test_a_former_and_a_present_name_with_different_values_are_refused():
  with pytest.raises(UserError, match=r'two_stage\.epochs has two values, 1\.0 and 2\.0, one of them by a former name'):
    ule_jax.load_config('digits:jtt', {'first.epochs': 1.0, 'two_stage.epochs': 2.0})


def test_a_sweep_over_a_former_name_is_the_same_sweep():
  recorded = ule_jax.load_config('digits:ule').to_dict()
  old = validate.recorded_fields(recorded | {'axes': {'method.hold_back': [0.0, 1.0]}})
  assert old == validate.recorded_fields(recorded | {'axes': {'method.trust_exponent': [0.0, 1.0]}})
