"""A trained network as three files that need no ule_jax.

.stablehlo     the network as a compiled-language artifact: uint8 images in, normalised inside, logits out
.safetensors   its weights, under the names of torchvision or timm where those have the network
.json          classes, image shape, image transform and pixel scale, and what the other two are
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epy

from ule_jax.models.pretrained import layouts, mapping
from ule_jax.models.pretrained.weight_files import Tensors

if TYPE_CHECKING:
  from jaxtyping import PyTree

  from ule_jax.runs.restore import Restored

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  import jax
  from flax import traverse_util

  from ule_jax.models import build

NO_ENCODER = 'the encoder that made the features is not in these files: apply it to images first'
PLATFORMS = ('cpu', 'cuda', 'tpu')


def stablehlo(run: Restored, variables: PyTree) -> bytes:
  """Export the function uint8 images [b h w c] -> logits [b k] with its weights, for any batch size and PLATFORMS.

  Of a run on features the function is float32 features [b d] -> logits [b k].

  Args:
    run: whose network is exported.
    variables: of the network, as NumPy arrays: arrays on devices would bind the artifact to that number of devices.
  """
  forward = run.forward()
  (batch,) = jax.export.symbolic_shape('b')
  inputs = jax.ShapeDtypeStruct((batch, *run.input_spec.image_shape), run.input_spec.dtype)
  exported = jax.export.export(jax.jit(lambda image: forward(variables, image)), platforms=PLATFORMS)(inputs)
  return bytes(exported.serialize())


def weights(run: Restored, variables: PyTree) -> tuple[Tensors, str]:
  """Return the tensors under the names of torchvision or timm, or ours where neither has the network, and the layout.

  A linear head on a frozen encoder becomes that network's last layer.

  Args:
    run: whose network is exported.
    variables: of the network, as NumPy arrays.
  """
  model = run.config.model
  if model.encoder == 'frozen':
    if model.head_depth:
      return _ours(variables), ''
    variables = fold(variables, run.model.mean, run.model.std)
  layout = layouts.layout_of(model.name, model.batch_norm)
  return mapping.export_tensors(variables['params'], variables.get('batch_stats', {}), layout), layout


def fold(variables: PyTree, mean: Sequence[float], std: Sequence[float]) -> PyTree:
  """Merge a linear head on standardised features into the last layer of its encoder.

  (f - mean) / std @ W + b = f @ (W / std) + (b - mean / std @ W)
  """
  head = variables['params']['head']['head']
  offset, scale, kernel = (np.asarray(v, np.float64) for v in (mean, std, head['kernel']))
  last = {'kernel': kernel / scale[:, None], 'bias': head['bias'] - (offset / scale) @ kernel}
  last = {name: value.astype(np.float32) for name, value in last.items()}
  encoder = {part: trees['encoder'] for part, trees in variables.items()}
  return encoder | {'params': encoder['params'] | {'head': last}}


def _ours(variables: PyTree) -> Tensors:
  return {name: np.asarray(value) for name, value in traverse_util.flatten_dict(variables, sep='/').items()}


def to_safetensors(tensors: Tensors, about: dict[str, Any]) -> bytes:
  """Encode tensors as a safetensors file.

  Args:
    tensors: by name.
    about: metadata of the file.
  """
  from safetensors.numpy import save

  return save(tensors, {'format': 'pt', 'ule_jax': json.dumps(about)})


def describe(run: Restored, layout: str) -> dict[str, Any]:
  """Return the content of the .json: everything that a program needs to use the other files.

  Args:
    run: whose network is exported.
    layout: of the weights, '' for our own names.
  """
  mean, std = build.pixel_scale(run.config, run.input_spec)
  name, features = run.config.model.name, len(run.input_spec.image_shape) == 1
  if layout in ('', layouts.OURS):
    kind = f'names of ours, as {name} has no other home' + ('' if layout else ' with a head of hidden layers')
  else:
    kind = f'names of {layout}'
  if features:
    prepared = 'float32, as the encoder made them; the artifact standardises them itself'
    of_input = {'features': prepared, 'encoder': NO_ENCODER}
  else:
    of_input = {
      'image': 'uint8, height x width x channels, RGB; the artifact normalises them itself',
      'prepare': run.input_spec.description,
      'decode': run.input_spec.decoding.description,
    }
  return {
    'classes': list(run.classes),
    'image_shape': list(run.input_spec.image_shape),
    **of_input,
    'mean': list(mean),
    'std': list(std),
    'outputs': 'logits, one per class',
    'model': name,
    'weights': f'weights of the {run.roles[-1]} of {run.config.method.name}, step {run.results["step"]}: {kind}',
    'platforms': list(PLATFORMS),
  }
