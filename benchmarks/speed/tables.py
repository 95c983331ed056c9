"""Tables of speed and memory, from benchmarks/results."""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks import harness

Row = dict[str, Any]
PIPELINES = {
  'linear_folder': 'ours, linear, folder', 'linear_array_record': 'ours, linear, array_record',
  'antialias_folder': 'ours, antialias, folder', 'antialias_array_record': 'ours, antialias, array_record',
  'antialias_folder_processes': 'ours, antialias, folder, processes',
  'tf_data': 'tf.data decode_and_crop, no antialias', 'torch_dataloader': 'PIL + torch DataLoader, antialias',
}  # fmt: skip


def last_cases(rows: Sequence[Row]) -> dict[tuple, dict[str, Row]]:
  """Return the contestants of each case, from the last run that has it: only rows of one run are comparable."""
  cases: dict[tuple, dict[str, Row]] = {}
  for row in rows:
    key = tuple(row[column] for column in ('network', 'batch_norm', 'batch', 'size', 'precision', 'device'))
    if any(kept['run'] != row['run'] for kept in cases.get(key, {}).values()):
      del cases[key]
    cases.setdefault(key, {})[row['contestant']] = row
  return cases


def case_heading(key: tuple) -> str:
  """Return the first cell of a case."""
  network, batch_norm, batch, size, precision, device = key
  frozen, place = ', frozen statistics' * (batch_norm == 'frozen'), f', {device}' * (device != 'cpu')
  return f'`{network}`{frozen}, {batch} of {size} x {size}, {precision}{place}'


def our_step(cases: dict[tuple, dict[str, Row]]) -> str:
  """Return the table of our fused step beside ERM's."""
  headers = ['ULE step', 'compile, s', 'ms', 'images/s', 'GFLOP', 'time / ERM', 'FLOPs / ERM', 'quotient']
  headers += ['of the peak', 'memory, GiB']
  lines = []
  for key, case in cases.items():
    ule, erm = case['ule'], case['erm']
    ms, slower = statistics.median(ule['ms']), harness.ratios(ule['ms'], erm['ms'])
    more, images = ule['gflop'] / erm['gflop'], ule['batch'] / ms * 1e3
    quotient, share = statistics.median(slower) / more, ule['gflop'] / ms * 1e3 / ule['peak_gflops']
    memory = ule.get('device_peak_gib', ule['temporary_gib'])
    lines.append([
      case_heading(key), f'{ule["compile_s"]:.0f}', harness.median_range(ule['ms'], 0).replace(',', ''),
      f'{images:.1f}', f'{ule["gflop"]:.0f}', harness.median_range(slower), f'{more:.2f}', f'{quotient:.2f}',
      f'{share:.0%}', f'{memory:.2f}',
    ])  # fmt: skip
  return harness.markdown(headers, lines)


def rival_steps(cases: dict[tuple, dict[str, Row]]) -> str:
  """Return the table of the rivals' times over our fused step's."""
  headers = ['time / fused step', 'the same on virtual devices', 'separate calls', 'eager PyTorch', 'compiled PyTorch']
  lines = []
  for key, case in cases.items():
    cells = []
    for contestant in ('ule_devices', 'separate', 'torch_eager', 'torch_compiled'):
      row = case.get(contestant, {})
      on = f' on {row["devices"]}' if row.get('devices', 1) > 1 else ''
      times = harness.ratios(row['ms'], case['ule']['ms']) if row.get('ms') else []
      cells.append(harness.median_range(times) + on if times else row.get('note', '-'))
    compile_s = case.get('torch_compiled', {}).get('compile_s')
    lines.append([case_heading(key), *cells, '-' if compile_s is None else f'{compile_s:.0f}'])
  return harness.markdown([*headers, 'its compile, s'], lines)


def memory() -> str:
  """Return the table of temporary memory without and with remat."""
  rows = [row for row in harness.read_rows(harness.RESULTS / 'memory') if 'step_s' not in row]
  cases = {(row['network'], row['batch'], row['precision'], row['remat']): row for row in rows}
  lines = []
  for (network, batch, precision, remat), row in cases.items():
    if not remat:
      again = cases[network, batch, precision, True]
      less, more = 1 - again['temporary_gib'] / row['temporary_gib'], again['gflop'] / row['gflop']
      cells = [f'{row["temporary_gib"]:.2f}', f'{again["temporary_gib"]:.2f}', f'-{less:.0%}', f'{more:.2f} times']
      lines.append([f'`{network}`, batch {batch}, {precision}', *cells])
  return harness.markdown(['ULE step at 224 x 224', 'temporary memory, GiB', 'with `remat`', '', 'its FLOPs'], lines)


def population() -> str:
  """Return the table of 32 heads at once, one by one, and in PyTorch."""
  lines = []
  for row in harness.read_rows(harness.RESULTS / 'population'):
    times = [harness.ratios(row[rival], row['population_s']) for rival in ('singles_s', 'torch_s')]
    cells = [harness.median_range(row['population_s']), *(harness.median_range(values, 1) for values in times)]
    lines.append([row['case'], *cells])
  headers = ['32 ULE heads, 100 steps of 128', 'population, s', '32 single runs / it', '32 PyTorch runs / it']
  return harness.markdown(headers, lines)


def images() -> str:
  """Return the table of the input pipeline and its rivals; ratios are paired by turn."""
  rates = {row['row']: row['images_per_second'] for row in harness.read_rows(harness.RESULTS / 'input_pipeline')}
  lines = []
  for name, values in rates.items():
    ratios = [statistics.median(harness.ratios(values, rates[rival])) for rival in ('tf_data', 'torch_dataloader')]
    heading = PIPELINES[name]
    lines.append([heading, harness.median_range(values, 0), *(f'{ratio:.2f}' for ratio in ratios)])
  return harness.markdown(['', 'images/s, median (range)', '/ tf.data', '/ DataLoader'], lines)


STEPS = harness.read_rows(harness.RESULTS / 'step')
TABLES = {
  'step': lambda: our_step(last_cases(STEPS)),
  'step_rivals': lambda: rival_steps(last_cases(STEPS)),
  'memory': memory,
  'population': population,
  'input_pipeline': images,
}
