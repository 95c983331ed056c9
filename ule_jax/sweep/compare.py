"""Comparison of the settings of a sweep: means over seeds, and the setting that each rule selects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ule_jax.sweep.axes import Member, describe


def compare(members: Sequence[Member], results: dict[str, Any], failed: dict[str, str]) -> dict[str, Any]:
  """Average over seeds, and tell which setting each rule picks on validation.

  Args:
    results: of the members that are finite, as `train.arrange` lays them out.
    failed: member -> what is wrong with it; a setting that has one is not picked.

  Returns:
    `settings`, with mean, standard deviation and number of seeds of each test metric, `picked` by each rule, `failed`.
  """
  settings = []
  for name in dict.fromkeys(describe(member.setting) for member in members):
    own = [member for member in members if describe(member.setting) == name]
    found = [results[member.name] for member in own if member.name in results]
    rules = list(found[0]['selected']) if found else []
    settings.append(
      {
        'setting': own[0].setting,
        'name': name,
        'seeds': [member.config.seed for member in own if member.name in results],
        'failed': [member.name for member in own if member.name in failed],
        'last': spreads([one['last'] for one in found]),
        'selected': {rule: spreads([one['selected'][rule] for one in found]) for rule in rules},
      }
    )
  whole = [row for row in settings if not row['failed']]
  picked = {}
  for rule in whole[0]['selected'] if whole else ():
    split, metric = rule.split('/')
    best = max(whole, key=lambda row: row['selected'][rule][split][metric]['mean'])
    picked[rule] = {'setting': best['name'], **best['selected'][rule]}
  return {'members': [m.name for m in members], 'settings': settings, 'picked': picked, 'failed': failed}


def spreads(entries: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
  """Average the accuracies of some runs: split -> metric -> mean, standard deviation (n - 1) and n."""
  found: dict[str, dict[str, Any]] = {}
  for split in (name for name in (entries[0] if entries else ()) if name != 'step'):
    found[split] = {}
    for metric, value in entries[0][split].items():
      values = [entry[split][metric] for entry in entries]
      if isinstance(value, float) and None not in values:
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
        found[split][metric] = {'mean': float(np.mean(values)), 'sd': sd, 'n': len(values)}
  return found
