"""Write a page of finished runs: `python -m ule_jax.report runs --out=report`."""

from __future__ import annotations

from collections.abc import Sequence

from ule_jax.cli.flags import read
from ule_jax.errors import UserError
from ule_jax.paths import local_path, output_path

USAGE = """\
Write one self-contained page of finished runs: tables over seeds, curves, group accuracies, saliency.

  python -m ule_jax.report runs --out=report         every run below a folder
  python -m ule_jax.report runs/a runs/b             some runs
  python -m ule_jax.evaluate --run=runs/a --saliency=4      before it, for pictures of a run's saliency

  RUN_OR_FOLDER...  --workdir folders of runs, or folders that hold them at any depth
  --out=DIR         folder for index.html, figures/ and the numbers as CSV (default report); an older report is replaced
  --no-images       no examples of the data, for data sets whose images may not be passed on

Exit codes: 0 done, 2 usage or data, 1 a defect of ule_jax."""


def main(argv: Sequence[str]) -> None:
  """Write the report, and print its warnings and its path.

  Raises:
    UserError: no folder is given, it holds no finished run, or the output cannot be written.
  """
  flags = read(argv, USAGE, {'out': 'report', 'no-images': False}, positional=True)
  if not flags.positional:
    raise UserError('give the folders of runs, or one that holds them, for example: python -m ule_jax.report runs')
  from ule_jax.report.build import build

  paths, out = [local_path(path, 'the folder') for path in flags.positional], output_path(flags.values['out'], '--out')
  for text in build(paths, out, images=not flags.values['no-images']):
    print(text)
