"""Device mesh, placement of arrays, and the compiled step.

Two ways to compile the same step, with the same numbers:

  jit    the program stays global and the compiler partitions it: means over groups and the statistics of BatchNorm are
         right by construction, and large parameters may be sharded too (`fsdp`)
  pmap   the program runs once per device. Images and gradients at them hold this device's shard; all else (labels,
         logits, features) holds the whole batch, so that every device computes the whole loss (collectives.py)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from ule_jax.devices.collectives import AXIS
from ule_jax.devices.runtime import compiler_options

PARALLEL = ('jit', 'pmap')

LEAST_SHARDED = 1 << 16  # values of an array from which on fsdp divides it


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Put devices, all of all hosts, on one axis, host after host: a host's block of a batch is then on its devices."""
  devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
  # The default, Explicit axes, rejects ordinary code with a ShardingTypeError.
  return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def local_mesh() -> Mesh:
  """Put the devices of this host on one axis, for work that every host does for itself."""
  return make_mesh(jax.local_devices())


def replicated_sharding(mesh: Mesh) -> NamedSharding:
  """Say that an array is to be on every device."""
  return NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Put a copy of every array on every device."""
  return jax.device_put(tree, replicated_sharding(mesh))


def placement(tree: PyTree, mesh: Mesh, fsdp: bool) -> PyTree:
  """Say where each array of a state goes: on every device, or with `fsdp` large ones divided over the devices.

  An array is divided along the last of its axes that the number of devices divides.

  Args:
    tree: of arrays or of shapes.
  """

  def place(leaf) -> NamedSharding:
    parts: list[str | None] = [None] * len(leaf.shape)
    if fsdp and np.prod(leaf.shape) >= LEAST_SHARDED:
      axis = next((i for i in reversed(range(len(parts))) if leaf.shape[i] % mesh.size == 0), None)
      if axis is not None:
        parts[axis] = AXIS
    return NamedSharding(mesh, PartitionSpec(*parts))

  return jax.tree.map(place, tree)


def shard_batch(batch: PyTree, mesh: Mesh) -> PyTree:
  """Split this host's arrays over its devices along their first axis."""
  sharding = NamedSharding(mesh, PartitionSpec(AXIS))
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def compile_step(step: Callable, mesh: Mesh, parallel: str, places: PyTree) -> Callable:
  """Compile `(state, batch) -> (state, metrics)` for all devices; the state is donated.

  Args:
    step: a pure function, for either way.
    parallel: of PARALLEL. `pmap` takes no options for the compiler: on a CPU it undoes `remat` there, and is slower.
    places: where the state is, as `placement` says; on every device for `pmap`.

  Returns:
    A function of a state on the mesh and of this host's part of a batch.
  """
  if parallel == 'jit':
    compiled = jax.jit(
      step, donate_argnums=0, out_shardings=(places, replicated_sharding(mesh)), compiler_options=compiler_options()
    )
    return lambda state, batch: compiled(state, shard_batch(batch, mesh))

  devices = list(mesh.devices.flat)
  mapped = jax.pmap(step, AXIS, in_axes=(None, 0), out_axes=None, devices=devices, donate_argnums=0)

  def seen_as(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """See arrays, without a copy, as on the devices of all hosts or as on this one's, which is what pmap takes."""
    if jax.process_count() == 1:
      return tree

    def again(x: Array) -> Array:
      # The shards of what was put on a host's only device are not the single arrays that they should be (jax 0.10).
      parts = [part.data for part in x.addressable_shards] if len(mesh.local_devices) > 1 else [x.addressable_data(0)]
      return jax.make_array_from_single_device_arrays(x.shape, sharding, parts)

    return jax.tree.map(again, tree)

  def run(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
    stacked = jax.tree.map(lambda x: x.reshape(len(mesh.local_devices), -1, *x.shape[1:]), batch)
    found = mapped(seen_as(state, NamedSharding(mesh.local_mesh, PartitionSpec())), stacked)
    return seen_as(found, replicated_sharding(mesh))

  return run
