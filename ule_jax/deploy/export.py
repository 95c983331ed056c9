"""A trained network as files of one name that need no ule_jax.

.stablehlo     the network as a compiled-language artifact: uint8 images in, normalised inside, logits out
.safetensors   its weights, under the names of torchvision or timm where those have the network
.json          classes, image shape, preparation and pixel scale, and what the other two are
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epy

from ule_jax.models import pretrained
from ule_jax.models.pretrained import layouts, mapping

if TYPE_CHECKING:
  from jaxtyping import PyTree

  from ule_jax.runs.restore import Restored

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  import jax
  from flax import traverse_util

  from ule_jax.models import build

PLATFORMS = ('cpu', 'cuda', 'tpu')


def stablehlo(run: Restored, variables: PyTree) -> bytes:
  """Export `uint8 images -> logits` with the weights inside, for any batch size.

  Args:
    variables: of the network, on the host: what lies on devices would tie the artifact to as many.
  """
  forward = run.forward()
  (batch,) = jax.export.symbolic_shape('b')
  images = jax.ShapeDtypeStruct((batch, *run.preparation.image_shape), np.uint8)
  exported = jax.export.export(jax.jit(lambda image: forward(variables, image)), platforms=PLATFORMS)(images)
  return bytes(exported.serialize())


def weights(run: Restored, variables: PyTree) -> tuple[pretrained.Tensors, str]:
  """Name the tensors as the network's other home does, or as we do; return them and the layout.

  A linear head on a frozen encoder becomes that network's last layer.
  """
  model = run.config.model
  if model.encoder == 'frozen':
    if model.head_depth:
      return _ours(variables), ''
    variables = fold(variables, run.model.mean, run.model.std)
  layout = layouts.layout_of(model.name, model.batch_norm)
  return mapping.export_tensors(variables['params'], variables.get('batch_stats', {}), layout), layout


def fold(variables: PyTree, mean: Sequence[float], std: Sequence[float]) -> PyTree:
  """Turn an encoder and a linear head on its standardised features into one network with a last layer.

  (f - mean) / std @ W + b = f @ (W / std) + (b - mean / std @ W)
  """
  head = variables['params']['head']['head']
  mean, std, kernel = (np.asarray(v, np.float64) for v in (mean, std, head['kernel']))
  last = {'kernel': kernel / std[:, None], 'bias': head['bias'] - (mean / std) @ kernel}
  last = {name: value.astype(np.float32) for name, value in last.items()}
  encoder = {part: of['encoder'] for part, of in variables.items()}
  return encoder | {'params': encoder['params'] | {'head': last}}


def _ours(variables: PyTree) -> pretrained.Tensors:
  return {name: np.asarray(value) for name, value in traverse_util.flatten_dict(variables, sep='/').items()}


def to_safetensors(tensors: pretrained.Tensors, about: dict[str, Any]) -> bytes:
  """Write tensors with what they are in the file's metadata."""
  from safetensors.numpy import save

  return save(tensors, {'format': 'pt', 'ule_jax': json.dumps(about)})


def describe(run: Restored, layout: str) -> dict[str, Any]:
  """Say what the files are: what a program needs to use them."""
  mean, std = build.pixel_scale(run.config, run.preparation)
  name = run.config.model.name
  if layout in ('', layouts.OURS):
    kind = f'names of ours, as {name} has no other home' + ('' if layout else ' with a head of hidden layers')
  else:
    kind = f'names of {layout}'
  return {
    'classes': list(run.classes),
    'image_shape': list(run.preparation.image_shape),
    'image': 'uint8, height x width x channels, RGB; the artifact normalises them itself',
    'prepare': run.preparation.words,
    'decode': run.preparation.decoding.words,
    'mean': list(mean),
    'std': list(std),
    'outputs': 'logits, one per class',
    'model': name,
    'weights': f'weights of the {run.roles[-1]} of {run.config.method.name}, step {run.results["step"]}: {kind}',
    'platforms': list(PLATFORMS),
  }
