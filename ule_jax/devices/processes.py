"""Several processes that train one run together: one on each host, or one for each accelerator of a host.

Every host runs the same command and computes the same; the first one also writes and speaks. A host that dies takes the
others with it, within `LOST` + `BEAT` seconds, and the run goes on from its last checkpoint when it is started again,
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

# Seconds without a word from a host, after which the others end. jax's own threads would end them, with a stack trace,
# after 100.
LOST = 45
BEAT = 5  # seconds between two words
GRACE = 2  # seconds between the ends of the other hosts and of the first
PATIENCE = 3600  # seconds that hosts wait where one of them has work to do
_losing = threading.Lock()
_leaving = threading.Event()
_steps = itertools.count()
_waits = itertools.count()  # a name can be waited at once only
# What says that a launcher started several processes of this command.
COUNTS = ('SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE')


def connect(coordinator: str = '', number: int = 0, host: int = -1) -> None:
  """Join the other hosts of a run, if there are any; jax must not have been used before.

  Without arguments they are found by what SLURM, Open MPI or a TPU pod slice says of the job.

  Args:
    coordinator: ADDRESS:PORT of the first host, which the others can reach.
    number: of hosts; 1 joins nobody, whatever the job says.
    host: which one this is, from 0 on.

  Raises:
    UserError: the arguments are not all there, or the others cannot be reached.
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
    except ValueError:  # no pod slice: jax finds nobody to join
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
  """End the process if another host is not heard of: what it is in the middle of may wait for that one for ever."""
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
  """End the process, as another host is gone: at once, as an ordinary exit would wait for that host."""
  if not _losing.acquire(blocking=False):  # another thread says it
    time.sleep(2 * GRACE)
  text = ' '.join(str(error).split()).partition('. ')[0]
  line = (
    f'stopped: another host is gone ({text[:150]}); resumable, the same command on all hosts goes on from the last '
    'checkpoint.\n'
  )
  os.write(2, line.encode())
  if is_first():
    time.sleep(GRACE)  # as without it jax ends the others before they can say so
  os._exit(RESUMABLE)


def shutdown() -> None:
  """Part from the other hosts at the end of what they did together."""
  barrier('end')
  _leaving.set()


def is_initialized() -> bool:
  """Tell whether this process has joined others, without touching a device."""
  return jax.distributed.is_initialized()


def is_distributed() -> bool:
  """Tell whether there is more than this host."""
  return jax.process_count() > 1


def is_first() -> bool:
  """Tell whether this host is the one that writes and speaks."""
  return jax.process_index() == 0


def process_slice() -> dict[str, int]:
  """Tell which host this is, of how many."""
  return {'host': jax.process_index(), 'hosts': jax.process_count()}


def barrier(name: str) -> None:
  """Go on when all hosts are here; `name` says where that is."""
  if is_distributed():
    # Not sync_global_devices: a collective that waits for so long may give up.
    key = f'ule_jax {name} {next(_waits)}'
    multihost.get_barrier_sync_fn()(key=key, timeout_ms=PATIENCE * 1000)


def broadcast(answer: bool) -> bool:
  """Return the first host's answer to a question, on all hosts."""
  return bool(multihost_utils.broadcast_one_to_all(np.int32(answer))) if is_distributed() else answer


@contextmanager
def raise_on_all(name: str) -> Iterator[None]:
  """Leave a block on all hosts with an error if one of them has one, so that none waits for another.

  Raises:
    UserError: the host's own one, or which host has one.
  """
  error = None
  try:
    yield
  except UserError as own:
    error = own
  if is_distributed():
    barrier(name)
    failed = multihost_utils.process_allgather(np.int32(error is not None))
    if failed.any():
      if is_first():
        time.sleep(GRACE)  # as without it jax ends the others before they can say so
      raise error or UserError(f'host {failed.argmax()} of this run stops with an error when {name}: see what it says.')
  elif error:
    raise error


@contextmanager
def first_process_first(name: str) -> Iterator[None]:
  """Let the first host go through a block before the others, who find what it left."""
  if not is_first():
    barrier(name)
  yield
  if is_first():
    barrier(name)


def preempted(step: int) -> str:
  """Return the name of the signal after which all hosts are to stop at this step, '' if they need not.

  jax passes a SIGTERM at one host on to all of them, and finds a step that none has gone beyond. To be called by
  every host at every step.
  """
  del step  # jax wants numbers without a gap, and a run may begin anywhere, or be the second one of the process
  return 'SIGTERM' if is_distributed() and multihost_utils.reached_preemption_sync_point(next(_steps)) else ''
