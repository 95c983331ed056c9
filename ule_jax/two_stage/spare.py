"""SPARE: clusters of what an early network says, class by class; small clusters are drawn more often.

Paper: Yang et al. 2024 (Identifying spurious biases early in training), arXiv 2305.18761.

  clusters c of softmax f_1(x) within each class: k-means, `clusters` of them, or if that is 0 as many as the
    silhouette is best for, up to `max_clusters`
  chance_i = 1 / |c_i|^power, normalised to the same mass in each class
  power = 1 where the clusters are clear (silhouette >= threshold), high_power elsewhere

  f_1 -> config.first (ERM, very short), first.spare.{clusters,max_clusters,threshold,high_power}

The groups (class, cluster) also feed any method that uses groups, with `first.prepare=spare`.
Departs from the official code, BigML-CS-UCLA/SpuCo 8f61942 (spare_inference.py, spare_train.py), which it follows
else: silhouettes are from at most 5,000 examples of a class. Its quickstarts fix the number of clusters (4 for
Waterbirds, 2 for CelebA, 4 for UrbanCars), and so do the recipes here; that of CelebA clusters the features of the
network before training, all classes together, which is left out.
"""

from __future__ import annotations

import numpy as np

from ule_jax.errors import UserError
from ule_jax.two_stage.contract import FirstRun, SecondStage, probabilities

SAMPLE = 5000  # of a class, for the silhouette, which is quadratic


def prepare(options, first: FirstRun) -> SecondStage:
  """Cluster each class."""
  from sklearn.cluster import KMeans
  from sklearn.metrics import silhouette_score

  train = first.labelled('train')
  outputs, label = probabilities(train['logits'].astype(np.float64)), train['label']
  group, chance, names, clear = np.zeros_like(label), np.zeros(len(label)), [], []
  for k, title in enumerate(first.classes):
    members = np.flatnonzero(label == k)
    found = {}
    different = len(np.unique(outputs[members], axis=0))
    for clusters in (options.clusters,) if options.clusters else range(2, options.max_clusters + 1):
      if different <= clusters:
        break
      parts = KMeans(clusters, n_init=10, random_state=first.seed).fit_predict(outputs[members])
      some = np.random.default_rng((first.seed, k, 0, 4)).permutation(len(members))[:SAMPLE]
      # A small cluster may not be in the sample: one of each is put there.
      some = np.union1d(some, np.unique(parts, return_index=True)[1])
      found[clusters] = (silhouette_score(outputs[members][some], parts[some]), parts)
    if not found:
      raise UserError(
        f'SPARE finds no clusters in the class {title!r}: the first run has {different} different outputs for its '
        f'examples, too few for {options.clusters or 2}; make it longer (first.steps, first.epochs).'
      )
    score, parts = max(found.values(), key=lambda pair: pair[0])
    sizes = np.bincount(parts)
    power = 1 if score >= options.threshold else options.high_power
    weight = sizes[parts] ** -float(power)
    chance[members] = weight / weight.sum()
    group[members] = len(names) + parts
    names += [f'{title}, cluster {c}' for c in range(len(sizes))]
    clear.append(round(float(score), 4))
  notes = {'clusters': np.bincount(group).tolist(), 'silhouettes': clear}
  return SecondStage(group=group, groups=tuple(names), chance=chance, notes=notes)
