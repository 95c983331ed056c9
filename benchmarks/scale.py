"""The paper plan of docs/scale.md: what a ULE step costs on many chips, computed, not measured.

  python benchmarks/scale.py        print its tables

A step of n chips takes, each chip with b images of F FLOPs, of networks whose gradients are B bytes:

  compute   b F / (peak U)            U: the share of the peak that is reached, an assumption
  exchange  2 (n - 1) / n B / W       an all-reduce in a ring; W: bytes per second into a chip

Efficiency is compute / step, between no overlap (step = compute + exchange) and all of it (the longer of the two).
F is what the compiler says of the compiled step (benchmarks/results/memory.jsonl), B counts both networks in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import record

MEMORY = Path(__file__).parent / 'results' / 'memory.jsonl'
UTILISATION = 0.3
DECODED = 888  # images per second and core, antialias (benchmarks/results/input_pipeline.jsonl: 1,776 on two)
IMAGE = 224 * 224 * 3  # bytes, uint8
PARAMETERS = {'resnet50': 23_512_130, 'vit_b16': 85_800_194}  # of one network with two classes
BATCH = {'resnet50': 64, 'vit_b16': 16}  # per chip, without remat


class Machine(NamedTuple):
  """A kind of chip: bfloat16 FLOP/s, chips of a host, bytes/s between chips, and between islands of so many chips."""

  peak: float
  host: int
  inside: float
  island: int
  outside: float


MACHINES = {
  # cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, all-reduce 51.2 TB/s and data center network 6.4 Tbit/s per 256 chips
  'TPU v5e': Machine(197e12, 8, 51.2e12 / 256, 256, 6.4e12 / 8 / 256),
  # NVIDIA DGX H100: 989 TFLOP/s, NVLink 450 GB/s each way, eight 400 Gbit/s adapters for eight GPUs
  'H100': Machine(989e12, 8, 450e9, 8, 400e9 / 8),
}


def flops(network: str) -> float:
  """Return the FLOPs of an image in a fused ULE step."""
  rows = record.read(MEMORY)
  (row,) = [
    r for r in rows if (r['network'], r['batch'], r['remat'], r['precision']) == (network, 16, False, 'bfloat16')
  ]
  return row['gflop'] * 1e9 / row['batch']


def plan(network: str, machine: Machine, chips: int, images: float) -> dict[str, float]:
  """Compute a step's times in seconds, its efficiency without and with overlap, and what a host has to read.

  Args:
    images: of each chip.
  """
  size = 2 * 4 * PARAMETERS[network]
  compute = images * flops(network) / (machine.peak * UTILISATION)
  within = min(chips, machine.island)
  exchange = 2 * (within - 1) / within * size / machine.inside
  if chips > machine.island:  # between islands each chip exchanges its share of what its island has added up
    islands = chips / machine.island
    exchange += 2 * (islands - 1) / islands * size / machine.island / machine.outside
  step = max(compute, exchange)
  return {
    'compute': compute,
    'exchange': exchange,
    'least': compute / (compute + exchange),
    'most': compute / step,
    'images': machine.host * images / step,
  }


def tables() -> str:
  """Lay out the plan as Markdown."""
  lines = ['| network | FLOPs per image | gradients per step | images per chip |', '|---|---|---|---|']
  for network, batch in BATCH.items():
    size = 2 * 4 * PARAMETERS[network] / 1e6
    lines.append(f'| `{network}` | {flops(network) / 1e9:,.0f} G | {size:,.0f} MB | {batch} |')
  lines += [
    '',
    '| network | chips | compute | exchange | efficiency | images/s per host | cores that decode | MB/s to the chips |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for network in BATCH:
    for name, machine in MACHINES.items():
      for chips in (8, 64, 512):
        found = plan(network, machine, chips, BATCH[network])
        lines.append(
          f'| `{network}` | {chips} x {name} | {1e3 * found["compute"]:.1f} ms | {1e3 * found["exchange"]:.1f} ms '
          f'| {found["least"]:.0%} to {found["most"]:.0%} | {found["images"]:,.0f} '
          f'| {found["images"] / DECODED:.1f} | {found["images"] * IMAGE / 1e6:,.0f} |'
        )
  lines += ['', '| network, batch of 128 in all | 8 chips | 64 chips | 128 chips |', '|---|---|---|---|']
  for network in BATCH:
    for name, machine in MACHINES.items():
      found = [plan(network, machine, chips, 128 / chips) for chips in (8, 64, 128)]
      cells = (
        f'{1e3 * f["compute"]:.1f} + {1e3 * f["exchange"]:.1f} ms, {f["least"]:.0%} to {f["most"]:.0%}' for f in found
      )
      lines.append(f'| `{network}` on {name} | {" | ".join(cells)} |')
  return '\n'.join(lines)


if __name__ == '__main__':
  print(tables())
