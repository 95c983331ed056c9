"""Layouts of weights in other libraries: the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ule_jax.errors import UserError
from ule_jax.models.pretrained import efficientnet_names
from ule_jax.models.pretrained.conversions import (
  CONV,
  DENSE,
  HEADS,
  POSITION,
  QKV,
  QKV_BIAS,
  SAME,
  Layout,
  Names,
  batch_norm,
)
from ule_jax.models.pretrained.weight_files import Tensors

# Tensors of released files that are no weights, or that our classifiers do not have
IGNORED = re.compile(r'(^|\.)num_batches_tracked$|^pre_logits/')


def _resnet(head: str) -> Names:
  block = r'stage(\d+)_block(\d+)'
  return [
    ('params/stem/kernel', 'conv1.weight', CONV),
    *batch_norm('norm', 'bn1'),
    (rf'params/{block}/conv(\d)/kernel', 'layer{0+1}.{1}.conv{2+1}.weight', CONV),
    *batch_norm(rf'{block}/norm(\d)', 'layer{0+1}.{1}.bn{2+1}'),
    (rf'params/{block}/shortcut/kernel', 'layer{0+1}.{1}.downsample.0.weight', CONV),
    *batch_norm(rf'{block}/norm_shortcut', 'layer{0+1}.{1}.downsample.1'),
    ('params/head/kernel', f'{head}.weight', DENSE),
    ('params/head/bias', f'{head}.bias', SAME),
  ]


def _vit(parts: Mapping[str, str]) -> Names:
  """Return the names of the arrays of a PyTorch vision transformer.

  Args:
    parts: our name of a module -> its name in the file.
  """
  block = r'block(\d+)'

  def affine(ours: str, theirs: str, kernel: str, layout: Layout) -> Names:
    return [
      (rf'params/{ours}/{kernel}', f'{theirs}.weight', layout),
      (rf'params/{ours}/bias', f'{theirs}.bias', SAME),
    ]

  return [
    ('params/token', parts['token'], SAME),
    ('params/position', parts['position'], POSITION),
    *affine('patches', parts['patches'], 'kernel', CONV),
    (rf'params/{block}/attention/(?:query|key|value)/kernel', parts['qkv'] + 'weight', QKV),
    (rf'params/{block}/attention/(?:query|key|value)/bias', parts['qkv'] + 'bias', QKV_BIAS),
    *affine(rf'{block}/attention/out', parts['out'], 'kernel', HEADS),
    *affine(rf'{block}/norm1', parts['norm1'], 'scale', SAME),
    *affine(rf'{block}/norm2', parts['norm2'], 'scale', SAME),
    *affine(rf'{block}/mlp1', parts['mlp1'], 'kernel', DENSE),
    *affine(rf'{block}/mlp2', parts['mlp2'], 'kernel', DENSE),
    *affine('norm', parts['norm'], 'scale', SAME),
    *affine('head', parts['head'], 'kernel', DENSE),
  ]


_LAYER = 'encoder.layers.encoder_layer_{0}'

_TORCHVISION_VIT = _vit(
  dict(
    token='class_token',
    position='encoder.pos_embedding',
    patches='conv_proj',
    qkv=f'{_LAYER}.self_attention.in_proj_',
    out=f'{_LAYER}.self_attention.out_proj',
    norm1=f'{_LAYER}.ln_1',
    norm2=f'{_LAYER}.ln_2',
    mlp1=f'{_LAYER}.mlp.0',
    mlp2=f'{_LAYER}.mlp.3',
    norm='encoder.ln',
    head='heads.head',
  )
)

_TIMM_VIT = _vit(
  dict(
    token='cls_token',
    position='pos_embed',
    patches='patch_embed.proj',
    qkv='blocks.{0}.attn.qkv.',
    out='blocks.{0}.attn.proj',
    norm1='blocks.{0}.norm1',
    norm2='blocks.{0}.norm2',
    mlp1='blocks.{0}.mlp.fc1',
    mlp2='blocks.{0}.mlp.fc2',
    norm='norm',
    head='head',
  )
)


def _original_vit() -> Names:
  block, theirs = r'params/block(\d+)', 'Transformer/encoderblock_{0}'
  return [
    ('params/token', 'cls', SAME),
    ('params/position', 'Transformer/posembed_input/pos_embedding', POSITION),
    (r'params/patches/(\w+)', 'embedding/{0}', SAME),
    (rf'{block}/norm1/(\w+)', f'{theirs}/LayerNorm_0/{{1}}', SAME),
    (rf'{block}/norm2/(\w+)', f'{theirs}/LayerNorm_2/{{1}}', SAME),
    (rf'{block}/attention/(\w+)/(\w+)', f'{theirs}/MultiHeadDotProductAttention_1/{{1}}/{{2}}', SAME),
    (rf'{block}/mlp1/(\w+)', f'{theirs}/MlpBlock_3/Dense_0/{{1}}', SAME),
    (rf'{block}/mlp2/(\w+)', f'{theirs}/MlpBlock_3/Dense_1/{{1}}', SAME),
    (r'params/norm/(\w+)', 'Transformer/encoder_norm/{0}', SAME),
    (r'params/head/(\w+)', 'head/{0}', SAME),
  ]


OURS = 'ule_jax'

# layout of a file -> (tensors that identify it, the names of its tensors); the first match is used
FLAVOURS: dict[str, tuple[tuple[str, ...], Names]] = {
  'torchvision ViT': (('class_token',), _TORCHVISION_VIT),
  'timm ViT': (('cls_token',), _TIMM_VIT),
  'original ViT': (('embedding/kernel',), _original_vit()),
  'CIFAR ResNet': (('layer1.0.conv1.weight', 'conv1.weight', 'linear.weight'), _resnet('linear')),
  'torchvision or timm ResNet': (('layer1.0.conv1.weight', 'conv1.weight'), _resnet('fc')),
  'timm EfficientNet': (('conv_stem.weight', 'blocks.0.0.conv_dw.weight'), efficientnet_names.TIMM),
  'EfficientNet of 21 blocks': (
    ('_conv_stem.weight', '_blocks.20._bn2.weight'),
    efficientnet_names.numbered((1, 3, 3, 4, 4, 5, 1)),
  ),
  'EfficientNet of 16 blocks': (
    ('_conv_stem.weight', '_blocks.15._bn2.weight'),
    efficientnet_names.numbered((1, 2, 2, 3, 3, 4, 1)),
  ),
  # Networks that no other library has: our own paths.
  OURS: (('head/kernel',), [('params/(.+)', '{0}', SAME), ('(batch_stats/.+)', '{0}', SAME)]),
}

# network -> the layout for export; OURS for all others
_HOMES = {
  **dict.fromkeys(('vit', 'vit_ti16', 'vit_s16', 'vit_b16'), 'timm ViT'),
  **dict.fromkeys(('resnet20', 'resnet56'), 'CIFAR ResNet'),
  **dict.fromkeys(('efficientnet_lite0', 'efficientnet_lite1', 'efficientnet_lite2'), 'timm EfficientNet'),
  **dict.fromkeys(('resnet18', 'resnet34', 'resnet50'), 'torchvision or timm ResNet'),
}


def layout_of(name: str, batch_norm: str) -> str:
  """Choose the layout for export: torchvision's or timm's where that library has the network, else ours.

  Args:
    name: of the network.
    batch_norm: `none` gives our layout, as a network without its BatchNorm exists in no other library.
  """
  has_norms = name.startswith(('resnet', 'efficientnet'))
  return OURS if has_norms and batch_norm == 'none' else _HOMES.get(name, OURS)


class Row(NamedTuple):
  """One tensor of a file and its parameters.

  Attributes:
    theirs: name in the file.
    shape: in the file.
    ours: paths of the parameters; () for a tensor that is not used.
    note: the conversion, or the reason why the tensor is not used.
  """

  theirs: str
  shape: tuple[int, ...]
  ours: tuple[str, ...]
  note: str


def match_names(paths: Iterable[str], names: Names, title: str) -> dict[str, tuple[tuple[str, ...], Layout]]:
  """Match our paths with the names of a layout; return name in the file -> (our paths, conversion).

  Args:
    title: of network and file, for messages.

  Raises:
    UserError: the layout has no name for a path.
  """
  places: dict[str, tuple[tuple[str, ...], Layout]] = {}
  for path in sorted(paths, key=_in_order):
    for pattern, name, layout in names:
      if match := re.fullmatch(pattern, path):
        theirs = re.sub(r'\{(\d)(\+1)?\}', lambda m, groups=match: _number(groups[int(m[1]) + 1], m[2]), name)
        places[theirs] = (*places.get(theirs, ((),))[0], path), layout
        break
    else:
      raise UserError(f'{title}: this layout has no place for {path}. Are these weights of this network?')
  return places


def _number(text: str, plus: str | None) -> str:
  return str(int(text) + 1) if plus else text


def _in_order(path: str) -> tuple:
  """Return the sort key of a path: query, key and value in the order of files."""
  return tuple(('query', 'key', 'value').index(p) if p in ('query', 'key', 'value') else -1 for p in path.split('/'))


def find_flavour(tensors: Tensors, title: str) -> tuple[str, list[str]]:
  """Identify the layout of a file's tensors; return it and the name prefix of each network of this layout.

  Args:
    title: of network and file, for messages.

  Raises:
    UserError: no layout matches.
  """
  for flavour, (marks, _) in FLAVOURS.items():
    prefixes = [name.removesuffix(marks[0]) for name in tensors if name.endswith(marks[0])]
    prefixes = [p for p in prefixes if p[-1:] in ('', '.', '/') and all(p + mark in tensors for mark in marks)]
    if prefixes:
      return flavour, prefixes
  names = ', '.join(list(tensors)[:4])
  raise UserError(f'{title}: no known layout has tensors named {names}; known are {", ".join(FLAVOURS)}.')
