"""Who may import whom, read from the source, and that the light parts stay light."""

import ast
import subprocess
import sys

import pytest

LEAVES = {'errors', 'paths'}  # anyone may import these
ALLOWED = {
  'main': {'backend', 'cli', 'train', 'console', 'hosts'},
  'cli': {'workdir', 'signals'},
  'console': {'signals'},
  'train': {
    'methods', 'models', 'data', 'metrics', 'optim', 'checkpoint', 'sharding', 'evaluate',
    'backend', 'check', 'workdir', 'console', 'signals', 'stages', 'encoder', 'hosts', 'fingerprint', 'inputs',
  },
  'population': {'train', 'data', 'evaluate', 'methods', 'metrics', 'sharding'},
  'sweep': {
    'train', 'population', 'data', 'evaluate', 'methods', 'metrics', 'checkpoint',
    'backend', 'check', 'cli', 'console', 'signals', 'stages', 'workdir', 'fingerprint', 'inputs',
  },
  'check': {'methods', 'models', 'data', 'optim', 'sharding', 'workdir'},
  'stages': {'methods', 'data'},
  'workdir': {'lock'},
  'prepare': {'cli', 'data'},
  'data.__main__': {'cli', 'data'},
  'models': {'cli', 'sharding'},  # the command of models/pretrained.py
  'encoder': {'data'},
  'checkpoint': {'hosts'},
  'evaluate': {'data', 'models', 'metrics', 'checkpoint', 'sharding', 'losses'},
  'evaluate.__main__': {'cli', 'console', 'data', 'evaluate', 'recorded', 'restore', 'workdir'},
  'recorded': {'cli', 'workdir'},
  'restore': {
    'train', 'backend', 'check', 'checkpoint', 'console', 'data', 'models', 'recorded', 'sharding', 'workdir',
    'fingerprint', 'inputs',
  },
  'fingerprint': {'data', 'workdir'},
  'inputs': {'console', 'data', 'fingerprint', 'hosts', 'methods', 'models', 'workdir'},
  'predict': {'workdir', 'cli', 'console', 'data', 'evaluate', 'recorded', 'report', 'restore', 'sharding'},
  'export': {'cli', 'models', 'recorded', 'restore', 'train'},
  'diagnose': set(),
  'diagnose.__main__': {'cli', 'data', 'diagnose', 'evaluate', 'recorded', 'report', 'restore'},
  'report': {'cli', 'data', 'fingerprint', 'workdir'},
  'report.__main__': {'cli', 'report'},
  'methods': {'losses', 'sharding'},
}  # fmt: skip


def parts(root):
  return sorted(p for p in (root / 'ule_jax').rglob('*.py') if p != root / 'ule_jax' / '__init__.py')


def imported(path):
  """Every module that a file imports, in dotted form."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute'
      yield node.module
      yield from (f'{node.module}.{alias.name}' for alias in node.names if node.module == 'ule_jax')


def test_the_arrows(root):
  for path in parts(root):
    part = path.relative_to(root / 'ule_jax').parts[0].removesuffix('.py')
    part += '.__main__' if path.stem == '__main__' else ''  # the command of a package, which may use more
    ours = {name.split('.')[1] for name in imported(path) if name.startswith('ule_jax.')}
    wrong = ours - {part} - LEAVES - ALLOWED.get(part, set())
    assert not wrong, f'{path.name} imports {wrong}'


def test_data_does_not_import_jax_and_configs_do_not_import_ule_jax(root):
  for path in (root / 'ule_jax' / 'data').rglob('*.py'):
    assert not [name for name in imported(path) if name.split('.')[0] in ('jax', 'flax')], path
  for path in (root / 'configs').glob('*.py'):
    assert not [name for name in imported(path) if name.split('.')[0] == 'ule_jax'], path


def test_nothing_below_train_sees_a_config(root):
  for path in parts(root):
    if path.stem not in ('cli', 'train', 'check', 'restore', 'recorded'):
      assert 'ml_collections' not in {name.split('.')[0] for name in imported(path)}, path


def test_no_get_on_configs(root):
  for path in parts(root):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Attribute) and node.attr == 'get':
        assert 'config' not in ast.unparse(node.value), f'{path}:{node.lineno}'


@pytest.mark.parametrize(
  'statement', ['import ule_jax', 'import ule_jax.cli', 'import ule_jax.main', 'import ule_jax.console']
)
def test_the_import_is_lazy(statement):
  code = f'import sys; {statement}; sys.exit("jax" in sys.modules or "tensorflow" in sys.modules)'
  subprocess.run([sys.executable, '-c', code], check=True)


def test_no_tensorflow_and_no_torch_in_the_core():
  code = 'import sys, ule_jax.train; bad = {"tensorflow", "torch"} & set(sys.modules); sys.exit(str(bad) if bad else 0)'
  subprocess.run([sys.executable, '-c', code], check=True)


def test_the_public_names_exist():
  import ule_jax

  for name in ule_jax.__all__:
    assert getattr(ule_jax, name) is not None
  with pytest.raises(AttributeError):
    _ = ule_jax.nothing
