"""Foreign weights -> parameters: PyTorch networks as .safetensors or .pth, the first ViT releases as .npz, a hub name.

A file may hold more than a network (`weight_files` reads it): the network in it is told by its tensors' names, whatever
stands before them. Where there are several that differ, `FILE#NAME` says which.

Every tensor of the file is used exactly once or named, every parameter is filled exactly once, shapes are checked.
Layouts known: torchvision and timm residual networks (their names agree), the CIFAR networks of
akamaster/pytorch_resnet_cifar10, torchvision's and timm's vision transformers (SWAG's have torchvision's names), and
google-research/vision_transformer's .npz. What is written here about one direction holds for the other: `export` turns
parameters back into the tensors of a file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jaxtyping
import numpy as np
from etils import epy

from ule_jax.errors import UserError, unknown
from ule_jax.models.weight_files import Tensors, read
from ule_jax.paths import local_path

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  import jax
  import jax.numpy as jnp
  from flax import traverse_util

Shapes = Sequence[tuple[int, ...]]


class Layout(NamedTuple):
  """How a foreign tensor is laid out: (tensor, shapes of ours) -> ours, and back."""

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
# Tensors of released files that are no weights, or that a classifier of this family does not have
IGNORED = re.compile(r'(^|\.)num_batches_tracked$|^pre_logits/')

# Our path (regular expression) -> name in the file, layout. The groups of the expression fill `{0}`, `{1}`, ...; a
# number with `+1` is one larger there.
Names = Sequence[tuple[str, str, Layout]]


def _norms(ours: str, theirs: str) -> Names:
  """Name the four arrays of a BatchNorm."""
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


def _vit(parts: Mapping[str, str]) -> Names:
  """Name the arrays of a PyTorch vision transformer; `parts` says what each of its modules is called."""
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
# layout of a file -> (tensors that tell it apart, the names of its tensors); the first that fits is taken
FLAVOURS: dict[str, tuple[tuple[str, ...], Names]] = {
  'torchvision ViT': (('class_token',), _TORCHVISION_VIT),
  'timm ViT': (('cls_token',), _TIMM_VIT),
  'original ViT': (('embedding/kernel',), _original_vit()),
  'CIFAR ResNet': (('layer1.0.conv1.weight', 'conv1.weight', 'linear.weight'), _resnet('linear')),
  'torchvision or timm ResNet': (('layer1.0.conv1.weight', 'conv1.weight'), _resnet('fc')),
  # Networks that nobody else has: our own paths.
  OURS: (('head/kernel',), [('params/(.+)', '{0}', SAME), ('(batch_stats/.+)', '{0}', SAME)]),
}

# network -> the layout that it is exported in; the others have OURS
_HOMES = {
  **dict.fromkeys(('vit', 'vit_ti16', 'vit_s16', 'vit_b16'), 'timm ViT'),
  **dict.fromkeys(('resnet20', 'resnet56'), 'CIFAR ResNet'),
  **dict.fromkeys(('resnet18', 'resnet34', 'resnet50'), 'torchvision or timm ResNet'),
}

_AUGREG = 'augreg_in21k_ft_in1k'
# The usual weights of a network at a revision of their repository, and what its input is scaled to (see PIXELS)
DEFAULTS = {
  'resnet18': ('hf:timm/resnet18.tv_in1k@bbd144b3e5565108aad885f145491d11bc6ce807', 'imagenet'),
  'resnet34': ('hf:timm/resnet34.tv_in1k@1b7b21cca82ff974d341713f777bf740c2db38c4', 'imagenet'),
  'resnet50': ('hf:timm/resnet50.tv_in1k@78f3ecfdb38e06d9b8397f662e7ab8fee96026fa', 'imagenet'),
  'vit_ti16': (f'hf:timm/vit_tiny_patch16_224.{_AUGREG}@7d3afdd0cf93ad84d986eb2d6bcc5812ebd0b106', 'symmetric'),
  'vit_s16': (f'hf:timm/vit_small_patch16_224.{_AUGREG}@7e2c55630205e1266030f18370f4c6ed1a514b52', 'symmetric'),
  'vit_b16': (f'hf:timm/vit_base_patch16_224.{_AUGREG}@b5b38b8f7dd93ce67d12e356a8771556b95c8cf9', 'symmetric'),
}
# SHA-256 of these files. Revisions and hashes are as public repositories that downloaded the files record them.
SHA256 = {
  'resnet18': '694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81',
  'resnet34': '0bb82595a564991a9d424708b33f5d843f5aaed7f6c0886ff10849ff97022235',
  'resnet50': '5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888',
  'vit_ti16': 'fecf81b492bd13ee7a5297cb74d1d417aac8bf7e1b7d96aed89c4691984587ed',
  'vit_s16': '79c03c635cdfd798a364a9d8c4e5c0b7255b975ea2c9616046d4f77ab01435aa',
  'vit_b16': 'c401d219603ac3e20b6373c7b198c78d3a733f80b755d148bda3bc320ae69800',
}
# Mean and standard deviation of pixels in [0, 1] that weights expect
PIXELS = {
  'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
  'symmetric': ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


class Row(NamedTuple):
  """One tensor of a file and the parameters it becomes; without any it is left out, for the reason in `note`."""

  theirs: str
  shape: tuple[int, ...]
  ours: tuple[str, ...]
  note: str


class Pretrained(NamedTuple):
  """What a file gives to a network.

  `params` lacks the last layer where that is not kept. `sha256` is the file's, `revision` the hub's commit. `place` is
  what stood before the names of the tensors, and `note` what there is to say of the choice of the network.
  """

  params: jaxtyping.PyTree
  batch_stats: jaxtyping.PyTree
  rows: list[Row]
  flavour: str
  path: Path
  sha256: str
  revision: str
  place: str
  note: str


def load(source: str, name: str, template: jaxtyping.PyTree, keep_head: bool = False) -> Pretrained:
  """Read weights for a network.

  Args:
    source: a file, `hf:OWNER/NAME[@REVISION]`, or `default`, the network's usual ones (DEFAULTS); `#NAME` behind it is
      which of several networks in the file.
    name: of the network, for messages and `default`.
    template: `params` and `batch_stats` as the network has them, or their shapes.
    keep_head: take the last layer, too; its classes have to be the network's.

  Raises:
    UserError: the file is not there, is no such file, or does not fit the network.
  """
  path = find(source, name)
  sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
  if source == 'default' and sha256 != SHA256[name]:
    raise UserError(
      f'{path} is not the file that default means for {name} (its SHA-256 is {sha256}, and not {SHA256[name]}): '
      'remove it from the cache and run again, or give a file as model.weights.'
    )
  title, (_, wanted) = f'{name} from {path.name}', split_source(source)
  network = network_in(read(path), title, wanted)
  params, batch_stats, rows, flavour = fit(network.tensors, template, title, keep_head)
  rows = [row._replace(theirs=network.names.get(row.theirs, row.theirs)) for row in rows] + network.rows
  revision = path.parent.name if path.parent.parent.name == 'snapshots' else ''
  return Pretrained(params, batch_stats, rows, flavour, path, sha256, revision, network.place, network.note)


def default(name: str) -> tuple[str, str]:
  """Return the usual weights of a network and the pixels they expect.

  Raises:
    UserError: it has none.
  """
  if name not in DEFAULTS:
    raise UserError(f'model.weights is default, but {name} has no usual weights: give a file, or none.')
  return DEFAULTS[name]


def split_source(source: str) -> tuple[str, str]:
  """Split `FILE#NAME` into the file and the name of a network in it; a file may also have a # in its own name."""
  if '#' not in source or Path(source).expanduser().is_file():
    return source, ''
  file, _, wanted = source.rpartition('#')
  return file, wanted


