"""Where arrays live: one mesh over all devices, batches split over it, the state on each.

Two ways to compile the same step, with the same numbers:

  jit    the program stays global, the compiler divides it: means over groups and BatchNorm's statistics are right by
         construction, and large parameters may be divided over the devices too (`fsdp`)
  pmap   the program runs on every device. Images and gradients at them are the device's own; all else (labels, logits,
         features) is of the whole batch, so that a loss is computed from all of it on every device. `everyone` and
         `here` lead from one to the other, `replicated` adds up what the devices contribute to a parameter's gradient,
         and under `jit` all three do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

AXIS = 'batch'
PARALLEL = ('jit', 'pmap')
LEAST_SHARDED = 1 << 16  # values of an array from which on fsdp divides it


def compiler_options() -> dict[str, str]:
  """Return what the compiler of this machine's devices needs to be told.

  The CPU's drops the barriers that keep it from undoing `remat` and from computing what a product of matrices takes
  again for that product's derivatives, unless told not to.
  """
  return {'xla_disable_hlo_passes': 'cse_barrier_expander'} if jax.default_backend() == 'cpu' else {}


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Put devices, all of all hosts, on one axis, host after host: a host's block of a batch is then on its devices."""
  devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
  # The default, Explicit axes, rejects ordinary code with a ShardingTypeError.
  return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def local_mesh() -> Mesh:
  """Put the devices of this host on one axis, for work that every host does for itself."""
  return make_mesh(jax.local_devices())


def everywhere(mesh: Mesh) -> NamedSharding:
  """Say that an array is to be on every device."""
  return NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Put a copy of every array on every device."""
  return jax.device_put(tree, everywhere(mesh))


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
      step, donate_argnums=0, out_shardings=(places, everywhere(mesh)), compiler_options=compiler_options()
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
    return seen_as(found, everywhere(mesh))

  return run


# --- Inside a step -------------------------------------------------------------------------------------


def axis() -> str | None:
  """Return the name of the devices' axis inside a program that runs on each of them, None elsewhere."""
  try:
    jax.lax.axis_size(AXIS)
  except NameError:
    return None
  return AXIS


@jax.custom_vjp
def everyone(x: PyTree) -> PyTree:
  """Put together the examples of all devices, in the batch's order; all devices then compute the same with them.

  The gradient of what they compute is the same everywhere, so that each device takes its own examples' part.
  """
  if axis() is None:
    return x
  return jax.tree.map(lambda v: jax.lax.all_gather(v, AXIS, tiled=True), x)


@jax.custom_vjp
def here(x: PyTree) -> PyTree:
  """Take this device's examples out of a batch that all devices have: the inverse of `everyone`."""
  if axis() is None:
    return x

  def own(v: Array) -> Array:
    size = v.shape[0] // jax.lax.axis_size(AXIS)
    return jax.lax.dynamic_slice_in_dim(v, jax.lax.axis_index(AXIS) * size, size)

  return jax.tree.map(own, x)


def drawn_here(draw: Callable[[Sequence[int]], Array], shape: Sequence[int]) -> Array:
  """Draw numbers for this device's examples, out of those of the whole batch.

  Args:
    draw: shape -> random numbers.
    shape: of this device's, examples first.
  """
  return draw(shape) if axis() is None else here(draw((shape[0] * jax.lax.axis_size(AXIS), *shape[1:])))


@jax.custom_vjp
def replicated(x: PyTree) -> PyTree:
  """Return parameters as they are; their gradient is the sum of what the devices contribute to it."""
  return x


def _total(x: PyTree) -> PyTree:
  return x if axis() is None else jax.lax.psum(x, AXIS)


# The rules go through the functions again, so that a gradient of a gradient is right as well.
everyone.defvjp(lambda x: (everyone(x), None), lambda _, g: (here(g),))
here.defvjp(lambda x: (here(x), None), lambda _, g: (everyone(g),))
replicated.defvjp(lambda x: (x, None), lambda _, g: (_total(g),))
