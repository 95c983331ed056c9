"""Mapping of a file of weights: `python -m ule_jax.models.pretrained FILE --model=resnet50`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated

from cyclopts import Parameter
from etils import epy

from ule_jax.cli.arguments import Count, Text
from ule_jax.errors import UserError, unknown
from ule_jax.paths import local_path

with epy.lazy_imports():  # jax takes seconds to import: help and errors of the command line come before it
  import jax
  import jax.numpy as jnp

  from ule_jax import models
  from ule_jax.cli import tables
  from ule_jax.models.pretrained import mapping, sources


def weights(
  file: Annotated[str, Parameter(metavar='FILE')],
  /,
  *,
  model: Text = 'resnet50',
  classes: Count = 0,
  size: Annotated[Count, Parameter(metavar='PIXELS')] = 224,
  out: Annotated[str, Parameter(metavar='FILE')] = '',
) -> None:
  """Show the parameters of a network that the tensors of a file of weights become.

  For example:

    python -m ule_jax.models.pretrained FILE --model=resnet50
    python -m ule_jax.models.pretrained FILE#state_dict_ema         one of several networks in it
    python -m ule_jax.models.pretrained default --model=vit_b16 --size=384
    python -m ule_jax.models.pretrained default --model=efficientnet_lite0 --out=lite0.safetensors

  It prints a line for each tensor of the file; what is left out has its reason. The exit code is 2 if
  the file does not fit.

  Args:
    file: one file of weights (.safetensors, .npz or a PyTorch file), hf:OWNER/NAME, or default.
    model: name of the network.
    classes: number of classes; with it the last layer is mapped, too.
    size: height and width of the image, to which position embeddings are resampled.
    out: a .safetensors file, to which the tensors are written as they are, so that no other file is needed later.
  """
  if model not in models.MODELS:
    raise unknown('network', model, models.MODELS)
  if 'width' in models.MODELS[model][1]:
    raise UserError(f'{model} has sizes of its own, and no file of weights to fit: give another --model.')
  sources.find_file(file, model)  # whether it is there, before jax is imported
  same = {'fast_variance': True, 'head_init': 'zero', 'remat': False}
  options = SimpleNamespace(name=model, batch_norm='frozen', dropout=0.0, drop_path=0.0, precision='float32', **same)
  network = models.make_network(options, classes or 1)
  template = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False))
  mapped = mapping.load_pretrained(file, model, template, keep_head=bool(classes))
  print(tables.weights_table(mapped.rows))
  used = [row for row in mapped.rows if row.ours]
  count = sum(leaf.size for leaf in jax.tree.leaves(mapped.params))
  print(f'{mapped.path.name}: {mapped.flavour}, {len(used)} tensors become {count:,} parameters of {model} and its')
  print(f'statistics, {len(mapped.rows) - len(used)} are left out. SHA-256 {mapped.sha256}')
  if out:
    mapping.convert(file, model, local_path(out, '--out'))
    print(f'written to {out}: model.weights={out} needs neither PyTorch nor the file above.')
  if mapped.revision:
    print(f'The revision of its repository is {mapped.revision}.')
  if mapped.note:
    print(mapped.note)