def find(source: str, name: str) -> Path:
  """Find a file of weights, on the hub if it is named so.

  Raises:
    UserError: it is not there.
  """
  source, _ = split_source(source)
  if source == 'default':
    source, _ = default(name)
  if not source.startswith('hf:'):
    path = local_path(source, 'model.weights')
    if not path.is_file():
      raise UserError(f'model.weights {source} is no file: give a .safetensors, .pth or .npz file, or hf:OWNER/NAME.')
    return path
  from huggingface_hub import errors, hf_hub_download  # 0.3 s of import that most runs do not need
  from huggingface_hub.utils import logging

  logging.set_verbosity_error()  # its retries; what they come to stands in our error

  repository, _, revision = source.removeprefix('hf:').partition('@')
  failed = ''
  for file in ('model.safetensors', 'pytorch_model.bin'):
    try:
      return Path(hf_hub_download(repository, file, revision=revision or None))
    except errors.EntryNotFoundError as error:
      failed = f'it has no {file}' if not isinstance(error, errors.LocalEntryNotFoundError) else ''
      if failed:
        continue
      reason = 'it is not in the cache and the hub cannot be reached'
    except Exception as error:  # the hub's client passes on whatever its network stack raises
      reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    raise UserError(
      f'{source} cannot be fetched ({reason}): download it where there is a network and give the file as '
      'model.weights, or train from random weights with model.weights=none.'
    ) from None
  raise UserError(f'{source} holds no weights that can be read ({failed}): give another one.')


