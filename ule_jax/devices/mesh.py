"""Device mesh, placement of arrays, and the compiled step.

Two ways to compile the same step, with the same results:

  jit    one global program, which the compiler partitions: means over groups and the statistics of BatchNorm are right
         by construction, and large parameters may be sharded too (`fsdp`)
  pmap   one program per device. Images and gradients with respect to them hold this device's shard; everything else
         (labels, logits, features) holds the whole batch, so that every device computes the whole loss (collectives.py)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from ule_jax.devices.collectives import AXIS
from ule_jax.devices.runtime import compiler_options
from ule_jax.errors import unknown

PARALLEL = ('jit', 'pmap')

LEAST_SHARDED = 1 << 16  # number of values from which on fsdp shards an array


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:  # pyright: ignore[reportInvalidTypeForm] jax declares Device as a variable
  """Return a mesh of one axis, with the devices of each host in sequence: a host's block of a batch is on its devices.

  Args:
    devices: all devices of all hosts by default.
  """
  devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
  # Explicit axes, the default, raise a ShardingTypeError in ordinary code.
  return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def local_mesh() -> Mesh:
  """Return a mesh of the devices of this host, for work that every host does for itself."""
  return make_mesh(jax.local_devices())


def replicated_sharding(mesh: Mesh) -> NamedSharding:
  """Return the sharding that puts a copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Copy every array to every device."""
  return jax.device_put(tree, replicated_sharding(mesh))


def placement(tree: PyTree, mesh: Mesh, fsdp: bool) -> PyTree:
  """Return a sharding for each array of a state: replicated, or with `fsdp` large arrays sharded over the devices.

  An array is sharded along the last of its axes that the number of devices divides.

  Args:
    tree: of arrays or of shapes.
    mesh: of all devices.
    fsdp: shard arrays of at least LEAST_SHARDED values.
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
  """Return global arrays, sharded along their first axis, of which this host holds its own rows.

  Args:
    batch: this host's rows.
    mesh: of all devices.
  """
  sharding = NamedSharding(mesh, PartitionSpec(AXIS))
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def compile_step(step: Callable, mesh: Mesh, parallel: str, shardings: PyTree, *same: PyTree) -> Callable:
  """Return a train step, `(state, batch) -> (state, metrics)`, compiled at its first call; the state is donated.

  Args:
    step: a pure function. Under pmap it runs on each device's rows and returns the same on every device.
    mesh: of all devices.
    parallel: of PARALLEL. `pmap` takes no compiler options: on a CPU, `remat` is undone and steps are slower.
    shardings: of the returned state, as `placement` returns them; not read under pmap, which replicates it.
    same: further arguments of the step, the same at every call; not constants of the program, so that it serves a run
      with others, such as another key, without being compiled again.

  Returns:
    A function of a state on the mesh and of this host's rows of a batch, a multiple of its devices; metrics are
    replicated.

  Raises:
    UserError: another name for `parallel`.
  """
  if parallel not in PARALLEL:
    raise unknown('parallel', parallel, PARALLEL)
  if parallel == 'jit':
    compiled = jax.jit(
      step, donate_argnums=0, out_shardings=(shardings, replicated_sharding(mesh)), compiler_options=compiler_options()
    )
    return lambda state, batch: compiled(state, shard_batch(batch, mesh), *same)

  devices = list(mesh.devices.flat)
  mapped = jax.pmap(
    step, AXIS, in_axes=(None, 0, *(None for _ in same)), out_axes=None, devices=devices, donate_argnums=0
  )

  def viewed(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """View arrays, without a copy, as global or as this host's, which is the form that pmap takes."""
    if jax.process_count() == 1:
      return tree

    def view(x: Array) -> Array:
      # The shards of an array on a host's only device are no single-device arrays (jax 0.10).
      parts = [part.data for part in x.addressable_shards] if len(mesh.local_devices) > 1 else [x.addressable_data(0)]
      return jax.make_array_from_single_device_arrays(x.shape, sharding, parts)

    return jax.tree.map(view, tree)

  def run(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
    stacked = jax.tree.map(lambda x: x.reshape(len(mesh.local_devices), -1, *x.shape[1:]), batch)
    results = mapped(viewed(state, NamedSharding(mesh.local_mesh, PartitionSpec())), stacked, *same)
    return viewed(results, replicated_sharding(mesh))

  return run
