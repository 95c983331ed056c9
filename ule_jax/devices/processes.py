"""Several processes that train one run together: one on each host, or one for each accelerator of a host.

Every process runs the same command and computes the same; the first one also writes files and prints. If one of them
dies, the others exit within `LOST` + `BEAT` seconds; the run resumes from its last checkpoint when it is started again,
on any number of hosts.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from ule_jax.errors import RESUMABLE, UserError

# Seconds without a heartbeat from a process, after which the others exit. jax's own threads would end them after 100,
# with a stack trace.
LOST = 45
BEAT = 5  # seconds between two heartbeats
GRACE = 2  # seconds by which the first process exits after the others
PATIENCE = 3600  # seconds that a barrier waits
_losing = threading.Lock()
_leaving = threading.Event()
_steps = itertools.count()
_waits = itertools.count()  # a barrier name is single-use
# Environment variables of launchers, with the number of processes that they started.
COUNTS = ('SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE')


def connect(coordinator: str = '', number: int = 0, host: int = -1) -> None:
  """Join the other processes of a run, if there are any; jax must not have been used before.

  Without arguments they come from the environment of SLURM, Open MPI or a TPU pod slice.

  Args:
    coordinator: ADDRESS:PORT of the first host, which the others can reach.
    number: of hosts; 1 joins none, whatever the environment says.
    host: index of this one.

  Raises:
    UserError: an argument is missing or wrong, or the others cannot be reached.
  """
  if number == 1:
    return
  given = {'coordinator': bool(coordinator), 'hosts': number > 0, 'host': host >= 0}
  if any(given.values()):
    if missing := [f'--{name}' for name, there in given.items() if not there]:
      raise UserError(
        f'{" and ".join(missing)} missing: give --coordinator=ADDRESS:PORT, --hosts=NUMBER and --host=WHICH.'
      )
    if host >= number:
      raise UserError(f'--host={host}, but hosts are counted from 0 to {number - 1}, as --hosts={number}.')
    port = coordinator.rpartition(':')[2]
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
      raise UserError(f'--coordinator={coordinator} names no port: write it as ADDRESS:PORT.')
    _initialize(coordinator_address=coordinator, num_processes=number, process_id=host)
  elif _launched():
    try:
      _initialize()
    except ValueError as error:
      raise UserError(
        f'this looks like one of several processes of a run, but jax does not find the others ({error}) '
        'Give --coordinator=ADDRESS:PORT, --hosts=NUMBER and --host=WHICH, or --hosts=1 if it is a run of its own.'
      ) from None
  elif importlib.util.find_spec('libtpu') and os.environ.get('JAX_PLATFORMS', 'tpu').startswith('tpu'):
    try:
      _initialize()
    except ValueError:  # not a pod slice
      return


def _launched() -> bool:
  several = any(os.environ.get(name, '').strip() not in ('', '0', '1') for name in COUNTS)
  return several or ',' in os.environ.get('TPU_WORKER_HOSTNAMES', '')


def _initialize(**arguments) -> None:
  try:
    jax.distributed.initialize(**arguments)
  except RuntimeError as error:
    text = ' '.join(str(error).split())
    raise UserError(
      f'the other hosts cannot be reached ({text[:200]}): start the same command on all of them.'
    ) from None
  threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
  """Exit when a peer process stops responding, because a pending collective would otherwise block forever."""
  meet = multihost.get_barrier_sync_fn()
  for number in itertools.count():
    try:
      meet(key=f'ule_jax alive {number}', timeout_ms=LOST * 1000)
    except Exception as error:
      if _leaving.is_set():
        return
      exit_peer_lost(error)
    if _leaving.wait(BEAT):
      return


def exit_peer_lost(error: Exception) -> None:
  """Exit at once because a peer is lost; an ordinary exit would wait for it."""
  if not _losing.acquire(blocking=False):  # another thread prints the line
    time.sleep(2 * GRACE)
  text = ' '.join(str(error).split()).partition('. ')[0]
  line = (
    f'stopped: another host is gone ({text[:150]}); resumable, the same command on all hosts continues from the last '
    'checkpoint.\n'
  )
  os.write(2, line.encode())
  if is_first():
    time.sleep(GRACE)  # otherwise jax ends the others before they can print their line
  os._exit(RESUMABLE)


def shutdown() -> None:
  """End the connection to the other processes, after a barrier."""
  barrier('end')
  _leaving.set()


def is_initialized() -> bool:
  """Return whether this process has joined others, without touching a device."""
  return jax.distributed.is_initialized()


def is_distributed() -> bool:
  """Return whether there are several processes."""
  return jax.process_count() > 1


def is_first() -> bool:
  """Return whether this process is the one that writes files and prints."""
  return jax.process_index() == 0


def process_slice() -> dict[str, int]:
  """Return the index of this process and their number, as arguments of the input pipeline."""
  return {'host': jax.process_index(), 'hosts': jax.process_count()}


def barrier(name: str) -> None:
  """Wait until all processes are here; `name` appears in the error of a timeout."""
  if is_distributed():
    # Not sync_global_devices: a collective that waits this long may time out.
    key = f'ule_jax {name} {next(_waits)}'
    multihost.get_barrier_sync_fn()(key=key, timeout_ms=PATIENCE * 1000)


def broadcast(value: bool) -> bool:
  """Return the value of the first process on all processes."""
  return bool(multihost_utils.broadcast_one_to_all(np.int32(value))) if is_distributed() else value


@contextmanager
def raise_on_all(name: str) -> Iterator[None]:
  """Raise an error on all processes if the block raises one on any of them, so that none waits for another.

  Args:
    name: of the block's work, after `when`.

  Raises:
    UserError: that of this process, or the index of the process that has one.
  """
  error = None
  try:
    yield
  except UserError as raised:
    error = raised
  if is_distributed():
    barrier(name)
    failed = np.asarray(multihost_utils.process_allgather(np.int32(error is not None)))
    if failed.any():
      if is_first():
        time.sleep(GRACE)  # otherwise jax ends the others before they can print their line
      raise error or UserError(f'host {failed.argmax()} of this run stops with an error when {name}: see what it says.')
  elif error:
    raise error


@contextmanager
def first_process_first(name: str) -> Iterator[None]:
  """Run the block on the first process before the others, which then find its files."""
  if not is_first():
    barrier(name)
  yield
  if is_first():
    barrier(name)


def preempted() -> str:
  """Return the name of the signal for which all processes have to stop at this step; '' if they do not.

  jax passes the SIGTERM of one process on to all of them, and agrees on a step that none has passed. Every process has
  to call this at every step.
  """
  # Our own count, as jax needs numbers without gaps, and a run may start anywhere or be the second one of a process.
  return 'SIGTERM' if is_distributed() and multihost_utils.reached_preemption_sync_point(next(_steps)) else ''
