"""Verdicts of `detect` where the truth is known: permuted labels, and the embedded task with and without a shortcut.

  python tests/soak/shortcuts.py --kind=permuted --cases=200   labels of digits, permuted: nothing is there
  python tests/soak/shortcuts.py --kind=none --cases=10        digits, the tint follows the label in half of the images
  python tests/soak/shortcuts.py --kind=tint --cases=5         digits, the tint follows it in 98 %; so place and patch

Prints one JSON line for each case, and how many verdicts are "some" or "strong", with the Clopper-Pearson interval.
"""

import argparse
import functools
import json
import sys
import time

import numpy as np
from scipy.stats import binomtest

import ule_jax
from ule_jax import data
from ule_jax.detect import properties
from ule_jax.detect.verdict import NONE

KINDS = ('permuted', 'none', 'tint', 'place', 'patch')
IMAGES = {'permuted': 2000}  # of 8,000


@functools.lru_cache(maxsize=2)
def images(shortcut: str, rate: float, seed: int, count: int):
  """Return images, labels, groups and properties of the embedded task."""
  split = data.load('digits', {'shortcut': shortcut, 'rate': rate, 'seed': seed}).splits['train']
  rows = np.sort(np.random.default_rng(seed).permutation(split.count)[:count])
  x = np.stack([split.load(int(i)) for i in rows])
  return x, split.label[rows], split.group[rows], properties.of_images(x)


def attempt(kind: str, seed: int) -> dict:
  """Return the verdict of one case, its strongest finding, and the seconds it took.

  Args:
    kind: of KINDS.
    seed: of the data and of detect; of permuted labels, of the permutation and of detect.
  """
  rate = 0.5 if kind == 'none' else 0.98
  shortcut = kind if kind in ('place', 'patch') else 'tint'
  x, label, group, measured = images(shortcut, rate, 0 if kind == 'permuted' else seed, IMAGES.get(kind, 8000))
  if kind == 'permuted':
    label = np.random.default_rng((seed, 1)).permutation(label)
    group = None
  start = time.perf_counter()
  result = ule_jax.find_shortcuts(
    x, label, group, measured, classes=('below five', 'five or more'), seed=seed, permutations=200
  )
  first = result.findings[0]
  return {
    'kind': kind, 'seed': seed, 'verdict': result.verdict, 'rule': first.name, 'agree': first.agree,
    'against': first.against, 'gain': first.gain, 'gain_interval': first.gain_interval,
    'groups': first.groups and first.groups.auc, 'predict': sum(f.p <= 0.05 for f in result.findings),
    'verdicts': {f.name: f.verdict for f in result.findings if f.verdict != NONE},
    'seconds': round(time.perf_counter() - start, 1),
  }  # fmt: skip


def summary(verdicts: list[str]) -> str:
  """Return the share of verdicts other than NONE, with its 95 % Clopper-Pearson interval."""
  count = sum(verdict != NONE for verdict in verdicts)
  interval = binomtest(count, len(verdicts)).proportion_ci(0.95, 'exact')
  return f'{count} of {len(verdicts)} verdicts are "some" or "strong": [{interval.low:.1%}, {interval.high:.1%}]'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--kind', choices=KINDS, required=True)
  parser.add_argument('--cases', type=int, default=10)
  parser.add_argument('--first', type=int, default=0)
  args = parser.parse_args()
  verdicts = []
  for seed in range(args.first, args.first + args.cases):
    result = attempt(args.kind, seed)
    verdicts.append(result['verdict'])
    print(json.dumps(result), flush=True)
  print(f'{args.kind}: {summary(verdicts)}', file=sys.stderr)


if __name__ == '__main__':
  main()
