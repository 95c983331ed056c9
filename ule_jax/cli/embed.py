"""Features of images as a file: `python -m ule_jax.embed --config=folder --config.data.dir=photos --out=f.npz`."""

from __future__ import annotations

from typing import Any

from etils import epy

from ule_jax.cli.arguments import ConfigFields, ConfigFile, File, Text
from ule_jax.config import load
from ule_jax.errors import UserError
from ule_jax.paths import local_path, output_path

with epy.lazy_imports():  # jax takes seconds to import: help and errors of the command line come before it
  from ule_jax import data
  from ule_jax.config import validate
  from ule_jax.data import feature_files
  from ule_jax.deploy import embed as files
  from ule_jax.deploy import encoders
  from ule_jax.devices import runtime
  from ule_jax.runs import fingerprint

# Beginnings of options that a network of timm does not read
OF_OURS = ('model.', 'data.size', 'data.fit', 'data.resize')


def embed(
  *,
  config: ConfigFile,
  overrides: ConfigFields = (),
  out: File = 'features.npz',
  timm: Text = '',
  checkpoint: File = '',
  half: bool = False,
) -> None:
  """Write the features of a data set's images, as --config=embeddings reads them.

  For example:

    python -m ule_jax.embed --config=folder --config.data.dir=DIR --out=features.npz
    python -m ule_jax.embed --config=folder --config.data.dir=DIR --timm=vit_base_patch16_clip_224
    python -m ule_jax.main  --config=embeddings --config.data.file=features.npz

  The encoder is the config's network with model.weights, on images that are prepared as for its
  evaluation, with pixels as model.pixels says; or any network of timm, with its own transform (pip
  install 'ule-jax[embed]'). The file
  has x, label, split, group and id; of .npy and .safetensors a .csv beside it has the last four. A
  .json beside it names encoder and preprocessing. Interrupted, the same command continues.

  Args:
    out: .npz, .npy or .safetensors, which does not exist yet.
    timm: a network of timm instead of the config's.
    checkpoint: its weights, a .safetensors or .pth; without it they come from the hub.
    half: write half precision.
  """
  settings: Any
  settings, _ = load.load_text(config, overrides)
  path = output_path(out, '--out')
  if path.suffix not in feature_files.WRITTEN:
    raise UserError(f'--out {path} ends on no kind of file: end it on {", ".join(feature_files.WRITTEN)}.')
  if checkpoint and not timm:
    raise UserError('--checkpoint is of --timm: for a network of ours give --config.model.weights.')
  if timm and (unread := [name for name, _ in overrides if name.startswith(OF_OURS)]):
    raise UserError(f'--config.{unread[0]} is not read with --timm, which has a network and a transform: leave it out.')
  if data.holds_features(settings.data.name):
    raise UserError(f'{settings.data.name} are features already: give the config of images.')
  parsed = validate.validate_config(settings)
  weights = local_path(checkpoint, '--checkpoint') if checkpoint else None
  if weights is not None and not weights.is_file():
    raise UserError(f'--checkpoint {weights} does not exist: give a file of weights.')
  dataset = data.load(parsed.data.name, parsed.data)  # its errors come before jax
  current = fingerprint.Fingerprint(dataset)
  if not timm:
    runtime.require_devices()
    runtime.use_cache(parsed.compilation_cache)
  encoder = encoders.of_timm(timm, weights, dataset) if timm else encoders.of_config(parsed, dataset)
  about = encoder.about
  print(f'{about["name"]} ({about["weights"]}); {about["transform"]}; pixels: (x - {about["mean"]}) / {about["std"]}')
  contents = {name: current.content(name)['content'] for name in dataset.splits}
  written = files.embed(encoder, contents, path, parsed.train.eval_batch_size, parsed.loader.threads, half)
  print(f'features: {path}' if written else f'already done, nothing computed: {path}')
  order = files.class_option(dataset.classes)
  print(f'next: python -m ule_jax.main --config=embeddings --config.data.file={path}{order}')
