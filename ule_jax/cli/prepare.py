"""Pack a data set: `python -m ule_jax.prepare --config=celeba --out=NEW`."""

from __future__ import annotations

from collections.abc import Sequence

from ule_jax.cli.flags import parse
from ule_jax.data import load
from ule_jax.data.pack import pack
from ule_jax.errors import UserError
from ule_jax.paths import output_path

USAGE = """\
Write a data set of image files as a TFDS array_record data set: few large files, which a pod reads well.

  python -m ule_jax.prepare --config=configs/celeba.py --config.data.dir=DIR --out=NEW
  python -m ule_jax.main    --config=configs/celeba.py --config.data.dir=NEW

Images keep their original bytes and all labels are kept, so that every option of the config works on NEW
as on DIR. NEW may be copied to a bucket. Interrupted, it leaves nothing that a run would accept.

  --config=FILE              a file, or the name of a shipped config
  --config.data.FIELD=VALUE  change a field; on_bad_image=skip leaves out what cannot be decoded
  --out=NEW                  a folder that does not exist yet

Exit codes: 0 done, 2 usage or data, 1 a defect of ule_jax."""


def main(argv: Sequence[str]) -> None:
  """Load, check and write a data set."""
  flags = parse(argv, USAGE, {'out': ''})
  if not flags.values['out']:
    raise UserError('give --out=NEW, the folder to write.')
  out = output_path(flags.values['out'], '--out')
  if out.exists():
    raise UserError(f'{out} exists: choose another --out, or remove it.')
  options = dict(flags.config.data)
  name, skip = options.pop('name'), options.pop('on_bad_image', 'fail') == 'skip'
  dataset = load(name, options)
  table = dataset.table
  if table is None:
    raise UserError(f'{name} is not made of image files: there is nothing to prepare.')
  written = pack(name, table, out, skip, dataset.decoding)
  print(f'{written:,} images in {out}; read them with --config.data.dir={out}')
