"""Names of the tensors of an EfficientNet-Lite in other libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ule_jax.models.pretrained.conversions import CONV, DENSE, SAME, Layout, Names, batch_norm


def _blocks(parts: Mapping[str, str], norms: Sequence[str], block: str, theirs: str) -> Names:
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
    names += batch_norm(f'{block}/norm_{ours}', f'{theirs}.{norm}')
  return names


def _ends(stem: str, stem_norm: str, last: str, last_norm: str, head: str) -> Names:
  return [
    ('params/stem/kernel', f'{stem}.weight', CONV),
    *batch_norm('norm', stem_norm),
    ('params/last/kernel', f'{last}.weight', CONV),
    *batch_norm('norm_last', last_norm),
    ('params/head/kernel', f'{head}.weight', DENSE),
    ('params/head/bias', f'{head}.bias', SAME),
  ]


TIMM: Names = [
  *_ends('conv_stem', 'bn1', 'conv_head', 'bn2', 'classifier'),
  *_blocks({'depthwise': 'conv_dw', 'project': 'conv_pw'}, ('bn1', 'bn2'), 'stage0_block0', 'blocks.0.0'),
  *_blocks(
    {'expand': 'conv_pw', 'depthwise': 'conv_dw', 'project': 'conv_pwl'},
    ('bn1', 'bn2', 'bn3'),
    r'stage(\d+)_block(\d+)',
    'blocks.{0}.{1}',
  ),
]


def numbered(repeats: Sequence[int]) -> Names:
  """Return the names of a file that counts the blocks of all stages on.

  Args:
    repeats: number of blocks of each stage.
  """
  parts = {'expand': '_expand_conv', 'depthwise': '_depthwise_conv', 'project': '_project_conv'}
  blocks = [f'stage{i}_block{j}' for i, count in enumerate(repeats) for j in range(count)]
  names = [*_ends('_conv_stem', '_bn0', '_conv_head', '_bn1', '_fc')]
  for number, block in enumerate(blocks):
    names += _blocks(parts, ('_bn0', '_bn1', '_bn2'), block, f'_blocks.{number}')
  return names
