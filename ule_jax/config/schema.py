"""The schema of a config: every part with its options, and which values make sense together.

Options are declared beside their owners: methods/, data/, two_stage/, models/ and optim.py; here are those of training
itself. A config outside of the package is a ConfigDict that users may change (make.py); inside it is a `Config`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import pydantic
from pydantic.fields import FieldInfo

from ule_jax.config.fields import flatten
from ule_jax.data import DATASETS, SOURCES
from ule_jax.methods import METHODS
from ule_jax.models import BATCH_NORMS, Model
from ule_jax.optim import Optim
from ule_jax.options import Options, meta, option
from ule_jax.two_stage import TWO_STAGE

LIMIT = 2**31  # steps and seeds are 32-bit numbers on the device

NO_RULE = 'none'


class Train(Options):
  """Length, batches and evaluation: `config.train`."""

  steps: int = option(0, 'length in optimiser steps; 0: from epochs', ge=0)
  epochs: float = option(0.0, 'length in epochs, where steps is 0', ge=0)
  batch_size: int = option(128, 'examples of a step, over all devices', ge=1)
  accumulate: int = option(1, 'parts of a batch that are computed sequentially, for memory', ge=1)
  eval_batch_size: int = option(512, 'examples of a batch in evaluation, over all devices', ge=1)
  eval_every: int = option(100, 'steps between evaluations, each of which saves a checkpoint', ge=1, resume=True)
  log_every: int = option(50, 'steps between reports of the training loss', ge=1, resume=True, identity=False)
  sampling: str = option(
    'uniform',
    'how examples are drawn; subsampled: as many of each as the smallest has',
    choices=('uniform', 'class_balanced', 'group_balanced', 'class_subsampled', 'group_subsampled'),
  )
  holdout: float = option(0.0, 'share of train that is not trained on', ge=0, lt=1)


class Loader(Options):
  """Reading and decoding: `config.loader`."""

  threads: int = option(
    2, 'threads that read and transform; 0: the main thread does', ge=0, resume=True, identity=False
  )
  workers: int = option(
    0,
    'processes that do this for training instead, each with that many threads',
    ge=0,
    resume=True,
    identity=False,
  )


class Checkpoint(Options):
  """Saved states: `config.checkpoint`."""

  keep: int = option(
    2,
    'newest checkpoints that stay, beside the best by each rule; if one is damaged the one before it is restored',
    ge=1,
    resume=True,
  )


class TwoStage(Options):
  """A first run and the rule that gives the second its data or head: `config.two_stage`.

  The first run has this config with other values of a few options. The options of each rule stand below its name.
  """

  rule: str = option(
    NO_RULE, 'rule by which the second run uses the first', choices=(NO_RULE, *TWO_STAGE), former=['prepare']
  )
  workdir: str = option('', 'folder of a first run to share; WORKDIR/first if empty', resume=True, identity=False)
  steps: int = option(0, 'length of the first run in steps; 0: from epochs', ge=0)
  epochs: float = option(
    0.0, 'length of the first run in epochs; 0, and steps too: as long as this run (dfr, afr)', ge=0
  )
  lr: float = option(0.0, 'learning rate of the first run; 0: as in this run', ge=0)
  weight_decay: float = option(-1.0, 'weight decay of the first run; below 0: as in this run')
  batch_norm: str = option(
    'same', 'batch_norm of the first run; same: as in this run', choices=('same', *BATCH_NORMS), added=True
  )

  @property
  def options(self) -> Any:
    """The options of the rule that is chosen; empty without a rule."""
    return getattr(self, self.rule, Options())


class Named(Options):
  """Options of one row of a table, with its name."""

  name: str = option('', 'a name of the table')


class Config(Options):
  """A complete config: `validate_config` makes one."""

  data: Named
  method: Named
  model: Model = Model()
  optim: Optim = Optim()
  train: Train = Train()
  loader: Loader = Loader()
  checkpoint: Checkpoint = Checkpoint()
  two_stage: TwoStage = option(TwoStage(), 'a first run, for methods of two', former=['first'])
  select: str = option(
    'val/worst_class_accuracy',
    'selection rule of the checkpoint: last, or SPLIT/METRIC of a validation split: accuracy, worst_class_accuracy, '
    'worst_group_accuracy, mistake_balanced_accuracy',
    identity=False,
  )
  seed: int = option(0, 'of initialisation, dropout and data order', ge=0, identity=False)
  parallel: str = option(
    'jit',
    'jit: one program, divided by the compiler; pmap: one on every device. The same numbers',
    choices=('jit', 'pmap'),
    resume=True,
  )
  fsdp: bool = option(
    False, 'divide large parameters and their optimiser state over the devices, for memory; with jit', resume=True
  )
  compilation_cache: str = option(
    'default',
    'folder of compiled programs: default ($XDG_CACHE_HOME/ule_jax/xla, else below ~/.cache), off or a folder',
    resume=True,
  )

  def flat(self) -> dict[str, Any]:
    """Return the values by dotted names."""
    return flatten(self.to_dict())

  def replace(self, fields: Mapping[str, Any]) -> Config:
    """Return a config with other values, by dotted names; unchecked, so that they may be traced arrays."""
    return _replaced(self, fields)


def _replaced(options: Any, fields: Mapping[str, Any]) -> Any:
  below: dict[str, dict[str, Any]] = {}
  update = {}
  for name, value in fields.items():
    head, _, rest = name.partition('.')
    if head not in type(options).model_fields:
      raise KeyError(name)
    if rest:
      below.setdefault(head, {})[rest] = value
    else:
      update[head] = value
  update |= {head: _replaced(getattr(options, head), inner) for head, inner in below.items()}
  return options.model_copy(update=update)


@functools.cache
def named(kind: type[Options]) -> Any:
  """Return the class of a row's options together with its name: a subclass of both."""
  return pydantic.create_model(kind.__name__, __base__=(kind, Named), __doc__=kind.__doc__)


