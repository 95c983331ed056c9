"""Ways to find groups that nobody has labelled: how well each agrees with the true ones of finished runs.

  python benchmarks/diagnose.py RUN... [--splits=val,val_balanced]

Only predictions are read. `ule_jax.diagnose` uses the way that was best over both validation splits (`mixture`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from ule_jax.explain import clusters


def within_classes(label, part):
  found = np.zeros_like(label)
  for k in np.unique(label):
    found[label == k] = found.max() + 1 + part(np.flatnonzero(label == k))
  return found


def kmeans(x, starts=None):
  if starts is None:
    return KMeans(2, n_init=10, random_state=0).fit_predict(x)
  return KMeans(len(starts), init=starts, n_init=1).fit_predict(x)


def ways(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Read predictions; return the true groups, and the groups by each way."""
  with np.load(path) as file:
    arrays = dict(file)
  label, role = arrays['label'], next(n for n in arrays if n.startswith('logits_')).removeprefix('logits_')
  logits = arrays[f'logits_{role}']
  features, wrong = clusters.standardise(arrays[f'features_{role}']), logits.argmax(1) != label
  margin = logits[:, :1] - logits[:, 1:2]

  def at_mistakes(i):
    if wrong[i].all() or not wrong[i].any():
      return wrong[i].astype(int)
    return kmeans(features[i], np.stack([features[i][~wrong[i]].mean(0), features[i][wrong[i]].mean(0)]))

  return arrays['group'], {
    'classes': label,
    'classes x mistakes': 2 * label + wrong,
    'k-means of features': within_classes(label, lambda i: kmeans(features[i])),
    'the same, from the mistakes': within_classes(label, at_mistakes),
    'k-means of the margin': within_classes(label, lambda i: kmeans(margin[i])),
    'mixture': clusters.find_clusters(label, wrong, arrays[f'features_{role}']).cluster,
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('runs', nargs='+', type=Path)
  parser.add_argument('--splits', default='val,val_balanced')
  flags = parser.parse_args()
  for split in flags.splits.split(','):
    rows: dict[str, list] = {}
    for run in flags.runs:
      group, found = ways(run / 'predictions' / f'{split}.npz')
      for name, one in found.items():
        rows.setdefault(name, []).append((clusters.purity(one, group), adjusted_rand_score(group, one)))
    print(f'\n| {split}, {len(flags.runs)} runs | purity, mean | least | adjusted Rand index, mean | least |')
    print('|---|---|---|---|---|')
    for name, values in rows.items():
      mean, least = np.mean(values, 0), np.min(values, 0)
      print(f'| {name} | {mean[0]:.3f} | {least[0]:.3f} | {mean[1]:.3f} | {least[1]:.3f} |')


if __name__ == '__main__':
  main()
