"""Search for shortcuts of a finished run: `python -m ule_jax.diagnose --run=runs/first`."""

from __future__ import annotations

from pathlib import Path

from etils import epy

from ule_jax.cli.arguments import Cache, Count, Directory, Images, Run, Text, Threads
from ule_jax.errors import UserError
from ule_jax.paths import local_path, output_path

with epy.lazy_imports():  # jax takes seconds to import: help and errors of the command line come before it
  from ule_jax.cli import tables
  from ule_jax.deploy import finished
  from ule_jax.explain import diagnosis
  from ule_jax.report import numbers, page


def diagnose(
  *,
  run: Run,
  out: Directory = 'diagnosis',
  split: Text = 'val',
  clusters: Count = 2,
  examples: Count = 12,
  images: Images = True,
  threads: Threads = 2,
  compilation_cache: Cache = 'default',
  force: bool = False,
) -> None:
  """Show whether a network takes a shortcut: clusters of student features.

  For example:

    python -m ule_jax.diagnose --run=runs/first              a page of pictures, without group labels
    python -m ule_jax.diagnose --run=runs/first --split=test --clusters=3 --out=look

  Each class is clustered by features of the student, or of the only network. It prints how often the
  networks are right in each cluster. clusters.csv has a row per example of the split: as a column
  `attribute` of your own metadata.csv its clusters give methods that need groups some. Where groups
  are known, the page says how well the clusters agree with them.

  Args:
    out: folder for index.html and clusters.csv; an older page is replaced.
    split: split of its data set.
    clusters: number in each class, 2 to 20: one of what the student gets right, the others of its mistakes.
    examples: number of pictures of each cluster.
    images: include examples of the data; --no-images for sets whose images may not be passed on.
    force: take the data as they are, although the run was trained on others.
  """
  if not 2 <= clusters <= diagnosis.MOST:
    raise UserError(f'--clusters is {clusters}: give a number from 2 to {diagnosis.MOST}.')
  folder = output_path(out, '--out')
  page.refuse_others(folder, diagnosis.GENERATOR)
  directory = local_path(run, '--run')
  loaded = finished.load_run(directory, threads, compilation_cache)
  restored, dataset = loaded.restored, loaded.dataset(split, force)
  drawn = examples if images and not dataset.is_features else 0  # features cannot be drawn
  content = diagnosis.look(restored, dataset, split, clusters, drawn)
  rows = content.pop('rows')
  columns = ('filename', 'label', 'cluster', *(f'prediction_{role}' for role in restored.roles), 'group')
  template = Path(diagnosis.__file__).with_name('page.html')
  csv = numbers.to_csv(columns, rows).encode(errors='surrogateescape')
  page.write(folder, {'index.html': page.render(template, content), 'clusters.csv': csv})
  print(tables.clusters_table(content))
  if content['restricted'] and images:
    print(f'{content["restricted"]}: keep this page to yourself, or use --no-images.')
  print(f'{folder / "index.html"}\n\n{tables.sentences(content["answer"])}')
