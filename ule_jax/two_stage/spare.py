"""SPARE: clusters of an early network's outputs, class by class; examples of small clusters are drawn more often.

Paper: Yang et al. 2024 (Identifying spurious biases early in training), arXiv 2305.18761.

  clusters c of softmax f_1(x) within each class: k-means, `clusters` of them, or if that is 0 as many as the
    silhouette is best for, up to `max_clusters`
  sampling weight_i = 1 / |c_i|^power, normalised to the same mass in each class
  power = 1 where the clusters are clear (silhouette >= threshold), high_power elsewhere

  f_1 -> the first run (ERM, very short); the options are two_stage.spare.*

Any method that reads groups can use the groups (class, cluster), too, with `two_stage.rule=spare`.
Departs from the official code, BigML-CS-UCLA/SpuCo 8f61942 (spare_inference.py, spare_train.py), in one thing:
silhouettes are computed from at most 5,000 examples of a class. Its quickstarts fix the number of clusters (4 for
Waterbirds, 2 for CelebA, 4 for UrbanCars), and so do the recipes here; that of CelebA clusters the features of the
network before training, all classes together, which is left out.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pydantic

from ule_jax.errors import UserError
from ule_jax.options import Options, option
from ule_jax.streams import Stream, generator
from ule_jax.two_stage.contract import FirstRun, SecondStage, probabilities

SAMPLE = 5000  # of a class, for the silhouette, which is quadratic


class Spare(Options):
  """Options of SPARE."""

  clusters: int = option(0, 'clusters of a class; 0: by silhouette', ge=0, added=True)
  max_clusters: int = option(5, 'the most clusters that the silhouette chooses from', ge=2)
  threshold: float = option(0.9, 'silhouette from which clusters are clear; SpuCo')
  high_power: int = option(2, "power of the clusters' sizes in sampling where they are not clear; SpuCo", ge=0)

  @pydantic.field_validator('clusters')
  @classmethod
  def _divide(cls, clusters: int) -> int:
    if clusters == 1:
      raise ValueError(
        'two_stage.spare.clusters is 1, which divides nothing: give 2 or more, or 0 to let SPARE choose.'
      )
    return clusters


def prepare(options: Spare, first: FirstRun) -> SecondStage:
  """Return sampling weights that balance the clusters of each class, and the groups (class, cluster).

  Raises:
    UserError: a training example has no label, or a class has too few different outputs for clusters.
  """
  from sklearn.cluster import KMeans
  from sklearn.metrics import silhouette_score

  train = first.labelled('train')
  outputs, label = probabilities(train['logits'].astype(np.float64)), train['label']
  group, sampling_weight, names, clear = np.zeros_like(label), np.zeros(len(label)), [], []
  for k, title in enumerate(first.classes):
    members = np.flatnonzero(label == k)
    partitions = {}
    different = len(np.unique(outputs[members], axis=0))
    for clusters in (options.clusters,) if options.clusters else range(2, options.max_clusters + 1):
      if different <= clusters:
        break
      means = KMeans(clusters, n_init=cast(Any, 10), random_state=first.seed)  # typed as str in scikit-learn
      parts = means.fit_predict(outputs[members])
      some = generator(Stream.SPARE_SAMPLE, first.seed, k).permutation(len(members))[:SAMPLE]
      # The sample may lack a small cluster: one example of each is added.
      some = np.union1d(some, np.unique(parts, return_index=True)[1])
      partitions[clusters] = (silhouette_score(outputs[members][some], parts[some]), parts)
    if not partitions:
      raise UserError(
        f'SPARE finds no clusters in the class {title!r}: the first run has {different} different outputs for its '
        f'examples, too few for {options.clusters or 2}; make it longer (two_stage.steps, two_stage.epochs).'
      )
    score, parts = max(partitions.values(), key=lambda pair: pair[0])
    sizes = np.bincount(parts)
    power = 1 if score >= options.threshold else options.high_power
    weight = sizes[parts] ** -float(power)
    sampling_weight[members] = weight / weight.sum()
    group[members] = len(names) + parts
    names += [f'{title}, cluster {c}' for c in range(len(sizes))]
    clear.append(round(float(score), 4))
  notes = {'clusters': np.bincount(group).tolist(), 'silhouettes': clear}
  return SecondStage(group=group, groups=tuple(names), sampling_weight=sampling_weight, notes=notes)
