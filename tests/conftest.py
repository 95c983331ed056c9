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
def x64():
  with jax.enable_x64(True):
    yield