class Network(NamedTuple):
  """A network among the tensors of a file.

  `names` are the file's own names of tensors that have others here, `rows` what is left out, `place` what stood before
  the names, and `note` what there is to say of the choice.
  """

  tensors: Tensors
  names: dict[str, str]
  rows: list[Row]
  place: str
  note: str


# Of several networks that differ, the one is taken whose name stands first in here; where none does, the user chooses.
_PREFERRED = (
  '', 'state_dict', 'model_state_dict', 'model', 'network', 'net', 'teacher', 'encoder_q', 'state_dict_ema',
)  # fmt: skip
_RENAMED = (('.mlp.linear_1.', '.mlp.0.'), ('.mlp.linear_2.', '.mlp.3.'))  # torchvision's released ViT files


def network_in(tensors: Tensors, title: str, wanted: str = '') -> Network:
  """Find a network of a known layout among tensors, whatever stands before their names; floats become float32.

  Args:
    title: of network and file, for messages.
    wanted: the beginning of what stands before the names of the one to take.

  Raises:
    UserError: there is none, or there are several that differ.
  """
  for old, new in _RENAMED:
    tensors = {name.replace(old, new): value for name, value in tensors.items()}
  floating = ('float16', 'bfloat16', 'float64')
  tensors = {n: t.astype(np.float32) if str(t.dtype) in floating else t for n, t in tensors.items()}
  flavour, prefixes = _flavour(tensors, title)
  parts = {prefix: _below(tensors, prefix, prefixes) for prefix in prefixes}
  chosen = _choose(parts, title, wanted)
  names = {name: chosen + name for name in parts[chosen]}
  twins = tuple(prefix for prefix in prefixes if prefix != chosen and _same(parts[prefix], parts[chosen]))
  kernel, bias = _places(['params/head/kernel', 'params/head/bias'], FLAVOURS[flavour][1], title)
  outside = _heads_outside(tensors, (chosen, *twins)) if kernel not in names and kernel.endswith('.weight') else []
  heads = {kernel: f'{outside[0]}.weight', bias: f'{outside[0]}.bias'} if outside else {}
  twins += tuple(f'{head}.' for head in outside)
  rows = [
    Row(name, tensors[name].shape, (), 'there twice' if name.startswith(twins) else f'outside of {_plain(chosen)}')
    for name in sorted(tensors.keys() - set((names | heads).values()))
  ]
  kept = {name: tensors[theirs] for name, theirs in (names | heads).items()}
  return Network(kept, heads, rows, _plain(chosen), _note(rows, parts, chosen, title))


