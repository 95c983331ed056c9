"""The page of a diagnosis: clusters of each class, examples of each, and their agreement with groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epy

from ule_jax.data import DATASETS, Dataset
from ule_jax.explain.answer import answer
from ule_jax.explain.clusters import examples, find_clusters, match, remark, summarise
from ule_jax.train.evaluate import evaluate, make_eval_step

if TYPE_CHECKING:
  from ule_jax.runs.restore import Restored

with epy.lazy_imports():  # jax takes seconds to import, which --help and errors of the command line do not need
  from ule_jax.data import pipeline
  from ule_jax.explain import saliency
  from ule_jax.report import examples as examples_page
  from ule_jax.report import panels, series

GENERATOR = 'ule_jax.diagnose'
MOST = 20  # clusters of a class
SIDE = 320  # pixels of the longer side of a picture, at most


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
  clusters = find_clusters(label, ~right[student], predictions[f'features_{student}'], count)
  grouped = bool((group >= 0).any())
  matches = match(clusters, label, ~right[student], group) if grouped else []
  summaries = summarise(clusters, right, disagree, group, dataset.groups)
  chosen = [(str(s.number), i) for s in summaries for i in examples(clusters, disagree, s.number, pictures)]
  names = dataset.splits[split].name
  return {
    'generator': GENERATOR,
    'method': run.config.method.name,
    'dataset': series.title(run.config.data.name, getattr(run.config.data, 'dir', '') or ''),
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
    'answer': answer(summaries, run.classes, split),
    'pictures': draw(run, dataset, split, predictions, chosen) if chosen else {},
    'bar': examples_page.legend(),
    'restricted': DATASETS[run.config.data.name].licence,
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
) -> dict[int, examples_page.Table]:
  """Draw the chosen examples with their saliency; return cluster -> a table of photographs.

  Args:
    predictions: arrays of predictions/<split>.npz.
    chosen: (cluster, row of the predictions) of each example.
  """
  step = saliency.make_saliency_step(run.model, run.preprocess, run.roles, run.scalar)
  arrays = saliency.collect(step, run.networks, dataset, split, predictions, chosen)
  rows = panels.of_arrays(arrays, run.config.method.name, run.roles, run.classes, dataset.groups, split, SIDE)
  by_cluster: dict[int, list[panels.Panel]] = {}
  for panel in rows:
    by_cluster.setdefault(int(panel.category), []).append(panel)
  return {number: examples_page.table('Where the networks look', rows) for number, rows in by_cluster.items()}
