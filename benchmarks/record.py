"""What every row of benchmarks/results says beside what was measured, and how rows get there."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any


def made() -> dict[str, Any]:
  """Say of what commit, when and on what machine a measurement is."""
  git = ['git', 'describe', '--always', '--dirty', '--abbrev=7']
  found = subprocess.run(git, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
  return {
    'commit': found.stdout.strip(),
    'date': time.strftime('%Y-%m-%d'),
    'machine': processor(),
    'cores': len(os.sched_getaffinity(0)),
  }


def processor() -> str:
  """Name the processor."""
  lines = Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').exists() else []
  return next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), platform.machine())


def read(path: Path) -> list[dict[str, Any]]:
  """Read the rows of a file; none if there is no file yet."""
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add(path: Path | None, *rows: dict[str, Any]) -> None:
  """Append rows to a file, if one is given."""
  if path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a') as file:
      file.writelines(json.dumps(row) + '\n' for row in rows)