def _flavour(tensors: Tensors, title: str) -> tuple[str, list[str]]:
  """Find the layout, and what stands before the names of each network that has it."""
  for flavour, (marks, _) in FLAVOURS.items():
    prefixes = [name.removesuffix(marks[0]) for name in tensors if name.endswith(marks[0])]
    prefixes = [p for p in prefixes if p[-1:] in ('', '.', '/') and all(p + mark in tensors for mark in marks)]
    if prefixes:
      return flavour, prefixes
  shown = ', '.join(list(tensors)[:4])
  raise UserError(f'{title}: no known layout has tensors named {shown}; known are {", ".join(FLAVOURS)}.')


def _below(tensors: Tensors, prefix: str, prefixes: Sequence[str]) -> Tensors:
  """Take the tensors whose names begin with a prefix, without it, but not those of a network further inside."""
  inner = tuple(p for p in prefixes if p != prefix and p.startswith(prefix))
  return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix) and not n.startswith(inner)}


def _plain(prefix: str) -> str:
  return prefix.strip('./')


def _same(one: Tensors, other: Tensors) -> bool:
  return one.keys() == other.keys() and all(np.array_equal(one[n], other[n], equal_nan=True) for n in one)


def _choose(parts: Mapping[str, Tensors], title: str, wanted: str) -> str:
  """Choose the prefix of the network to take; those that are wholly the same count once.

  Raises:
    UserError: none is called `wanted`, or several that differ are left, and no name says which is meant.
  """
  there = ', '.join(_plain(prefix) or 'one without a name' for prefix in parts)
  own = [p for p in parts if not wanted or f'{_plain(p)}.'.startswith(f'{wanted}.')]
  if not own:
    raise UserError(f'{title}: no network in it is called {wanted}; there are: {there}.')
  own = [p for i, p in enumerate(own) if not any(_same(parts[p], parts[q]) for q in own[:i])]
  if len(own) == 1:
    return own[0]
  split = [[*_plain(p).split('.'), ''] for p in own]
  first = next(i for i, level in enumerate(zip(*split, strict=False)) if len(set(level)) > 1)
  ranked = sorted((_PREFERRED.index(s[first]), p) for s, p in zip(split, own, strict=True) if s[first] in _PREFERRED)
  if not ranked or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
    raise UserError(f'{title}: it holds networks that differ ({there}): say which, as model.weights=FILE#NAME.')
  return ranked[0][1]


def _heads_outside(tensors: Tensors, prefixes: Sequence[str]) -> list[str]:
  """Name the last layers that benchmarks have beside the body of a network, if they are all the same.

  DomainBed, SubpopBench and WILDS call it `classifier`, or it is the second of two modules, or both.

  Args:
    prefixes: what stands before the names of the body, wherever that is.
  """
  places = []
  for parts in (_plain(prefix).split('.') for prefix in prefixes):
    for depth, part in enumerate(parts):
      names = ('classifier', 'fc', 'head', 'linear', *(['1'] if part == '0' else []))
      places += ['.'.join([*parts[:depth], name]) for name in names]
  places = [p for p in dict.fromkeys(places) if f'{p}.weight' in tensors and f'{p}.bias' in tensors]
  heads = [{name: tensors[f'{p}.{name}'] for name in ('weight', 'bias')} for p in places]
  return places if all(_same(head, heads[0]) for head in heads) else []


def _note(rows: Sequence[Row], parts: Mapping[str, Tensors], chosen: str, title: str) -> str:
  """Say what of a file is not used; nothing if all is, but for what is there twice."""
  unused = [row.theirs for row in rows if row.note != 'there twice']
  others = [_plain(prefix) for prefix in parts if not _same(parts[prefix], parts[chosen])]
  taken = _plain(chosen) or 'the one without a name'
  if others:
    return f'{title}: of the networks in it {taken} is taken; FILE#NAME takes another ({", ".join(others)}).'
  return f'{title}: {len(unused)} tensors outside of {taken} are not used, the first is {unused[0]}.' if unused else ''


