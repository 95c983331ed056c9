"""The parameters of an estimator: those of every method, and the options that its method declares."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic.fields import FieldInfo

from ule_jax.config import schema
from ule_jax.config.schema import LIMIT, NO_RULE, Config
from ule_jax.config.validate import validate_config
from ule_jax.errors import UserError
from ule_jax.methods import METHODS
from ule_jax.models import MODELS
from ule_jax.options import Options, meta, option, validate
from ule_jax.two_stage import TWO_STAGE

DATA = 'arrays'  # data.name of a config whose data Python hands over
FIRST = 4  # a first run has at least min_steps / FIRST steps
EVALUATIONS = 20  # of a long run; a short one is evaluated every 100 steps


class Common(Options):
  """Parameters of every estimator."""

  model: str = option('mlp', 'the network: linear or mlp; for images any of MODELS', choices=MODELS)
  width: int | None = option(None, "the network's width (model.width); None: 64 for mlp, else its default")
  depth: int | None = option(None, "the network's depth (model.depth); None: 1 for mlp, else its default")
  epochs: float = option(20.0, 'length in epochs', ge=0, lt=LIMIT)
  min_steps: int = option(200, 'the least steps, whatever `epochs` says: a small data set has few in an epoch', ge=1)
  batch_size: int = option(128, 'examples of a step', ge=1)
  lr: float = option(1e-3, 'learning rate', ge=0)
  weight_decay: float = option(0.0, 'of every parameter')
  select: str = option('val/worst_class_accuracy', 'selection rule of the checkpoint: last, or val/METRIC')
  validation_share: float = option(
    0.2, 'of the rows, stratified by class and group, where `fit` has no X_val', gt=0, lt=1
  )
  config: dict | None = option(None, "further fields of a config by dotted names, as {'optim.schedule': 'cosine'}")
  workdir: str | None = option(None, 'folder to keep the run in; None: a temporary one')
  random_state: int | None = option(None, 'seed of hold-out, initialisation and order')


FIELDS = {
  'model': 'model.name',
  'batch_size': 'train.batch_size',
  'lr': 'optim.lr',
  'weight_decay': 'optim.weight_decay',
  'select': 'select',
}


def options_of(method: str) -> dict[str, tuple[str, FieldInfo]]:
  """Return the options of a method: name of the parameter -> dotted name in a config, and declaration.

  An option of the rule of two stages that has the name of another parameter is prefixed with the rule.
  """
  parts = {'method': METHODS[method].options}
  if method in TWO_STAGE:
    parts[f'two_stage.{method}'] = TWO_STAGE[method].options
  named: dict[str, tuple[str, FieldInfo]] = {}
  for part, kind in parts.items():
    for name, field in kind.model_fields.items():
      if name == 'at':  # the network's input; features of a frozen encoder are X themselves
        continue
      is_taken = name in named or name in Common.model_fields
      named[f'{method}_{name}' if is_taken else name] = f'{part}.{name}', field
  if method in TWO_STAGE and not TWO_STAGE[method].refits:
    named['first_epochs'] = 'two_stage.epochs', schema.TwoStage.model_fields['epochs']
  return named


def signature_of(method: str) -> inspect.Signature:
  """Return the signature of an estimator's `__init__`: its parameters by name, with their defaults."""
  defaults = schema.defaults(DATA, method)
  values = {name: defaults[dotted] for name, (dotted, _) in options_of(method).items()}
  values |= Common.defaults()
  kind = inspect.Parameter.KEYWORD_ONLY
  keywords = [inspect.Parameter(name, kind, default=value) for name, value in values.items()]
  return inspect.Signature([inspect.Parameter('self', inspect.Parameter.POSITIONAL_OR_KEYWORD), *keywords])


def describe(method: str) -> str:
  """Return the list of an estimator's parameters with their meaning, for its docstring."""
  fields = {name: field for name, (_, field) in options_of(method).items()} | dict(Common.model_fields)
  defaults = {name: parameter.default for name, parameter in signature_of(method).parameters.items()}
  lines = []
  for name, field in fields.items():
    choices = meta(field).choices
    among = f' ({", ".join(choices)})' if choices and name != 'model' else ''
    lines.append(f'  {name}: {field.description}{among}; default {defaults[name]!r}.')
  return '\n'.join(lines)


