"""Where arrays live: one mesh over all devices, batches split over it, the state on each of them.

Under `jit` the program stays global: means over groups and BatchNorm's statistics are right by
construction, on one device or many.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

AXIS = 'batch'


def compiler_options(remat: bool) -> dict[str, str]:
  """Return what the compiler of this machine's devices needs to be told.

  Args:
    remat: of the model; the CPU's compiler drops the barriers that keep it from undoing it, unless told not to.
  """
  return {'xla_disable_hlo_passes': 'cse_barrier_expander'} if remat and jax.default_backend() == 'cpu' else {}


def hosts() -> dict[str, int]:
  """Tell which host this is, of how many."""
  return {'host': jax.process_index(), 'hosts': jax.process_count()}


def make_mesh() -> Mesh:
  """Put all devices of all hosts on one axis."""
  # The default, Explicit axes, rejects ordinary code with a ShardingTypeError.
  return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def local_mesh() -> Mesh:
  """Put the devices of this host on one axis, for work that every host does for itself."""
  return jax.make_mesh((jax.local_device_count(),), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.local_devices())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Put a copy of every array on every device."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batch(batch: PyTree, mesh: Mesh) -> PyTree:
  """Split this host's arrays over its devices along their first axis."""
  sharding = NamedSharding(mesh, PartitionSpec(AXIS))
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
