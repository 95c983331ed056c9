"""The benchmarks' other students: each is ULE where it changes nothing, and does what it is named for where it does."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import SIZES, assert_close, batch_of, leaves_equal, network, options, setup, train

from ule_jax.methods import Method, Output, ule

BATCHES = [batch_of(seed=s) for s in range(3)]
NEUTRAL = {
  'ule_ahead': {'ahead': 0},
  'ule_decayed': {'decay': 0.0},
  'ule_coarse': {'block': 1},
  'ule_noisy': {'copies': 2, 'std': 0.0},
  'ule_shifted': {'copies': 2, 'pixels': 0},
}


@pytest.fixture
def variants(root, monkeypatch):
  monkeypatch.syspath_prepend(root / 'benchmarks')
  import variants

  return variants


def make(variants, name, **changes):
  chosen = vars(options('ule', weight=0.1)) | variants.OPTIONS[name] | changes
  return getattr(variants, name)(SimpleNamespace(**chosen), SIZES)


def test_all_are_tested(variants):
  assert variants.OPTIONS.keys() == NEUTRAL.keys()


@pytest.mark.parametrize('name', NEUTRAL)
def test_where_it_changes_nothing_it_is_ule(name, variants):
  expected, _ = train(ule.make_method(options('ule', weight=0.1), SIZES), network('mlp'), BATCHES)
  found, _ = train(make(variants, name, **NEUTRAL[name]), network('mlp'), BATCHES)
  assert_close(found.params, expected.params, rtol=1e-4, atol=1e-6)
  changed, _ = train(make(variants, name), network('mlp'), BATCHES)
  assert not leaves_equal(changed.params, expected.params)


def test_the_teacher_waits(variants):
  state, step = setup(make(variants, 'ule_ahead', ahead=2), network('mlp'), BATCHES[0])
  step = jax.jit(step)
  moved = []
  for batch in BATCHES:
    before, (state, _) = state, step(state, batch)
    moved.append([not leaves_equal(before.params[role], state.params[role]) for role in ('student', 'teacher')])
  assert moved == [[True, False], [True, False], [True, True]]


def test_the_students_weights_are_kept_small(variants):
  def size(decay):
    state, _ = train(make(variants, 'ule_decayed', decay=decay), network('mlp'), BATCHES)
    return [float(sum(jnp.sum(p**2) for p in jax.tree.leaves(state.params[r]))) for r in ('student', 'teacher')]

  (free, teacher), (small, same) = size(0.0), size(100.0)
  assert small < free
  assert same == pytest.approx(teacher, rel=0.1)


@pytest.fixture
def seen(variants, monkeypatch):
  """The input of the student's network, for each of the copies, of a method that runs both on the original image."""

  def run(name, x, **changes):
    found = {'student': [], 'teacher': []}

    def forward(role, x, train=True):
      found[role].append(np.asarray(x))
      return Output(x, x, {})

    def loss(params, forward, state, batch, step, key):
      return forward('student', batch.image), forward('teacher', batch.image)

    monkeypatch.setattr(variants.ule, 'make_method', lambda *_: Method((), dict, loss, frozenset()))
    method, batch = make(variants, name, **changes), BATCHES[0]._replace(image=x)
    student, _ = method.loss({}, forward, {}, batch, 0, jax.random.key(0))
    np.testing.assert_allclose(student.logits, np.mean(found['student'], 0), atol=1e-6)
    np.testing.assert_array_equal(found['teacher'], [x])
    return found['student']

  return run


def test_no_detail(seen):
  (coarse,) = seen('ule_coarse', BATCHES[0].image, block=4)
  np.testing.assert_allclose(coarse.mean((1, 2)), BATCHES[0].image.mean((1, 2)), atol=1e-5)
  assert coarse.reshape(len(coarse), 2, 4, 2, 4, 3).std((2, 4)).max() < 1e-5


def test_copies_differ(seen):
  x = BATCHES[0].image
  noisy = seen('ule_noisy', x, copies=3, std=0.5)
  assert len(noisy) == 3
  assert [(one - x).std() for one in noisy] == pytest.approx([0.5] * 3, rel=0.1)
  assert not np.array_equal(noisy[0], noisy[1])
  shifted = seen('ule_shifted', x, copies=8, pixels=2)
  moves = [np.roll(x, (i, j), (1, 2))[:, 2:-2, 2:-2] for i in range(-2, 3) for j in range(-2, 3)]
  assert all(any(np.array_equal(one[:, 2:-2, 2:-2], move) for move in moves) for one in shifted)
  assert len({one.tobytes() for one in shifted}) > 1
