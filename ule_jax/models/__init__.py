"""The table of networks, by the name that configs use. Each returns `(logits, features)`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial

from etils import epy

from ule_jax.models.pretrained import sources
from ule_jax.options import Options, option

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  import flax.linen as nn


def _network(module: str, name: str) -> Callable[..., nn.Module]:
  """Return the constructor of a network; it imports its module, and flax with it, on the first call."""
  return lambda *args, **options: getattr(importlib.import_module(f'{__name__}.{module}'), name)(*args, **options)


CNN, MLP, ResNet, ViT = (_network(name.lower(), name) for name in ('CNN', 'MLP', 'ResNet', 'ViT'))
EfficientNetLite = _network('efficientnet', 'EfficientNetLite')
_cifar = partial(ResNet, width=16, bottleneck=False, cifar=True)
_imagenet = partial(ResNet, width=64, cifar=False)
_HEAD = ('dropout', 'precision', 'head_init')
_RESNET = ('batch_norm', 'fast_variance', 'drop_path', 'remat', *_HEAD)
_VIT = ('fast_variance', 'drop_path', 'remat', *_HEAD)

# name -> (constructor, the options of `config.model` that it reads)
MODELS = {
  'linear': (partial(MLP, width=1, depth=0), _HEAD),
  'mlp': (MLP, ('width', 'depth', *_HEAD)),
  'cnn': (CNN, ('width', 'depth', 'batch_norm', 'fast_variance', *_HEAD)),
  'vit': (ViT, ('width', 'depth', 'heads', 'patch', *_VIT)),
  'vit_ti16': (partial(ViT, width=192, depth=12, heads=3, patch=16), _VIT),
  'vit_s16': (partial(ViT, width=384, depth=12, heads=6, patch=16), _VIT),
  'vit_b16': (partial(ViT, width=768, depth=12, heads=12, patch=16), _VIT),
  'resnet20': (partial(_cifar, stages=(3, 3, 3)), _RESNET),
  'resnet56': (partial(_cifar, stages=(9, 9, 9)), _RESNET),
  'resnet18': (partial(_imagenet, stages=(2, 2, 2, 2), bottleneck=False), _RESNET),
  'resnet34': (partial(_imagenet, stages=(3, 4, 6, 3), bottleneck=False), _RESNET),
  'resnet50': (partial(_imagenet, stages=(3, 4, 6, 3), bottleneck=True), _RESNET),
  'efficientnet_lite0': (partial(EfficientNetLite, width=1.0, depth=1.0), _RESNET),
  'efficientnet_lite1': (partial(EfficientNetLite, width=1.0, depth=1.1), _RESNET),
  'efficientnet_lite2': (partial(EfficientNetLite, width=1.1, depth=1.2), _RESNET),
}
ON_FEATURES = ('linear', 'mlp')  # of networks that need no image
ENCODERS = ('trained', 'frozen')
BATCH_NORMS = ('none', 'batch', 'frozen')


class Model(Options):
  """Options of the network: `config.model`. Each network reads those that its row of MODELS names."""

  name: str = option('cnn', 'the network', choices=MODELS)
  width: int = option(32, 'mlp: hidden units; cnn: channels of the first block; vit: of a token', ge=1)
  depth: int = option(3, 'mlp: hidden layers; cnn, vit: blocks', ge=0)
  heads: int = option(4, 'attention heads of vit', ge=1)
  patch: int = option(4, 'pixels, height and width of a patch of vit', ge=1)
  batch_norm: str = option(
    'none', 'kind of BatchNorm; frozen: running statistics that do not change', choices=BATCH_NORMS
  )
  dropout: float = option(
    0.0, 'probability, of what the last layer sees; vits: after the positions and in every branch', ge=0, lt=1
  )
  drop_path: float = option(
    0.0, 'share of examples that skip the last residual branch, growing from 0 at the first', ge=0, lt=1
  )
  precision: str = option(
    'float32', 'of the layers; parameters, head, losses and terms are float32', choices=('float32', 'bfloat16')
  )
  fast_variance: bool = option(
    True,
    'variance of norms in one pass, 2 % off where a mean is 300 deviations; False: in two passes',
    added=True,
  )
  remat: bool = option(False, 'keep less in memory and compute it again in the backward pass')
  weights: str = option(
    'none', 'weights to start from: none, default, a file (.safetensors .pth .npz) or hf:OWNER/NAME'
  )
  keep_head: bool = option(False, 'take the last layer from the weights, too')
  head_init: str = option(
    'lecun',
    'how a new last layer starts; torch is sqrt 3 smaller than lecun, timm as its vits',
    choices=('lecun', 'torch', 'timm', 'zero'),
    added=True,
  )
  pixels: str = option(
    'default',
    'pixel scale that the weights expect; default: that of the default weights or of the data',
    choices=('default', *sources.PIXELS),
  )
  encoder: str = option(
    'trained', 'frozen: train heads only, on features that are computed once and cached', choices=ENCODERS
  )
  feature_cache: str = option('', "folder of cached features; the user's cache folder if empty", resume=True)
  head_depth: int = option(0, 'hidden layers of a head on a frozen encoder', ge=0)
  head_width: int = option(256, 'units of these hidden layers', ge=1)


def make_model(options, classes: int) -> nn.Module:
  """Build the network that is trained: `options.name` (see MODELS), or an MLP on a frozen encoder's features.

  Args:
    options: `config.model`.
    classes: number of logits.
  """
  if options.encoder == 'frozen':
    return MLP(classes, options.head_width, options.head_depth, options.dropout, options.precision, options.head_init)
  return make_network(options, classes)


def make_network(options, classes: int) -> nn.Module:
  """Build the network `options.name`, from images to logits, also where it is used as a frozen encoder.

  Args:
    options: `config.model`; `head_init` and `fast_variance`, which older scripts lack, are optional.
    classes: number of logits.
  """
  constructor, names = MODELS[options.name]
  given = [name for name in names if hasattr(options, name) or name not in ('head_init', 'fast_variance')]
  return constructor(classes=classes, **{name: getattr(options, name) for name in given})
