"""Export a trained network: `python -m ule_jax.export --run=runs/first --out=model.stablehlo`."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from etils import epy

from ule_jax.cli.flags import read
from ule_jax.deploy.export import describe, stablehlo, to_safetensors, weights
from ule_jax.errors import UserError
from ule_jax.paths import local_path, output_path
from ule_jax.runs import recorded
from ule_jax.runs.files import write_atomic

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  import jax

  from ule_jax.runs import restore


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


def main(argv: Sequence[str]) -> None:
  """Write the three files and say what they are."""
  flags = read(argv, USAGE, {'run': '', 'out': 'model.stablehlo', **recorded.CACHE_FLAG}).values
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
      with write_atomic(path) as file:
        file.write(content)
  except OSError as error:
    raise UserError(f'{out} cannot be written ({error.strerror}): choose another --out.') from None
  print(about['weights'])
  for path, content in contents.items():
    print(f'{len(content) / 2**20:8.1f} MiB  {path}')
