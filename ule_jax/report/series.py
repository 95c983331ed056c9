"""Series: runs that differ only in their seed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ule_jax.config.schema import options_where
from ule_jax.report.colors import METHODS
from ule_jax.runs import fingerprint
from ule_jax.runs.recorded import FinishedRun

# Fields in which the runs of a series may differ. `select` is one, as each run has the numbers of all selection rules.
FREE = options_where(identity=False)

# Fields of config.data that set the transforms and decoding of images, and do not identify the data set.
TREATMENT = options_where(treatment=True)


# Kinds of data whose name says nothing of their content; their folder does.
UNNAMED = ('folder', 'embeddings')


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
  """Runs of one config under several seeds.

  Attributes:
    dataset: label of the data set.
    method: name of the method.
    label: the method, with the fields in which its configs differ.
    variant: index of the config among those of the method on the data set, from 0.
    runs: sorted by seed.
  """

  dataset: str
  method: str
  label: str
  variant: int
  runs: tuple[FinishedRun, ...]


def gather(runs: Sequence[FinishedRun]) -> tuple[list[Series], list[str]]:
  """Group runs into series, in the order of the page.

  Returns:
    The series, and a clause for each run that is omitted, because another has its config and seed.
  """
  titles = [title(run.fields['data.name'], run.fields.get('data.dir') or '') for run in runs]
  named = zip(runs, titles, _named(runs), strict=True)
  datasets = _labels({run.name: (name, fields) for run, name, fields in named}, 'data.')
  families, members, left_out = {}, {}, []
  for run in runs:
    dataset = datasets[run.name]
    kept = {f: v for f, v in run.fields.items() if f not in FREE and f not in _identity(run)}
    families[run.name] = ((dataset, run.results.method), kept)
    key = json.dumps([dataset, kept, run.seed], sort_keys=True)
    if key in members:
      left_out.append(f'{run.name} has the config and the seed of {members[key].name}')
    else:
      members[key] = run
  labels = _labels(families, 'method.')
  series: dict[tuple[str, str, str], list[FinishedRun]] = {}
  for run in members.values():
    series.setdefault((datasets[run.name], run.results.method, labels[run.name]), []).append(run)
  order, variants, gathered = list(METHODS), {}, []
  for dataset, method, label in sorted(
    series, key=lambda k: (k[0], order.index(k[1]) if k[1] in order else len(order), k[1], k[2])
  ):
    variant = variants[dataset, method] = variants.get((dataset, method), -1) + 1
    by_seed = tuple(sorted(series[dataset, method, label], key=lambda run: run.seed))
    gathered.append(Series(dataset, method, label, variant, by_seed))
  return gathered, left_out


def title(name: str, folder: str) -> str:
  """Return the title of a data set: its name, or the last part of its folder where the name is only a kind of data.

  >>> title('folder', '/home/me/photos'), title('folder', ''), title('celeba', '/data/celeba_8k')
  ('photos', 'folder', 'celeba')
  """
  return Path(folder).name or name if name in UNNAMED else name


def _identity(run: FinishedRun) -> dict[str, Any]:
  """Return the fields that identify a run's data set, so that two folders of images are different ones."""
  fields = {f: v for f, v in run.fields.items() if f.startswith('data.')}
  fields = {f: v for f, v in fields.items() if f not in TREATMENT}
  classes = run.results['test']['classes']
  return fields | {
    'data.classes': '/'.join(classes),
    'data.groups': len(run.results.groups),
    'data.test_examples': sum(metrics['count'] for metrics in classes.values()),
  }


def _named(runs: Sequence[FinishedRun]) -> list[dict[str, Any]]:
  """Return `_identity` of each run, with the fingerprint where one folder held several data sets over time."""
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


def _labels(families: dict[str, tuple[Any, dict[str, Any]]], prefix: str) -> dict[str, str]:
  """Label each run by its family, and by the fields in which the runs of one family differ.

  Args:
    families: run -> (its family, whose last part is its name; its fields).
    prefix: of fields, which labels omit.
  """
  labels = {}
  for family in {family for family, _ in families.values()}:
    members = {run: fields for run, (other, fields) in families.items() if other == family}
    names = sorted({field for fields in members.values() for field in fields})
    texts = {run: {f: json.dumps(fields.get(f), ensure_ascii=False) for f in names} for run, fields in members.items()}
    differing = [f for f in names if len({text[f] for text in texts.values()}) > 1]
    kinds = sorted({tuple(text[f] for f in differing) for text in texts.values()})
    for run, text in texts.items():
      values = tuple(text[f] for f in differing)
      settings = ', '.join(f'{f.removeprefix(prefix)}={v}' for f, v in zip(differing, values, strict=True))
      settings = settings.replace('"', '')
      if len(differing) > 3:  # the configs are listed at the end of the page
        settings = f'config {kinds.index(values) + 1}'
      name = family if isinstance(family, str) else family[-1]
      labels[run] = f'{name}, {settings}' if settings else name
  return labels
