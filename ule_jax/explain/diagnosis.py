"""The page of a diagnosis: clusters of each class, examples of each, and their agreement with groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epy

from ule_jax.data import Dataset
from ule_jax.explain.clusters import examples, find_clusters, match, remark, summarise
from ule_jax.report.build import RESTRICTED
from ule_jax.report.page import data_uri
from ule_jax.train.evaluate import evaluate, make_eval_step

if TYPE_CHECKING:
  from ule_jax.runs.restore import Restored

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  from ule_jax.data import pipeline
  from ule_jax.explain import saliency
  from ule_jax.report import panels
  from ule_jax.report import pictures as drawings

GENERATOR = 'ule_jax.diagnose'
MOST = 20  # clusters of a class that somebody can look at
SIDE = 80  # pixels of a picture, about


def look(run: Restored, dataset: Dataset, split: str, count: int, shown: int) -> dict[str, Any]:
  """Cluster a split and draw examples of each cluster: what the page shows.

  Args:
    count: of clusters in each class.
    shown: pictures of each cluster.
  """
  step = make_eval_step(run.model, run.preprocess, run.roles, len(dataset.groups), run.mesh)
  batches = pipeline.eval_batches(dataset, split, batch_size=run.batch_size, threads=run.config.loader.threads)
  where = f'{split} at step {run.results["step"]:,}'
  predictions = evaluate(step, run.networks, batches, run.mesh, True, where).predictions
  label, group = predictions['label'], predictions['group']
  said = {role: logits.argmax(1) for role, logits in saliency.logits_by_role(predictions).items()}
  right = {role: values == label for role, values in said.items()}
  student, deployed = run.roles[0], run.roles[-1]
  disagree = said[student] != said[deployed] if len(run.roles) > 1 else ~right[student]
  clusters = find_clusters(label, ~right[student], predictions[f'features_{student}'], count)
  grouped = bool((group >= 0).any())
  matches = match(clusters, label, ~right[student], group) if grouped else []
  summaries = summarise(clusters, right, disagree, group, dataset.groups)
  chosen = [(str(s.number), i) for s in summaries for i in examples(clusters, disagree, s.number, shown)]
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
    'remark': remark(matches),
    'pictures': draw(run, dataset, split, predictions, chosen) if chosen else {},
    'restricted': RESTRICTED.get(run.config.data.name, ''),
    'rows': [
      (
        names(int(index)),
        run.classes[label[row]],
        clusters.place(int(clusters.cluster[row])),
        *(run.classes[values[row]] for values in said.values()),
        dataset.groups[group[row]] if group[row] >= 0 else '',
      )
      for row, index in enumerate(predictions['index'])
    ],
  }


def draw(
  run: Restored, dataset: Dataset, split: str, predictions: dict[str, np.ndarray], chosen: Sequence[tuple[str, int]]
) -> dict[int, list[tuple[str, str]]]:
  """Draw the chosen examples: cluster -> (text, picture as an address)."""
  step = saliency.make_saliency_step(run.model, run.preprocess, run.roles, run.scalar)
  arrays = saliency.collect(step, run.networks, dataset, split, predictions, chosen)
  pictures: dict[int, list[tuple[str, str]]] = {}
  for row, number in enumerate(arrays['category'].tolist()):
    group = int(arrays['group'][row])
    of = dataset.groups[group] if group >= 0 else run.classes[arrays['label'][row]]
    said = ', '.join(f'{role}: {run.classes[arrays[f"prediction_{role}"][row]]}' for role in run.roles)
    text = f'{dataset.splits[split].name(int(arrays["index"][row]))}, {of}. {said}'
    pixels = panels.picture(arrays, row, run.roles, SIDE)
    pictures.setdefault(int(number), []).append((text, data_uri(*drawings.encode(pixels))))
  return pictures


def table(run: Restored, found: dict[str, Any]) -> str:
  """Lay out the clusters, those that mislead the first network most first, and how they agree with the groups."""
  head = f'{"class":<24}{"cluster":>8}{"examples":>10}' + ''.join(f'{role:>10}' for role in run.roles)
  title = f'{found["method"]} on {found["dataset"]}, {found["split"]}: right in each cluster, %'
  lines = [title, head, '-' * len(head)]
  for one in found['summaries']:
    cells = ''.join(f'{100 * one.accuracy[role]:>10.1f}' for role in run.roles)
    lines.append(f'{run.classes[one.label][:23]:<24}{one.place:>8}{one.count:>10,}{cells}')
  if found['matches']:
    lines += ['', f'{"compared with the true groups":<42}{"purity":>8}{"adjusted Rand index":>22}']
    lines += [f'{m.name:<42}{m.purity:>8.3f}{m.rand:>22.3f}' for m in found['matches']]
    lines += [found['remark']] if found['remark'] else []
  return '\n'.join(lines)
