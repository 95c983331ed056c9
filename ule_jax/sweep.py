"""Train many runs as one graph: `python -m ule_jax.sweep --config=digits --axis=method.weight=1,10 --axis=seed=0,1`."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from etils import epy
from jaxtyping import Float

from ule_jax import cli, console, data, fingerprint, workdir
from ule_jax.data import Dataset
from ule_jax.errors import Interrupted, UserError, is_out_of_memory, out_of_memory, unknown
from ule_jax.evaluate import of_broken, summary
from ule_jax.paths import local_path
from ule_jax.signals import Signals

if TYPE_CHECKING:
  from jaxtyping import PyTree

  from ule_jax.checkpoint import Checkpoints
  from ule_jax.train import TrainState

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  import jax
  import jax.numpy as jnp

  from ule_jax import backend, check, checkpoint, inputs, methods, metrics, population, stages
  from ule_jax import train as trainer

USAGE = """\
Train many runs that differ only in numbers, together: one compiled graph, one pass over the data.

  python -m ule_jax.sweep --config=digits:ule --axis=method.weight=1,10,100 --axis=seed=0,1,2
  python -m ule_jax.sweep --config=celeba:ule,frozen ... --axis=optim.lr=1e-4,1e-3 --axis=seed=0,1,2,3,4
  python -m ule_jax.report runs/digits-ule-sweep --out=report            its members are runs as any other

  --axis=FIELD=VALUE,...  a field and its values; several make all combinations. FIELD is seed, optim.lr,
                          optim.weight_decay, optim.clip or a number among the options of the method
  --config=FILE[:METHOD[,VARIANT...]] and --config.FIELD=VALUE
                          what all members share, as for ule_jax.main
  --workdir=DIR           default runs/<config>-<method>-sweep; a member is the folder <workdir>/FIELD=VALUE,...
                          The same command on the same folder goes on where it stopped
  --force                 go on in a folder whose config, axes, data or weights differ

Each member is the run that ule_jax.main would make of its config, but for rounding. Images or features stay on the
device. A member whose loss is not finite is named, and the others go on.

Exit codes: 0 done, 2 usage or data, 75 stopped but resumable, 1 a defect of ule_jax."""

OPTIMISER = ('optim.lr', 'optim.weight_decay', 'optim.clip')
STEPS, FIRST = 100, 10  # of one call: at most, and of the first
NAME = 255  # letters that a file system allows for the name of a folder, a member's
CALL = 1.0  # seconds that a call should take: a signal waits for its end
SAVE_EVERY = 60.0  # seconds between checkpoints of the population

Axes = dict[str, list[float]]


class Member(NamedTuple):
  """A run of the population, and where it stands: `place` is (seed, setting)."""

  name: str
  setting: dict[str, float]
  config: Any
  place: tuple[int, int]


class Trained(NamedTuple):
  """What a checkpoint holds: the population, and the best of each member by each rule.

  `networks` has params and batch_stats for each rule. `step` and `score` are arrays [r s n]; `scored` is the last step
  that was evaluated.
  """

  state: TrainState
  networks: list[PyTree]
  step: np.ndarray
  score: np.ndarray
  scored: np.ndarray


# --- The axes ----------------------------------------------------------------------------------------


def traceable(config: Any) -> list[str]:
  """Name the fields that may differ inside one graph: numbers that a step computes with."""
  options = [f'method.{name}' for name, value in config.method.items() if isinstance(value, float)]
  return ['seed', *OPTIMISER, *options]


def parse_axes(config: Any, texts: Sequence[str]) -> Axes:
  """Read `FIELD=VALUE,...` for each axis.

  Raises:
    UserError: there is none, its field cannot be one, or a value is no number or stands there twice.
  """
  if not texts:
    raise UserError('give at least one axis, for example --axis=seed=0,1,2.')
  allowed, axes = traceable(config), {}
  for text in texts:
    field, _, values = text.partition('=')
    if field not in workdir.flatten(config.to_dict()):
      raise unknown('field of --axis', field, allowed)
    if field not in allowed:
      raise UserError(
        f'{field} cannot be an axis: members of a sweep share one graph and may differ in {", ".join(allowed)}; '
        f'for other values of {field} give another --config.{field}.'
      )
    if field in axes:
      raise UserError(f'there are two axes of {field}: give all values in one.')
    kind = int if field == 'seed' else float
    try:
      axes[field] = [kind(value) for value in values.split(',')]
    except ValueError:
      raise UserError(f'--axis={text}: write numbers, as in --axis={field}=1,2,3.') from None
    if len(set(axes[field])) < len(axes[field]):
      raise UserError(f'--axis={text} has a value twice.')
  return axes


def expand(config: Any, axes: Axes) -> list[Member]:
  """Make all combinations of the axes, and check each; the seed changes slowest.

  Raises:
    UserError: a value is out of its range.
  """
  others = {field: values for field, values in axes.items() if field != 'seed'}
  settings = [dict(zip(others, values, strict=True)) for values in itertools.product(*others.values())]
  members = []
  for s, seed in enumerate(axes.get('seed', [config.seed])):
    for n, setting in enumerate(settings):
      own = copy.deepcopy(config)
      own.update_from_flattened_dict({**setting, 'seed': seed})
      check.check(own)
      said = setting | ({'seed': seed} if 'seed' in axes else {})
      members.append(Member(describe(said), setting, own, (s, n)))
  return members


def describe(setting: Mapping[str, float]) -> str:
  """Write a setting as in the name of a folder.

  >>> describe({'method.weight': 10.0, 'seed': 0})
  'method.weight=10,seed=0'
  """
  return ','.join(f'{field}={str(value).removesuffix(".0")}' for field, value in setting.items()) or 'all'


def numbers_of(members: Sequence[Member]) -> population.Members:
  """Gather what the compiled step is given of the members."""
  seeds = [member.config.seed for member in members if member.place[1] == 0]
  settings = [member.setting for member in members if member.place[0] == 0]
  numbers = {field: np.array([setting[field] for setting in settings], np.float32) for field in settings[0]}
  if 'optim.clip' in numbers:  # where 0 is none
    numbers['optim.clip'] = np.where(numbers['optim.clip'] == 0, np.inf, numbers['optim.clip']).astype(np.float32)
  return population.Members(np.array(seeds), numbers, len(settings))


# --- The run -----------------------------------------------------------------------------------------


def run(config: Any, axes: Axes, directory: Path, force: bool = False) -> dict[str, Any]:
  """Train and evaluate all members and write their results; go on where an earlier sweep stopped.

  Args:
    config: a ConfigDict of configs/base.py.
    axes: as of `parse_axes`.
    directory: of the sweep; a member's is below it.
    force: go on although the config, the axes, the data or the weights differ from what the folder holds.

  Returns:
    The content of sweep.json.

  Raises:
    UserError: bad options, bad data, or no member whose loss is finite.
    Interrupted: SIGTERM or SIGINT came; what was trained is saved.
  """
  try:
    with Signals() as signals:
      return _run(config, axes, local_path(directory, '--workdir'), force, signals)
  except Exception as error:
    if not is_out_of_memory(error) or isinstance(error, UserError):
      raise
    members = math.prod(map(len, axes.values()))
    raise out_of_memory(
      error, f'give fewer than these {members:,} members at once, or {trainer.less_memory(config)}'
    ) from None


def _run(config: Any, axes: Axes, directory: Path, force: bool, signals: Signals) -> dict[str, Any]:
  if config.first.prepare != 'none':
    raise UserError(f'first.prepare is {config.first.prepare}: a sweep is of one-stage methods; use ule_jax.main.')
  if config.train.holdout and len(axes.get('seed', [])) > 1:
    raise UserError('train.holdout draws other training data for each seed: make a sweep for each of them.')
  members = expand(config, axes)
  longest = max((member.name for member in members), key=len)
  if len(longest) > NAME:
    raise UserError(
      f'{len(axes)} axes make folders of {len(longest)} letters, as {longest[:40]}..., and {NAME} are possible: make '
      'sweeps of fewer axes, and set the other fields in their configs.'
    )
  config = members[0].config
  backend.require_devices()
  backend.use_cache(config.compilation_cache, console.say)
  current = inputs.load_data(config)
  dataset = current.dataset
  training = stages.training(config, dataset, methods.Prepared())
  examples, steps = training.splits['train'].count, trainer.total_steps(config, training)
  about = config.to_dict() | {'axes': axes}
  unchanged = workdir.compare(directory, about, force, examples)
  differs = [inputs.compare_inputs(config, directory, current, force)]
  rules = trainer.selection_rules(dataset, config.select, trainer.trains_student(config, dataset))
  trainer.refuse_empty_groups(config, dataset)
  if workdir.lacks(directory, 'data.white'):
    data.say_changed(dataset, console.say)
  if unchanged and not any(differs) and (directory / 'done').exists():
    found = workdir.read_json(directory / 'sweep.json')
    if found['steps'] == steps:
      inputs.say_finished(directory, current)
      return found
  trainer.refuse_fewer_steps(config, directory, steps)
  with (
    workdir.owned(directory, about, force, examples, console.say),
    contextlib.closing(checkpoint.Checkpoints(directory / 'checkpoints', (), config.checkpoint.keep)) as checkpoints,
  ):
    workdir.write_json(directory / 'env.json', workdir.environment(backend.describe()))
    frozen = config.model.encoder == 'frozen'
    if checkpoints.latest is None:
      data.check_images(dataset, config.data, console.say, sampled=frozen)
    dataset, begin, other = trainer.start_from_weights(config, directory, current, force)
    code = trainer.feature_code() if frozen else ''
    inputs.record_inputs(directory, current, '; '.join(filter(None, [*differs, other])), code)
    if (directory / 'done').exists():
      (directory / 'done').unlink()
      console.say(
        f'{directory} was done: going on to step {steps:,}; older results are kept under names with their step'
      )
    sweep = Sweep(config, members, directory, dataset, rules, begin, checkpoints)
    sweep.train(signals)
    results = sweep.conclude() | {'axes': axes}
    if (directory / 'sweep.json').exists():
      workdir.set_aside(directory, workdir.read_json(directory / 'sweep.json')['steps'], ['sweep.json'])
    workdir.write_json(directory / 'sweep.json', results)
    (directory / 'done').touch()
  return results


class Sweep:
  """A population on the device with its data, from a checkpoint or the beginning."""

  def __init__(
    self,
    config: Any,
    members: list[Member],
    directory: Path,
    dataset: Dataset,
    rules: Sequence[str],
    begin: Callable[[TrainState], TrainState],
    checkpoints: Checkpoints,
  ):
    """Compile it and restore its newest checkpoint, or begin.

    Args:
      config: of any member.
      rules: by which a step can be selected.
      begin: changes the initial state.

    Raises:
      UserError: the data do not fit the device, or no checkpoint can be used.
    """
    self.config, self.members, self.directory = config, members, directory
    self.dataset, self.rules, self.checkpoints = dataset, rules, checkpoints
    self.training = stages.training(config, dataset, methods.Prepared())
    self.steps = trainer.total_steps(config, self.training)
    self.numbers = numbers_of(members)
    threads = config.loader.threads
    self.blocks = population.load(dataset, config.train.eval_batch_size, threads)
    train = self.blocks['train']
    if config.train.holdout:
      train = population.read(self.training, 'train', config.train.eval_batch_size, threads)
    self.graphs = population.compile_members(config, self.training, len(dataset.groups), self.numbers, train)
    state = begin(self.graphs.create())
    shape = (len(rules), len(self.numbers.seeds), self.numbers.settings)
    start = Trained(
      state=state,
      networks=[jax.tree.map(jnp.copy, networks_of(state)) for _ in rules],
      step=np.full(shape, -1, np.int32),
      score=np.full(shape, -1.0),
      scored=np.array(0),
    )
    self.first, self.trained = checkpoints.restore_newest(start, console.say)
    if self.first > self.steps:
      raise UserError(
        f'{directory} has a checkpoint of step {self.first}, beyond the {self.steps} steps asked for: '
        'raise train.steps, or choose another --workdir.'
      )

  def until_due(self, number: int, most: int) -> int:
    """Count the steps of the next call: up to where something is due, or fewer; 0 at the end."""
    train = self.config.train
    ends = [(number // every + 1) * every for every in (train.eval_every, train.log_every)]
    return min(*ends, number + most, self.steps) - number

  def train(self, signals: Signals) -> None:
    """Train to the end.

    Raises:
      UserError: no member is finite any more.
      Interrupted: a signal came; the population is saved.
    """
    config, steps, runs = self.config, self.steps, len(self.members)
    order = population.make_order(config, self.training, self.numbers.seeds)
    room = min(STEPS, config.train.eval_every, config.train.log_every, max(steps, 1))
    progress = console.Progress(steps, self.first, config.train.batch_size * runs)
    console.say(
      f'{config.method.name} on {config.data.name}: {runs} runs ({len(self.numbers.seeds)} seeds, '
      f'{self.numbers.settings} settings), {self.training.splits["train"].count:,} training examples, {steps:,} steps '
      f'of {config.train.batch_size}, in {self.directory}' + (f', from step {self.first:,}' if self.first else '')
    )
    saved, saved_step = time.monotonic(), self.first
    log = workdir.MetricsLog(self.directory, self.first)
    with contextlib.closing(log), signals.deferred():
      number, most = self.first, FIRST
      count = self.until_due(number, most)
      batches = order(number, count, room)
      # As in train.py: evaluate the state you have -> save it -> the next steps -> log their metrics.
      while True:
        due = number > 0 and (number % config.train.eval_every == 0 or number == steps)
        if due and number != self.trained.scored:
          log.write(number, self.validate(number))
        late = time.monotonic() - saved > SAVE_EVERY
        if number != saved_step and (signals.asked or late or number == steps):
          self.checkpoints.save(number, self.trained, {})
          saved, saved_step = time.monotonic(), number
        if signals.asked:
          self.checkpoints.wait()
          raise Interrupted(f'{signals.asked} at step {number:,} of {steps:,}; resumable by the same command.')
        if not count:
          break
        began = time.monotonic()
        state, metrics = self.graphs.advance(self.trained.state, batches, count)
        self.trained = self.trained._replace(state=state)
        number, done = number + count, count
        count = self.until_due(number, most)
        batches = order(number, count, room)  # while the device works
        metrics = jax.device_get(metrics)
        progress.begin(number)
        most = int(np.clip(done * CALL / (time.monotonic() - began), 1, STEPS))
        if number % config.train.log_every == 0 or number == steps:
          shown = {name: middle(values) for name, values in metrics.items() if 'loss/' in name}
          progress.report(number, shown)
          found = {
            f'{member.name}/train/{name}': float(values[member.place])
            for member in self.members
            for name, values in metrics.items()
          }
          log.write(number, {name: value for name, value in found.items() if np.isfinite(value)})

  def failures(self) -> dict[tuple[int, int], str]:
    """Say of each member that is not finite since when."""
    found = {}
    for role, first in jax.device_get(self.trained.state.bad_step).items():
      for place in zip(*np.nonzero(first >= 0), strict=True):
        reason = f'the loss, the gradient, the update or a logit of {role} is not finite at step {first[place]}'
        found.setdefault(tuple(map(int, place)), reason)
    return found

  def mark_broken(self, number: int, counts: dict[str, Any]) -> None:
    """Count members whose logits are not finite among those whose steps are not.

    Args:
      counts: role -> counts of all members.
    """
    state = self.trained.state
    bad_step = {
      role: jnp.where((first < 0) & (counts[role].broken > 0), number, first) for role, first in state.bad_step.items()
    }
    self.trained = self.trained._replace(state=state.replace(bad_step=bad_step))

  def validate(self, number: int) -> dict[str, float]:
    """Score the finite members on the validation splits, and keep those that are the best by a rule so far.

    Raises:
      UserError: none is finite.
    """
    found_by_split = {}
    for split in filter(trainer.is_validation, self.dataset.splits):
      found_by_split[split] = self.counts(networks_of(self.trained.state), split)
      self.mark_broken(number, found_by_split[split])
    failed = self.failures()
    self.refuse_all_failed(failed)
    trained, scores = self.trained, {}
    score = np.full(trained.score.shape, -1.0)
    for split, counts in found_by_split.items():
      for member in self.members:
        for role in self.graphs.roles if member.place not in failed else ():
          prefix = '' if role == self.graphs.roles[-1] else f'{role}/'
          found = summary(at(counts[role], member.place), self.dataset)
          for metric in metrics.SELECTABLE:
            if found[metric] is not None:
              scores[f'{member.name}/{prefix}{split}/{metric}'] = found[metric]
      for r, rule in enumerate(self.rules):
        for member in self.members:
          score[(r, *member.place)] = scores.get(f'{member.name}/{rule}', -1.0)
    better = (score >= trained.score) & (score >= 0)  # of equals the newest, as for a single run
    networks = [
      population.keep_better(one, networks_of(trained.state), old)
      for one, old in zip(better, trained.networks, strict=True)
    ]
    self.trained = trained._replace(
      networks=networks,
      step=np.where(better, np.int32(number), trained.step),
      score=np.where(better, score, trained.score),
      scored=np.array(number),
    )
    return scores

  def refuse_all_failed(self, failed: dict[tuple[int, int], str]) -> None:
    """End a sweep of which nothing is left.

    Raises:
      UserError: no member is finite.
    """
    if len(failed) == len(self.members):
      raise UserError(f'no member is finite; {self.members[0].name}: {failed[0, 0]}: lower optim.lr or the weights.')

  def counts(self, networks: PyTree, split: str) -> dict[str, Any]:
    """Count the right answers of all members on a split: role -> counts with the axes s n."""
    return jax.device_get(self.graphs.score(networks['params'], networks['batch_stats'], self.blocks[split]))

  def conclude(self) -> dict[str, Any]:
    """Evaluate every member at its last and its selected steps, write its folder, and compare the settings."""
    config, last, failed = self.config, networks_of(self.trained.state), self.failures()
    kept = dict(zip(self.rules, self.trained.networks, strict=True)) | {'last': last}
    chosen = kept[config.select]
    held_out = [split for split in self.dataset.splits if split != 'train']
    counts = {rule: {split: self.counts(networks, split) for split in held_out} for rule, networks in kept.items()}
    counts[config.select]['train'] = self.counts(chosen, 'train')
    failed = self.broken(counts) | failed
    self.refuse_all_failed(failed)
    method = trainer.assemble(config, self.training).method
    log, results = read_log(self.directory / 'metrics.jsonl'), {}
    for member in self.members:
      folder = self.directory / member.name
      folder.mkdir(exist_ok=True)
      (folder / 'done').unlink(missing_ok=True)
      if (folder / 'results.json').exists():
        old = workdir.read_json(folder / 'results.json')
        workdir.set_aside(folder, old['last']['step'] if 'last' in old else 0)
      for name in ('env.json', 'weights.json', 'features.json', fingerprint.NAME):
        if (self.directory / name).exists():
          shutil.copyfile(self.directory / name, folder / name)
      workdir.write_json(folder / 'config.json', member.config.to_dict())
      write_log(folder / 'metrics.jsonl', log, member.name)
      about = trainer.heading(member.config, self.dataset, method, methods.Prepared())
      about |= inputs.forced_changes(self.directory)
      if member.place in failed:
        workdir.write_json(folder / 'results.json', about | {'failed': failed[member.place]})
        continue
      results[member.name] = found = self.results_of(member.place, counts)
      save_networks(folder, found['step'], at(chosen, member.place))
      workdir.write_json(folder / 'results.json', about | found)
      (folder / 'done').touch()
    said = {member.name: failed[member.place] for member in self.members if member.place in failed}
    about = {'method': config.method.name, 'dataset': config.data.name, 'steps': self.steps, 'select': config.select}
    return about | compare(self.members, results, said)

  def broken(self, counts: dict[str, dict[str, dict[str, Any]]]) -> dict[tuple[int, int], str]:
    """Say of each member that has a logit which is not finite where; `counts` as in `results_of`."""
    found = {}
    for rule, splits in counts.items():
      step = self.trained.state.step if rule == 'last' else self.trained.step[self.rules.index(rule)]
      for split, role in itertools.product(splits, self.graphs.roles):
        number = splits[split][role].broken
        for place in zip(*np.nonzero(number), strict=True):
          reason = of_broken(role, int(number[place]), f'{split} at step {int(step[place]):,}')
          found.setdefault(tuple(map(int, place)), reason)
    return found

  def results_of(self, place: tuple[int, int], counts: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Lay out the results of a member as those of a single run.

    Args:
      counts: rule, or `last` -> split -> role -> counts of all members.
    """
    best = {rule: int(self.trained.step[(r, *place)]) for r, rule in enumerate(self.rules)}
    last = int(self.trained.state.step[place])
    found: dict[int, Any] = {}
    for rule, step in {**best, 'last': last}.items():
      of_roles = found.setdefault(step, {role: {} for role in self.graphs.roles})
      for split, of_split in counts[rule].items():
        for role, own in of_roles.items():
          own[split] = summary(at(of_split[role], place), self.dataset)
    return trainer.arrange(found, best, best.get(self.config.select, last), last, self.dataset)


def save_networks(folder: Path, step: int, networks: PyTree) -> None:
  """Write the networks of a member that the verbs after training restore."""
  shutil.rmtree(folder / 'checkpoints', ignore_errors=True)
  with contextlib.closing(checkpoint.Checkpoints(folder / 'checkpoints', ())) as checkpoints:
    checkpoints.save(step, networks, {})


def networks_of(state: TrainState) -> dict[str, PyTree]:
  """Take out of a state what is evaluated."""
  return {'params': state.params, 'batch_stats': state.batch_stats}


def at(tree: PyTree, place: tuple[int, int]) -> PyTree:
  """Take a member out of arrays of a population."""
  return jax.tree.map(lambda values: values[place], tree)


def middle(values: Float[np.ndarray, 's n']) -> float:
  """Take the median of the members that are finite; NaN if none is."""
  finite = values[np.isfinite(values)]
  return float(np.median(finite)) if finite.size else float('nan')


def read_log(path: Path) -> list[dict[str, float]]:
  """Read the lines of a log."""
  return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def write_log(path: Path, log: list[dict[str, float]], member: str) -> None:
  """Write a member's own log, as a single run has it."""
  lines = []
  for line in log:
    own = {name.removeprefix(f'{member}/'): v for name, v in line.items() if name.startswith(f'{member}/')}
    if own:
      lines.append(json.dumps({'step': line['step'], **own}) + '\n')
  path.write_text(''.join(lines), encoding='utf-8')


# --- What the settings are worth ---------------------------------------------------------------------


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


def main(argv: Sequence[str]) -> None:
  """Parse the flags, run, and print the tables."""
  flags = cli.parse(argv, USAGE, {'axis': [], 'workdir': '', 'force': False})
  axes = parse_axes(flags.config, flags.values['axis'])
  backend.keep_memory()
  default = f'runs/{flags.name}-{flags.config.method.name}-sweep'
  directory = local_path(flags.values['workdir'] or default, '--workdir')
  results = run(flags.config, axes, directory, force=flags.values['force'])
  print(console.sweep_tables(results))
  print(f'\nresults: {directory / "sweep.json"}, and results.json of each member')


if __name__ == '__main__':
  cli.main(main)
