"""From a trained population to the folders of its members and the comparison of its settings."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ule_jax import selection
from ule_jax.runs import files, fingerprint, inputs, results, workdir
from ule_jax.runs.recorded import read_log
from ule_jax.runs.results import Results
from ule_jax.sweep.axes import Member
from ule_jax.sweep.compare import compare
from ule_jax.sweep.loop import Place, Sweep
from ule_jax.sweep.members import at, networks_of, save_networks, write_log
from ule_jax.train.assemble import assemble
from ule_jax.train.conclude import arrange, header, training_means
from ule_jax.train.evaluate import not_finite, summary

Counts = dict[str, dict[str, dict[str, Any]]]  # rule or `last` -> split -> role -> counts of all members

# Files of a sweep that each member's folder gets a copy of
COPIED = ('env.json', 'weights.json', 'features.json', fingerprint.NAME)


def conclude(sweep: Sweep) -> dict[str, Any]:
  """Evaluate every member at its last and its selected steps, write its folder, and compare the settings.

  Returns:
    The content of sweep.json, without the axes.

  Raises:
    UserError: no member is finite.
  """
  task, config = sweep.task, sweep.task.config
  last = networks_of(sweep.trained.state)
  networks = dict(zip(task.rules, sweep.trained.networks, strict=True)) | {selection.LAST: last}
  deployed = networks[config.select]
  splits = [split for split in task.dataset.splits if split != 'train']
  counts: Counts = {rule: {split: sweep.counts(trees, split) for split in splits} for rule, trees in networks.items()}
  counts[config.select]['train'] = sweep.counts(deployed, 'train')
  failed = broken(sweep, counts) | sweep.failures()
  sweep.refuse_all_failed(failed)
  method = assemble(config, task.training).method
  log = list(read_log(sweep.folder.path / 'metrics.jsonl'))
  finished = {}
  for member in sweep.members:
    folder = open_member(sweep.folder.path, member)
    write_log(folder / 'metrics.jsonl', log, member.name)
    about = header(member.config, task.dataset, method, task.second) | inputs.forced_changes(sweep.folder.path)
    if member.place in failed:
      files.write_json(folder / results.NAME, about | {'failed': failed[member.place]})
      continue
    means = training_means(read_log(folder / 'metrics.jsonl'), config.train.log_every, task.steps)
    values = metrics_of(sweep, member.place, counts) | means
    finished[member.name] = Results(about | values)
    save_networks(folder, finished[member.name].step, at(deployed, member.place))
    finished[member.name].write(folder)
  failures = {member.name: failed[member.place] for member in sweep.members if member.place in failed}
  about = {'method': config.method.name, 'dataset': config.data.name, 'steps': task.steps, 'select': config.select}
  return about | compare(sweep.members, finished, failures)


def open_member(directory: Path, member: Member) -> Path:
  """Return the folder of a member with its config and the sweep's records, and without its older results.

  Args:
    directory: of the sweep.
    member: of the sweep.
  """
  folder = directory / member.name
  folder.mkdir(exist_ok=True)
  (folder / 'done').unlink(missing_ok=True)
  if (folder / results.NAME).exists():
    workdir.set_aside(folder, results.last_step(folder) or 0)
  for name in COPIED:
    if (directory / name).exists():
      shutil.copyfile(directory / name, folder / name)
  files.write_json(folder / 'config.json', member.config.to_dict())
  return folder


def broken(sweep: Sweep, counts: Counts) -> dict[Place, str]:
  """Return the place of each member with a logit that is not finite -> a clause with its split and step."""
  clauses = {}
  for rule, splits in counts.items():
    step = sweep.trained.state.step if rule == selection.LAST else sweep.trained.step[sweep.task.rules.index(rule)]
    for split, role in itertools.product(splits, sweep.graphs.roles):
      examples = splits[split][role].broken
      for place in zip(*np.nonzero(examples), strict=True):
        clause = not_finite(role, int(examples[place]), f'{split} at step {int(step[place]):,}')
        clauses.setdefault(tuple(map(int, place)), clause)
  return clauses


def metrics_of(sweep: Sweep, place: Place, counts: Counts) -> dict[str, Any]:
  """Return the metrics of a member in the order of results.json.

  Args:
    sweep: at its last step.
    place: of the member.
    counts: of all members.
  """
  task = sweep.task
  best = {rule: int(sweep.trained.step[(r, *place)]) for r, rule in enumerate(task.rules)}
  last = int(sweep.trained.state.step[place])
  by_step: dict[int, Any] = {}
  for rule, step in {**best, selection.LAST: last}.items():
    by_role = by_step.setdefault(step, {role: {} for role in sweep.graphs.roles})
    for split, of_roles in counts[rule].items():
      for role, by_split in by_role.items():
        by_split[split] = summary(at(of_roles[role], place), task.dataset)
  return arrange(by_step, best, best.get(task.config.select, last), last, task.dataset)
