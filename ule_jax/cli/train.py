"""Train and evaluate one config: `python -m ule_jax.main --config=configs/digits.py`."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ule_jax.cli.flags import parse
from ule_jax.paths import local_path

USAGE = """\
Train a classifier that avoids a shortcut, evaluate it, and write the results into a folder.

  python -m ule_jax.main --config=configs/digits.py                     ULE on the embedded task
  python -m ule_jax.main --config=configs/digits.py:erm                 another method
  python -m ule_jax.main --config=celeba --config.data.dir=DIR          CelebA; configs ship with the package
  python -m ule_jax.main --config=celeba:ule,frozen ...                 heads on a frozen encoder; also vit_b16
  python -m ule_jax.main --config=digits --config.method.weight=100     any field of configs/base.py

  --config=FILE[:METHOD[,VARIANT...]]  a file, or the name of a shipped config
  --config.FIELD=VALUE    change a field; configs/base.py says what they mean
  --workdir=DIR           where the run lives (default runs/<config>-<method>-s<seed>); the same
                          command on the same folder goes on where it stopped
  --force                 go on in a folder whose config, data or weights differ
  --coordinator=ADDRESS:PORT --hosts=NUMBER --host=WHICH
                          several hosts, each with this command and its own WHICH, from 0 on; not
                          needed under SLURM, Open MPI and on TPU slices

Exit codes: 0 done, 2 usage or data, 75 stopped but resumable, 1 a defect of ule_jax."""


def main(argv: Sequence[str]) -> None:
  """Parse the flags, run, and print the tables."""
  flags = parse(argv, USAGE, {'workdir': '', 'force': False, 'coordinator': '', 'hosts': 0, 'host': -1})
  config = flags.config
  default = f'runs/{flags.name}-{config.method.name}-s{config.seed}'
  workdir = local_path(flags.values['workdir'] or default, '--workdir')
  from ule_jax.cli import tables
  from ule_jax.devices import processes, runtime
  from ule_jax.runs import progress
  from ule_jax.train.run import run

  runtime.keep_memory()
  if flags.values['hosts'] > 1:
    logging.getLogger(__name__).info(f'waiting for {flags.values["hosts"]} hosts at {flags.values["coordinator"]}')
  processes.connect(flags.values['coordinator'], flags.values['hosts'], flags.values['host'])
  runtime.require_devices()  # the first that asks for one would end with jax's own words
  if not processes.is_first():
    progress.hush()
  results = run(config, workdir, force=flags.values['force'])
  if not processes.is_first():
    return
  print(tables.results_table(results))
  print()
  print(tables.rules_table(results))
  print(f'\nresults: {workdir / "results.json"}')
