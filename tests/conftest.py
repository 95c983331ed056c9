"""Eight virtual CPU devices, strict ranks, checked shapes, and one compilation cache for every test."""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import install_import_hook
from quick_compiles import compile_quickly, usual_generator

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
install_import_hook(
  ['ule_jax.losses', 'ule_jax.models', 'ule_jax.kernels', 'ule_jax.methods', 'ule_jax.metrics'], 'beartype.beartype'
)


# Tests of more than 1.5 CPU seconds that have quicker siblings in their files, by measurement
FULLER = Path(__file__).with_name('fuller.txt')
# Of the fuller suite, by the first letters of their names: what CI leaves out, to stay below half an hour
SLOWER = Path(__file__).with_name('slower.txt')
# Files by their time, those of more than ten seconds; a worker that began with a long one last would be alone with it.
LONGEST = (
  'hosts_test.py', 'docs_test.py', 'methods_test.py', 'train_test.py', 'stages_test.py', 'misfortunes_test.py',
  'stale_test.py', 'missing_test.py', 'models_test.py', 'sweep_test.py', 'paths_test.py', 'step_time_test.py',
  'convolution_test.py', 'ule_test.py', 'family_test.py', 'guards_test.py', 'sharding_test.py', 'pretrained_test.py',
  'encoder_test.py', 'torch_test.py', 'configs_test.py', 'losses_test.py', 'export_test.py', 'report_test.py',
)  # fmt: skip


def pytest_configure(config):
  """Share compiled programs among the tests and all processes that they start; never with the user's own runs.

  What runs in a process of its own is compiled in full, and so is what asks for the fixture `optimized`. The folder
  ULE_TEST_PROGRAMS, if it is set, keeps the programs for the next suite; the default is a temporary one.
  """
  signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores, and so would the runs of the tests
  if not hasattr(config, 'workerinput'):  # the workers of pytest-xdist inherit the environment
    kept = os.environ.get('ULE_TEST_PROGRAMS')
    os.environ['JAX_COMPILATION_CACHE_DIR'] = kept or tempfile.mkdtemp(prefix='ule-tests-')
    os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'true'
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  share_compiled()
  before = os.environ.get('XLA_FLAGS', '')
  compile_quickly()
  jax.devices()  # reads the flags
  os.environ['XLA_FLAGS'] = before


def pytest_unconfigure(config):
  if not hasattr(config, 'workerinput') and not os.environ.get('ULE_TEST_PROGRAMS'):
    shutil.rmtree(os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist there is no such hook
def pytest_xdist_make_scheduler(config, log):
  """Assign whole files to the workers, the longest first, so that the fixtures of a file are made once."""
  from xdist.scheduler import LoadFileScheduling

  config.option.loadscopereorder = False  # by the number of tests
  return LoadFileScheduling(config, log)


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items):
  """Mark the tests of fuller.txt as `full`, those of slower.txt also as `slow`, and put the longest files first."""
  fuller, slower = set(FULLER.read_text().splitlines()), tuple(SLOWER.read_text().splitlines())
  for item in items:
    if item.nodeid in fuller:
      item.add_marker('full')
    if item.nodeid.startswith(slower):
      item.add_marker('slow')
  items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def share_compiled():
  jax.config.update('jax_enable_compilation_cache', True)
  jax.config.update('jax_compilation_cache_dir', os.environ['JAX_COMPILATION_CACHE_DIR'])
  compilation_cache.reset_cache()  # jax looks at the folder once, when it first compiles


@pytest.fixture(autouse=True)
def keep_sharing_compiled():
  """Undo what a run has set in jax."""
  yield
  before = os.environ['JAX_COMPILATION_CACHE_DIR']
  if not jax.config.values['jax_enable_compilation_cache'] or jax.config.values['jax_compilation_cache_dir'] != before:
    share_compiled()


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
  """The compiler's options of users, for what is asked of the compiled program: memory and FLOPs.

  Compiled here and not read from the folder: a program that was read has lost them.
  """
  jax.config.update('jax_disable_most_optimizations', False)
  jax.config.update('jax_enable_compilation_cache', False)
  compilation_cache.reset_cache()
  from ule_jax.devices import runtime

  yield runtime.compiler_options() | usual_generator()
  jax.config.update('jax_disable_most_optimizations', True)
  share_compiled()


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield
