"""Training and evaluation of one config: `python -m ule_jax.main --config=digits`."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from cyclopts import Parameter
from etils import epy

from ule_jax.cli import app
from ule_jax.cli.arguments import ConfigFields, ConfigFile, Count, Directory
from ule_jax.config import load
from ule_jax.paths import local_path

with epy.lazy_imports():  # jax takes seconds to import: help and errors of the command line come before it
  from ule_jax.cli import tables
  from ule_jax.devices import processes, runtime
  from ule_jax.runs import progress, verdicts
  from ule_jax.train import run


def train(
  *,
  config: ConfigFile,
  overrides: ConfigFields = (),
  workdir: Directory = '',
  force: bool = False,
  coordinator: Annotated[str, Parameter(metavar='ADDRESS:PORT')] = '',
  hosts: Count = 0,
  host: Count | None = None,
) -> None:
  """Train one config, evaluate it, and write the results into a folder.

  For example:

    python -m ule_jax.main --config=digits                            ULE on the embedded task
    python -m ule_jax.main --config=digits:erm                        another method
    python -m ule_jax.main --config=celeba --config.data.dir=DIR      CelebA; configs ship along
    python -m ule_jax.main --config=celeba:ule,frozen ...             heads on a frozen encoder
    python -m ule_jax.main --config=digits --config.method.weight=100

  Which of the 22 methods?

    no group labels                           erm and ule; compare them on counter-examples,
                                              which you label yourself
    group labels of some validation images    dfr, or ule with --config.select=val/worst_group_accuracy
    group labels of all training images       group_dro or rwg

  It prints the accuracies on all splits, of every class and group, and whether they show a shortcut.
  The same command on the same folder resumes where it stopped.

  Args:
    workdir: folder of the run (default runs/<config>-<method>-s<seed>).
    force: resume in a folder whose config, data or weights differ.
    coordinator: of several hosts, the first one's. Each is given this command with its own --host;
      none of the three flags is needed under SLURM, Open MPI and on TPU slices.
    hosts: number of hosts.
    host: number of this host, from 0 on.
  """
  settings: Any
  settings, name = load.load_text(config, overrides)
  default = f'runs/{name}-{settings.method.name}-s{settings.seed}'
  directory = local_path(workdir or default, '--workdir')
  runtime.keep_memory()
  if hosts > 1:
    logging.getLogger(__name__).info(f'waiting for {hosts} hosts at {coordinator}')
  try:
    processes.connect(coordinator, hosts, -1 if host is None else host)
  finally:
    if processes.is_initialized():
      app.join(processes)
  runtime.require_devices()  # the first that asks for one would end with jax's own words
  if not processes.is_first():
    progress.hush()
  results = run.run(settings, directory, force=force)
  if not processes.is_first():
    return
  parts = tables.run_table(results), tables.rules_table(results), tables.sentences(verdicts.verdicts(results))
  print('\n\n'.join(parts))
  print(f'\nresults: {directory / "results.json"}\n{tables.next_commands(directory)}')
