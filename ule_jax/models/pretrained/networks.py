"""Selection of a network among the tensors of a file, by the prefix of their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ule_jax.errors import UserError
from ule_jax.models.pretrained.layouts import FLAVOURS, Row, find_flavour, match_names
from ule_jax.models.pretrained.weight_files import Tensors


class Network(NamedTuple):
  """A network among the tensors of a file.

  Attributes:
    tensors: by name without the prefix.
    names: name here -> name in the file, where they differ beyond the prefix.
    rows: tensors of the file that are not used.
    place: the prefix.
    note: a sentence on unused tensors for the user; '' without any.
  """

  tensors: Tensors
  names: dict[str, str]
  rows: list[Row]
  place: str
  note: str


# Preferred prefixes, in order, among several networks that differ; without one of them the user has to choose.
_PREFERRED = (
  '', 'state_dict', 'model_state_dict', 'model', 'network', 'net', 'teacher', 'encoder_q', 'state_dict_ema',
)  # fmt: skip

_RENAMED = (('.mlp.linear_1.', '.mlp.0.'), ('.mlp.linear_2.', '.mlp.3.'))  # torchvision's released ViT files


def network_in(tensors: Tensors, title: str, wanted: str = '') -> Network:
  """Select a network of a known layout among tensors, whatever the prefix of its names; floats become float32.

  Args:
    title: of network and file, for messages.
    wanted: beginning of the prefix of the network to select; '' for any.

  Raises:
    UserError: there is none, or there are several that differ.
  """
  for old, new in _RENAMED:
    tensors = {name.replace(old, new): value for name, value in tensors.items()}
  floating = ('float16', 'bfloat16', 'float64')
  tensors = {n: t.astype(np.float32) if str(t.dtype) in floating else t for n, t in tensors.items()}
  flavour, prefixes = find_flavour(tensors, title)
  parts = {prefix: _below(tensors, prefix, prefixes) for prefix in prefixes}
  chosen = _choose(parts, title, wanted)
  names = {name: chosen + name for name in parts[chosen]}
  twins = tuple(prefix for prefix in prefixes if prefix != chosen and _same(parts[prefix], parts[chosen]))
  kernel, bias = match_names(['params/head/kernel', 'params/head/bias'], FLAVOURS[flavour][1], title)
  outside = _heads_outside(tensors, (chosen, *twins)) if kernel not in names and kernel.endswith('.weight') else []
  heads = {kernel: f'{outside[0]}.weight', bias: f'{outside[0]}.bias'} if outside else {}
  twins += tuple(f'{head}.' for head in outside)
  rows = [
    Row(name, tensors[name].shape, (), 'there twice' if name.startswith(twins) else f'outside of {_plain(chosen)}')
    for name in sorted(tensors.keys() - set((names | heads).values()))
  ]
  kept = {name: tensors[theirs] for name, theirs in (names | heads).items()}
  return Network(kept, heads, rows, _plain(chosen), _note(rows, parts, chosen, title))


def _below(tensors: Tensors, prefix: str, prefixes: Sequence[str]) -> Tensors:
  """Return the tensors below a prefix, without it, except those of a network nested inside."""
  inner = tuple(p for p in prefixes if p != prefix and p.startswith(prefix))
  return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix) and not n.startswith(inner)}


def _plain(prefix: str) -> str:
  return prefix.strip('./')


def _same(left: Tensors, right: Tensors) -> bool:
  return left.keys() == right.keys() and all(np.array_equal(left[n], right[n], equal_nan=True) for n in left)


def _choose(parts: Mapping[str, Tensors], title: str, wanted: str) -> str:
  """Choose the prefix of the network to load; networks with equal tensors count once.

  Raises:
    UserError: none is called `wanted`, or several differ and _PREFERRED does not rank them.
  """
  names = ', '.join(_plain(prefix) or 'one without a name' for prefix in parts)
  candidates = [p for p in parts if not wanted or f'{_plain(p)}.'.startswith(f'{wanted}.')]
  if not candidates:
    raise UserError(f'{title}: no network in it is called {wanted}; there are: {names}.')
  candidates = [p for i, p in enumerate(candidates) if not any(_same(parts[p], parts[q]) for q in candidates[:i])]
  if len(candidates) == 1:
    return candidates[0]
  split = [[*_plain(p).split('.'), ''] for p in candidates]
  first = next(i for i, level in enumerate(zip(*split, strict=False)) if len(set(level)) > 1)
  preferred = [(s[first], p) for s, p in zip(split, candidates, strict=True) if s[first] in _PREFERRED]
  ranked = sorted((_PREFERRED.index(name), p) for name, p in preferred)
  if not ranked or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
    raise UserError(f'{title}: it holds networks that differ ({names}): say which, as model.weights=FILE#NAME.')
  return ranked[0][1]


def _heads_outside(tensors: Tensors, prefixes: Sequence[str]) -> list[str]:
  """List the names of last layers outside of the body's prefix; [] if they differ.

  DomainBed, SubpopBench and WILDS save a body and a `classifier`, the two modules 0 and 1 of a sequence, or both.

  Args:
    prefixes: of the body.
  """
  names = []
  for parts in (_plain(prefix).split('.') for prefix in prefixes):
    for depth, part in enumerate(parts):
      modules = ('classifier', 'fc', 'head', 'linear', *(['1'] if part == '0' else []))
      names += ['.'.join([*parts[:depth], module]) for module in modules]
  names = [n for n in dict.fromkeys(names) if f'{n}.weight' in tensors and f'{n}.bias' in tensors]
  heads = [{kind: tensors[f'{n}.{kind}'] for kind in ('weight', 'bias')} for n in names]
  return names if all(_same(head, heads[0]) for head in heads) else []


def _note(rows: Sequence[Row], parts: Mapping[str, Tensors], chosen: str, title: str) -> str:
  """Format a sentence on the tensors of a file that are not used; '' if the others are copies."""
  unused = [row.theirs for row in rows if row.note != 'there twice']
  others = [_plain(prefix) for prefix in parts if not _same(parts[prefix], parts[chosen])]
  taken = _plain(chosen) or 'the one without a name'
  if others:
    return f'{title}: of the networks in it {taken} is taken; FILE#NAME takes another ({", ".join(others)}).'
  return f'{title}: {len(unused)} tensors outside of {taken} are not used, the first is {unused[0]}.' if unused else ''
