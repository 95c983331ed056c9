"""Eight virtual CPU devices, strict ranks, and checked shapes for every test."""

import os
import sys
from pathlib import Path

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'  # the user's is not for tests; theirs are in the tests of it

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
# The tests compile for far longer than they compute. What runs in a process of its own is compiled in full, and so is
# what asks for the fixture `optimized`.
jax.config.update('jax_disable_most_optimizations', True)
install_import_hook(['ule_jax.losses', 'ule_jax.models', 'ule_jax.methods', 'ule_jax.metrics'], 'beartype.beartype')

from ule_jax.runs.progress import to_terminal  # noqa: E402

to_terminal()  # as the command line does, so that tests see its lines on stderr

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
  from common import from_flags

  from ule_jax.cli import app
  from ule_jax.train.run import run

  workdir = tmp_path_factory.mktemp('ule') / 'w'
  steps = ['--config.train.steps=20', '--config.train.eval_every=10', '--config.train.log_every=5']
  # A student and a term that 20 steps show; the defaults are tested where training is.
  method = {'term': 'project', 'weight': 30.0, 'q': 0.3, 'student_noise': 2.0, 'mistakes': 'class_balanced_weight'}
  method |= {'hold_back': 0}
  options = [f'--config.method.{name}={value}' for name, value in method.items()]
  run(from_flags('digits:ule', *steps, *options, '--config.data.crops=1'), workdir)
  app.call('evaluate', [f'--run={workdir}', '--saliency=3'])
  return workdir


@pytest.fixture(scope='session')
def frozen_run(tmp_path_factory) -> Path:
  """A short run of two heads on a frozen CIFAR ResNet, done: not to be changed. Its weights and data lie beside it."""
  from common import from_flags, save_network
  from writers import write_celeba

  from ule_jax.train.run import run

  root = tmp_path_factory.mktemp('frozen')
  save_network('resnet20', root / 'net.safetensors')
  flags = [
    '--config=celeba:ule,frozen', f'--config.data.dir={write_celeba(root / "celeba")}', '--config.data.official=False',
    '--config.data.size=8', '--config.model.name=resnet20', f'--config.model.weights={root}/net.safetensors',
    '--config.train.batch_size=8', '--config.train.eval_batch_size=16', '--config.train.steps=4',
    '--config.loader.threads=0', f'--config.model.feature_cache={root}/cache', '--config.method.trust_exponent=0',
  ]  # fmt: skip
  run(from_flags(*flags), root / 'w')
  return root / 'w'


@pytest.fixture(scope='session')
def torchvision():
  torch = pytest.importorskip('torch')
  try:
    import torchvision
  except RuntimeError:  # its compiled part is for another build of torch; nothing here needs it
    for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
      del sys.modules[name]
    library = torch.library.Library('torchvision', 'DEF')
    for name in ('nms', 'qnms'):
      library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    import torchvision
  except ImportError:
    pytest.skip('no torchvision')
  return torchvision


@pytest.fixture
def optimized():
  """Compile as users do, for what is asked of the compiled program: memory and FLOPs."""
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield
