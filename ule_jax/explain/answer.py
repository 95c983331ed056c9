"""The answer of a diagnosis in sentences: the cluster in which a network fails, the evidence, and the next step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ule_jax.explain.clusters import Summary
from ule_jax.runs.verdicts import TAKEN, Gap, difference, name_of, percent, sentence


class Suspect(NamedTuple):
  """A cluster, and how much worse each network is in it than in the rest of its class.

  Attributes:
    cluster: with the examples and the accuracies.
    gap: role -> the accuracy in the rest of the class minus that in the cluster.
  """

  cluster: Summary
  gap: dict[str, Gap]


def answer(summaries: Sequence[Summary], classes: Sequence[str], split: str) -> list[str]:
  """Return one to three sentences: the cluster in which a network fails most, the evidence, and the next step.

  Args:
    summaries: of all clusters.
    classes: names.
    split: of the data set.
  """
  suspects = suspected(summaries)
  if not suspects:
    return [f'No class of {split} has two clusters, so that nothing can be compared: look at another --split.']
  roles = list(suspects[0].gap)
  first = roles[0]
  misled = [suspect for suspect in suspects if is_misled(suspect.gap[first])]
  if not misled:
    largest = 100 * max(suspect.gap[first].value for suspect in suspects)
    return [
      f'No cluster of {split} stands out: nowhere is {name_of(first)} surely {100 * TAKEN:.0f} points worse than in '
      f'the rest of the class (the largest gap is {largest:.1f}).',
      f'A shortcut that no image of {split} breaks cannot be seen in it: try a --split of other images.',
    ]
  worst = misled[0]
  return [_misled(worst, classes, len(misled) - 1), _sure(worst, summaries, first), _next(worst)]


def suspected(summaries: Sequence[Summary]) -> list[Suspect]:
  """Return the clusters of classes that have several, the largest gap of the first network first."""
  suspects = []
  for cluster in summaries:
    rest = [other for other in summaries if other.label == cluster.label and other.number != cluster.number]
    if count := sum(other.count for other in rest):
      gap = {}
      for role, accuracy in cluster.accuracy.items():
        right = sum(other.accuracy[role] * other.count for other in rest)
        gap[role] = difference(
          {'accuracy': right / count, 'count': count}, {'accuracy': accuracy, 'count': cluster.count}
        )
      suspects.append(Suspect(cluster, gap))
  return sorted(suspects, key=lambda suspect: -next(iter(suspect.gap.values())).value)


def is_misled(gap: Gap) -> bool:
  """Return whether a network is so much worse in a cluster that its features, and not luck, have to do with it."""
  return gap.value >= TAKEN and gap.low > 0


def _misled(worst: Suspect, classes: Sequence[str], others: int) -> str:
  """Return the sentence that names the cluster, and the networks that are much worse in it."""
  first, *rest = worst.gap
  cluster, gap = worst.cluster, worst.gap[first]
  low, high = 100 * max(gap.low, 0), 100 * min(gap.high, 1)
  text = (
    f'{name_of(first)} is much worse in cluster {cluster.place} of {classes[cluster.label]!r}, {cluster.count:,} '
    f'examples: {percent(cluster.accuracy[first])} right, {100 * gap.value:.1f} points less than in the rest of the '
    f'class (95 % interval {low:.0f} to {high:.0f})'
  )
  for role in rest:
    outcome = 'is worse there, too' if is_misled(worst.gap[role]) else 'is not'
    text += f'; {name_of(role)}, with {percent(cluster.accuracy[role])}, {outcome}'
  if others:
    text += f'; {name_of(first)} is so in {others} other cluster{"s" if others > 1 else ""}'
  return sentence(text)


def _sure(worst: Suspect, summaries: Sequence[Summary], first: str) -> str:
  """Return the sentence on the evidence: the groups of the cluster where they are known, else none but the pictures."""
  cluster = worst.cluster
  rest = [other for other in summaries if other.label == cluster.label and other.number != cluster.number]
  groups = _shares([cluster])
  if not groups:
    return (
      f'No group is known, and the clusters start from the mistakes of {name_of(first)}, so that this is a candidate '
      'for a shortcut and no proof: its pictures beside those of the rest decide.'
    )
  elsewhere = _shares(rest)
  name = max(groups, key=lambda name: groups[name] - elsewhere.get(name, 0))
  verdict = 'confirm a shortcut' if groups[name] - elsewhere.get(name, 0) >= TAKEN else 'do not explain it'
  return (
    f'The groups {verdict}: {percent(groups[name])} of the cluster are {name!r}, and {percent(elsewhere.get(name, 0))} '
    'of the rest of the class.'
  )


def _shares(clusters: Sequence[Summary]) -> Mapping[str, float]:
  """Return group -> its share of the examples with a known group."""
  counts: dict[str, int] = {}
  for cluster in clusters:
    for name, count in cluster.groups.items():
      counts[name] = counts.get(name, 0) + count
  total = sum(counts.values())
  return {name: count / total for name, count in counts.items()}


def _next(worst: Suspect) -> str:
  """Return the sentence on the next step, which depends on whether the deployed network is misled."""
  *_, deployed = worst.gap
  if not is_misled(worst.gap[deployed]):
    return f'Next: {name_of(deployed)} is what predict and export use; measure it on images like those of this cluster.'
  return (
    'Next: where these pictures share something that the rest lacks, collect such images as a split val_NAME, and '
    'select by it; or write clusters.csv into metadata.csv as the column attribute, for a method that needs groups.'
  )
