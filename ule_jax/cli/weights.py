"""Mapping of a file of weights: `python -m ule_jax.models.pretrained FILE --model=resnet50`."""

from __future__ import annotations

from collections.abc import Sequence

from etils import epy

from ule_jax.errors import UserError, unknown
from ule_jax.models.pretrained.mapping import load_pretrained
from ule_jax.models.pretrained.sources import find_file

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  import jax
  import jax.numpy as jnp

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

  from ule_jax.cli import flags
  from ule_jax.models import MODELS, make_network

  found = flags.read(argv, USAGE, {'model': 'resnet50', 'classes': 0, 'size': 224}, positional=True)
  name, classes, size = found.values['model'], found.values['classes'], found.values['size']
  if len(found.positional) != 1:
    raise UserError('give one file of weights, hf:OWNER/NAME, or default; see --help.')
  if name not in MODELS:
    raise unknown('network', name, MODELS)
  if 'width' in MODELS[name][1]:
    raise UserError(f'{name} has sizes of its own, and no file of weights to fit: give another --model.')
  find_file(found.positional[0], name)  # whether it is there, before jax is imported
  same = {'fast_variance': True, 'head_init': 'zero', 'remat': False}
  options = SimpleNamespace(name=name, batch_norm='frozen', dropout=0.0, drop_path=0.0, precision='float32', **same)
  network = make_network(options, classes or 1)
  template = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False))
  weights = load_pretrained(found.positional[0], name, template, keep_head=bool(classes))
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
