"""Series: runs that differ only in their seed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from ule_jax.report.colors import METHODS
from ule_jax.report.runs import Run
from ule_jax.runs import fingerprint

# Fields in which the runs of a series may differ: the numbers of all selection rules are in each of them.
FREE = ('seed', 'select', 'data.dir', 'data.on_bad_image', 'loader.threads', 'loader.workers', 'first.workdir')

FREE += ('train.log_every',)

# Fields of config.data that say how images are trained on, not which data set it is.
TREATMENT = ('augment', 'size', 'resize', 'fit', 'scale', 'ratio', 'jitter', 'dir', 'on_bad_image', 'unlisted')

TREATMENT += ('white', 'background')


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
  """Runs of one config under several seeds. `variant` counts the configs of one method on one data set."""

  dataset: str
  method: str
  label: str
  variant: int
  runs: tuple[Run, ...]


def gather(runs: Sequence[Run]) -> tuple[list[Series], list[str]]:
  """Gather runs into series, in the order of the page; second copies of a run are left out, in sentences."""
  datasets = _labels(
    {r.name: (r.fields['data.name'], fields) for r, fields in zip(runs, _named(runs), strict=True)}, 'data.'
  )
  told, members, left_out = {}, {}, []
  for run in runs:
    dataset = datasets[run.name]
    kept = {f: v for f, v in run.fields.items() if f not in FREE and f not in _identity(run)}
    told[run.name] = ((dataset, run.results['method']), kept)
    key = json.dumps([dataset, kept, run.seed], sort_keys=True)
    if key in members:
      left_out.append(f'{run.name} has the config and the seed of {members[key].name}')
    else:
      members[key] = run
  labels = _labels(told, 'method.')
  series: dict[tuple[str, str, str], list[Run]] = {}
  for run in members.values():
    series.setdefault((datasets[run.name], run.results['method'], labels[run.name]), []).append(run)
  order, variants, gathered = list(METHODS), {}, []
  for dataset, method, label in sorted(
    series, key=lambda k: (k[0], order.index(k[1]) if k[1] in order else len(order), k[1], k[2])
  ):
    variant = variants[dataset, method] = variants.get((dataset, method), -1) + 1
    found = tuple(sorted(series[dataset, method, label], key=lambda run: run.seed))
    gathered.append(Series(dataset, method, label, variant, found))
  return gathered, left_out


def _identity(run: Run) -> dict[str, Any]:
  """Take what says which data set it is; two folders of one's own may be different ones."""
  fields = {f: v for f, v in run.fields.items() if f.startswith('data.')}
  fields = {f: v for f, v in fields.items() if f.removeprefix('data.') not in TREATMENT}
  classes = run.results['test']['classes']
  return fields | {
    'data.classes': '/'.join(classes),
    'data.groups': len(run.results['groups']),
    'data.test_examples': sum(found['count'] for found in classes.values()),
  }


def _named(runs: Sequence[Run]) -> list[dict[str, Any]]:
  """Take what says which data set it is; with the fingerprint where one folder had several data sets in its time."""
  known: dict[str, set[str]] = {}
  for run in runs:
    if run.data:
      known.setdefault(json.dumps(_identity(run)), set()).add(fingerprint.identity(run.data))
  return [
    _identity(run) | {'data.fingerprint': fingerprint.identity(run.data) if run.data else 'unknown'}
    if len(known.get(json.dumps(_identity(run)), ())) > 1
    else _identity(run)
    for run in runs
  ]


def _labels(told: dict[str, tuple[Any, dict[str, Any]]], prefix: str) -> dict[str, str]:
  """Name each run by its family, with the fields in which the runs of one family differ.

  Args:
    told: run -> its family (the last part of which is its name) and its fields.
    prefix: of fields, that goes without saying.
  """
  labels = {}
  for family in {family for family, _ in told.values()}:
    members = {run: fields for run, (its, fields) in told.items() if its == family}
    names = sorted({field for fields in members.values() for field in fields})
    texts = {run: {f: json.dumps(fields.get(f), ensure_ascii=False) for f in names} for run, fields in members.items()}
    differing = [f for f in names if len({text[f] for text in texts.values()}) > 1]
    kinds = sorted({tuple(text[f] for f in differing) for text in texts.values()})
    for run, text in texts.items():
      values = tuple(text[f] for f in differing)
      said = ', '.join(f'{f.removeprefix(prefix)}={v}'.replace('"', '') for f, v in zip(differing, values, strict=True))
      if len(differing) > 3:  # the configs stand at the end of the page
        said = f'config {kinds.index(values) + 1}'
      name = family if isinstance(family, str) else family[-1]
      labels[run] = f'{name}, {said}' if said else name
  return labels
