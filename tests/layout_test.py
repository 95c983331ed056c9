"""Who may import whom, and that the light parts stay light."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def parts(root):
  return sorted(p for p in (root / 'ule_jax').rglob('*.py') if p != root / 'ule_jax' / '__init__.py')


def imported(path):
  """Every module that a file imports, in dotted form."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute'
      assert node.module
      yield node.module
      yield from (f'{node.module}.{alias.name}' for alias in node.names if node.module == 'ule_jax')


def test_every_floor_imports_downwards_only(root):
  """The floors stand in pyproject.toml, [tool.importlinter]."""
  command = shutil.which('lint-imports', path=Path(sys.executable).parent)
  assert command, 'import-linter is not installed'
  ended = subprocess.run([command, '--no-cache'], cwd=root, capture_output=True, text=True, check=False)
  assert not ended.returncode, ended.stdout + ended.stderr


def test_configs_import_nothing_but_the_config_room(root):
  for path in (root / 'configs').glob('*.py'):
    if path.name != 'base.py':  # which re-exports the tables that users' files name
      assert {name for name in imported(path) if name.split('.')[0] == 'ule_jax'} <= {'ule_jax.config'}, path


def test_no_get_on_configs(root):
  for path in parts(root):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Attribute) and node.attr == 'get':
        assert 'config' not in ast.unparse(node.value), f'{path}:{node.lineno}'


@pytest.mark.parametrize(
  'statement', ['import ule_jax', 'import ule_jax.cli.app', 'import ule_jax.main', 'import ule_jax.cli.tables']
)
def test_the_import_is_lazy(statement):
  code = f'import sys; {statement}; sys.exit("jax" in sys.modules or "tensorflow" in sys.modules)'
  subprocess.run([sys.executable, '-c', code], check=True)


def test_no_tensorflow_and_no_torch_in_the_core():
  code = (
    'import sys, ule_jax.train.run; bad = {"tensorflow", "torch"} & set(sys.modules)\nsys.exit(str(bad) if bad else 0)'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_the_public_names_exist():
  import ule_jax

  for name in ule_jax.__all__:
    assert getattr(ule_jax, name) is not None
  with pytest.raises(AttributeError):
    _ = ule_jax.nothing


def test_the_list_of_the_fuller_suite_names_tests_that_exist(root):
  lines = (root / 'tests' / 'fuller.txt').read_text().splitlines()
  assert lines == sorted(set(lines))
  for name in {line.partition('[')[0] for line in lines}:
    file, _, function = name.partition('::')
    assert f'def {function}(' in (root / file).read_text(), name
