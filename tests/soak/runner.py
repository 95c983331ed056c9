"""Runs numbered cases in a worker process, which is replaced when a case takes too long or ends it."""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NamedTuple

from benchmarks import harness

SPACING = 1_000_000  # between the first cases of two seeds


class Case(NamedTuple):
  """A case, by its kind and number."""

  kind: str
  number: int


def nothing() -> None:
  """Prepare nothing."""


def twenty(kind: str) -> float:
  """Return twenty seconds."""
  return 20.0


class Suite(NamedTuple):
  """Cases of some kinds.

  attempt: runs a case in this process; returns how it ended.
  outcomes: the ends that are right.
  shares: of all cases, by kind.
  seconds: that a case of a kind may take.
  prepare: called once in each worker.
  memory: bytes of address space of a worker; memory that is asked for is no hang.
  """

  attempt: Callable[[str, int], str]
  outcomes: tuple[str, ...]
  shares: Mapping[str, float]
  seconds: Callable[[str], float] = twenty
  prepare: Callable[[], None] = nothing
  memory: int = 8 << 30


def work(
  pipe: Connection, attempt: Callable[[str, int], str], prepare: Callable[[], None], memory: int, log: str
) -> None:
  """Run the cases that come through a pipe; what libraries print goes to a file."""
  resource.setrlimit(resource.RLIMIT_AS, (memory, resource.RLIM_INFINITY))
  os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
  prepare()
  with contextlib.suppress(EOFError):  # there are no more
    while True:
      pipe.send(attempt(*pipe.recv()))


class Worker:
  """A process for the cases of a suite; no daemon, as those may have no children."""

  def __init__(self, suite: Suite, log: str):
    context = multiprocessing.get_context('spawn')
    self.pipe, theirs = context.Pipe()
    arguments = (theirs, suite.attempt, suite.prepare, suite.memory, log)
    self.process: SpawnProcess = context.Process(target=work, args=arguments)
    self.process.start()
    theirs.close()

  def run(self, case: Case, seconds: float) -> str:
    """Return how a case ended; the worker is of no more use where that is `no end` or `the process died`."""
    self.pipe.send(case)
    try:
      return self.pipe.recv() if self.pipe.poll(seconds) else f'no end after {seconds:.0f} s'
    except EOFError:
      return 'the process died'

  def stop(self) -> None:
    self.pipe.close()
    self.process.kill()
    self.process.join()


def run(suite: Suite, cases: Sequence[Case], log: str) -> collections.Counter[str]:
  """Run cases; return how many ended in which way, `wrong` among them, which are printed."""
  ends: collections.Counter[str] = collections.Counter()
  worker: Worker | None = None
  for done, case in enumerate(cases, 1):
    worker = worker or Worker(suite, log)
    end = worker.run(case, suite.seconds(case.kind))
    if end.startswith(('no end', 'the process')):
      worker.stop()
      worker = None
    if end not in suite.outcomes:
      print(f'{case.kind}:{case.number} {end}\n', flush=True)
    ends[end if end in suite.outcomes else 'wrong'] += 1
    if done % max(50, len(cases) // 20) == 0:
      print(f'{done} of {len(cases)}', dict(ends), file=sys.stderr, flush=True)
  if worker:
    worker.stop()
  return ends


def cases_of(shares: Mapping[str, float], count: int, seed: int) -> list[Case]:
  """Return a number of cases, shared out over kinds; each kind has one at least."""
  whole, first = sum(shares.values()), seed * SPACING
  counts = {kind: max(1, round(count * share / whole)) for kind, share in shares.items()}
  return [Case(kind, number) for kind, n in counts.items() for number in range(first, first + n)]


def main(suite: Suite, text: str | None, count: int) -> None:
  """Parse the command line, run the cases and exit: with 1 if one ended wrongly.

  Args:
    text: docstring of the module.
    count: of cases, if the command line does not say.
  """
  parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--cases', type=int, default=count, help='shared out over the kinds')
  parser.add_argument('--seed', type=int, default=0, help='other cases')
  parser.add_argument('--kinds', default=','.join(suite.shares), help='of these, with commas between')
  parser.add_argument('--only', metavar='KIND:NUMBER', help='one case, in this process')
  parser.add_argument('--out', type=Path, help='a file that a row goes to')
  args = parser.parse_args()
  if args.only:
    kind, number = args.only.split(':')
    suite.prepare()
    print(suite.attempt(kind, int(number)))
    return
  began = time.monotonic()
  cases = cases_of({kind: suite.shares[kind] for kind in args.kinds.split(',')}, args.cases, args.seed)
  with tempfile.TemporaryDirectory() as folder:
    log = Path(folder) / 'log'
    ends = run(suite, cases, str(log))
    printed = log.read_text(errors='replace').splitlines() if log.exists() else []
  counts = collections.Counter(case.kind for case in cases)
  row = {'cases': dict(counts), 'seed': args.seed, 'ended': dict(sorted(ends.items())), 'noise': len(printed)}
  row |= {'seconds': round(time.monotonic() - began)} | harness.provenance()
  harness.append_rows(args.out, [row])
  print(json.dumps(row))
  sys.exit('wrong' in ends)
