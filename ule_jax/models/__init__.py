"""Every network, by the name that configs use. Each returns `(logits, features)`."""

from __future__ import annotations

from functools import partial

import flax.linen as nn

from ule_jax.models.cnn import CNN
from ule_jax.models.mlp import MLP
from ule_jax.models.resnet import ResNet
from ule_jax.models.vit import ViT

_cifar = partial(ResNet, width=16, bottleneck=False, cifar=True)
_imagenet = partial(ResNet, width=64, cifar=False)

# name -> (constructor, the options of `config.model` that it reads)
MODELS = {
  'mlp': (MLP, ('width', 'depth')),
  'cnn': (CNN, ('width', 'depth', 'batch_norm')),
  'vit': (ViT, ('width', 'depth', 'heads', 'patch')),
  'resnet20': (partial(_cifar, stages=(3, 3, 3)), ('batch_norm',)),
  'resnet56': (partial(_cifar, stages=(9, 9, 9)), ('batch_norm',)),
  'resnet18': (partial(_imagenet, stages=(2, 2, 2, 2), bottleneck=False), ('batch_norm',)),
  'resnet34': (partial(_imagenet, stages=(3, 4, 6, 3), bottleneck=False), ('batch_norm',)),
  'resnet50': (partial(_imagenet, stages=(3, 4, 6, 3), bottleneck=True), ('batch_norm',)),
}


def make_model(options, classes: int) -> nn.Module:
  """Build the network `options.name` (see MODELS) for a number of classes."""
  constructor, names = MODELS[options.name]
  return constructor(classes=classes, **{name: getattr(options, name) for name in names})
