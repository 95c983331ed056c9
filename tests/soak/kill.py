"""SIGKILL at random moments, and the same command again: does the run end bitwise as if nothing had been?

  python -m tests.soak.kill --cases=50 [--seed=0]

Runs of the main job on configs/digits.py, short, with a save every few steps, are killed a few times each: while
they start, train, save, or evaluate at the end. Then each is let finish and compared with an undisturbed run: the
parameters and all other arrays of the last checkpoint, results.json, the predictions, and metrics.jsonl but for its
rates. A case is a kill.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import harness

STEPS, EVERY = 120, 5
PHASES = ('start', 'training', 'saving', 'final evaluation')
COMMAND = [
  sys.executable, '-m', 'ule_jax.main', '--config=digits', f'--config.train.steps={STEPS}',
  f'--config.train.eval_every={EVERY}', '--config.train.log_every=5', '--config.data.crops=1',
]  # fmt: skip


class Run:
  """A process that works on a workdir."""

  def __init__(self, workdir: Path, cache: Path):
    self.workdir = workdir
    self._log = tempfile.TemporaryFile(mode='w+')  # noqa: SIM115
    env = os.environ | {'XDG_CACHE_HOME': str(cache)}
    command = [*COMMAND, f'--workdir={workdir}']
    self.process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=self._log)

  def log(self) -> str:
    self._log.seek(0)
    return self._log.read()

  def alive(self) -> bool:
    return self.process.poll() is None

  def wait_for(self, condition: Callable[[], bool]) -> None:
    while self.alive() and not condition():
      time.sleep(0.001)

  def training(self) -> bool:
    return 'training examples' in self.log()

  def saving(self) -> bool:
    return any((self.workdir / 'checkpoints').glob('*.orbax-checkpoint-tmp'))

  def trained(self) -> bool:
    return (self.workdir / 'checkpoints' / str(STEPS)).is_dir()

  def phase(self) -> str:
    if not self.training():
      return 'start'
    return 'saving' if self.saving() else 'final evaluation' if self.trained() else 'training'

  def kill_in(self, phase: str, rng: random.Random) -> str:
    """Kill it at a random moment of a phase; return the phase it was in then, or '' if it had ended."""
    if phase == 'start':
      time.sleep(rng.uniform(0, 4))
    else:
      self.wait_for(self.training)
      self.wait_for(self.trained if phase == 'final evaluation' else lambda: True)
      time.sleep(rng.uniform(0, 1))
      if phase == 'saving':
        self.wait_for(self.saving)
        time.sleep(rng.uniform(0, 0.02))
    killed_in = self.phase()
    if not self.alive():
      return ''
    self.process.kill()
    self.process.wait()
    return killed_in


def outcome(workdir: Path) -> dict[str, object]:
  """Return everything that a run leaves, but for rates, times and environment, which may differ."""
  import orbax.checkpoint as ocp

  with ocp.StandardCheckpointer() as reader:
    state = reader.restore(workdir.absolute() / 'checkpoints' / str(STEPS) / 'state')
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return {
    'state': state,
    'results': json.loads((workdir / 'results.json').read_text()),
    'metrics': [{k: v for k, v in line.items() if 'per_second' not in k} for line in lines],
    'predictions': {path.name: dict(np.load(path)) for path in (workdir / 'predictions').glob('*.npz')},
  }


def equal(a: object, b: object) -> bool:
  """Return whether two outcomes are the same to the bit."""
  import jax

  first, second = jax.tree.leaves(a), jax.tree.leaves(b)
  return len(first) == len(second) and all(np.array_equal(x, y) for x, y in zip(first, second, strict=True))


def finish(run: Run) -> None:
  """Wait for a run, which has to end well."""
  if run.process.wait():
    sys.exit(f'the run in {run.workdir} ended with {run.process.returncode}:\n{run.log()}')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--cases', type=int, default=50, help='kills')
  parser.add_argument('--each', type=int, default=5, help='kills of one run before it is let finish')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--out', type=Path, help='a file that a row goes to')
  args = parser.parse_args()
  rng, began = random.Random(args.seed), time.monotonic()
  phases: collections.Counter[str] = collections.Counter()
  runs = same = 0
  with tempfile.TemporaryDirectory() as scratch:
    root, cache = Path(scratch), Path(scratch) / 'cache'
    finish(Run(root / 'whole', cache))
    whole = outcome(root / 'whole')
    while phases.total() < args.cases:
      workdir, here = root / f'run{runs}', 0
      while here < args.each and phases.total() < args.cases:
        if phase := Run(workdir, cache).kill_in(rng.choice(PHASES), rng):
          phases[phase] += 1
          here += 1
        elif here:  # it was done before that moment came
          break
        else:
          shutil.rmtree(workdir)
      finish(Run(workdir, cache))
      runs += 1
      same += equal(outcome(workdir), whole)
      print(f'{phases.total()} kills, {same} of {runs} runs equal {dict(phases)}', file=sys.stderr, flush=True)
  row = {
    'kills': phases.total(),
    'phases': dict(phases),
    'runs': runs,
    'runs_equal_bitwise': same,
    'seconds': round(time.monotonic() - began),
    **harness.provenance(),
  }
  harness.append_rows(args.out, [row])
  print(json.dumps(row))
  sys.exit(same != runs)


if __name__ == '__main__':
  main()
