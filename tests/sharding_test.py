"""Devices: a step has the numbers of one device on any number of them, whichever way it is compiled."""

import itertools

import jax
import numpy as np
import pytest
from common import adam, assert_close, batch_of, from_flags, method_of, network, sgd, train, train_on
from jax.sharding import PartitionSpec

from ule_jax.config.validate import validate_config
from ule_jax.devices import mesh as device_mesh
from ule_jax.devices.mesh import PARALLEL, make_mesh, placement
from ule_jax.errors import UserError
from ule_jax.train.run import run

# A mean over examples, gradients at the input, sums over groups, and a table over the data set.
KINDS = ('erm', 'ule', 'group_dro', 'lff')


def stop_after(steps):
  """A stand-in for `processes.preempted`: a SIGTERM when so many steps are done."""
  calls = itertools.count()
  return lambda: 'SIGTERM' if next(calls) == steps else ''


@pytest.mark.parametrize('name', KINDS)
def test_any_number_of_devices_gives_the_numbers_of_one_in_double_precision(name, x64):
  method, model = method_of(name), network(batch_norm='batch', depth=1)
  batches = [batch_of(seed=s, dtype=np.float64) for s in range(5)]
  one, expected = train(method, model, batches, sgd(1e-2))
  for count in (2, 8):
    for parallel in PARALLEL:
      mesh = make_mesh(jax.devices()[:count])
      state, metrics = train_on(mesh, parallel, method, model, batches, sgd(1e-2))
      assert_close(state, one, rtol=0, atol=1e-10)
      assert_close(metrics, expected, rtol=0, atol=1e-10)
      assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))


def test_parts_of_a_batch_on_every_device():
  method, model, tx = method_of('ule', mistakes='weight'), network(), sgd(1e-2)
  batch = batch_of()
  batch = batch._replace(weight=batch.weight.at[3:7].set(0))
  one, expected = train(method, model, [batch], tx)
  for parallel in PARALLEL:
    found, metrics = train_on(make_mesh(), parallel, method, model, [batch], tx, accumulate=2)
    assert_close(found.params, one.params, rtol=1e-4, atol=1e-6)
    assert_close(metrics, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', ['ule', 'lff'])
def test_divided_parameters_change_no_number(name, monkeypatch):
  monkeypatch.setattr(device_mesh, 'LEAST_SHARDED', 64)
  method, model, tx = method_of(name), network(batch_norm='batch'), adam(1e-2)
  batches, mesh = [batch_of(seed=s) for s in range(5)], make_mesh()
  one, _ = train(method, model, batches, sgd(1e-2))
  state, _ = train_on(mesh, 'jit', method, model, batches, sgd(1e-2), fsdp=True)
  assert_close(state, one, rtol=1e-4, atol=1e-5)
  state, _ = train_on(mesh, 'jit', method, model, batches, tx, fsdp=True)
  kernel = state.params[method.roles[-1]]['conv1']['kernel']  # 3 3 8 16
  moment = state.opt_state[0].mu[method.roles[-1]]['conv1']['kernel']
  for leaf in (kernel, moment):
    assert leaf.sharding.spec == PartitionSpec(None, None, None, 'batch')
    assert leaf.addressable_shards[0].data.shape == (3, 3, 8, 2)
  assert state.step.sharding.is_fully_replicated


def test_only_large_arrays_are_divided_along_an_axis_that_fits():
  mesh = make_mesh()
  shapes = {'fits': (1024, 80), 'first': (1024, 81), 'odd': (1023, 81), 'small': (8, 8), 'scalar': ()}
  tree = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
  found = {name: tuple(place.spec) for name, place in placement(tree, mesh, fsdp=True).items()}
  assert found == {
    'fits': (None, 'batch'),
    'first': ('batch', None),
    'odd': (None, None),
    'small': (None, None),
    'scalar': (),
  }
  assert all(place.is_fully_replicated for place in placement(tree, mesh, fsdp=False).values())


def config_of(*changes):
  flags = ['--config=digits:ule', '--config.train.steps=6', '--config.train.eval_every=3', '--config.data.crops=1']
  return from_flags(*flags, *changes)


def test_a_run_ends_with_the_same_results_and_goes_on_under_another_choice(tmp_path, monkeypatch):
  monkeypatch.setattr(device_mesh, 'LEAST_SHARDED', 64)
  plain = run(config_of(), tmp_path / 'jit')
  assert run(config_of('--config.fsdp=True'), tmp_path / 'fsdp') == plain
  with monkeypatch.context() as patch:
    patch.setattr('ule_jax.devices.processes.preempted', stop_after(4))
    with pytest.raises(KeyboardInterrupt, match='step 4 of 6'):
      run(config_of('--config.fsdp=True'), tmp_path / 'turns')
  assert run(config_of('--config.parallel=pmap'), tmp_path / 'turns') == plain


def test_choices_that_do_not_go_together_are_refused():
  with pytest.raises(UserError, match='needs parallel=jit'):
    validate_config(config_of('--config.fsdp=True', '--config.parallel=pmap'))
  with pytest.raises(UserError, match="unknown parallel 'pmpa': did you mean 'pmap'"):
    validate_config(config_of('--config.parallel=pmpa'))