def fit(
  tensors: Tensors, template: jaxtyping.PyTree, title: str, keep_head: bool = False
) -> tuple[jaxtyping.PyTree, jaxtyping.PyTree, list[Row], str]:
  """Turn the tensors of a file into `params` and `batch_stats`; also return what became of each, and the layout.

  Args:
    template: as in `load`.
    title: of network and file, for messages.

  Raises:
    UserError: the layout is not known, a tensor is missing, left over or of another shape.
  """
  flavour, _ = _flavour(tensors, title)
  shapes = {path: tuple(leaf.shape) for path, leaf in traverse_util.flatten_dict(dict(template), sep='/').items()}
  wanted = {p: s for p, s in shapes.items() if keep_head or not p.startswith('params/head/')}
  places = _places(shapes, FLAVOURS[flavour][1], title)
  found, rows, used = {}, [], set()
  for theirs, (ours, layout) in places.items():
    if ours[0] not in wanted:
      continue
    if theirs not in tensors:
      raise UserError(f'{title}: it has no tensor {theirs}, to become {ours[0]}. Are these weights of this network?')
    tensor, used = tensors[theirs], used | {theirs}
    try:
      arrays = layout.read(tensor, [wanted[path] for path in ours])
      fits = [a.shape for a in arrays] == [wanted[path] for path in ours]
    except ValueError:
      fits = False
    if not fits:
      raise UserError(
        f'{title}: {theirs} of shape {tensor.shape} does not become {ours[0]} of shape {wanted[ours[0]]}. '
        'Are these weights of this network'
        + (', and of as many classes?' if ours[0].startswith('params/head/') else '?')
      )
    found |= {path: np.ascontiguousarray(a) for path, a in zip(ours, arrays, strict=True)}
    rows.append(Row(theirs, tensor.shape, ours, layout.note))
  heads = {theirs for theirs, (ours, _) in places.items() if ours[0].startswith('params/head/')}
  if not keep_head:  # one of several layers may stand where the last one is
    heads |= {
      theirs for theirs in tensors if theirs.startswith(tuple(re.split(r'(?<=[./])', head)[0] for head in heads))
    }
  for theirs in tensors.keys() - used:
    if theirs in heads:
      rows.append(Row(theirs, tensors[theirs].shape, (), 'the last layer, not kept'))
    elif IGNORED.search(theirs):
      rows.append(Row(theirs, tensors[theirs].shape, (), 'no weight of a classifier'))
    else:
      left = sorted(n for n in tensors.keys() - used - heads if not IGNORED.search(n))
      raise UserError(f'{title}: {len(left)} tensors have no place, the first is {left[0]}. Are these its weights?')
  tree = traverse_util.unflatten_dict(found, sep='/')
  return tree['params'], tree.get('batch_stats', {}), rows, flavour


def layout_of(name: str, batch_norm: str) -> str:
  """Name the layout that a network is exported in: that of its other home, which has BatchNorm if it is a resnet."""
  return OURS if name.startswith('resnet') and batch_norm == 'none' else _HOMES.get(name, OURS)


def export(params: jaxtyping.PyTree, batch_stats: jaxtyping.PyTree, flavour: str) -> Tensors:
  """Turn parameters into the tensors of a file of a layout: the reverse of `fit`.

  Raises:
    UserError: the network is not of this layout.
  """
  arrays = traverse_util.flatten_dict({'params': params, 'batch_stats': batch_stats}, sep='/')
  arrays = {path: np.asarray(value) for path, value in arrays.items()}
  places = _places({path: a.shape for path, a in arrays.items()}, FLAVOURS[flavour][1], flavour)
  return {
    theirs: np.ascontiguousarray(layout.write([arrays[path] for path in ours]))
    for theirs, (ours, layout) in places.items()
  }


def _places(paths: Iterable[str], names: Names, title: str) -> dict[str, tuple[tuple[str, ...], Layout]]:
  """Find for each of our paths the tensor it belongs to: name there -> (paths, layout)."""
  places: dict[str, tuple[tuple[str, ...], Layout]] = {}
  for path in sorted(paths, key=_in_order):
    for pattern, name, layout in names:
      if match := re.fullmatch(pattern, path):
        theirs = re.sub(r'\{(\d)(\+1)?\}', lambda m, found=match: _number(found[int(m[1]) + 1], m[2]), name)
        places[theirs] = (*places.get(theirs, ((),))[0], path), layout
        break
    else:
      raise UserError(f'{title}: this layout has no place for {path}. Are these weights of this network?')
  return places


