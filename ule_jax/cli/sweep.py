"""Train many runs as one graph: `python -m ule_jax.sweep --config=digits --axis=method.weight=1,10 --axis=seed=0,1`."""

from __future__ import annotations

from collections.abc import Sequence

from etils import epy

from ule_jax.cli import tables
from ule_jax.cli.flags import parse
from ule_jax.paths import local_path
from ule_jax.sweep.axes import parse_axes

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  from ule_jax.devices import runtime
  from ule_jax.sweep import run

USAGE = """\
Train many runs that differ only in numbers, together: one compiled graph, one pass over the data.

  python -m ule_jax.sweep --config=digits:ule --axis=method.weight=1,10,100 --axis=seed=0,1,2
  python -m ule_jax.sweep --config=celeba:ule,frozen ... --axis=optim.lr=1e-4,1e-3 --axis=seed=0,1,2,3,4
  python -m ule_jax.report runs/digits-ule-sweep --out=report            its members are runs as any other

  --axis=FIELD=VALUE,...  a field and its values; several make all combinations. FIELD is seed, optim.lr,
                          optim.weight_decay, optim.clip or a number among the options of the method
  --config=FILE[:METHOD[,VARIANT...]] and --config.FIELD=VALUE
                          what all members share, as for ule_jax.main
  --workdir=DIR           default runs/<config>-<method>-sweep; a member is the folder <workdir>/FIELD=VALUE,...
                          The same command on the same folder goes on where it stopped
  --force                 go on in a folder whose config, axes, data or weights differ

Each member is the run that ule_jax.main would make of its config, but for rounding. Images or features stay on the
device. A member whose loss is not finite is named, and the others go on.

Exit codes: 0 done, 2 usage or data, 75 stopped but resumable, 1 a defect of ule_jax."""


def main(argv: Sequence[str]) -> None:
  """Parse the flags, run, and print the tables."""
  flags = parse(argv, USAGE, {'axis': [], 'workdir': '', 'force': False})
  axes = parse_axes(flags.config, flags.values['axis'])
  runtime.keep_memory()
  default = f'runs/{flags.name}-{flags.config.method.name}-sweep'
  directory = local_path(flags.values['workdir'] or default, '--workdir')
  results = run.run(flags.config, axes, directory, force=flags.values['force'])
  print(tables.sweep_tables(results))
  print(f'\nresults: {directory / "sweep.json"}, and results.json of each member')
