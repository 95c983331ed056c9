"""Eight virtual CPU devices, strict ranks, and checked shapes for every test."""

import os
from pathlib import Path

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
install_import_hook(['ule_jax.losses', 'ule_jax.models', 'ule_jax.methods', 'ule_jax.metrics'], 'beartype.beartype')

ROOT = Path(__file__).parent.parent
REAL = Path(os.environ.get('ULE_TEST_DATA', ROOT.parent / 'shared' / 'data'))


@pytest.fixture(scope='session')
def root() -> Path:
  return ROOT


@pytest.fixture(scope='session')
def real_data() -> Path:
  """The folder of real images that are not part of the project; the test is skipped without it."""
  if not REAL.is_dir():
    pytest.skip('no folder of real data: set ULE_TEST_DATA')
  return REAL


@pytest.fixture(scope='session')
def ule_run(tmp_path_factory) -> Path:
  """A short run of two networks, done, with saliency of its test split: not to be changed."""
  from ule_jax import cli, train
  from ule_jax.evaluate.__main__ import main

  workdir = tmp_path_factory.mktemp('ule') / 'w'
  steps = ['--config.train.steps=20', '--config.train.eval_every=10', '--config.train.log_every=5']
  train.run(cli.parse(['--config=digits:ule', *steps, '--config.data.crops=1'], '', {}).config, workdir)
  main([f'--run={workdir}', '--saliency=3'])
  return workdir


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield
