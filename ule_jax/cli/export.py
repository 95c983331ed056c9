"""Export of a trained network: `python -m ule_jax.export --run=runs/first --out=model.stablehlo`."""

from __future__ import annotations

import json

from etils import epy

from ule_jax.cli.arguments import Cache, File, Run
from ule_jax.errors import UserError
from ule_jax.paths import local_path, output_path

with epy.lazy_imports():  # jax takes seconds to import: help and errors of the command line come before it
  import jax
  import numpy as np

  from ule_jax.cli import tables
  from ule_jax.deploy import export as files
  from ule_jax.deploy import finished
  from ule_jax.runs import files as run_files


def export(*, run: Run, out: File = 'model.stablehlo', compilation_cache: Cache = 'default') -> None:
  """Write the network of a finished run as files that need no ule_jax.

  For example:

    python -m ule_jax.export --run=runs/first --out=model.stablehlo

  The training data of the run need not be there. It writes three files of the same name:

    .stablehlo     the network, for CPU, CUDA and TPU at any batch size: uint8 images in, logits out;
                   of a run on embeddings float32 features in, as the encoder is not inside
    .safetensors   its weights under torchvision's or timm's names (resnets and vits), else under
                   ours; --config.model.weights=FILE starts another run from them
    .json          classes, image shape, how images are prepared, pixel mean and deviation

  In Python: jax.export.deserialize(bytearray(open('model.stablehlo', 'rb').read())).call(images)

  Args:
    out: the StableHLO artifact; the other files lie beside it.
  """
  directory, path = local_path(run, '--run'), output_path(out, '--out')
  if path.suffix not in ('.stablehlo', '') or path.is_dir():
    raise UserError(f'--out {path} is for the StableHLO artifact: end it on .stablehlo; the other files lie beside it.')
  restored = finished.load_run(directory, compilation_cache=compilation_cache).restored
  variables = jax.tree.map(np.asarray, restored.variables(restored.roles[-1]))
  tensors, layout = files.weights(restored, variables)
  about = files.describe(restored, layout)
  contents = {
    path: files.stablehlo(restored, variables),
    path.with_suffix('.safetensors'): files.to_safetensors(tensors, about),
    path.with_suffix('.json'): (json.dumps(about, indent=2) + '\n').encode(),
  }
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
      with run_files.write_atomic(file) as stream:
        stream.write(content)
  except OSError as error:
    raise UserError(f'{path} cannot be written ({error.strerror}): choose another --out.') from None
  print(about['weights'])
  if 'encoder' in about:
    print(about['encoder'])
  print(tables.files_table({file: len(content) for file, content in contents.items()}))
