"""Methods, by the names that configs use.

A method is one module of this package and one row of METHODS. The module has `make_method(options: X, sizes)`, where X
is its class of options. A method of two runs is a rule in `two_stage/` and a row there.
"""

from __future__ import annotations

import importlib
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ule_jax.methods.contract import LABEL_FREE, SEPARABLE, Aux, Batch, Forward, Method, Output, Sizes, Step, labelled
from ule_jax.options import Options, meta
from ule_jax.two_stage import TWO_STAGE


class Entry(NamedTuple):
  """A method by name.

  make: the method of some options and some data.
  options: the class of these options; its fields are `method.*` of a config.
  fields: the other fields of a config that make the method, dotted, with their values; a method's name sets them.
  correction: a correction of the loss since runs of the method were first recorded; '' for none.
  """

  make: Callable[[Any, Sizes], Method]
  options: type[Options]
  fields: Mapping[str, Any] = MappingProxyType({})
  correction: str = ''

  def __call__(self, options: Any, sizes: Sizes) -> Method:
    """Return the method of some options, or of any object that has them as attributes, also under former names."""
    if isinstance(options, self.options):
      return self.make(options, sizes)
    names = {name: (name, *meta(field).former) for name, field in self.options.model_fields.items()}
    given = {name: getattr(options, old) for name, olds in names.items() for old in olds if hasattr(options, old)}
    return self.make(self.options(**given), sizes)


def row(module: str, fields: Mapping[str, Any] = MappingProxyType({}), correction: str = '') -> Entry:
  """Return the entry of the method in a module of this package; `fields` and `correction` as in `Entry`."""
  make = importlib.import_module(f'{__name__}.{module}').make_method
  return Entry(make, next(iter(typing.get_type_hints(make).values())), MappingProxyType(dict(fields)), correction)


# As group_DRO's --reweight_groups; DomainBed and LISA draw as much from each environment
BALANCED = {'train.sampling': 'group_balanced'}

METHODS = {
  'erm': row('erm'),
  'ule': row('ule'),
  'gradient_penalty': row('gradient_penalty'),
  'shuffled_student': row('shuffled_student'),
  'group_dro': row('group_dro', BALANCED),
  'lff': row('lff'),
  'irm': row('irm', BALANCED),
  'vrex': row('vrex', BALANCED),
  'coral': row('coral', BALANCED),
  'mmd': row('mmd', BALANCED, correction='distances between features in float32'),
  'mixup': row('mixup'),
  'lisa': row('lisa', BALANCED),
  # ERM on other draws: all groups or classes equally often, or as many of each as the smallest has
  'rwg': row('erm', BALANCED),
  'rwy': row('erm', {'train.sampling': 'class_balanced'}),
  'subg': row('erm', {'train.sampling': 'group_subsampled'}),
  'suby': row('erm', {'train.sampling': 'class_subsampled'}),
  # the second of two runs
  **{
    name: row(rule.method, {'two_stage.rule': name, **rule.fields}, rule.correction) for name, rule in TWO_STAGE.items()
  },
}

__all__ = [
  'LABEL_FREE', 'METHODS', 'SEPARABLE',
  'Aux', 'Batch', 'Entry', 'Forward', 'Method', 'Output', 'Sizes', 'Step',
  'labelled',
]  # fmt: skip
