"""Search for shortcuts of a finished run: `python -m ule_jax.diagnose --run=runs/first`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epy

from ule_jax import cli, diagnose, recorded
from ule_jax.data import Dataset
from ule_jax.errors import UserError, unknown
from ule_jax.evaluate import evaluate, make_eval_step
from ule_jax.paths import local_path, output_path
from ule_jax.report import RESTRICTED, data_uri, refuse_others, render, write
from ule_jax.report.numbers import to_csv

if TYPE_CHECKING:
  from ule_jax.restore import Restored

with epy.lazy_imports():  # jax takes seconds to import, which --help and errors of the command line do not need
  from ule_jax import restore
  from ule_jax.data import pipeline
  from ule_jax.evaluate import saliency
  from ule_jax.report import panels
  from ule_jax.report import pictures as drawings

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

GENERATOR = 'ule_jax.diagnose'
MOST = 20  # clusters of a class
SIDE = 80  # approximate side of a picture, in pixels


def main(argv: Sequence[str]) -> None:
  """Write the page, and print the clusters and their agreement with the groups.

  Raises:
    UserError: a flag is wrong, the run is not done, or its data have changed.
  """
  known = {'run': '', 'out': 'diagnosis', 'split': 'val', 'clusters': 2, 'examples': 12, 'no-images': False}
  known |= {'force': False, **recorded.FLAGS}
  flags = cli.read(argv, USAGE, known).values
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
  page = Path(__file__).parent / 'page.html'
  write(
    out, {'index.html': render(page, context), 'clusters.csv': to_csv(columns, rows).encode(errors='surrogateescape')}
  )
  print(table(run, context))
  if context['restricted'] and not flags['no-images']:
    print(f'{context["restricted"]}: keep this page to yourself, or use --no-images.')
  print(f'{out / "index.html"}')


def look(run: Restored, dataset: Dataset, split: str, count: int, pictures: int) -> dict[str, Any]:
  """Cluster a split and draw examples of each cluster; return the variables of page.html, and `rows` of clusters.csv.

  Args:
    count: clusters of each class.
    pictures: of each cluster.
  """
  step = make_eval_step(run.model, run.preprocess, run.roles, len(dataset.groups), run.mesh)
  batches = pipeline.eval_batches(dataset, split, batch_size=run.batch_size, threads=run.config.loader.threads)
  where = f'{split} at step {run.results["step"]:,}'
  predictions = evaluate(step, run.networks, batches, run.mesh, True, where).predictions
  label, group = predictions['label'], predictions['group']
  predicted = {role: logits.argmax(1) for role, logits in saliency.logits_by_role(predictions).items()}
  right = {role: values == label for role, values in predicted.items()}
  student, deployed = run.roles[0], run.roles[-1]
  disagree = predicted[student] != predicted[deployed] if len(run.roles) > 1 else ~right[student]
  clusters = diagnose.find_clusters(label, ~right[student], predictions[f'features_{student}'], count)
  grouped = bool((group >= 0).any())
  matches = diagnose.match(clusters, label, ~right[student], group) if grouped else []
  summaries = diagnose.summarise(clusters, right, disagree, group, dataset.groups)
  chosen = [(str(s.number), i) for s in summaries for i in diagnose.examples(clusters, disagree, s.number, pictures)]
  names = dataset.splits[split].name
  return {
    'generator': GENERATOR,
    'method': run.config.method.name,
    'dataset': run.config.data.name,
    'step': run.results['step'],
    'seed': run.config.seed,
    'split': split,
    'classes': run.classes,
    'roles': run.roles,
    'scalar': run.scalar,
    'count': len(label),
    'accuracy': {role: float(values.mean()) for role, values in right.items()},
    'disagree': int(disagree.sum()),
    'summaries': summaries,
    'matches': matches,
    'remark': diagnose.remark(matches),
    'pictures': draw(run, dataset, split, predictions, chosen) if chosen else {},
    'restricted': RESTRICTED.get(run.config.data.name, ''),
    'rows': [
      (
        names(int(index)),
        run.classes[label[row]],
        clusters.place(int(clusters.cluster[row])),
        *(run.classes[values[row]] for values in predicted.values()),
        dataset.groups[group[row]] if group[row] >= 0 else '',
      )
      for row, index in enumerate(predictions['index'])
    ],
  }


def draw(
  run: Restored, dataset: Dataset, split: str, predictions: dict[str, np.ndarray], chosen: Sequence[tuple[str, int]]
) -> dict[int, list[tuple[str, str]]]:
  """Draw the chosen examples with their saliency; return cluster -> (caption, picture as a data URI).

  Args:
    predictions: arrays of predictions/<split>.npz.
    chosen: (cluster, row of the predictions) of each example.
  """
  step = saliency.make_saliency_step(run.model, run.preprocess, run.roles, run.scalar)
  arrays = saliency.collect(step, run.networks, dataset, split, predictions, chosen)
  pictures: dict[int, list[tuple[str, str]]] = {}
  for row, number in enumerate(arrays['category'].tolist()):
    group = int(arrays['group'][row])
    truth = dataset.groups[group] if group >= 0 else run.classes[arrays['label'][row]]
    predicted = ', '.join(f'{role}: {run.classes[arrays[f"prediction_{role}"][row]]}' for role in run.roles)
    text = f'{dataset.splits[split].name(int(arrays["index"][row]))}, {truth}. {predicted}'
    pixels = panels.picture(arrays, row, run.roles, SIDE)
    pictures.setdefault(int(number), []).append((text, data_uri(*drawings.encode(pixels))))
  return pictures


def table(run: Restored, context: dict[str, Any]) -> str:
  """Format the clusters, sorted by the first network's accuracy, and their agreement with the groups, as text."""
  head = f'{"class":<24}{"cluster":>8}{"examples":>10}' + ''.join(f'{role:>10}' for role in run.roles)
  title = f'{context["method"]} on {context["dataset"]}, {context["split"]}: right in each cluster, %'
  lines = [title, head, '-' * len(head)]
  for cluster in context['summaries']:
    cells = ''.join(f'{100 * cluster.accuracy[role]:>10.1f}' for role in run.roles)
    lines.append(f'{run.classes[cluster.label][:23]:<24}{cluster.place:>8}{cluster.count:>10,}{cells}')
  if context['matches']:
    lines += ['', f'{"compared with the true groups":<42}{"purity":>8}{"adjusted Rand index":>22}']
    lines += [f'{m.name:<42}{m.purity:>8.3f}{m.rand:>22.3f}' for m in context['matches']]
    lines += [context['remark']] if context['remark'] else []
  return '\n'.join(lines)


if __name__ == '__main__':
  cli.main(main)
