"""Axes of a sweep and the members that they make."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epy

from ule_jax.config import fields
from ule_jax.errors import UserError, unknown

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  from ule_jax.config import check
  from ule_jax.sweep import population

OPTIMISER = ('optim.lr', 'optim.weight_decay', 'optim.clip')

NAME = 255  # letters that a file system allows for the name of a folder, a member's

Axes = dict[str, list[float]]


class Member(NamedTuple):
  """A run of the population, and where it stands: `place` is (seed, setting)."""

  name: str
  setting: dict[str, float]
  config: Any
  place: tuple[int, int]


def traceable(config: Any) -> list[str]:
  """Name the fields that may differ inside one graph: numbers that a step computes with."""
  options = [f'method.{name}' for name, value in config.method.items() if isinstance(value, float)]
  return ['seed', *OPTIMISER, *options]


def parse_axes(config: Any, texts: Sequence[str]) -> Axes:
  """Read `FIELD=VALUE,...` for each axis.

  Raises:
    UserError: there is none, its field cannot be one, or a value is no number or stands there twice.
  """
  if not texts:
    raise UserError('give at least one axis, for example --axis=seed=0,1,2.')
  allowed, axes = traceable(config), {}
  for text in texts:
    field, _, values = text.partition('=')
    if field not in fields.flatten(config.to_dict()):
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
  """Make all combinations of the axes, and check each; the seed changes slowest.

  Raises:
    UserError: a value is out of its range.
  """
  others = {field: values for field, values in axes.items() if field != 'seed'}
  settings = [dict(zip(others, values, strict=True)) for values in itertools.product(*others.values())]
  members = []
  for s, seed in enumerate(axes.get('seed', [config.seed])):
    for n, setting in enumerate(settings):
      own = copy.deepcopy(config)
      own.update_from_flattened_dict({**setting, 'seed': seed})
      check.check(own)
      said = setting | ({'seed': seed} if 'seed' in axes else {})
      members.append(Member(describe(said), setting, own, (s, n)))
  return members


def describe(setting: Mapping[str, float]) -> str:
  """Write a setting as in the name of a folder.

  >>> describe({'method.weight': 10.0, 'seed': 0})
  'method.weight=10,seed=0'
  """
  return ','.join(f'{field}={str(value).removesuffix(".0")}' for field, value in setting.items()) or 'all'


def numbers_of(members: Sequence[Member]) -> population.Members:
  """Gather what the compiled step is given of the members."""
  seeds = [member.config.seed for member in members if member.place[1] == 0]
  settings = [member.setting for member in members if member.place[0] == 0]
  numbers = {field: np.array([setting[field] for setting in settings], np.float32) for field in settings[0]}
  if 'optim.clip' in numbers:  # where 0 is none
    numbers['optim.clip'] = np.where(numbers['optim.clip'] == 0, np.inf, numbers['optim.clip']).astype(np.float32)
  return population.Members(np.array(seeds), numbers, len(settings))
