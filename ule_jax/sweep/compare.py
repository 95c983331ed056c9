"""Comparison of the settings of a sweep: means over seeds, and the setting that each rule selects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ule_jax import selection
from ule_jax.sweep.axes import Member, describe


def compare(
  members: Sequence[Member], results: Mapping[str, Mapping[str, Any]], failed: dict[str, str]
) -> dict[str, Any]:
  """Average over seeds, and pick a setting by each rule on validation.

  Args:
    members: of the sweep.
    results: member -> its results, of the finite members.
    failed: member -> a clause with the reason; a setting with a failed member is not picked.

  Returns:
    `settings`, with mean, standard deviation and number of seeds of each test metric, `picked` by each rule, `failed`.
  """
  settings = []
  for name in dict.fromkeys(describe(member.setting) for member in members):
    seeds = [member for member in members if describe(member.setting) == name]
    runs = [results[member.name] for member in seeds if member.name in results]
    rules = list(runs[0]['selected']) if runs else []
    settings.append(
      {
        'setting': seeds[0].setting,
        'name': name,
        'seeds': [member.config.seed for member in seeds if member.name in results],
        'failed': [member.name for member in seeds if member.name in failed],
        'last': spreads([run['last'] for run in runs]),
        'selected': {rule: spreads([run['selected'][rule] for run in runs]) for rule in rules},
      }
    )
  whole = [row for row in settings if not row['failed']]
  picked = {}
  for rule in whole[0]['selected'] if whole else ():
    split, metric = selection.parts(rule)
    best = max(whole, key=lambda row: row['selected'][rule][split][metric]['mean'])
    picked[rule] = {'setting': best['name'], **best['selected'][rule]}
  return {'members': [m.name for m in members], 'settings': settings, 'picked': picked, 'failed': failed}


def spreads(entries: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
  """Return split -> metric -> mean, standard deviation (n - 1; None for one run) and number of the accuracies of runs.

  Args:
    entries: the metrics of each run at one step.
  """
  averages: dict[str, dict[str, Any]] = {}
  for split in (name for name in (entries[0] if entries else ()) if name != 'step'):
    averages[split] = {}
    for metric, value in entries[0][split].items():
      values = [entry[split][metric] for entry in entries]
      if isinstance(value, float) and None not in values:
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
        averages[split][metric] = {'mean': float(np.mean(values)), 'sd': sd, 'n': len(values)}
  return averages
