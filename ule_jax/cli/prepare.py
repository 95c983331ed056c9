"""Packing of a data set into few large files: `python -m ule_jax.prepare --config=celeba --out=NEW`."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter
from etils import epy

from ule_jax.cli.arguments import ConfigFields, ConfigFile
from ule_jax.config import load
from ule_jax.errors import UserError
from ule_jax.paths import output_path

with epy.lazy_imports():  # help and errors of the command line come before what takes long to import
  from ule_jax import data
  from ule_jax.data import pack


def prepare(
  *, config: ConfigFile, overrides: ConfigFields = (), out: Annotated[str, Parameter(metavar='NEW')] = ''
) -> None:
  """Pack a data set of image files into few large files (TFDS array_record).

  For example:

    python -m ule_jax.prepare --config=configs/celeba.py --config.data.dir=DIR --out=NEW
    python -m ule_jax.main    --config=configs/celeba.py --config.data.dir=NEW

  Images keep their original bytes and all labels are kept, so that every option of the config works
  on NEW as on DIR; --config.data.on_bad_image=skip leaves out what cannot be decoded. NEW may be
  copied to a bucket. Interrupted, it leaves nothing that a run would accept.

  Args:
    out: a folder that does not exist yet.
  """
  settings: Any
  settings, _ = load.load_text(config, overrides)
  if not out:
    raise UserError('give --out=NEW, the folder to write.')
  folder = output_path(out, '--out')
  if folder.exists():
    raise UserError(f'{folder} exists: choose another --out, or remove it.')
  options = dict(settings.data)
  name, skip = options.pop('name'), options.pop('on_bad_image', 'fail') == 'skip'
  dataset = data.load(name, options)
  table = dataset.table
  if table is None:
    raise UserError(f'{name} is not made of image files: there is nothing to prepare.')
  written = pack.pack(name, table, folder, skip, dataset.decoding)
  print(f'{written:,} images in {folder}; read them with --config.data.dir={folder}')
