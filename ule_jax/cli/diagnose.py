"""Search for shortcuts of a finished run: `python -m ule_jax.diagnose --run=runs/first`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etils import epy

from ule_jax.cli.flags import read
from ule_jax.errors import UserError, unknown
from ule_jax.explain import diagnosis
from ule_jax.explain.diagnosis import GENERATOR, MOST, look, table
from ule_jax.paths import local_path, output_path
from ule_jax.report.numbers import to_csv
from ule_jax.report.page import refuse_others, render, write
from ule_jax.runs import recorded

with epy.lazy_imports():  # jax takes seconds to import, which --help and errors of the command line do not need
  from ule_jax.runs import restore

USAGE = f"""\
Is my model taking a shortcut? Cluster each class by the student's features, and show where it is misled.

  python -m ule_jax.diagnose --run=runs/first                      a page of pictures, no group labels needed
  python -m ule_jax.diagnose --run=runs/first --split=test --clusters=3 --out=look

  --run=DIR         the --workdir of a run that is done; with one network, that network takes the student's place
  --out=DIR         folder for index.html and clusters.csv (default diagnosis); an older page is replaced
  --split=NAME      split of the examples (default val)
  --clusters=N      of each class, at most 20: one for the examples that the student gets right, the others for its
                    mistakes (default 2)
  --examples=N      pictures of each cluster (default 12)
  --no-images       no examples of the data, for data sets whose images may not be passed on
{recorded.FLAGS_USAGE}
  --force           use the data as they are, although the run was trained on other data

clusters.csv has a row per example of the split: as the column `attribute` of a metadata.csv, its clusters are groups
for the methods that need them. Where groups are known, the page has their agreement with the clusters.

Exit codes: 0 done, 2 usage or data, 1 a defect of ule_jax."""


def main(argv: Sequence[str]) -> None:
  """Write the page, and print the clusters and their agreement with the groups.

  Raises:
    UserError: a flag is wrong, the run is not done, or its data have changed.
  """
  known = {'run': '', 'out': 'diagnosis', 'split': 'val', 'clusters': 2, 'examples': 12, 'no-images': False}
  known |= {'force': False, **recorded.FLAGS}
  flags = read(argv, USAGE, known).values
  if not flags['run']:
    raise UserError('give --run=DIR, the folder of a finished run.')
  if not 2 <= flags['clusters'] <= MOST:
    raise UserError(f'--clusters is {flags["clusters"]}: give a number from 2 to {MOST}.')
  out, split = output_path(flags['out'], '--out'), flags['split']
  refuse_others(out, GENERATOR)
  directory = local_path(flags['run'], '--run')
  recorded.read_run(directory)  # an early check, before jax is imported
  run = restore.restore(directory, flags)
  dataset = restore.load_data(run, flags['force'])
  if split not in dataset.splits:
    raise unknown('split', split, dataset.splits)
  context = look(run, dataset, split, flags['clusters'], 0 if flags['no-images'] else flags['examples'])
  rows = context.pop('rows')
  columns = ('filename', 'label', 'cluster', *(f'prediction_{role}' for role in run.roles), 'group')
  page = Path(diagnosis.__file__).with_name('page.html')
  write(
    out, {'index.html': render(page, context), 'clusters.csv': to_csv(columns, rows).encode(errors='surrogateescape')}
  )
  print(table(run, context))
  if context['restricted'] and not flags['no-images']:
    print(f'{context["restricted"]}: keep this page to yourself, or use --no-images.')
  print(f'{out / "index.html"}')
