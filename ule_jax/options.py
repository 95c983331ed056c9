"""Declarations of options: default, meaning, bounds or choices, and whether a run may resume with another value.

Everything that is chosen by a config stands once, in the class of its owner (a method, a data set, a network, a second
stage, or one of the common parts in config/schema.py). Checks, messages, the tables in docs, and the
completion of recorded configs are derived from these classes.

  class Focal(Options):
    gamma: float = option(2.0, 'exponent of 1 - p', ge=0)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import pydantic
from pydantic.fields import FieldInfo

from ule_jax.errors import UserError, brief, unknown

Model = TypeVar('Model', bound='Options')


class Meta(NamedTuple):
  """Facts about an option beside its type, default and bounds.

  choices: names that it may have; empty if it is no choice.
  resume: a run may resume with another value, because it does not change a step's computation.
  identity: runs with other values are other treatments in a report, and not seeds of one.
  former: names that older configs and users have for it, in the same place.
  treatment: of a data set, how its images are trained on; runs with other values are still of the same data.
  added: runs were recorded without it at first; they behaved as with its default.
  """

  choices: tuple[str, ...] = ()
  resume: bool = False
  identity: bool = True
  former: tuple[str, ...] = ()
  treatment: bool = False
  added: bool = False


def option(
  default: Any,
  meaning: str,
  *,
  gt: float | None = None,
  ge: float | None = None,
  lt: float | None = None,
  le: float | None = None,
  choices: Iterable[str] = (),
  resume: bool = False,
  identity: bool = True,
  former: Iterable[str] = (),
  treatment: bool = False,
  added: bool = False,
) -> Any:
  """Declare an option of an `Options` class.

  Args:
    default: its value where a config says nothing.
    meaning: one line with unit and source; stands in the generated tables.
    gt: exclusive lower bound; `ge` inclusive; `lt`, `le` upper ones.
    choices, resume, identity, former, treatment, added: as in `Meta`.
  """
  return pydantic.Field(
    default=default,
    description=meaning,
    gt=gt,
    ge=ge,
    lt=lt,
    le=le,
    json_schema_extra=cast(Any, {'meta': Meta(tuple(choices), resume, identity, tuple(former), treatment, added)}),
  )


class Options(pydantic.BaseModel):
  """Options of one owner: immutable, no other fields, finite numbers of the declared types.

  `model_copy(update=...)` replaces values unchecked, so that those of a sweep may be traced arrays.
  """

  model_config = pydantic.ConfigDict(
    frozen=True, extra='forbid', allow_inf_nan=False, strict=True, arbitrary_types_allowed=True, protected_namespaces=()
  )

  @classmethod
  def defaults(cls) -> dict[str, Any]:
    """Return the default of every option."""
    return {name: field.get_default() for name, field in cls.model_fields.items()}

  def to_dict(self) -> dict[str, Any]:
    """Return the values as a dictionary, nested where an option has options itself."""
    values = {name: getattr(self, name) for name in type(self).model_fields}
    return {name: value.to_dict() if isinstance(value, Options) else value for name, value in values.items()}

  @pydantic.field_validator('*', mode='before')
  @classmethod
  def _widen(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
    """Accept a whole number for a float, and JSON's list for a tuple."""
    kind = cls.model_fields[str(info.field_name)].annotation
    if kind is float and type(value) is int:
      return float(value)
    return tuple(value) if isinstance(value, list) else value


def meta(field: FieldInfo) -> Meta:
  """Return the facts that `option` recorded beside a field."""
  extra = field.json_schema_extra
  return cast(Meta, extra['meta']) if isinstance(extra, dict) and 'meta' in extra else Meta()


def validate(kind: type[Model], values: Mapping[str, Any], where: str) -> Model:
  """Return the options of a class with some values.

  Args:
    where: dotted name of the part of the config, for messages; empty for the whole.

  Raises:
    UserError: one sentence about the first value that is no right one.
  """
  prefix = f'{where}.' if where else ''
  if strangers := sorted(values.keys() - kind.model_fields.keys()):
    raise unknown('field', prefix + strangers[0], [prefix + name for name in kind.model_fields])
  for name, field in kind.model_fields.items():
    allowed = meta(field).choices
    if allowed and name in values and values[name] not in allowed:
      raise unknown(prefix + name, str(values[name]), allowed)
  try:
    return kind(**values)
  except pydantic.ValidationError as error:
    raise UserError(sentence(error, kind, prefix)) from None


def sentence(error: pydantic.ValidationError, kind: type[Options], prefix: str) -> str:
  """Return one sentence about the first violation: the option, its value, and the values that are right."""
  first = error.errors()[0]
  name = str(first['loc'][0]) if first['loc'] else ''
  value, field = first['input'], kind.model_fields.get(name)
  if first['type'] == 'value_error' or field is None:  # of a validator of ours, which has its own words
    return str(first.get('ctx', {}).get('error', first['msg']))
  if first['type'] == 'finite_number':
    return f'{prefix}{name} is {value}: give {bounds(field) or "a finite number"}.'
  if first['type'] in ('greater_than', 'greater_than_equal', 'less_than', 'less_than_equal'):
    return f'{prefix}{name} is {value}: give {bounds(field)}.'
  return f'{prefix}{name} is {brief(repr(value), 50)}: it has to be of type {type_name(field)}.'


def bounds(field: FieldInfo) -> str:
  """Return the numbers that an option may have in words, '' where any will do.

  >>> class Q(Options):
  ...   q: float = option(0.7, 'of generalized cross entropy', gt=0, le=1)
  >>> bounds(Q.model_fields['q'])
  'a number above 0 and up to 1'
  """
  ends = {
    name: getattr(part, name) for part in field.metadata for name in ('gt', 'ge', 'lt', 'le') if hasattr(part, name)
  }
  high = f'below {ends["lt"]}' if 'lt' in ends else f'{ends["le"]}' if 'le' in ends else ''
  if 'ge' in ends:
    return f'a number from {ends["ge"]} to {high}' if high else f'a number from {ends["ge"]} on'
  high = f'up to {high}' if 'le' in ends else high
  low = f'above {ends["gt"]}' if 'gt' in ends else ''
  return 'a number ' + ' and '.join(filter(None, (low, high))) if low or high else ''


def type_name(field: FieldInfo) -> str:
  """Return the name of an option's type, as the tables have it."""
  kind = field.annotation
  return str(getattr(kind, '__name__', kind)) if not str(kind).startswith('tuple') else 'tuple'