def plain(value: Any) -> Any:
  """Return a number of NumPy as Python's, as options require; other values as they are."""
  return value.item() if isinstance(value, np.generic) else value


def config_of(method: str, parameters: Mapping[str, Any], seed: int, examples: int) -> Config:
  """Return the config of an estimator.

  Args:
    method: a name of METHODS.
    parameters: of the estimator, by name.
    seed: of the run.
    examples: that are trained on.

  Raises:
    UserError: a value is of a wrong type or out of its bounds, or it changes nothing.
  """
  given = {name: plain(value) for name, value in parameters.items()}
  fields = {dotted: given[name] for name, (dotted, _) in options_of(method).items() if name in given}
  fields |= {dotted: given[name] for name, dotted in FIELDS.items()}
  fields |= _network(given)
  steps = length(given['epochs'], examples, given)
  fields |= {'train.steps': steps, 'train.eval_every': max(100, -(-steps // EVALUATIONS)), 'seed': seed}
  if method in TWO_STAGE and not TWO_STAGE[method].refits:
    first = length(given['first_epochs'], examples, given, FIRST)
    fields |= {'two_stage.epochs': 0.0, 'two_stage.steps': first}
  fields |= {'loader.threads': 0}  # nothing is read or decoded
  further = {name: plain(value) for name, value in (given['config'] or {}).items()}
  if fixed := sorted({'data.name', 'method.name', 'model.encoder'} & further.keys()):
    raise UserError(f'config has {fixed[0]}, which the estimator fixes: leave it out.')
  if further.get('train.epochs') and 'train.steps' not in further:
    raise UserError('config has train.epochs: give the parameter epochs, or train.steps.')
  return validate_config(schema.defaults(DATA, method) | fields | further)


def length(epochs: float, examples: int, given: Mapping[str, Any], part: int = 1) -> int:
  """Return a number of steps from one of epochs: at least `min_steps / part`."""
  return max(-int(-epochs * examples // given['batch_size']), -(-given['min_steps'] // part))


def check(parameters: Mapping[str, Any]) -> None:
  """Check the parameters that are the same for all methods; the config checks the options of the method.

  Raises:
    UserError: a value is of a wrong type or out of its bounds.
  """
  anything = ('random_state', 'workdir')
  validate(Common, {name: plain(parameters[name]) for name in Common.model_fields if name not in anything}, '')
  first = plain(parameters.get('first_epochs', 0.0))
  if not isinstance(first, (int, float)) or not 0 <= first < LIMIT:
    raise UserError(f'first_epochs is {first!r}: give a number from 0 on.')


def _network(given: Mapping[str, Any]) -> dict[str, Any]:
  """Return the fields of the network from `model`, `width` and `depth`."""
  name = given['model']
  if name not in MODELS:
    return {}  # the config refuses it
  has_norm = 'batch_norm' in MODELS[name][1] and name != 'cnn'  # deep networks hardly train without one
  fields: dict[str, Any] = {'model.batch_norm': 'batch'} if has_norm else {}
  for field, default in (('width', 64), ('depth', 1)):
    value = given[field]
    if value is not None and field not in MODELS[name][1]:
      raise UserError(f'{field} is {value!r}, and {name} has no such option: leave it out.')
    if value is not None or name == 'mlp':
      fields[f'model.{field}'] = default if value is None else value
  return fields


def needs_groups(method: str) -> bool:
  """Return whether a method reads the groups of the training rows, or of the validation rows, that `fit` is given."""
  if method in TWO_STAGE:
    return method == 'dfr'  # the others infer them
  sampling = schema.defaults(DATA, method)['train.sampling']
  return sampling.startswith('group')


def draws_evenly(config: Config) -> bool:
  """Return whether the rows are drawn by sample weights, and not by classes or groups."""
  return config.train.sampling == 'uniform' and config.two_stage.rule in (NO_RULE, 'jtt')


def without_first(config: Config) -> Config:
  """Return the config of ERM with everything else as in one of two stages."""
  changes = {
    'method': schema.named(METHODS['erm'].options)(name='erm'),
    'two_stage': schema.two_stage_options()(),
  }
  return validate_config(config.replace(changes))
