"""Parameters that several verbs share, and the overrides of a config, which are split off before a verb's own flags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from ule_jax.errors import UserError

Text = Annotated[str, Parameter(metavar='NAME')]
Directory = Annotated[str, Parameter(metavar='DIR')]
File = Annotated[str, Parameter(metavar='FILE')]
Count = Annotated[int, Parameter(metavar='N', validator=Number(gte=0))]
Run = Annotated[str, Parameter(metavar='DIR', help='the --workdir of a run that is done')]
Threads = Annotated[
  int, Parameter(metavar='N', validator=Number(gte=0), help='number of threads that read and decode images')
]
Cache = Annotated[
  str,
  Parameter(
    metavar='DIR',
    help='where compiled programs are kept: a folder, default or off; never the folder that the run names',
  ),
]
Images = Annotated[bool, Parameter(negative='--no-images')]

Overrides = Sequence[tuple[str, str]]  # dotted name and text of each `--config.NAME=TEXT`, in order
ConfigFile = Annotated[
  str,
  Parameter(
    name='--config',
    allow_repeating=False,
    metavar='FILE[:METHOD[,VARIANT...]]',
    help='a file, or the name of a shipped config. --config.FIELD=VALUE changes a field of it; '
    'docs/reference/config.md has all fields',
  ),
]
ConfigFields = Annotated[Overrides, Parameter(parse=False)]


def split(argv: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
  """Return the overrides `--config.FIELD=VALUE` or `--config.FIELD VALUE` of a command line, and its other arguments.

  Both are in order, repeats are kept, fields are not checked. The argument after a bare `--config.FIELD` is its value.

  >>> split(['--config=digits', '--config.seed=1', '--config.optim.lr', '0.1', '--force'])
  ([('seed', '1'), ('optim.lr', '0.1')], ['--config=digits', '--force'])

  Raises:
    UserError: `--config.FIELD` without a value (`--config.FIELD=` is empty text), or another flag that ends at `=`.
  """
  overrides, others, rest = [], [], list(argv)
  while rest:
    name, equals, value = rest.pop(0).partition('=')
    is_override = name.startswith('--config.')
    if is_override and not equals and rest:
      value = rest.pop(0)
    if name.startswith('--') and not value and (not is_override if equals else is_override):
      raise UserError(f'{name} has no value: write {name}=VALUE.')  # with `=`, the text of a config may be empty
    if is_override:
      overrides.append((name.removeprefix('--config.'), value))
    else:
      others.append(name + equals + value)
  return overrides, others
