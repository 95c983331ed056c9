"""One page of finished runs: `python -m ule_jax.report runs --out=report`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from etils import epy

from ule_jax.cli.arguments import Directory, Images
from ule_jax.errors import UserError
from ule_jax.paths import local_path, output_path

with epy.lazy_imports():  # help and errors of the command line come before what takes long to import
  from ule_jax.report import build


def report(
  *runs: Annotated[str, Parameter(metavar='RUN_OR_FOLDER')], out: Directory = 'report', images: Images = True
) -> None:
  """Make one page of finished runs: verdicts, tables and photographs.

  For example:

    python -m ule_jax.report runs --out=report              every run below a folder
    python -m ule_jax.report runs/a runs/b                  some runs
    python -m ule_jax.evaluate --run=runs/a --saliency=4    before it, for pictures of a run

  The page says for each method whether it took a shortcut and whether it helped, and opens anywhere.

  Args:
    runs: --workdir folders of runs, or folders that hold such at any depth.
    out: folder for index.html, figures/ and the numbers as CSV; an older report is replaced.
    images: include examples of the data; --no-images for sets whose images may not be passed on.
  """
  if not runs:
    raise UserError('give the folders of runs, or one that holds them, for example: python -m ule_jax.report runs')
  paths, folder = [local_path(path, 'the folder') for path in runs], output_path(out, '--out')
  for text in build.build(paths, folder, images=images):
    print(text)