@functools.cache
def two_stage_options() -> type[TwoStage]:
  """Return the options of `config.two_stage`, with those of every rule that has some."""
  rules = {name: rule.options for name, rule in TWO_STAGE.items() if rule.options.model_fields}
  parts: dict[str, Any] = {name: (kind, option(kind(), f'options of {name}')) for name, kind in rules.items()}
  return pydantic.create_model('TwoStage', __base__=TwoStage, __doc__=TwoStage.__doc__, **parts)


def sections(data: str, method: str) -> dict[str, type[Options]]:
  """Return the class of every part of a config, by dotted name; '' is the config itself."""
  two_stage = two_stage_options()
  rules = {
    f'two_stage.{name}': field.annotation
    for name, field in two_stage.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Options)
  }
  kinds = {
    'data': named(SOURCES[data].options),
    'method': named(METHODS[method].options),
    **{name: field.annotation for name, field in Config.model_fields.items() if name not in ('data', 'method')},
    'two_stage': two_stage,
    **rules,
  }
  parts = {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Options)}
  return parts | {'': Config}


def declared(data: str, method: str) -> Iterator[tuple[str, FieldInfo]]:
  """Yield the dotted name and the declaration of every option of a config."""
  parts = sections(data, method)
  for part, kind in parts.items():
    for name, field in kind.model_fields.items():
      dotted = f'{part}.{name}' if part else name
      if dotted not in parts:
        yield dotted, field


@functools.cache
def every_option() -> dict[str, FieldInfo]:
  """Return the declaration of every option of any data set and any method, by dotted name."""
  pairs = [(data, 'erm') for data in DATASETS] + [('digits', method) for method in METHODS]
  return {name: field for pair in pairs for name, field in declared(*pair)}


def options_where(**facts: bool) -> tuple[str, ...]:
  """Return the dotted names of the options whose `Meta` has these values, as `resume=True`."""
  return tuple(
    name
    for name, field in every_option().items()
    if all(getattr(meta(field), fact) == value for fact, value in facts.items())
  )


def defaults(data: str, method: str) -> dict[str, Any]:
  """Return the default of every option, by dotted names; `fields` of the method's row are among them."""
  values = {name: field.get_default() for name, field in declared(data, method)}
  return values | {'data.name': data, 'method.name': method} | dict(METHODS[method].fields)
