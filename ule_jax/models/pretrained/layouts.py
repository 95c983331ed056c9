"""Layouts of weights in other libraries: the names and axes of their tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epy

from ule_jax.errors import UserError
from ule_jax.models.pretrained.weight_files import Tensors

with epy.lazy_imports():  # jax takes seconds to import, which --help and errors of the command line do not need
  import jax

Shapes = Sequence[tuple[int, ...]]


class Layout(NamedTuple):
  """Conversion between a tensor of a file and parameters of ours.

  Attributes:
    read: (tensor, shapes of our parameters) -> our parameters.
    write: the inverse.
    note: description for the table of the mapping.
  """

  read: Callable[[np.ndarray, Shapes], list[np.ndarray]]
  write: Callable[[list[np.ndarray]], np.ndarray]
  note: str


SAME = Layout(lambda t, _: [t], lambda ours: ours[0], '')

CONV = Layout(lambda t, _: [t.transpose(2, 3, 1, 0)], lambda ours: ours[0].transpose(3, 2, 0, 1), 'OIHW to HWIO')

DENSE = Layout(lambda t, _: [t.T], lambda ours: ours[0].T, 'transposed')


def _read_qkv(t, shapes):
  d, heads, size = shapes[0]
  return list(t.reshape(3, heads, size, d).transpose(0, 3, 1, 2))


def _write_qkv(ours):
  d = ours[0].shape[0]
  return np.stack(ours).transpose(0, 2, 3, 1).reshape(-1, d)


QKV = Layout(_read_qkv, _write_qkv, 'query, key, value in one, transposed')

QKV_BIAS = Layout(
  lambda t, shapes: list(t.reshape(3, *shapes[0])), lambda ours: np.stack(ours).reshape(-1), 'query, key, value in one'
)

HEADS = Layout(
  lambda t, shapes: [t.T.reshape(shapes[0])], lambda ours: ours[0].reshape(-1, ours[0].shape[-1]).T, 'split into heads'
)

POSITION = Layout(lambda t, shapes: [resample(t, shapes[0][1])], lambda ours: ours[0], 'resampled where sizes differ')

# Tensors of released files that are no weights, or that our classifiers do not have
IGNORED = re.compile(r'(^|\.)num_batches_tracked$|^pre_logits/')

# (our path as a regular expression, name in the file, layout). The groups of the expression fill `{0}`, `{1}`, ...;
# `{0+1}` is the number of group 0 plus 1.
Names = Sequence[tuple[str, str, Layout]]


def _norms(ours: str, theirs: str) -> Names:
  """Return the names of the four arrays of a BatchNorm."""
  return [
    (rf'params/{ours}/scale', f'{theirs}.weight', SAME),
    (rf'params/{ours}/bias', f'{theirs}.bias', SAME),
    (rf'batch_stats/{ours}/mean', f'{theirs}.running_mean', SAME),
    (rf'batch_stats/{ours}/var', f'{theirs}.running_var', SAME),
  ]


def _resnet(head: str) -> Names:
  block = r'stage(\d+)_block(\d+)'
  return [
    ('params/stem/kernel', 'conv1.weight', CONV),
    *_norms('norm', 'bn1'),
    (rf'params/{block}/conv(\d)/kernel', 'layer{0+1}.{1}.conv{2+1}.weight', CONV),
    *_norms(rf'{block}/norm(\d)', 'layer{0+1}.{1}.bn{2+1}'),
    (rf'params/{block}/shortcut/kernel', 'layer{0+1}.{1}.downsample.0.weight', CONV),
    *_norms(rf'{block}/norm_shortcut', 'layer{0+1}.{1}.downsample.1'),
    ('params/head/kernel', f'{head}.weight', DENSE),
    ('params/head/bias', f'{head}.bias', SAME),
  ]


def _efficientnet(parts: Mapping[str, str], norms: Sequence[str], block: str, theirs: str) -> Names:
  """Return the names of the arrays of the blocks of an EfficientNet that one expression matches.

  Args:
    parts: our name of a convolution -> its name in the file; `expand` is missing where a block has none.
    norms: names in the file of the norms after these convolutions.
    block: our path of the blocks, as a regular expression.
    theirs: their path in the file.
  """
  names: list[tuple[str, str, Layout]] = []
  for (ours, conv), norm in zip(parts.items(), norms, strict=True):
    names.append((f'params/{block}/{ours}/kernel', f'{theirs}.{conv}.weight', CONV))
    names += _norms(f'{block}/norm_{ours}', f'{theirs}.{norm}')
  return names


def _efficientnet_ends(stem: str, stem_norm: str, last: str, last_norm: str, head: str) -> Names:
  return [
    ('params/stem/kernel', f'{stem}.weight', CONV),
    *_norms('norm', stem_norm),
    ('params/last/kernel', f'{last}.weight', CONV),
    *_norms('norm_last', last_norm),
    ('params/head/kernel', f'{head}.weight', DENSE),
    ('params/head/bias', f'{head}.bias', SAME),
  ]


_TIMM_EFFICIENTNET: Names = [
  *_efficientnet_ends('conv_stem', 'bn1', 'conv_head', 'bn2', 'classifier'),
  *_efficientnet({'depthwise': 'conv_dw', 'project': 'conv_pw'}, ('bn1', 'bn2'), 'stage0_block0', 'blocks.0.0'),
  *_efficientnet(
    {'expand': 'conv_pw', 'depthwise': 'conv_dw', 'project': 'conv_pwl'},
    ('bn1', 'bn2', 'bn3'),
    r'stage(\d+)_block(\d+)',
    'blocks.{0}.{1}',
  ),
]


def _numbered_efficientnet(repeats: Sequence[int]) -> Names:
  """Return the names of a file that counts the blocks of all stages on.

  Args:
    repeats: number of blocks of each stage.
  """
  parts = {'expand': '_expand_conv', 'depthwise': '_depthwise_conv', 'project': '_project_conv'}
  blocks = [f'stage{i}_block{j}' for i, count in enumerate(repeats) for j in range(count)]
  names = [*_efficientnet_ends('_conv_stem', '_bn0', '_conv_head', '_bn1', '_fc')]
  for number, block in enumerate(blocks):
    names += _efficientnet(parts, ('_bn0', '_bn1', '_bn2'), block, f'_blocks.{number}')
  return names


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
  'timm EfficientNet': (('conv_stem.weight', 'blocks.0.0.conv_dw.weight'), _TIMM_EFFICIENTNET),
  'EfficientNet of 21 blocks': (
    ('_conv_stem.weight', '_blocks.20._bn2.weight'),
    _numbered_efficientnet((1, 3, 3, 4, 4, 5, 1)),
  ),
  'EfficientNet of 16 blocks': (
    ('_conv_stem.weight', '_blocks.15._bn2.weight'),
    _numbered_efficientnet((1, 2, 2, 3, 3, 4, 1)),
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


def resample(position: np.ndarray, count: int) -> np.ndarray:
  """Resample the position embeddings of a square image to another size: cubic, antialiased.

  Source: timm's `resample_abs_pos_embed`.

  Args:
    position: 1 t d, the class token first.
    count: number of tokens of the result, with the class token.
  """
  if position.ndim != 3 or position.shape[1] == count:
    return position
  old, new = (round((n - 1) ** 0.5) for n in (position.shape[1], count))
  if (old**2, new**2) != (position.shape[1] - 1, count - 1):
    return position
  grid = position[:, 1:].reshape(1, old, old, -1)
  resized = jax.image.resize(grid, (1, new, new, grid.shape[-1]), method='cubic', antialias=True)
  return np.concatenate([position[:, :1], np.asarray(resized).reshape(1, new * new, -1)], axis=1)


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
