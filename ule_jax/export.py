"""Take a trained network home: `python -m ule_jax.export --run=runs/first --out=model.stablehlo`.

Three files of one name:

  .stablehlo     the network as a compiled-language artifact: uint8 images in, normalised inside, logits out
  .safetensors   its weights, under the names of torchvision or timm where those have the network
  .json          classes, image shape, preparation and pixel scale, and what the other two are
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epy

from ule_jax import cli, recorded
from ule_jax.errors import UserError
from ule_jax.models import pretrained
from ule_jax.paths import local_path, output_path

if TYPE_CHECKING:
  from jaxtyping import PyTree

  from ule_jax.restore import Restored

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  import jax
  from flax import traverse_util

  from ule_jax import restore, train

USAGE = f"""\
Write the network that a finished run deploys as files that need no ule_jax.

  python -m ule_jax.export --run=runs/first --out=model.stablehlo

  --run=DIR    the --workdir of a run that is done; its training data need not be there
  --out=FILE   a StableHLO artifact for CPU, CUDA and TPU at any batch size (default model.stablehlo): uint8 images of
               the size in the .json in, logits out. Beside it, with the same name,
               .safetensors   the weights under torchvision's or timm's names (resnets and vits), else under ours;
                              --config.model.weights=FILE starts another run from them
               .json          classes, image shape, how images are prepared, pixel mean and deviation
{recorded.CACHE_USAGE}

  In Python:   jax.export.deserialize(bytearray(open('model.stablehlo', 'rb').read())).call(images)

Exit codes: 0 done, 2 usage or data, 1 a defect of ule_jax."""

PLATFORMS = ('cpu', 'cuda', 'tpu')


def main(argv: Sequence[str]) -> None:
  """Write the three files and say what they are."""
  flags = cli.read(argv, USAGE, {'run': '', 'out': 'model.stablehlo', **recorded.CACHE_FLAG}).values
  if not flags['run']:
    raise UserError('give --run=DIR, the folder of a finished run.')
  directory, out = local_path(flags['run'], '--run'), output_path(flags['out'], '--out')
  if out.suffix not in ('.stablehlo', '') or out.is_dir():
    raise UserError(f'--out {out} is for the StableHLO artifact: end it on .stablehlo; the other files lie beside it.')
  recorded.read_run(directory)  # whether there is one, before jax is imported
  run = restore.restore(directory, flags)
  variables = jax.tree.map(np.asarray, run.variables(run.roles[-1]))
  tensors, layout = weights(run, variables)
  about = describe(run, layout)
  contents = {
    out: stablehlo(run, variables),
    out.with_suffix('.safetensors'): to_safetensors(tensors, about),
    out.with_suffix('.json'): (json.dumps(about, indent=2) + '\n').encode(),
  }
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
      partial = path.with_name(f'{path.name}.partial')
      partial.write_bytes(content)
      os.replace(partial, path)
  except OSError as error:
    raise UserError(f'{out} cannot be written ({error.strerror}): choose another --out.') from None
  print(about['weights'])
  for path, content in contents.items():
    print(f'{len(content) / 2**20:8.1f} MiB  {path}')


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
  layout = pretrained.layout_of(model.name, model.batch_norm)
  return pretrained.export(variables['params'], variables.get('batch_stats', {}), layout), layout


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
  mean, std = train.pixel_scale(run.config, run.preparation)
  name = run.config.model.name
  if layout in ('', pretrained.OURS):
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


if __name__ == '__main__':
  cli.main(main)
