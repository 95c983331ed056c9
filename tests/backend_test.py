"""The compilation cache: where it is, that it is used, and that it changes nothing; and the memory of a step."""

import json
import os
import subprocess
import sys

import jax
import pytest

from ule_jax.devices import runtime


@pytest.fixture
def cache(monkeypatch):
  """An environment that names no folder, as that of users."""
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')


@pytest.fixture
def used(capsys):
  def use(choice):
    runtime.use_cache(choice)
    return jax.config.values['jax_compilation_cache_dir'], capsys.readouterr().err.splitlines()

  return use


def test_where_it_is(cache, tmp_path, monkeypatch, used):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'x'))
  assert used('default') == (f'{tmp_path}/x/ule_jax/xla', [])
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', str(tmp_path / 'h'))
  assert used('default') == (f'{tmp_path}/h/.cache/ule_jax/xla', [])
  assert used(str(tmp_path / 'd')) == (f'{tmp_path}/d', [])
  assert used('off') == (None, [])
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'j'))
  assert used('default') == (f'{tmp_path}/j', [])


def test_one_that_cannot_be_written_ends_nothing(cache, tmp_path, used):
  (tmp_path / 'file').touch()
  folder, (said,) = used(str(tmp_path / 'file' / 'below'))
  assert folder is None
  assert 'nothing compiled is kept' in said


def test_there_is_none_where_jax_is_told_not_to_have_one(tmp_path, used):
  jax.config.update('jax_enable_compilation_cache', False)
  assert used(str(tmp_path / 'd')) == (None, [])
  assert not (tmp_path / 'd').exists()


def test_a_warm_start_compiles_nothing_whatever_the_seed(tmp_path):
  code = (
    'import sys, json, jax\nfrom pathlib import Path\nfrom ule_jax.config.load import load_config\n'
    'from ule_jax.train.run import run\nseen = []\n'
    'jax.monitoring.register_event_listener(lambda name, **_: seen.append(name))\n'
    'fields = {"train.steps": 2, "data.crops": 1, "model.name": "mlp", "seed": int(sys.argv[2])}\n'
    'config = load_config("digits", fields)\n'
    'results = run(config, Path(sys.argv[1]))\n'
    'lines = Path(sys.argv[1], "metrics.jsonl").read_text().splitlines()\n'
    'values = [{k: v for k, v in json.loads(line).items() if "per_second" not in k} for line in lines]\n'
    'count = lambda name: seen.count(f"/jax/compilation_cache/{name}")\n'
    'print(json.dumps([results, values, count("cache_hits"), count("cache_misses")]))\n'
  )
  env = os.environ | {'XDG_CACHE_HOME': str(tmp_path / 'cache')}
  del env['JAX_COMPILATION_CACHE_DIR']

  def run(name, seed=0):
    command = [sys.executable, '-c', code, str(tmp_path / name), str(seed)]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert 'arning' not in ended.stderr
    *found, hits, misses = json.loads(ended.stdout)
    return found, hits, misses

  cold, hits, compiled = run('cold')
  assert hits == 0 < compiled
  assert run('warm') == (cold, compiled, 0)
  other, hits, misses = run('seed', 1)
  assert (hits, misses) == (compiled, 0)
  assert other != cold


STEPS = """
import resource, sys
from ule_jax.devices import runtime
if sys.argv[1] == 'keep' and not runtime.keep_memory():
  sys.exit(77)
import jax, jax.numpy as jnp
step = jax.jit(lambda x: jax.lax.optimization_barrier(x + jnp.arange(16.0)[:, None, None]).sum(0))
x = jnp.ones((512, 1024))
pages = []
for _ in range(30):
  step(x).block_until_ready()
  pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(pages[-1] - pages[-6])
"""


def pages_of_steps(how):
  """Pages that the system gives a process for five steps of 32 MiB each, once it has settled.

  The heap may grow for a dozen steps before a step finds a hole that is large enough.
  """
  found = subprocess.run([sys.executable, '-c', STEPS, how], capture_output=True, text=True, check=False)
  if found.returncode == 77:
    pytest.skip('no glibc')
  assert found.returncode == 0, found.stderr
  return int(found.stdout)


def test_memory_of_a_step_is_kept_for_the_next():
  assert pages_of_steps('keep') < 0.2 * pages_of_steps('return')


def test_memory_is_left_alone_where_jax_may_run_elsewhere(monkeypatch):
  monkeypatch.setattr(runtime.ctypes, 'CDLL', lambda name: pytest.fail('touched'))
  monkeypatch.setattr(runtime.sys, 'platform', 'darwin')
  assert not runtime.keep_memory()
  monkeypatch.undo()
  before = jax.config.values['jax_platforms']
  try:
    jax.config.update('jax_platforms', 'cuda,cpu')
    monkeypatch.setattr(runtime.ctypes, 'CDLL', lambda name: type('Libc', (), {'mallopt': pytest.fail}))
    assert not runtime.keep_memory()
  finally:
    jax.config.update('jax_platforms', before)
