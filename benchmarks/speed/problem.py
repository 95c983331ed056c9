"""A network's training step as all contestants are given it: same parameters, batch, options and optimiser."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from ule_jax import METHODS, Batch, Sizes, create_state, make_train_step
from ule_jax.config.validate import parse_config
from ule_jax.devices import runtime
from ule_jax.models import make_model
from ule_jax.models.build import make_preprocess
from ule_jax.optim import make_optimizer


class Case(NamedTuple):
  """A batch whose step takes seconds at most on two cores."""

  batch: int
  size: int
  batch_norm: str = 'none'


CASES = {
  'cnn': Case(64, 32),
  'resnet20': Case(64, 32, 'batch'),
  'resnet50': Case(4, 224, 'batch'),
  'vit_s16': Case(4, 224),
  'vit_b16': Case(2, 224),
}
# The defaults of configs/base.py, whatever the config of a data set makes of them, but for trust: the student here only
# guesses, so that it would leave the term out, and a term that is left out cannot be compared.
ULE = {
  'term': 'oppose_signed', 'scalar': 'margin', 'weight': 0.03, 'a': 1.0, 'student_loss': 'generalized_cross_entropy',
  'q': 0.7, 'mistakes': 'balanced', 'mistake_share': 0.7, 'student_noise': 0.0, 'trust_exponent': 0.0,
}  # fmt: skip
ADAM = {'name': 'adam', 'lr': 1e-4, 'weight_decay': 0.0}


class Problem(NamedTuple):
  """The parts of a training step."""

  config: Any
  method: Any
  model: Any
  tx: Any
  preprocess: Callable
  key: Any
  batch: Any
  state: Any


class Contestant(NamedTuple):
  """A step that is ready.

  step: makes one step; returns its losses by role, which `wait` waits for.
  wait: returns when everything that was begun is done.
  columns: of its row; one that cannot be run has a `note` with the reason.
  first: the losses of a first step, if the contestant is past it.
  close: releases its resources.
  """

  step: Callable[[], dict]
  wait: Callable[[], Any]
  columns: dict[str, Any]
  first: dict[str, float] | None = None
  close: Callable[[], None] = lambda: None


def absent(note: str) -> Contestant:
  """Return a contestant that cannot be run, with the reason."""
  return Contestant(dict, lambda: None, {'note': note})


def make_problem(network: str, precision: str, method: str, **changes: Any) -> Problem:
  """Return the problem of a network with two classes and random images.

  Args:
    changes: fields of `Case`, or of `config.model`.
  """
  case = CASES[network]._replace(**{k: v for k, v in changes.items() if k in Case._fields})
  fields = {'data.dir': 'none', 'model.name': network, 'model.batch_norm': case.batch_norm}
  fields |= {'model.precision': precision, 'model.weights': 'none'}
  fields |= {f'model.{k}': v for k, v in changes.items() if k not in Case._fields}
  fields |= {f'optim.{k}': v for k, v in ADAM.items()}
  fields |= {f'method.{k}': v for k, v in ULE.items() if method == 'ule'}
  config = parse_config(harness.load_config(f'celeba:{method}', fields))
  sizes = Sizes(1000, 2, 4, np.full(4, 250), config.model.batch_norm == 'batch')
  loss = METHODS[method].make(config.method, sizes)
  model, tx = make_model(config.model, 2), make_optimizer(config.optim, loss.roles, 100)
  preprocess, key = make_preprocess((0.5,) * 3, (0.5,) * 3), jax.random.key(0)
  rng, ids = np.random.default_rng(0), jnp.arange(case.batch, dtype=jnp.int32)
  image = rng.integers(0, 256, (case.batch, case.size, case.size, 3), np.uint8)
  batch = Batch(jnp.asarray(image), ids % 2, ids % 4, ids, jnp.ones(case.batch))
  state = jax.jit(lambda: create_state(loss, model, tx, preprocess(batch.image[:1]), key))()
  return Problem(config, loss, model, tx, preprocess, key, batch, state)


def make_step(problem: Problem) -> Callable:
  """Return our training step: `(state, batch) -> (state, metrics)`."""
  return make_train_step(problem.method, problem.model, problem.tx, problem.key, problem.preprocess)


def compile_ahead(function: Callable, *arguments: Any, **settings: Any) -> tuple[Callable, dict[str, float]]:
  """Return the compiled function, and the compiler's report: seconds, GFLOP and temporary GiB."""
  began = time.perf_counter()
  jitted = jax.jit(function, compiler_options=runtime.compiler_options(), **settings)
  compiled = jitted.lower(*arguments).compile()
  columns = {
    'compile_s': round(time.perf_counter() - began, 1),
    'gflop': round(compiled.cost_analysis()['flops'] / 1e9, 6),
    'temporary_gib': round(compiled.memory_analysis().temp_size_in_bytes / 2**30, 5),
  }
  return compiled, columns
