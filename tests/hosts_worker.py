"""One of several processes of one run, started by hosts_test: `hosts_worker.py HOST HOSTS PORT OUT WORKDIR STOP`.

Trains small networks over all processes and writes their parameters; then continues a run, for STOP steps if that
is not 0.
"""

import sys
from pathlib import Path

import jax
from quick_compiles import compile_quickly


def main(host: int, number: int, port: int, out: str, workdir: Path, stop: int) -> None:
  from ule_jax.devices import processes

  jax.config.update('jax_num_cpu_devices', 4 // number)
  compile_quickly()  # as the process that it is compared with
  processes.connect(f'127.0.0.1:{port}', number, host)  # before anything is computed, as importing common does
  assert (jax.process_count(), jax.device_count()) == (number, 4)

  import numpy as np
  from sharding_test import config_of, stop_after

  from ule_jax.errors import Interrupted
  from ule_jax.train.run import run

  with jax.enable_x64(True):
    found = trained()
  if processes.is_first():
    np.savez(out, **found)
  if stop:
    processes.preempted = stop_after(stop)
  try:
    run(config_of(), workdir)
  except Interrupted:
    assert stop
  processes.shutdown()


def trained() -> dict:
  """The parameters and statistics of small networks after five steps."""
  import numpy as np
  from common import batch_of, method_of, network, sgd, train_on
  from sharding_test import KINDS

  from ule_jax.devices.mesh import PARALLEL, make_mesh

  mesh, found = make_mesh(), {}
  for name in KINDS:
    method, model = method_of(name), network(batch_norm='batch', depth=1)
    batches = [batch_of(seed=s, dtype=np.float64) for s in range(5)]
    for parallel in PARALLEL:
      state, _ = train_on(mesh, parallel, method, model, batches, sgd(1e-2))
      for path, leaf in jax.tree_util.tree_leaves_with_path((state.params, state.batch_stats, state.method_state)):
        found[f'{name} {parallel} {jax.tree_util.keystr(path)}'] = np.asarray(leaf)
  return found


if __name__ == '__main__':
  host, number, port, out, workdir, stop = sys.argv[1:]
  main(int(host), int(number), int(port), out, Path(workdir), int(stop))
