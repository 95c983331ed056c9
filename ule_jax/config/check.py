"""What a config may say: every name is in its table and every number in its range."""

from __future__ import annotations

import math
import re
from typing import Any

import jax

from ule_jax.config.fields import flatten
from ule_jax.data import DATASETS, ON_BAD_IMAGE
from ule_jax.data.pipeline import SAMPLINGS
from ule_jax.devices.mesh import PARALLEL
from ule_jax.errors import UserError, unknown
from ule_jax.methods import CHOICES, METHODS
from ule_jax.models import ENCODERS, MODELS
from ule_jax.models.layers import BATCH_NORMS, HEAD_INITS, PRECISIONS
from ule_jax.models.pretrained import sources
from ule_jax.optim import OPTIMIZERS, SCHEDULES
from ule_jax.paths import local_path
from ule_jax.two_stage import REFITS, TWO_STAGE

MOST = 2**31  # steps and seeds are 32-bit numbers on the device


def check(config: Any) -> None:
  """Check what a config says before anything is read or written.

  Raises:
    UserError: an unknown name or a number out of its range.
  """
  tables = {
    'data.name': DATASETS,
    'method.name': METHODS,
    'model.name': MODELS,
    'optim.name': OPTIMIZERS,
    'optim.schedule': SCHEDULES,
    **{f'method.{option}': table for option, table in CHOICES.items()},
    'model.batch_norm': BATCH_NORMS,
    'first.batch_norm': ('same', *BATCH_NORMS),
    'model.precision': PRECISIONS,
    'model.encoder': ENCODERS,
    'model.head_init': HEAD_INITS,
    'model.pixels': ('default', *sources.PIXELS),
    'first.prepare': ('none', *TWO_STAGE),
    'train.sampling': SAMPLINGS,
    'data.on_bad_image': ON_BAD_IMAGE,
    'parallel': PARALLEL,
  }
  fields = flatten(config.to_dict())
  for field in ('first.workdir', 'model.feature_cache'):
    local_path(fields[field] or '.', field)
  for field, table in tables.items():
    if field in fields and fields[field] not in table:
      raise unknown(field, str(fields[field]), table)
  for field, value in fields.items():
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f'{field} is {value}: give a finite number.')
    if (isinstance(value, int) or field.endswith('.epochs')) and abs(value) >= MOST:
      raise UserError(f'{field} is {value}: give a number below {MOST:,}.')
  least = {
    'method.weight': 0,
    'method.warmup_steps': 0,
    'method.a': 0,
    'method.noise': 0,
    'method.student_noise': 0,
    'method.hold_back': 0,
    'method.step_size': 0,
    'method.adjustment': 0,
    'method.penalty_weight': 0,
    'method.anneal_steps': 0,
    'method.gamma': 0,
    'method.domains': 0,
    'train.batch_size': 1,
    'train.eval_batch_size': 1,
    'train.eval_every': 1,
    'train.log_every': 1,
    'checkpoint.keep': 1,
    'train.steps': 0,
    'train.epochs': 0,
    'optim.lr': 0,
    'optim.weight_decay': 0,
    'optim.warmup_steps': 0,
    'optim.clip': 0,
    'loader.threads': 0,
    'loader.workers': 0,
    'first.steps': 0,
    'first.epochs': 0,
    'first.lr': 0,
    'first.jtt.up_weight': 0,
    'first.eiil.steps': 1,
    'first.eiil.lr': 0,
    'first.spare.clusters': 0,
    'first.spare.max_clusters': 2,
    'first.spare.high_power': 0,
    'first.dfr.fits': 1,
    'first.afr.gamma': 0,
    'first.afr.strength': 0,
    'first.afr.steps': 1,
    'first.afr.lr': 0,
    'seed': 0,
    'data.seed': 0,
    'data.white': 0,
    'model.width': 1,
    'model.depth': 0,
    'model.heads': 1,
    'model.patch': 1,
    'model.dropout': 0,
    'model.drop_path': 0,
    'model.head_width': 1,
    'model.head_depth': 0,
    'train.accumulate': 1,
  }
  for field, low in least.items():
    if field in fields and not fields[field] >= low:
      raise UserError(f'{field} is {fields[field]}: give a number from {low} on.')
  if 'method.q' in fields and not 0 < fields['method.q'] <= 1:
    raise UserError(f'method.q is {fields["method.q"]}: give a number above 0 and up to 1.')
  prepare, sampling = config.first.prepare, config.train.sampling
  if config.method.name in TWO_STAGE and prepare != config.method.name:
    raise UserError(f'method {config.method.name} is made by first.prepare={config.method.name}, not {prepare}.')
  if prepare in REFITS and config.method.name != prepare:
    raise UserError(f'first.prepare={prepare} leaves nothing to train: choose the method {prepare}.')
  if (prepare == 'jtt' and sampling != 'uniform') or (prepare == 'spare' and sampling.startswith('class')):
    raise UserError(f'train.sampling={sampling} would undo what {prepare} says of how often to draw: use uniform.')
  if prepare not in ('none', *REFITS) and not (config.first.steps or config.first.epochs):
    raise UserError(f'first.steps and first.epochs are both 0: say how long the first run of {prepare} is.')
  if prepare == 'afr' and not config.train.holdout:
    raise UserError('AFR fits on data that the first run did not see: set train.holdout, for example to 0.2.')
  if fields.get('first.spare.clusters') == 1:
    raise UserError('first.spare.clusters is 1, which divides nothing: give 2 or more, or 0 to let SPARE choose.')
  if config.first.method.name != 'erm':
    raise UserError(f'first.method.name is {config.first.method.name!r}: a first run is erm.')
  for field in ('method.alpha', 'method.temperature'):
    if field in fields and not fields[field] > 0:
      raise UserError(f'{field} is {fields[field]}: give a number above 0.')
  for field in ('model.dropout', 'model.drop_path'):
    if not fields[field] < 1:
      raise UserError(f'{field} is {fields[field]}: give a share from 0 to below 1.')
  if not fields['train.holdout'] < 1:
    raise UserError(f'train.holdout is {fields["train.holdout"]}: give a share of train, from 0 to below 1.')
  strengths = fields.get('first.dfr.strengths', (1.0,))
  numbers = isinstance(strengths, (tuple, list)) and all(isinstance(s, (int, float)) and s > 0 for s in strengths)
  if not numbers or not strengths:
    raise UserError(f'first.dfr.strengths is {strengths}: give numbers above 0, as (1.0, 0.1).')
  for field in ('method.decay', 'method.p_sel', 'method.contrast', 'method.mistake_share', 'train.holdout'):
    if field in fields and not 0 <= fields[field] <= 1:
      raise UserError(f'{field} is {fields[field]}: give a number from 0 to 1.')
  try:
    re.compile(config.optim.trainable)
  except re.error as error:
    raise UserError(f'optim.trainable {config.optim.trainable!r} is no regular expression: {error}.') from None
  if not (config.train.steps or config.train.epochs):
    raise UserError('train.steps and train.epochs are both 0: set one of them.')
  if config.fsdp and config.parallel != 'jit':
    raise UserError(
      f'fsdp divides parameters in one program for all devices: it needs parallel=jit, not {config.parallel}.'
    )
  _check_model(config)


