"""Shared by all benchmarks: provenance of a row, paired turns and their statistics, and tables spliced into pages."""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scipy import stats
from tabulate import tabulate

from ule_jax import data
from ule_jax.config import load_config as load_config  # as `--config=NAME` and its fields make it
from ule_jax.devices import runtime

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / 'results'

# --- Runs --------------------------------------------------------------------------------------------


def load_dataset(config: Any) -> Any:
  """Return the data set of a config."""
  return data.load(config.data.name, config.data.to_dict())


def reuse_memory() -> None:
  """Keep the memory of a step for the next one, as `ule_jax.main` does; before anything is computed."""
  runtime.keep_memory()


def import_torchvision() -> Any:
  """Return torchvision, without its compiled part where that is of another build than PyTorch."""
  try:
    import torchvision
  except RuntimeError:
    for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
      del sys.modules[name]
    import torch

    import_torchvision.library = torch.library.Library('torchvision', 'DEF')  # kept: it undoes itself
    for name in ('nms', 'qnms'):
      import_torchvision.library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    import torchvision
  return torchvision


def command_parser(text: str | None) -> argparse.ArgumentParser:
  """Return a parser whose help is a module's docstring, with the option `--out`."""
  parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', type=Path, help='where rows go: a file, or the folder of robustness.run')
  return parser


def worker(**environment: str) -> ProcessPoolExecutor:
  """Return a pool of one new process, started with these environment variables."""
  pool = ProcessPoolExecutor(1, multiprocessing.get_context('spawn'))
  with mock.patch.dict(os.environ, environment):
    pool.submit(os.getpid).result()
  return pool


# --- Rows --------------------------------------------------------------------------------------------


def provenance(*packages: str) -> dict[str, Any]:
  """Return the columns that say where a row comes from.

  Args:
    packages: whose versions matter beside jax's; those that are not installed are left out.
  """
  describe = ['git', 'describe', '--always', '--dirty', '--abbrev=7']
  commit = subprocess.run(describe, capture_output=True, text=True, check=False, cwd=ROOT).stdout.strip()
  columns: dict[str, Any] = {'commit': commit, 'date': time.strftime('%Y-%m-%d')}
  columns |= {'machine': processor(), 'cores': len(os.sched_getaffinity(0)), 'load': round(os.getloadavg()[0], 1)}
  for package in ('jax', *packages):
    try:
      columns[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return columns


def processor() -> str:
  """Return the name of the processor."""
  path = Path('/proc/cpuinfo')
  lines = path.read_text().splitlines() if path.exists() else []
  return next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), platform.machine())


def read_rows(*paths: Path) -> list[dict[str, Any]]:
  """Return the rows of JSON-lines files, or of all such files of a folder in the order of their names."""
  files = [file for path in paths for file in (sorted(path.glob('*.jsonl')) if path.is_dir() else [path])]
  return [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]


def append_rows(path: Path | None, rows: Iterable[Mapping[str, Any]]) -> None:
  """Append rows to a JSON-lines file, if one is given."""
  if path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a') as file:
      file.writelines(json.dumps(row) + '\n' for row in rows)


# --- Paired turns ------------------------------------------------------------------------------------


def in_turns(contestants: Mapping[str, Callable[[], float]], turns: int) -> dict[str, list[float]]:
  """Return the measurements of each contestant, turn by turn; every other turn goes backwards.

  Args:
    contestants: name -> a function that measures once, in any unit.
  """
  values: dict[str, list[float]] = {name: [] for name in contestants}
  for turn in range(turns):
    for name in list(contestants)[:: -1 if turn % 2 else 1]:
      values[name].append(contestants[name]())
  return values


def timed(call: Callable[[], Any], wait: Callable[[], Any] = lambda: None, least: float = 0.0) -> Callable[[], float]:
  """Return a function that measures the seconds of one call, as the mean of as many as take `least` seconds.

  Args:
    call: may return before its work is done.
    wait: returns when all work is done.
  """

  def measure(count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
      call()
    wait()
    return (time.perf_counter() - began) / count

  measure(1)  # compiles, and touches the memory
  count = max(1, round(least / measure(1) + 0.5))
  return lambda: measure(count)


def ratios(values: Sequence[float], reference: Sequence[float]) -> list[float]:
  """Return the ratios of two contestants, paired by turn."""
  return [a / b for a, b in zip(values, reference, strict=True)]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
  """Return the lower quartile, the median and the upper quartile."""
  low, middle, high = statistics.quantiles(values, n=4)
  return low, middle, high


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
  """Return the 95 % bootstrap interval of the mean (percentiles, 9,999 resamples, seed 0)."""
  limits = stats.bootstrap((np.asarray(values),), np.mean, method='percentile', rng=0).confidence_interval
  return float(limits.low), float(limits.high)


# --- Tables ------------------------------------------------------------------------------------------


def mean_sd(values: Sequence[float], digits: int = 1) -> str:
  """Return mean and standard deviation (n - 1) as text."""
  return f'{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}'


def median_range(values: Sequence[float], digits: int = 2) -> str:
  """Return median and range as text."""
  middle, low, high = (f'{v:,.{digits}f}' for v in (statistics.median(values), min(values), max(values)))
  return f'{middle} ({low}-{high})'


def markdown(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Return a Markdown table."""
  return tabulate(list(rows), headers, tablefmt='github', disable_numparse=True)


SLOT = re.compile(r'(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)', re.DOTALL)


def splice(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
  """Return a page with the tables between its marks replaced.

  Raises:
    KeyError: a mark names a table that does not exist.
  """
  return SLOT.sub(lambda match: f'{match[1]}{tables[match[2]]()}\n{match[4]}', text)