def _number(found: str, plus: str | None) -> str:
  return str(int(found) + 1) if plus else found


def _in_order(path: str) -> tuple:
  """Sort query, key and value as files have them."""
  return tuple(('query', 'key', 'value').index(p) if p in ('query', 'key', 'value') else -1 for p in path.split('/'))


def resample(position: np.ndarray, count: int) -> np.ndarray:
  """Resample the position embeddings of a square image to another size, as timm does: cubic, antialiased.

  Args:
    position: 1 t d, of the class token first.
    count: tokens afterwards, with the class token's.
  """
  if position.ndim != 3 or position.shape[1] == count:
    return position
  old, new = (round((n - 1) ** 0.5) for n in (position.shape[1], count))
  if (old**2, new**2) != (position.shape[1] - 1, count - 1):
    return position
  grid = position[:, 1:].reshape(1, old, old, -1)
  moved = jax.image.resize(grid, (1, new, new, grid.shape[-1]), method='cubic', antialias=True)
  return np.concatenate([position[:, :1], np.asarray(moved).reshape(1, new * new, -1)], axis=1)


USAGE = """\
Show what the tensors of a file of weights become in a network, and what is left out and why.

  python -m ule_jax.models.pretrained FILE --model=resnet50     .safetensors, .npz, a PyTorch file, or hf:OWNER/NAME
  python -m ule_jax.models.pretrained FILE#state_dict_ema       one of several networks in it
  python -m ule_jax.models.pretrained default --model=vit_b16 --size=384

  --model=NAME    the network (default resnet50)
  --classes=K     of the last layer; with it that is mapped, too
  --size=PIXELS   of the image (default 224), to which position embeddings are resampled

Exit codes: 0 it fits, 2 it does not."""


def main(argv: Sequence[str]) -> None:
  """Parse the flags and print the mapping."""
  from types import SimpleNamespace

  from ule_jax import cli
  from ule_jax.models import MODELS, make_network

  found = cli.read(argv, USAGE, {'model': 'resnet50', 'classes': 0, 'size': 224}, positional=True)
  name, classes, size = found.values['model'], found.values['classes'], found.values['size']
  if len(found.positional) != 1:
    raise UserError('give one file of weights, hf:OWNER/NAME, or default; see --help.')
  if name not in MODELS:
    raise unknown('network', name, MODELS)
  if 'width' in MODELS[name][1]:
    raise UserError(f'{name} has sizes of its own, and no file of weights to fit: give another --model.')
  find(found.positional[0], name)  # whether it is there, before jax is imported
  same = {'fast_variance': True, 'head_init': 'zero', 'remat': False}
  options = SimpleNamespace(name=name, batch_norm='frozen', dropout=0.0, drop_path=0.0, precision='float32', **same)
  network = make_network(options, classes or 1)
  template = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False))
  weights = load(found.positional[0], name, template, keep_head=bool(classes))
  width = max(len(row.theirs) for row in weights.rows)
  for row in sorted(weights.rows, key=lambda row: (not row.ours, row.theirs)):
    ours = ' '.join(row.ours).replace('params/', '') or '-'
    note = f'  ({row.note})' if row.note else ''
    print(f'{row.theirs:<{width}}  {"x".join(map(str, row.shape)) or "scalar":>14}  {ours}{note}')
  used = [row for row in weights.rows if row.ours]
  count = sum(leaf.size for leaf in jax.tree.leaves(weights.params))
  print(f'{weights.path.name}: {weights.flavour}, {len(used)} tensors become {count:,} parameters of {name} and its')
  print(f'statistics, {len(weights.rows) - len(used)} are left out. SHA-256 {weights.sha256}')
  if weights.revision:
    print(f'The revision of its repository is {weights.revision}.')
  if weights.note:
    print(weights.note)


if __name__ == '__main__':
  from ule_jax.cli import main as run

  run(main)
