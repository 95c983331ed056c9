"""Small networks, batches and options that several tests share.

Methods, networks, optimisers and first states are made once for the same arguments, so that jax finds the step of the
same ones again and neither traces nor compiles it again.
"""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from configs import base
from ule_jax.config import load_text
from ule_jax.devices.mesh import compile_step, placement
from ule_jax.methods import METHODS, Batch, Sizes
from ule_jax.models import make_model
from ule_jax.models.pretrained import mapping
from ule_jax.options import Options
from ule_jax.train.step import create_state, make_train_step

SIZES = Sizes(n=100, k=2, g=4, group_counts=np.array([40, 10, 10, 40]))
KEY = jax.random.key(0)


def options(method: str, **changes) -> Options:
  """The defaults of a method's options, changed; an unknown one fails.

  Every student is trusted unless a test asks for another exponent: an untrained one guesses, and would leave the term
  out.
  """
  kind = METHODS[method].options
  trusting = {'trust_exponent': 0.0} if 'trust_exponent' in kind.model_fields else {}
  return kind(**trusting | changes)


def from_flags(spec: str, *flags: str) -> ConfigDict:
  """The config of a command line.

  Args:
    spec: as behind --config, which may stand before it.
    flags: as --config.train.steps=20.
  """
  overrides = [flag.removeprefix('--config.').partition('=') for flag in flags]
  return load_text(spec.removeprefix('--config='), [(name, text) for name, _, text in overrides])[0]


@functools.cache
def method_of(name: str, k: int = 2, couples_examples: bool = True, **changes):
  return METHODS[name].make(options(name, **changes), SIZES._replace(k=k, couples_examples=couples_examples))


@functools.cache
def network(name: str = 'cnn', k: int = 2, **changes):
  settings = base.make('digits', 'erm').model.to_dict()
  settings |= {'name': name, 'width': 8, 'depth': 2, 'heads': 2, 'patch': 4, 'batch_norm': 'none'} | changes
  if name.startswith(('resnet', 'efficientnet')) and 'batch_norm' not in changes:
    settings['batch_norm'] = 'batch'
  return make_model(SimpleNamespace(**settings), k)


def save_network(name: str, path) -> None:
  """Write a network of random weights under its foreign names."""
  from safetensors.numpy import save_file

  model = network(name, 10)
  variables = jax.jit(lambda: model.init(KEY, jnp.zeros((1, 8, 8, 3)), train=False))()
  save_file(mapping.export_tensors(variables['params'], variables['batch_stats'], 'CIFAR ResNet'), path)


def batch_of(n: int = 16, k: int = 2, size: int = 8, seed: int = 0, dtype: type[np.floating] = np.float32) -> Batch:
  """A batch of prepared images whose mean level follows the label."""
  rng = np.random.default_rng(seed)
  label = rng.integers(0, k, n).astype(np.int32)
  image = rng.normal(size=(n, size, size, 3)) + label[:, None, None, None]
  group = (label * 2 + rng.integers(0, 2, n)).astype(np.int32) % 4
  arrays = image.astype(dtype), label, group, np.arange(n, dtype=np.int32), np.ones(n, dtype)
  return Batch(*map(jnp.asarray, arrays))


sgd, adam = functools.cache(optax.sgd), functools.cache(optax.adam)


def setup(method, model, batch: Batch, tx=None, **settings):
  """A fresh state, of the images' precision, and the (not jitted) step."""
  tx = tx or adam(1e-2)
  dtype, x64 = batch.image.dtype, jax.config.values['jax_enable_x64']
  return _state(method, model, tx, batch.image.shape[1:], dtype, x64), _step(method, model, tx, **settings)


@functools.cache
def _state(method, model, tx, shape, dtype, x64: bool):
  state = create_state(method, model, tx, jnp.zeros((1, *shape), dtype), KEY)
  return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)


@functools.cache
def _step(method, model, tx, **settings):
  return make_train_step(method, model, tx, KEY, **settings)


def train(method, model, batches, tx=None):
  """The state after one jitted step on each batch, and the last metrics."""
  state, step = setup(method, model, batches[0], tx)
  for batch in batches:
    state, metrics = jax.jit(step)(state, batch)
  return state, metrics


def train_on(mesh, parallel: str, method, model, batches, tx=None, fsdp: bool = False, **settings):
  """The same as `train`, on the devices of a mesh, of which this host has a share."""
  state, step = setup(method, model, batches[0], tx, **settings)
  places = placement(state, mesh, fsdp)
  state = jax.device_put(jax.tree.map(jnp.copy, state), places)  # the step donates what it is given
  step = compile_step(step, mesh, parallel, places)
  for batch in batches:
    size = len(batch.label) // jax.process_count()
    mine = slice(jax.process_index() * size, (jax.process_index() + 1) * size)
    state, metrics = step(state, jax.tree.map(lambda x, mine=mine: np.asarray(x)[mine], batch))
  return state, metrics


def leaves_equal(a, b) -> bool:
  a, b = jax.tree.leaves(a), jax.tree.leaves(b)
  return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def assert_close(a, b, rtol=1e-5, atol=1e-6):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def damage(path) -> None:
  """Flip a bit in the middle of a file."""
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)
