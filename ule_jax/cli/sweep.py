"""Training of many runs as one graph: `python -m ule_jax.sweep --config=digits --axis=method.weight=1,10`."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter
from etils import epy

from ule_jax.cli.arguments import ConfigFields, ConfigFile, Directory
from ule_jax.config import load
from ule_jax.paths import local_path

with epy.lazy_imports():  # jax takes seconds to import: help and errors of the command line come before it
  from ule_jax.cli import tables
  from ule_jax.devices import runtime
  from ule_jax.sweep import axes, run


def sweep(
  *,
  config: ConfigFile,
  overrides: ConfigFields = (),
  axis: Annotated[tuple[str, ...], Parameter(metavar='FIELD=VALUE,...', negative=())] = (),
  workdir: Directory = '',
  force: bool = False,
) -> None:
  """Train many runs that differ only in numbers, together, as one graph.

  For example:

    python -m ule_jax.sweep --config=digits:ule --axis=method.weight=1,10,100 --axis=seed=0,1,2
    python -m ule_jax.sweep --config=celeba:ule,frozen ... --axis=optim.lr=1e-4,1e-3 --axis=seed=0,1
    python -m ule_jax.report runs/digits-ule-sweep --out=report     its members are runs as any other

  Each member is the run that ule_jax.main would make of its config, but for rounding, in the folder
  <workdir>/FIELD=VALUE,... Images or features stay on the device. A member whose loss is not finite
  is named, and the others continue. It prints the accuracies of every setting over seeds, and the
  setting that each selection rule picks. The same command on the same folder resumes where it stopped.

  Args:
    axis: a field and its values; several make all combinations. The field is seed, optim.lr,
      optim.weight_decay, optim.clip or a number among the options of the method.
    workdir: folder of the sweep (default runs/<config>-<method>-sweep).
    force: resume in a folder whose config, axes, data or weights differ.
  """
  settings: Any
  settings, name = load.load_text(config, overrides)
  values = axes.parse_axes(settings, axis)
  runtime.keep_memory()
  directory = local_path(workdir or f'runs/{name}-{settings.method.name}-sweep', '--workdir')
  results = run.run(settings, values, directory, force=force)
  print(tables.sweep_tables(results))
  print(f'\nresults: {directory / "sweep.json"}, and results.json of each member')
