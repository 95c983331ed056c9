"""Checks of a config: types and bounds of every option, and the rules that join several of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ule_jax.config.fields import flatten
from ule_jax.config.former import present_names
from ule_jax.config.schema import LIMIT, NO_RULE, Config, defaults, every_option, sections
from ule_jax.data import SOURCES, holds_features
from ule_jax.errors import UserError, nearest_names
from ule_jax.methods import METHODS
from ule_jax.models import MODELS, ON_FEATURES
from ule_jax.models.pretrained import sources
from ule_jax.options import Options, meta, validate
from ule_jax.paths import local_path
from ule_jax.two_stage import TWO_STAGE


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
  for name, table in (('data.name', SOURCES), ('method.name', METHODS)):
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
  source = SOURCES.get(fields.get('data.name', ''))
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
  _check_features(parsed)
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


def _check_features(config: Config) -> None:
  """Check the network and the place of gradients on data that are features."""
  data, model = config.data.name, config.model
  if not holds_features(data):
    return
  if model.encoder == 'frozen':
    raise UserError(f'model.encoder=frozen is for images, and {data} are features already: set model.encoder=trained.')
  if model.name not in ON_FEATURES:
    raise UserError(
      f'model.name is {model.name}, which is for images, and {data} are features: choose {" or ".join(ON_FEATURES)}.'
    )
  if model.pixels != 'default':
    raise UserError(f'model.pixels is of images, and {data} are features, standardised by train: leave it out.')
  if (at := getattr(config.method, 'at', 'features')) != 'features':
    raise UserError(f'method.at is {at}, and {data} have no images: set method.at=features.')


def _check_encoder(config: Config) -> None:
  """Check the options that are for a frozen encoder, or not for one."""
  model, frozen, at = config.model, config.model.encoder == 'frozen', getattr(config.method, 'at', None)
  on_features = frozen or holds_features(config.data.name)
  if frozen and model.weights == 'none':
    raise UserError('model.encoder=frozen needs model.weights: a file, hf:OWNER/NAME or default.')
  if frozen and (model.remat or model.drop_path):
    raise UserError(
      'model.remat and model.drop_path change how a network is trained: with model.encoder=frozen, leave them out.'
    )
  if model.keep_head and (frozen or model.weights == 'none'):
    raise UserError('model.keep_head takes the last layer from model.weights, for model.encoder=trained.')
  if at is not None and (at == 'features') != on_features:
    raise UserError(
      f'method.at is {at} and model.encoder is {model.encoder}: gradients are taken at features where '
      'both networks share them, and only there: set method.at=features and model.encoder=frozen, or image and trained.'
    )
  has_norm = not frozen and 'batch_norm' in MODELS[model.name][1]
  if config.train.accumulate > 1 and has_norm and model.batch_norm == 'batch':
    raise UserError('train.accumulate would change the statistics of BatchNorm: set model.batch_norm=frozen or none.')
