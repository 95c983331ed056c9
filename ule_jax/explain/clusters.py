"""Is my model taking a shortcut? Each class in clusters, and how right two networks are in each.

The student takes the shortcut, so that its features tell apart what has it and what has not. Within a class, their
first principal components are parted by a mixture of Gaussians of one covariance, which starts at what the student
gets right and at its mistakes: one cluster is what the class usually looks like to it, the others are candidates for a
group that the shortcut misleads. No group labels are used. `python -m ule_jax.diagnose` (__main__.py) draws the
examples of each; benchmarks/diagnose.py has what else was tried.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ule_jax.errors import UserError

COMPONENTS = 3  # of the student's features
RIDGE = 1e-2  # on the covariance, beside features of variance 1


class Clusters(NamedTuple):
  """A cluster for each example, and of each cluster its class and how far each example is from its centre."""

  cluster: Int[np.ndarray, 'n']
  label: tuple[int, ...]
  distance: Float[np.ndarray, 'n']

  def place(self, number: int) -> int:
    """Number a cluster within its class: 0 began at what the student gets right, the others at its mistakes."""
    return number - self.label.index(self.label[number])


def standardise(features: Float[np.ndarray, 'n d']) -> Float[np.ndarray, 'n d']:
  """Give every feature mean 0 and standard deviation 1; one that never changes becomes 0."""
  centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
  std = centred.std(0)
  return centred / np.where(std > 1e-6, std, 1)


def find_clusters(
  label: Int[np.ndarray, 'n'], wrong: Bool[np.ndarray, 'n'], features: Float[np.ndarray, 'n d'], count: int = 2
) -> Clusters:
  """Cluster each class: one cluster starts at what is right, `count` - 1 at what is wrong.

  A class with fewer different mistakes than that has fewer clusters.

  Args:
    wrong: what the student, or the only network, gets wrong.
    features: of the same network.

  Raises:
    UserError: an example has no label (-1).
  """
  from sklearn.decomposition import PCA

  if missing := int((label < 0).sum()):
    raise UserError(f'{missing} examples have no label, which clusters are made by: choose another --split.')

  x = PCA(min(COMPONENTS, *features.shape), svd_solver='full').fit_transform(standardise(features))
  cluster, distance, labels = np.zeros(len(label), np.int32), np.zeros(len(label)), []
  for k in np.unique(label).tolist():
    members = np.flatnonzero(label == k)
    parts, centres = part(x[members], wrong[members], count)
    cluster[members] = len(labels) + parts
    distance[members] = np.linalg.norm(x[members] - centres[parts], axis=1)
    labels += [k] * len(centres)
  return Clusters(cluster, tuple(labels), distance)


def part(
  x: Float[np.ndarray, 'm d'], wrong: Bool[np.ndarray, 'm'], count: int
) -> tuple[Int[np.ndarray, 'm'], Float[np.ndarray, 'c d']]:
  """Part one class; return the cluster of each example, what starts at right ones first, and the centres."""
  from sklearn.cluster import KMeans
  from sklearn.mixture import GaussianMixture

  start = wrong.astype(np.int32)
  if wrong.all() or not wrong.any():
    start[:] = 0
  elif (more := min(count - 1, len(np.unique(x[wrong], axis=0)))) > 1:
    start[wrong] = 1 + KMeans(more, n_init=10, random_state=0).fit_predict(x[wrong])
  shares = np.bincount(start) / len(start)
  centres = np.stack([x[start == c].mean(0) for c in range(len(shares))])
  if len(shares) == 1:
    return start, centres
  rest = x - centres[start]
  covariance = rest.T @ rest / len(x) + RIDGE * np.eye(x.shape[1])
  fit = GaussianMixture(
    len(shares),
    covariance_type='tied',
    weights_init=shares,
    means_init=centres,
    precisions_init=np.linalg.inv(covariance),
    reg_covar=RIDGE,
    max_iter=500,
  ).fit(x)
  return fit.predict(x).astype(np.int32), fit.means_


OWN = 'clusters'


class Match(NamedTuple):
  """How well a grouping agrees with the true groups.

  Purity is the share of examples in the most frequent group of their cluster; the adjusted Rand index is 1 for the same
  partition, and 0 on average for one by chance.
  """

  name: str
  purity: float
  rand: float
  clusters: int


def purity(cluster: Int[np.ndarray, 'n'], group: Int[np.ndarray, 'n']) -> float:
  """Compute the share of examples that are of the most frequent group of their cluster.

  >>> purity(np.array([0, 0, 0, 1]), np.array([2, 2, 3, 3]))
  0.75
  """
  return float(sum(np.bincount(group[cluster == c]).max() for c in np.unique(cluster)) / len(group))


def match(
  clusters: Clusters, label: Int[np.ndarray, 'n'], wrong: Bool[np.ndarray, 'n'], group: Int[np.ndarray, 'n']
) -> list[Match]:
  """Compare clusters, and what needs none, with the true groups, where those are known.

  The baselines: all in one cluster (the majority group), the classes, and the classes parted by the student's mistakes.
  """
  from sklearn.metrics import adjusted_rand_score

  known = group >= 0
  rows = {
    'one cluster (majority)': np.zeros_like(label),
    'classes': label,
    "classes x the network's mistakes": 2 * label + wrong,
    OWN: clusters.cluster,
  }
  found = []
  for name, cluster in rows.items():
    mine, true = cluster[known], group[known]
    found.append(Match(name, purity(mine, true), float(adjusted_rand_score(true, mine)), len(np.unique(mine))))
  return found


def remark(matches: list[Match]) -> str:
  """Say that something that needs no clusters agrees with the groups as well as they do; '' if nothing does."""
  own = [m.rand for m in matches if m.name == OWN]
  better = [m.name for m in matches if m.name != OWN and m.rand >= own[0]]
  if not better:
    return ''
  return (
    f'Here {" and ".join(better)} agree with the groups as well as the clusters do, which then tell nothing more: '
    'where few examples contradict the shortcut, look at another split (--split=test).'
  )


class Summary(NamedTuple):
  """One cluster: its size, how right each network is in it, and how many of its examples are of which group.

  `place` is its number within its class.
  """

  number: int
  place: int
  label: int
  count: int
  accuracy: dict[str, float]
  disagree: int
  groups: dict[str, int]


def summarise(
  clusters: Clusters,
  right: dict[str, Bool[np.ndarray, 'n']],
  disagree: Bool[np.ndarray, 'n'],
  group: Int[np.ndarray, 'n'],
  groups: tuple[str, ...],
) -> list[Summary]:
  """Describe each cluster, those that mislead the first network most first."""
  found = []
  for number, label in enumerate(clusters.label):
    here = clusters.cluster == number
    if not here.any():
      continue
    counts = np.bincount(group[here & (group >= 0)], minlength=len(groups))
    found.append(
      Summary(
        number,
        clusters.place(number),
        label,
        int(here.sum()),
        {role: float(values[here].mean()) for role, values in right.items()},
        int((here & disagree).sum()),
        {name: int(n) for name, n in zip(groups, counts, strict=True) if n},
      )
    )
  first = next(iter(right))
  return sorted(found, key=lambda one: one.accuracy[first])


def examples(clusters: Clusters, preferred: Bool[np.ndarray, 'n'], number: int, count: int) -> list[int]:
  """Choose examples of a cluster: preferred ones first, those nearest to the centre first."""
  members = np.flatnonzero(clusters.cluster == number)
  order = np.lexsort((clusters.distance[members], ~preferred[members]))
  return members[order[:count]].tolist()
