"""The network among the tensors of a file, whatever prefix its names have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ule_jax.errors import UserError
from ule_jax.models.pretrained.layouts import FLAVOURS, Row, find_flavour, match_names
from ule_jax.models.pretrained.weight_files import Tensors

if TYPE_CHECKING:
  pass


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
