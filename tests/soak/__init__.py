"""Soak tests: random commands, inputs, files and kills, whose right outcome is known. See benchmarks/README.md.

  python -m tests.soak.fuzz --cases=3200      commands, damaged data, inputs of every kind
  python -m tests.soak.images --cases=25000   damaged image files
  python -m tests.soak.weights --cases=2000   damaged and disguised files of weights
  python -m tests.soak.kill --cases=50        SIGKILL at random moments

A case is made from its number alone; `--only=KIND:NUMBER` runs one again in this process.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `writers` and `common`, as pytest does
