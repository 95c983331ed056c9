"""The axes of a sweep, and its members: all combinations of their values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epy

from ule_jax.config.former import announce, present_name
from ule_jax.config.schema import Config
from ule_jax.config.validate import validate_config
from ule_jax.errors import UserError, unknown

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  from ule_jax.sweep import population

OPTIMISER = ('optim.lr', 'optim.weight_decay', 'optim.clip')

LONGEST_NAME = 255  # letters that a file system allows for the name of a member's folder

Axes = dict[str, list[float]]


class Member(NamedTuple):
  """A run of the population.

  Attributes:
    name: of its folder.
    setting: the values of all axes but the seed, by dotted field.
    config: its own.
    place: indices of its seed and its setting.
  """

  name: str
  setting: dict[str, float]
  config: Config
  place: tuple[int, int]


def traceable(config: Config) -> list[str]:
  """Return the fields that may differ inside one graph: the seed, and numbers that a step computes with."""
  options = [f'method.{name}' for name, value in config.method.to_dict().items() if isinstance(value, float)]
  return ['seed', *OPTIMISER, *options]


def parse_axes(config: Any, texts: Sequence[str]) -> Axes:
  """Parse the axes of a command line.

  Args:
    config: of all members.
    texts: `FIELD=VALUE,...` for each axis.

  Returns:
    Field -> its values.

  Raises:
    UserError: there is no axis, a field cannot be one, or a value is no number or appears twice.
  """
  if not texts:
    raise UserError('give at least one axis, for example --axis=seed=0,1,2.')
  config, axes = validate_config(config), {}
  allowed, fields = traceable(config), config.flat()
  for text in texts:
    field, _, values = text.partition('=')
    if (former := field) != (field := present_name(former)):
      announce(former, field)
    if field not in fields:
      raise unknown('field of --axis', field, allowed)
    if field not in allowed:
      raise UserError(
        f'{field} cannot be an axis: members of a sweep share one graph and may differ in {", ".join(allowed)}; '
        f'for other values of {field} give another --config.{field}.'
      )
    if field in axes:
      raise UserError(f'there are two axes of {field}: give all values in one.')
    kind = int if field == 'seed' else float
    try:
      axes[field] = [kind(value) for value in values.split(',')]
    except ValueError:
      raise UserError(f'--axis={text}: write numbers, as in --axis={field}=1,2,3.') from None
    if len(set(axes[field])) < len(axes[field]):
      raise UserError(f'--axis={text} has a value twice.')
  return axes


def expand(config: Any, axes: Axes) -> list[Member]:
  """Return a member for each combination of the axes, with a checked config; the seed changes slowest.

  Args:
    config: of all members, a ConfigDict or a `Config`.
    axes: field -> its values.

  Raises:
    UserError: a value is out of its range.
  """
  config = validate_config(config)
  others = {field: values for field, values in axes.items() if field != 'seed'}
  settings = [dict(zip(others, values, strict=True)) for values in itertools.product(*others.values())]
  members = []
  for s, seed in enumerate(axes.get('seed', [config.seed])):
    for n, setting in enumerate(settings):
      member_config = validate_config(config.flat() | setting | {'seed': seed})
      name = describe(setting | ({'seed': seed} if 'seed' in axes else {}))
      members.append(Member(name, setting, member_config, (s, n)))
  return members


def describe(setting: Mapping[str, float]) -> str:
  """Return a setting as in the name of a folder.

  >>> describe({'method.weight': 10.0, 'seed': 0})
  'method.weight=10,seed=0'
  """
  return ','.join(f'{field}={str(value).removesuffix(".0")}' for field, value in setting.items()) or 'all'


def overrides_of(members: Sequence[Member]) -> population.Members:
  """Return the seeds and the values of the axes as arrays, as the compiled functions take them."""
  seeds = [member.config.seed for member in members if member.place[1] == 0]
  settings = [member.setting for member in members if member.place[0] == 0]
  overrides = {field: np.array([setting[field] for setting in settings], np.float32) for field in settings[0]}
  if (clip := overrides.get('optim.clip')) is not None:  # 0 is no clipping
    overrides['optim.clip'] = np.where(clip == 0, np.inf, clip).astype(np.float32)
  return population.Members(np.array(seeds), overrides, len(settings))
