"""Is there a shortcut? The function `find_shortcuts`, and its result."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epy
from jaxtyping import Bool, Float, Int

from ule_jax.detect import chance
from ule_jax.detect import properties as measured
from ule_jax.detect.arguments import checked
from ule_jax.detect.verdict import TOGETHER, Finding, Learned, conclude
from ule_jax.detect.wording import answer, table

with epy.lazy_imports():  # jax takes seconds to import: help and errors of the command line come before it
  from ule_jax.detect import check, students, suspects

MOST = 5  # single properties whose images are looked at by networks; those that predict the label best


class Findings(NamedTuple):
  """The answer with its numbers. Prints as a table; in a notebook it is one.

  Attributes:
    verdict: of the strongest finding: NONE, SOME or STRONG.
    answer: one sentence.
    findings: each rule that was asked for, the strongest first.
    learned: how soon, how far and how reliably two quick students learn.
    suspects: the rules themselves, in the order of the findings, with the examples that contradict them.
    examples: number of them.
  """

  verdict: str
  answer: str
  findings: tuple[Finding, ...]
  learned: Learned
  suspects: tuple[Any, ...]
  examples: int

  def __str__(self) -> str:
    """Return the table and the answer as text."""
    return f'{table(self.findings, self.learned)}\n\n{self.answer}'

  def _repr_html_(self) -> str:
    return f'<pre>{html.escape(str(self))}</pre>'


def find_shortcuts(
  x: np.ndarray,
  y: Int[np.ndarray, 'n'] | Sequence[Any],
  groups: Int[np.ndarray, 'n'] | Sequence[Any] | None = None,
  properties: Mapping[str, np.ndarray] | None = None,
  *,
  classes: Sequence[str] | None = None,
  network: str = 'mlp',
  steps: int = 320,
  permutations: int = 500,
  seed: int = 0,
) -> Findings:
  """Search labelled images or embeddings for a shortcut, without group labels.

  Three kinds of rules are suspected: image properties that predict the label on held-out examples, the rule of two
  quick students, and clusters on which a student fails. A rule is a shortcut if a network is markedly worse on held-out
  examples that contradict it, and better there, at little loss elsewhere, once they have half of the weight in
  training.

  Args:
    x: uint8 images [n h w c], or features [n d] of any encoder, in the order in which they were collected: neighbours,
      which may be copies, are kept in one fold.
    y: label of each example: an index, or a name.
    groups: of each example, -1 for unknown: only to report how well the rules find the smaller groups of each class.
    properties: name -> number or text of each example, asked about in place of those that are measured in the pixels of
      images; `ule_jax.detect.properties` measures files. Features have none of their own.
    classes: names, in the order of the indices.
    network: mlp, linear or, for images, cnn, which takes minutes on a CPU.
    steps: of each training of a network, 128 examples each.
    permutations: of the label, from 100; more make the intervals smoother.
    seed: of networks and permutations.

  Returns:
    The findings, the strongest first, and the answer in one sentence.

  Raises:
    ValueError: the arguments do not fit, an example has no label, or there are too few examples of a class.
  """
  x, label, names, group = checked(x, y, groups, classes, properties, permutations, steps, network)
  is_image = x.dtype == np.uint8
  given = {name: np.asarray(values) for name, values in (properties or {}).items()}
  table_of = given if properties is not None or not is_image else measured.of_images(x)
  rng = np.random.default_rng(seed)
  fold = chance.blocks(label, suspects.FOLDS)
  data = suspects.Data(label, names, fold, chance.permuted(label, fold, permutations, rng), rng)
  learner = students.Learner(x, label, len(names), network, steps, seed)
  pair = suspects.train_students(learner, data)
  candidates = suspects.all_suspects(table_of, pair, data)
  effects = np.array([suspect.effect for suspect in candidates])
  null = np.stack([suspect.null for suspect in candidates], 1)
  predicts = _only_of_skilled(chance.correct(effects, null), candidates)
  order = np.argsort(-(effects - predicts.chance) / np.maximum(null.std(0), 1e-9), kind='stable')
  checked_rules = _check(learner, data, [candidates[i] for i in order], predicts.p[order])
  findings = conclude([candidates[i] for i in order], _take(predicts, order), checked_rules, data, group)
  learned = _learned(pair, data)
  ranked = sorted(range(len(findings)), key=lambda i: findings[i].rank)
  findings, chosen = tuple(findings[i] for i in ranked), tuple(candidates[order[i]] for i in ranked)
  return Findings(findings[0].verdict, answer(findings, chosen, table_of, label), findings, learned, chosen, len(label))


def _only_of_skilled(corrected: chance.Corrected, candidates: Sequence[suspects.Suspect]) -> chance.Corrected:
  """Return the corrections with the clusters at most as certain as the skill of the students that they are clusters of.

  Two students that have learned nothing are still wrong about the same images by chance, as both follow the few loud
  directions of the data: in a third of permuted label sets that passes for a difference between clusters.
  """
  p = corrected.p.copy()
  of_kind = {suspect.kind: i for i, suspect in enumerate(candidates)}
  p[of_kind['clusters']] = max(p[of_kind['clusters']], p[of_kind['student']])
  return corrected._replace(p=p)


def _take(corrected: chance.Corrected, order: Int[np.ndarray, 'm']) -> chance.Corrected:
  return chance.Corrected(*(values[order] for values in corrected))


def _check(
  learner: students.Learner, data: suspects.Data, candidates: Sequence[suspects.Suspect], p: Float[np.ndarray, 'm']
) -> dict[int, check.Check]:
  """Return the comparison of networks for each rule that predicts the label and has images that contradict it.

  Args:
    candidates: the best first.
    p: corrected probability of each.
  """
  chosen, single = [], 0
  for i, suspect in enumerate(candidates):
    if p[i] > chance.LEVEL or not check.is_measurable(suspect):
      continue
    is_single = suspect.kind == 'property' and suspect.name != TOGETHER
    single += is_single
    if not is_single or single <= MOST:
      chosen.append(i)
  if not chosen:
    return {}
  ordinary = check.held_out(learner, data)
  return {
    i: check.check(candidates[i], ordinary, check.held_out(learner, data, candidates[i].contradicts), data)
    for i in chosen
  }


def _learned(pair: suspects.Students, data: suspects.Data) -> Learned:
  """Return how soon, how far and how reliably the quick students learn, on examples that they have not seen."""
  classes = len(data.classes)

  def skill(predicted: Int[np.ndarray, 'n'], rows: Bool[np.ndarray, 'n']) -> float:
    accuracy = [float((predicted == k)[rows & (data.label == k)].mean()) for k in np.unique(data.label[rows])]
    return (float(np.mean(accuracy)) - 1 / classes) / (1 - 1 / classes)

  curve = {
    step: float(np.mean([skill(fit.curve[step], data.fold != f) for f, fit in enumerate(pair.fits)]))
    for step in pair.fits[0].curve
  }
  wrong = [probability.argmax(1) != data.label for probability in (pair.first, pair.second)]
  kappa, low, high = _consistency(wrong[0], wrong[1], data)
  return Learned(curve, kappa, low, high)


def _consistency(
  first: Bool[np.ndarray, 'n'], second: Bool[np.ndarray, 'n'], data: suspects.Data
) -> tuple[float, float, float]:
  """Return Cohen's kappa of two students' mistakes, and its 95 % range under permutations within each class and fold.

  Source: error consistency, Geirhos et al. 2020, arXiv 2006.16736.
  """
  stratum = data.fold * len(data.classes) + data.label
  permuted = chance.permuted(second.astype(np.int8), stratum, len(data.permutations), data.rng).astype(bool)
  both = np.concatenate([second[None], permuted])
  agree = (both == first).mean(1)
  expected = first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean())
  kappa = (agree - expected) / max(1 - expected, 1e-9)
  low, high = np.quantile(kappa[1:], (0.025, 0.975))
  return float(kappa[0]), float(low), float(high)
