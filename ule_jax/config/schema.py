"""The schema of a config: every part with its options, and which values make sense together.

Options are declared beside their owners: methods/, data/, two_stage/, models/ and optim.py; here are those of training
itself. A config outside of the package is a ConfigDict that users may change (make.py); inside it is a `Config`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pydantic
from pydantic.fields import FieldInfo

from ule_jax.config.fields import flatten
from ule_jax.config.former import present_names
from ule_jax.data import DATASETS
from ule_jax.errors import UserError, nearest_names
from ule_jax.methods import METHODS
from ule_jax.models import BATCH_NORMS, MODELS, Model
from ule_jax.models.pretrained import sources
from ule_jax.optim import Optim
from ule_jax.options import Options, meta, option, validate
from ule_jax.paths import local_path
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
    'data': named(DATASETS[data].options),
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


def parse_config(config: Any, completes: bool = False) -> Config:
  """Return the config with values of the right type, in their bounds and of the known names.

  Args:
    config: nested, or a ConfigDict; former names are understood.
    completes: options that it lacks take their defaults.

  Raises:
    UserError: the first violation.
  """
  values = config.to_dict() if hasattr(config, 'to_dict') else dict(config)
  fields = present_names(flatten(values))
  for name, table in (('data.name', DATASETS), ('method.name', METHODS)):
    chosen = fields.setdefault(name, None)
    if not isinstance(chosen, str) or chosen not in table:
      raise UserError(f'{name} is {chosen!r}: it is one of {", ".join(sorted(table))}.')
  parts = sections(fields['data.name'], fields['method.name'])
  known = defaults(fields['data.name'], fields['method.name'])
  if strangers := sorted(fields.keys() - known.keys()):
    if completes:
      raise UserError(f'there is no {strangers[0]}')
    near = nearest_names(strangers[0], list(known), '', 'docs/reference/config.md has all fields.')
    raise UserError(f'there is no field {strangers[0]}{near}')
  if not completes and (missing := sorted(known.keys() - fields.keys())):
    raise UserError(f'the config lacks {missing[0]}: return what base.make made.')
  fields = known | fields
  for name, value in fields.items():
    whole = isinstance(value, int) or (name.endswith('.epochs') and isinstance(value, float) and value < float('inf'))
    if whole and abs(value) >= LIMIT:
      raise UserError(f'{name} is {value}: give a number below {LIMIT:,}.')
  return _build('', parts, fields)


def complete_config(recorded: Mapping[str, Any], values: Mapping[str, Any]) -> Config:
  """Return the config of a run that was recorded, maybe by an older version; options that it lacks have their defaults.

  Args:
    recorded: nested, as config.json has it.
    values: of this machine, by dotted names, whatever is recorded.

  Raises:
    UserError: it has an unknown option, or a value of a wrong type.
  """
  return parse_config(recorded, completes=True).replace(values)


def recorded_fields(recorded: Mapping[str, Any]) -> dict[str, Any]:
  """Return the fields of a recorded config by their present dotted names, for comparisons.

  Options that runs were recorded without at first are added with their defaults. Those of a second stage are left out
  where there is none, because nothing reads them.
  """
  fields = present_names(flatten(dict(recorded)))
  parts = {name.rpartition('.')[0] for name in fields}
  source = DATASETS.get(fields.get('data.name', ''))
  for name, field in every_option().items():
    part, _, last = name.rpartition('.')
    if meta(field).added and part in parts and (part != 'data' or (source and last in source.options.model_fields)):
      fields.setdefault(name, json.loads(json.dumps(field.get_default())))
  if fields.get('two_stage.rule') == NO_RULE:
    fields = {name: value for name, value in fields.items() if not name.startswith('two_stage.')}
    fields['two_stage.rule'] = NO_RULE
  return fields


def _build(part: str, parts: Mapping[str, type[Options]], fields: Mapping[str, Any]) -> Any:
  """Build the options of a part of a config, and of the parts below it."""
  prefix = f'{part}.' if part else ''
  values = {
    name: _build(prefix + name, parts, fields) if prefix + name in parts else fields[prefix + name]
    for name in parts[part].model_fields
  }
  return validate(parts[part], values, part)


def validate_config(config: Any) -> Config:
  """Return the config, checked before anything is read or written.

  Args:
    config: a ConfigDict or a nested mapping, complete; or a `Config`.

  Raises:
    UserError: an unknown name, a value out of its bounds, or values that contradict each other.
  """
  parsed = config if isinstance(config, Config) else parse_config(config)
  local_path(parsed.two_stage.workdir or '.', 'two_stage.workdir')
  local_path(parsed.model.feature_cache or '.', 'model.feature_cache')
  try:
    re.compile(parsed.optim.trainable)
  except re.error as error:
    raise UserError(f'optim.trainable {parsed.optim.trainable!r} is no regular expression: {error}.') from None
  if not (parsed.train.steps or parsed.train.epochs):
    raise UserError('train.steps and train.epochs are both 0: set one of them.')
  if parsed.fsdp and parsed.parallel != 'jit':
    raise UserError(
      f'fsdp divides parameters in one program for all devices: it needs parallel=jit, not {parsed.parallel}.'
    )
  _check_two_stage(parsed)
  _check_network(parsed)
  _check_encoder(parsed)
  return parsed


def _check_two_stage(config: Config) -> None:
  """Check the rule of a second stage against the method and the sampling."""
  rule, method, sampling = config.two_stage.rule, config.method.name, config.train.sampling
  refits = rule in TWO_STAGE and TWO_STAGE[rule].refits
  if method in TWO_STAGE and rule != method:
    raise UserError(f'method {method} is made by two_stage.rule={method}, not {rule}.')
  if refits and method != rule:
    raise UserError(f'two_stage.rule={rule} leaves nothing to train: choose the method {rule}.')
  if (rule == 'jtt' and sampling != 'uniform') or (rule == 'spare' and sampling.startswith('class')):
    raise UserError(f'train.sampling={sampling} would undo the sampling weights of {rule}: use uniform.')
  if rule != NO_RULE and not refits and not (config.two_stage.steps or config.two_stage.epochs):
    raise UserError(f'two_stage.steps and two_stage.epochs are both 0: say how long the first run of {rule} is.')
  if rule == 'afr' and not config.train.holdout:
    raise UserError('AFR fits on data that the first run did not see: set train.holdout, for example to 0.2.')


def _check_network(config: Config) -> None:
  """Check the options of the network against each other and against its row of MODELS."""
  model, reads = config.model, MODELS[config.model.name][1]
  if model.name == 'vit' and model.width % model.heads:
    raise UserError(f'model.width {model.width} is not a multiple of model.heads {model.heads}.')
  if model.name == 'vit' and not model.depth:
    raise UserError('model.depth is 0, but a vision transformer sees the image only in its blocks: give 1 or more.')
  computes = model.batch_norm == 'batch' if 'batch_norm' in reads else model.name.startswith('vit')
  if not model.fast_variance and (model.encoder == 'frozen' or not computes):
    raise UserError('model.fast_variance=False changes nothing here, where no norm computes a variance: leave it out.')
  if model.keep_head and model.head_init != 'lecun':
    raise UserError('model.head_init is of a new last layer, and model.keep_head takes that of model.weights.')
  for name in ('dropout', 'drop_path', 'remat'):
    if getattr(model, name) and name not in reads:
      raise UserError(f'model.{name} is {getattr(model, name)}, but {model.name} has no such option.')
  if model.weights != 'none' and model.name.startswith('resnet') and model.batch_norm == 'none':
    raise UserError(f'weights of {model.name} have BatchNorm: set model.batch_norm=frozen or batch.')
  if model.weights == 'default':
    sources.default_weights(model.name)
  elif model.weights != 'none' and not model.weights.startswith('hf:'):
    local_path(model.weights, 'model.weights')


def _check_encoder(config: Config) -> None:
  """Check the options that are for a frozen encoder, or not for one."""
  model, frozen, at = config.model, config.model.encoder == 'frozen', getattr(config.method, 'at', None)
  if frozen and model.weights == 'none':
    raise UserError('model.encoder=frozen needs model.weights: a file, hf:OWNER/NAME or default.')
  if frozen and (model.remat or model.drop_path):
    raise UserError(
      'model.remat and model.drop_path change how a network is trained: with model.encoder=frozen, leave them out.'
    )
  if model.keep_head and (frozen or model.weights == 'none'):
    raise UserError('model.keep_head takes the last layer from model.weights, for model.encoder=trained.')
  if at is not None and (at == 'features') != frozen:
    raise UserError(
      f'method.at is {at} and model.encoder is {model.encoder}: gradients are taken at features where '
      'both networks share them, and only there: set method.at=features and model.encoder=frozen, or image and trained.'
    )
  has_norm = not frozen and 'batch_norm' in MODELS[model.name][1]
  if config.train.accumulate > 1 and has_norm and model.batch_norm == 'batch':
    raise UserError('train.accumulate would change the statistics of BatchNorm: set model.batch_norm=frozen or none.')
