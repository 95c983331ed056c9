"""Is my model taking a shortcut? Clusters of each class, and the accuracy of each network in them.

The student learns the shortcut, so that its features separate examples with and without it. Within a class, the first
principal components of the features are clustered by a mixture of Gaussians of one covariance, initialised with the
examples that the student gets right and with its mistakes: one cluster is the usual appearance of the class, the
others are candidates for a group that the shortcut misleads. No group labels are used. diagnosis.py draws
examples of each; docs/research/2026-11.md has the alternatives that were tried.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ule_jax.errors import UserError

COMPONENTS = 3  # principal components of the student's features
RIDGE = 1e-2  # added to the variances of the covariance; the features have variance 1


class Clusters(NamedTuple):
  """A partition of each class.

  Attributes:
    cluster: index of each example's cluster, from 0, over all classes.
    label: class of each cluster.
    distance: of each example from the centre of its cluster, in standardised principal components.
  """

  cluster: Int[np.ndarray, 'n']
  label: tuple[int, ...]
  distance: Float[np.ndarray, 'n']

  def place(self, number: int) -> int:
    """Return the index of a cluster within its class: 0 was initialised with correct examples, others with mistakes."""
    return number - self.label.index(self.label[number])


def find_clusters(
  label: Int[np.ndarray, 'n'], wrong: Bool[np.ndarray, 'n'], features: Float[np.ndarray, 'n d'], count: int = 2
) -> Clusters:
  """Cluster each class: one cluster is initialised with the correct examples, `count` - 1 with the mistakes.

  A class with fewer than `count` - 1 different mistakes has fewer clusters.

  Args:
    label: class index of each example.
    wrong: whether the student, or the only network, is wrong.
    features: of the same network.
    count: clusters of a class, from 2.

  Raises:
    UserError: an example has no label (-1).
  """
  from sklearn.decomposition import PCA
  from sklearn.preprocessing import StandardScaler

  if missing := int((label < 0).sum()):
    raise UserError(f'{missing} examples have no label, which the clustering needs: choose another --split.')

  standardised = StandardScaler().fit_transform(features.astype(np.float64))
  x = PCA(min(COMPONENTS, *features.shape), svd_solver='full').fit_transform(standardised)
  cluster, distance, labels = np.zeros(len(label), np.int32), np.zeros(len(label)), []
  for k in np.unique(label).tolist():
    members = np.flatnonzero(label == k)
    local, centres = part(x[members], wrong[members], count)
    cluster[members] = len(labels) + local
    distance[members] = np.linalg.norm(x[members] - centres[local], axis=1)
    labels += [k] * len(centres)
  return Clusters(cluster, tuple(labels), distance)


def part(
  x: Float[np.ndarray, 'm d'], wrong: Bool[np.ndarray, 'm'], count: int
) -> tuple[Int[np.ndarray, 'm'], Float[np.ndarray, 'c d']]:
  """Cluster one class; return the cluster of each example and the centres; cluster 0 starts from correct examples.

  Args:
    x: standardised principal components.
    wrong: whether the student is wrong.
    count: clusters, from 2.
  """
  from sklearn.cluster import KMeans
  from sklearn.mixture import GaussianMixture

  start = wrong.astype(np.int32)
  if wrong.all() or not wrong.any():
    start[:] = 0
  elif (more := min(count - 1, len(np.unique(x[wrong], axis=0)))) > 1:
    kmeans = KMeans(more, n_init=10, random_state=0)  # pyright: ignore[reportArgumentType] declared by its default
    start[wrong] = 1 + kmeans.fit_predict(x[wrong])
  shares = np.bincount(start) / len(start)
  centres = np.stack([x[start == c].mean(0) for c in range(len(shares))])
  if len(shares) == 1:
    return start, centres
  centred = x - centres[start]
  covariance = centred.T @ centred / len(x) + RIDGE * np.eye(x.shape[1])
  fit = GaussianMixture(
    len(shares),
    covariance_type='tied',
    weights_init=shares,
    means_init=centres,
    precisions_init=np.linalg.inv(covariance),
    reg_covar=RIDGE,
    max_iter=500,
  ).fit(x)
  return fit.predict(x).astype(np.int32), np.asarray(fit.means_)


OWN = 'clusters'


class Match(NamedTuple):
  """Agreement of a partition with the true groups.

  Attributes:
    name: of the partition.
    purity: share of examples in the most frequent group of their cluster, in [0, 1].
    rand: adjusted Rand index: 1 for equal partitions, 0 in expectation for random ones.
    clusters: number of parts.
  """

  name: str
  purity: float
  rand: float
  clusters: int


def purity(cluster: Int[np.ndarray, 'n'], group: Int[np.ndarray, 'n']) -> float:
  """Compute the share of examples in the most frequent group of their cluster, in [0, 1].

  >>> purity(np.array([0, 0, 0, 1]), np.array([2, 2, 3, 3]))
  0.75
  """
  return float(sum(np.bincount(group[cluster == c]).max() for c in np.unique(cluster)) / len(group))


def match(
  clusters: Clusters, label: Int[np.ndarray, 'n'], wrong: Bool[np.ndarray, 'n'], group: Int[np.ndarray, 'n']
) -> list[Match]:
  """Compare the clusters, and three baselines, with the true groups, over the examples whose group is known.

  The baselines are one cluster (the majority group), the classes, and the classes split by the student's mistakes.

  Args:
    group: -1 is unknown.
  """
  from sklearn.metrics import adjusted_rand_score

  known = group >= 0
  rows = {
    'one cluster (majority)': np.zeros_like(label),
    'classes': label,
    "classes x the network's mistakes": 2 * label + wrong,
    OWN: clusters.cluster,
  }
  matches, true = [], group[known]
  for name, partition in rows.items():
    parts = partition[known]
    matches.append(Match(name, purity(parts, true), float(adjusted_rand_score(true, parts)), len(np.unique(parts))))
  return matches


def remark(matches: list[Match]) -> str:
  """Format a note that a baseline agrees with the groups as well as the clusters; '' if none does."""
  rand = [m.rand for m in matches if m.name == OWN]
  better = [m.name for m in matches if m.name != OWN and m.rand >= rand[0]]
  if not better:
    return ''
  return (
    f'Here {" and ".join(better)} agree with the groups as well as the clusters do, which then add no information: '
    'where few examples contradict the shortcut, look at another split (--split=test).'
  )


class Summary(NamedTuple):
  """One cluster.

  Attributes:
    number: index over all classes.
    place: index within its class.
    label: class index.
    count: examples.
    accuracy: role -> share of correct predictions, in [0, 1].
    disagree: examples on which the networks disagree (with one network: its mistakes).
    groups: name of a group -> its examples in the cluster.
  """

  number: int
  place: int
  label: int
  count: int  # pyright: ignore[reportIncompatibleMethodOverride] a field; tuple.count is not used
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
  """Summarise each cluster, sorted by the accuracy of the first network, lowest first.

  Args:
    right: role -> whether its prediction is correct.
    disagree: whether the networks disagree (with one network: whether it is wrong).
    group: -1 is unknown.
    groups: names.
  """
  summaries = []
  for number, label in enumerate(clusters.label):
    mask = clusters.cluster == number
    if not mask.any():
      continue
    counts = np.bincount(group[mask & (group >= 0)], minlength=len(groups))
    summaries.append(
      Summary(
        number,
        clusters.place(number),
        label,
        int(mask.sum()),
        {role: float(values[mask].mean()) for role, values in right.items()},
        int((mask & disagree).sum()),
        {name: int(n) for name, n in zip(groups, counts, strict=True) if n},
      )
    )
  first = next(iter(right))
  return sorted(summaries, key=lambda summary: summary.accuracy[first])


def examples(clusters: Clusters, preferred: Bool[np.ndarray, 'n'], number: int, count: int) -> list[int]:
  """Choose examples of a cluster: preferred ones first, then by distance from the centre.

  Args:
    number: index of the cluster.
    count: of examples at most.

  Returns:
    Rows of the arrays.
  """
  members = np.flatnonzero(clusters.cluster == number)
  order = np.lexsort((clusters.distance[members], ~preferred[members]))
  return members[order[:count]].tolist()
