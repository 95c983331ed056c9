"""Rules of the second stage, by the names that configs use: from a finished first run to the inputs of the second.

A rule is one module of this package and one row of TWO_STAGE. The module has `prepare(options: X, first)`, where X is
its class of options, and, if data can be refused before the first run, `check(options, splits, classes)`.
"""

from __future__ import annotations

import importlib
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ule_jax.options import Options
from ule_jax.two_stage.contract import FirstRun, SecondStage


class Rule(NamedTuple):
  """A rule of the second stage, and the method of two runs that has its name.

  prepare: from options and a finished first run to the inputs of the second.
  options: the class of these options; its fields are `two_stage.<rule>.*` of a config.
  check: of options, split -> (label, group), and names of classes; refuses data that the rule cannot use, or None.
  refits: the rule fits the first run's last layer again, and leaves nothing to train.
  method: the module in `methods/` whose loss the second run has.
  fields: the fields of a config that make the method, beside `two_stage.rule`.
  correction: as in `methods.Entry`.
  """

  prepare: Callable[[Any, FirstRun], SecondStage]
  options: type[Options]
  check: Callable[..., None] | None
  refits: bool
  method: str
  fields: Mapping[str, Any]
  correction: str


def row(
  module: str,
  method: str = 'erm',
  fields: Mapping[str, Any] = MappingProxyType({}),
  refits: bool = False,
  correction: str = '',
) -> Rule:
  """Return the rule in a module of this package; the other arguments as in `Rule`."""
  rules = importlib.import_module(f'{__name__}.{module}')
  options = next(iter(typing.get_type_hints(rules.prepare).values()))
  check = getattr(rules, 'check', None)
  return Rule(rules.prepare, options, check, refits, method, MappingProxyType(dict(fields)), correction)


# The length of a first run is ours, where a data set's recipe does not say.
EPOCH = {'two_stage.epochs': 1.0}
BALANCED = {'train.sampling': 'group_balanced'}

TWO_STAGE = {
  'jtt': row('jtt', fields=EPOCH),
  'spare': row('spare', fields=EPOCH),
  'eiil': row('eiil', 'group_dro', EPOCH | BALANCED),
  'cnc': row(
    'cnc',
    'cnc',
    EPOCH | BALANCED,
    correction='the mean over anchors, the two sides added, and the pairs of three classes',
  ),
  'dfr': row('dfr', refits=True),
  'afr': row('afr', fields={'train.holdout': 0.2}, refits=True),  # afr: 80/20
}
REFITS = tuple(name for name, rule in TWO_STAGE.items() if rule.refits)

__all__ = ['REFITS', 'TWO_STAGE', 'FirstRun', 'Rule', 'SecondStage']