def check_devices(config: Any) -> None:
  """Check that batches divide over the devices that are here.

  Raises:
    UserError: one does not.
  """
  for field in ('batch_size', 'eval_batch_size'):
    if config.train[field] % jax.device_count():
      raise UserError(f'train.{field} {config.train[field]} does not divide over {jax.device_count()} devices.')
  if config.train.batch_size % (config.train.accumulate * jax.device_count()):
    raise UserError(
      f'train.batch_size {config.train.batch_size} does not divide into train.accumulate={config.train.accumulate} '
      f'parts over {jax.device_count()} devices.'
    )


def _check_model(config: Any) -> None:
  """Check what options of a model mean together."""
  model, frozen = config.model, config.model.encoder == 'frozen'
  if model.name == 'vit' and model.width % model.heads:
    raise UserError(f'model.width {model.width} is not a multiple of model.heads {model.heads}.')
  if model.name == 'vit' and not model.depth:
    raise UserError('model.depth is 0, but a vision transformer sees the image only in its blocks: give 1 or more.')
  computes = not frozen and (
    model.batch_norm == 'batch' if 'batch_norm' in MODELS[model.name][1] else model.name.startswith('vit')
  )
  if not (model.fast_variance or computes):
    raise UserError('model.fast_variance=False changes nothing here, where no norm computes a variance: leave it out.')
  if model.keep_head and model.head_init != 'lecun':
    raise UserError('model.head_init is of a new last layer, and model.keep_head takes that of model.weights.')
  for option in ('dropout', 'drop_path', 'remat'):
    if model[option] and option not in MODELS[model.name][1]:
      raise UserError(f'model.{option} is {model[option]}, but {model.name} has no such option.')
  if model.weights != 'none' and model.name.startswith('resnet') and model.batch_norm == 'none':
    raise UserError(f'weights of {model.name} have BatchNorm: set model.batch_norm=frozen or batch.')
  if model.weights == 'default':
    sources.default_weights(model.name)
  elif model.weights != 'none' and not model.weights.startswith('hf:'):
    local_path(model.weights, 'model.weights')
  if frozen and model.weights == 'none':
    raise UserError('model.encoder=frozen needs model.weights: a file, hf:OWNER/NAME or default.')
  if frozen and (model.remat or model.drop_path):
    raise UserError(
      'model.remat and model.drop_path change how a network is trained: with model.encoder=frozen, leave them out.'
    )
  if model.keep_head and (frozen or model.weights == 'none'):
    raise UserError('model.keep_head takes the last layer from model.weights, for model.encoder=trained.')
  if 'at' in config.method and (config.method.at == 'features') != frozen:
    raise UserError(
      f'method.at is {config.method.at} and model.encoder is {model.encoder}: gradients are taken at features where '
      'both networks share them, and only there: set method.at=features and model.encoder=frozen, or image and trained.'
    )
  has_norm = not frozen and 'batch_norm' in MODELS[model.name][1]
  if config.train.accumulate > 1 and has_norm and model.batch_norm == 'batch':
    raise UserError('train.accumulate would change the statistics of BatchNorm: set model.batch_norm=frozen or none.')
