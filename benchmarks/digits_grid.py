"""The whole grid on the embedded task: every term, scalar, student and control, in stages.

  python benchmarks/digits_grid.py --stage=student --out=benchmarks/results/digits_grid.jsonl
  python benchmarks/digits_grid.py --stage=references --only='erm' --out=NEW.jsonl          some settings of a stage
  python benchmarks/digits_grid.py --markdown --out=benchmarks/results/digits_grid.jsonl

A stage trains families of runs that differ only in numbers (seed, weight, q, a, noise) together:
`vmap` over the step of `ule_jax.make_train_step`, one compilation per family. A member sees the
batches and the keys that `python -m ule_jax.main` would give it. Every row of the output is one
setting: the fields that differ from the config, the seeds, and the validation and test accuracies
of each seed at the last step and under each selection rule.

Tuning uses seeds 0 to 2 and `val_balanced` (group labels in validation, for all methods alike);
`confirm` trains the settings with the best tuned worst group on seeds 10 to 19, once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import record

from ule_jax.cli import flags
from ule_jax.data import DATASETS, pipeline
from ule_jax.methods import METHODS, Batch, Sizes
from ule_jax.metrics import Counts, summarize
from ule_jax.models import make_model
from ule_jax.models.build import make_preprocess
from ule_jax.optim import make_optimizer
from ule_jax.train.step import create_state, make_train_step

NUMERIC = {'weight', 'q', 'a', 'noise', 'student_noise'}  # may differ inside a family
TUNING, FRESH = (0, 1, 2), tuple(range(10, 20))
WEIGHTS = {
  'oppose': (0.001, 0.01, 0.1),
  'oppose_signed': (0.003, 0.01, 0.03, 0.1),
  'suppress': (0.01, 0.1, 1.0),
  'project': (1.0, 10.0, 100.0),
  'cosine': (1.0, 10.0, 100.0),
}
GRADIENT_WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0)
PROJECT_WEIGHTS = (1.0, 3.0, 10.0, 30.0, 100.0)
SIGNED_WEIGHTS = (0.003, 0.01, 0.03, 0.1, 0.3)


def product(**axes) -> list[dict]:
  return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def stage_student() -> list[tuple[str, dict]]:
  """Which student makes useful mistakes: its loss, its noise; no gradient term at all."""
  mistakes = ('weight', 'class_balanced_weight')
  noise = (0.0, 1.0, 2.0, 3.0)
  plain = product(mistakes=mistakes, student_loss=('cross_entropy',), student_noise=noise, weight=(0.0,))
  robust = product(
    mistakes=mistakes, student_loss=('generalized_cross_entropy',), q=(0.2, 0.3, 0.5, 0.7), student_noise=noise,
    weight=(0.0,),
  )  # fmt: skip
  return [('gradient_penalty', s) for s in plain + robust]


def stage_terms() -> list[tuple[str, dict]]:
  """Every term, and at one weight every scalar, for the plain student and a noisy one."""
  settings = []
  for mistakes, student in itertools.product(
    ('none', 'class_balanced_weight'), (dict(q=0.7, student_noise=0.0), dict(q=0.3, student_noise=2.0))
  ):
    for term, weights in WEIGHTS.items():
      a = dict(a=3.0) if term == 'oppose_signed' else {}
      shared = dict(term=term, mistakes=mistakes, **student, **a)
      settings += [('ule', shared | dict(scalar='margin', weight=weight)) for weight in weights]
      settings += [
        ('ule', shared | dict(scalar=scalar, weight=weights[1])) for scalar in ('label_logit', 'top_logit', 'loss')
      ]
  return settings


def stage_methods() -> list[tuple[str, dict]]:
  """ULE and its controls over the same students and as many weights each."""
  settings = []
  for mistakes, students, count in (
    ('none', product(q=(0.7,), student_noise=(0.0, 1.0, 3.0)), 5),
    ('class_balanced_weight', product(q=(0.2, 0.3), student_noise=(0.0, 1.0, 2.0, 3.0)), 3),
  ):
    middle = slice((5 - count) // 2, (5 - count) // 2 + count)
    for student in students:
      shared = dict(mistakes=mistakes, **student)
      for method in ('ule', 'shuffled_student'):
        settings += [(method, dict(term='project', weight=w) | shared) for w in PROJECT_WEIGHTS[middle]]
        settings += [(method, dict(term='oppose_signed', a=3.0, weight=w) | shared) for w in SIGNED_WEIGHTS[middle]]
    penalty_students = students if mistakes != 'none' else [{}]
    for student in penalty_students:
      settings += [('gradient_penalty', dict(weight=w, mistakes=mistakes, **student)) for w in GRADIENT_WEIGHTS[middle]]
  return settings


def stage_references() -> list[tuple[str, dict]]:
  """ERM, and the same network on group-balanced resamples without and with a penalty (the oracle)."""
  oracle = {'train.sampling': 'group_balanced'}
  penalty = [dict(weight=w, mistakes='none') | oracle for w in (0.01, 0.03, 0.1, 0.3, 1.0)]
  return [('erm', {}), ('erm', oracle), *(('gradient_penalty', p) for p in penalty)]


def stage_shortcuts() -> list[tuple[str, dict]]:
  """The other two compositions, at few settings: what does not carry over is seen here."""
  settings = []
  for composition in ({'data.shortcut': 'place', 'data.brightness': 0.65}, {'data.shortcut': 'patch'}):
    rows: list[tuple[str, dict]] = [(m, s) for m, s in stage_references()]
    for mistakes in ('none', 'class_balanced_weight'):
      student = dict(mistakes=mistakes, q=0.3, student_noise=2.0)
      rows += [
        (m, dict(term='project', weight=w) | student) for w in PROJECT_WEIGHTS for m in ('ule', 'shuffled_student')
      ]
      rows += [('ule', dict(term='oppose_signed', a=3.0, weight=w) | student) for w in SIGNED_WEIGHTS]
      rows += [('gradient_penalty', dict(weight=w) | student) for w in GRADIENT_WEIGHTS]
    rows += [('gradient_penalty', dict(weight=0.0, mistakes='class_balanced_weight', q=0.3, student_noise=2.0))]
    settings += [(m, s | composition) for m, s in rows]
  return settings


STAGES = {
  'references': stage_references,
  'student': stage_student,
  'terms': stage_terms,
  'methods': stage_methods,
  'shortcuts': stage_shortcuts,
}


def kind(row: dict) -> tuple:
  """What `confirm` picks one setting for: the method with its term, mistakes, sampling and composition."""
  s = row['setting']
  term = s.get('term', '') if row['method'] in ('ule', 'shuffled_student') else ''
  only = row['method'] == 'gradient_penalty' and s.get('weight') == 0
  mistakes = s.get('mistakes', '')
  return (
    'mistakes alone' if only else row['method'], term, mistakes, s.get('train.sampling', 'uniform'),
    s.get('data.shortcut', 'tint'),
  )  # fmt: skip


def tuned(row: dict) -> float:
  """The criterion, the same for every method: mean worst group of val_balanced, last step, tuning seeds."""
  return float(np.mean([last['val_balanced']['worst_group_accuracy'] for last in row['last']]))


def stage_confirm(rows: list[dict]) -> list[tuple[str, dict]]:
  """The best tuned setting of each kind; `terms` is left out, as it would give ULE more tries than the controls."""
  best: dict[tuple, dict] = {}
  for row in (r for r in rows if r['stage'] not in ('terms', 'confirm')):
    if kind(row) not in best or tuned(row) > tuned(best[kind(row)]):
      best[kind(row)] = row
  return [(row['method'], row['setting']) for row in best.values()]


def load_config(method: str, setting: dict):
  """The digits config with a setting's fields; bare names are options of the method."""
  argv = [f'--config=digits:{method}']
  if method in ('ule', 'shuffled_student', 'gradient_penalty'):
    argv.append('--config.method.hold_back=0')  # which these searches did not have
  argv += [f'--config.{name if "." in name else f"method.{name}"}={value}' for name, value in setting.items()]
  return flags.parse(argv, '', {}).config


def family_of(method: str, setting: dict) -> tuple:
  static = {k: v for k, v in setting.items() if k not in NUMERIC}
  # An exact 0 leaves something out of the graph, so that it is a family of its own.
  zeros = tuple(sorted(k for k in ('weight', 'student_noise') if setting.get(k) == 0))
  return method, json.dumps(static, sort_keys=True), zeros


def train_family(method: str, settings: list[dict], seeds: tuple[int, ...]) -> list[dict]:
  """Train settings x seeds in one compiled graph; return a row per setting."""
  config = load_config(method, settings[0])
  options = dict(config.data)
  dataset = DATASETS[options.pop('name')](**options)
  train, steps, size = dataset.splits['train'], config.train.steps, config.train.batch_size
  every = config.train.eval_every
  sizes = Sizes(train.count, len(dataset.classes), len(dataset.groups), dataset.group_counts())
  model = make_model(SimpleNamespace(**config.model), len(dataset.classes))
  preprocess = make_preprocess(dataset.mean, dataset.std)
  roles = METHODS[method](SimpleNamespace(**config.method), sizes).roles
  tx = make_optimizer(SimpleNamespace(**config.optim), roles, steps)
  numeric = sorted(k for k in NUMERIC if k in config.method and config.method[k] != 0)
  values = {
    k: jnp.asarray([float(s.get(k, config.method[k])) for s in settings for _ in seeds], jnp.float32) for k in numeric
  }
  member_seeds = jnp.asarray([seed for _ in settings for seed in seeds])
  indices = []
  for seed in seeds:
    block = pipeline.order(train, seed=seed, sampling=config.train.sampling, batch_size=size)
    indices.append(np.stack([block(step) for step in range(steps)]))
  order = jnp.asarray(np.tile(np.stack(indices), (len(settings), 1, 1)).astype(np.int32))
  arrays = {
    name: tuple(jnp.asarray(v) for v in (np.stack([s.load(i) for i in range(s.count)]), s.label, s.group))
    for name, s in dataset.splits.items()
  }
  held_out = [name for name in arrays if name != 'train']

  def build(seed, hyper):
    made = METHODS[method](SimpleNamespace(**config.method.to_dict() | hyper), sizes)
    key = jax.random.key(seed)
    return made, key, make_train_step(made, model, tx, key, preprocess)

  def init(seed, hyper):
    made, key, _ = build(seed, hyper)
    return create_state(made, model, tx, preprocess(arrays['train'][0][:1]), key)

  def advance(state, seed, hyper, chunk, arrays):
    _, _, step = build(seed, hyper)
    image, label, group = arrays['train']

    def one(state, ids):
      return step(state, Batch(image[ids], label[ids], group[ids], ids, jnp.ones(size)))[0], None

    state = jax.lax.scan(one, state, chunk)[0]
    counts = {}
    for name in held_out:
      x, y, g = arrays[name]
      for role in roles:
        logits, _ = model.apply({'params': state.params[role]}, preprocess(x), train=False)
        counts[name, role] = Counts.from_model_output(logits, y, g, jnp.ones(len(y)), len(dataset.groups))
    return state, counts

  state = jax.jit(jax.vmap(init))(member_seeds, values)
  run = jax.jit(jax.vmap(advance, in_axes=(0, 0, 0, 0, None)), donate_argnums=0)
  history = []
  for start in range(0, steps, every):
    state, counts = run(state, member_seeds, values, order[:, start : start + every], arrays)
    history.append(jax.device_get(counts))

  def measured(step: int, member: int, role: str) -> dict:
    found = {}
    for name in held_out:
      one = jax.tree.map(lambda v: v[member], history[step][name, role])
      full = summarize(one, dataset.classes, dataset.groups, dataset.group_counts())
      found[name] = {k: round(full[k], 5) for k in ('accuracy', 'worst_group_accuracy', 'worst_class_accuracy')}
    return found

  rules = [
    f'{v}/{m}' for v in held_out if v != 'test' for m in ('accuracy', 'worst_class_accuracy', 'worst_group_accuracy')
  ]
  rows = []
  for i, setting in enumerate(settings):
    row: dict = {'method': method, 'setting': setting, 'seeds': list(seeds), 'last': [], 'selected': [], 'student': []}
    for j in range(len(seeds)):
      curve = [measured(step, i * len(seeds) + j, roles[-1]) for step in range(len(history))]
      row['last'].append(curve[-1])
      chosen = {}
      for rule in rules:
        split, metric = rule.split('/')
        step = max(range(len(curve)), key=lambda n: (curve[n][split][metric], n))
        chosen[rule] = {'step': (step + 1) * every, **curve[step]['test']}
      row['selected'].append(chosen)
      if 'student' in roles:
        row['student'].append(measured(-1, i * len(seeds) + j, 'student')['test'])
    rows.append(row)
  return rows


def label(row: dict) -> str:
  return ' '.join([row['method'], *(f'{k.split(".")[-1]}={v}' for k, v in row['setting'].items())])


def table(rows: list[dict]) -> str:
  """Tuned and confirmed settings as a table; test figures are means and standard deviations over seeds."""
  lines = [
    f'{"":<92}{"val_bal":>8}  test worst group at             accuracy',
    f'{"setting":<92}{"worst":>8}  last        label-free  oracle  last',
  ]
  for row in rows:
    last = [100 * r['test']['worst_group_accuracy'] for r in row['last']]
    free, oracle = (
      np.mean([100 * s[rule]['worst_group_accuracy'] for s in row['selected']])
      for rule in ('val/worst_class_accuracy', 'val_balanced/worst_group_accuracy')
    )
    accuracy = np.mean([100 * r['test']['accuracy'] for r in row['last']])
    lines.append(
      f'{label(row)[:91]:<92}{100 * tuned(row):>8.1f}  {np.mean(last):4.1f} ± {np.std(last, ddof=1):4.1f}'
      f' {free:>11.1f} {oracle:>7.1f} {accuracy:>5.1f}'
    )
  return '\n'.join(lines)


NAMES = {
  ('erm', '', '', 'uniform'): 'ERM',
  ('erm', '', '', 'group_balanced'): 'ERM on group-balanced resamples (needs groups)',
  ('gradient_penalty', '', 'none', 'group_balanced'): 'the same with a gradient penalty: the oracle (needs groups)',
  ('gradient_penalty', '', 'none', 'uniform'): 'control: gradient penalty',
  ('shuffled_student', 'project', 'none', 'uniform'): 'control: shuffled student, `project`',
  ('shuffled_student', 'oppose_signed', 'none', 'uniform'): 'control: shuffled student, `oppose_signed`',
  ('ule', 'project', 'none', 'uniform'): 'ULE, `project`, no mistakes',
  ('ule', 'oppose_signed', 'none', 'uniform'): 'ULE, `oppose_signed`, no mistakes',
  ('mistakes alone', '', 'class_balanced_weight', 'uniform'): 'control: mistakes alone',
  ('gradient_penalty', '', 'class_balanced_weight', 'uniform'): 'control: mistakes + gradient penalty',
  (
    'shuffled_student',
    'project',
    'class_balanced_weight',
    'uniform',
  ): 'control: mistakes + shuffled, `project`',
  ('shuffled_student', 'oppose_signed', 'class_balanced_weight', 'uniform'): (
    'control: mistakes + shuffled, `oppose_signed`'
  ),
  ('ule', 'oppose_signed', 'class_balanced_weight', 'uniform'): 'ULE, mistakes + `oppose_signed`',
  ('ule', 'project', 'class_balanced_weight', 'uniform'): '**ULE, mistakes + `project`**',
}


def worst(row: dict, rule: str | None = None) -> np.ndarray:
  """Test worst group of each seed, %: at the last step, or at the step that a rule selects."""
  found = row['last'] if rule is None else row['selected']
  return np.array([100 * (r['test'] if rule is None else r[rule])['worst_group_accuracy'] for r in found])


def bootstrap(difference: np.ndarray) -> tuple[float, float]:
  """95 % percentile interval of the mean of paired differences, 10,000 resamples of seeds."""
  draws = np.random.default_rng(0).choice(difference, (10_000, len(difference)))
  low, high = np.percentile(draws.mean(1), [2.5, 97.5])
  return float(low), float(high)


def markdown(rows: list[dict]) -> str:
  """The README's first table: confirmed rows on the default composition, beside ULE."""
  confirmed = {kind(r): r for r in rows if r['stage'] == 'confirm'}
  lead = confirmed['ule', 'project', 'class_balanced_weight', 'uniform', 'tint']
  lines = [
    '| | accuracy | worst group, last step | label-free rule | oracle rule | ULE minus this |',
    '|---|---|---|---|---|---|',
  ]
  for key, name in NAMES.items():
    row = confirmed.get((*key, 'tint'))
    if row is None:
      continue
    accuracy = np.mean([100 * r['test']['accuracy'] for r in row['last']])
    last, free, oracle = (
      worst(row, rule) for rule in (None, 'val/worst_class_accuracy', 'val_balanced/worst_group_accuracy')
    )
    difference = worst(lead) - last
    low, high = bootstrap(difference)
    versus = '' if row is lead else f'{difference.mean():+.1f} [{low:+.1f}, {high:+.1f}]'
    lines.append(
      f'| {name} | {accuracy:.1f} | {last.mean():.1f} ± {last.std(ddof=1):.1f} | {free.mean():.1f} '
      f'| {oracle.mean():.1f} | {versus} |'
    )
  return '\n'.join(lines)


def markdown_shortcuts(rows: list[dict]) -> str:
  """The README's second table: confirmed worst groups on all three compositions."""
  confirmed = {kind(r): worst(r) for r in rows if r['stage'] == 'confirm'}
  shortcuts = ('tint', 'place', 'patch')
  lines = ['| worst group, last step | ' + ' | '.join(f'`{s}`' for s in shortcuts) + ' |', '|---|---|---|---|']
  for key, name in NAMES.items():
    found = [confirmed.get((*key, shortcut)) for shortcut in shortcuts]
    if all(f is not None for f in found):
      lines.append(f'| {name} | ' + ' | '.join(f'{f.mean():.1f} ± {f.std(ddof=1):.1f}' for f in found) + ' |')
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--stage', choices=[*STAGES, 'confirm'])
  parser.add_argument('--out', type=Path, default=Path(__file__).parent / 'results' / 'digits_grid.jsonl')
  parser.add_argument('--only', default='', help='settings whose line of --table has this in it')
  parser.add_argument('--members', type=int, default=60, help='runs per compiled graph')
  parser.add_argument('--table', nargs='?', const='confirm', help='print the table of a stage')
  parser.add_argument('--markdown', action='store_true', help="print the README's tables")
  args = parser.parse_args()
  rows = record.read(args.out)
  if args.table:
    shown = [r for r in rows if r['stage'] == args.table]
    print(table(sorted(shown, key=tuned, reverse=True)))
    return
  if args.markdown:
    print(f'{markdown(rows)}\n\n{markdown_shortcuts(rows)}')
    return
  settings = stage_confirm(rows) if args.stage == 'confirm' else STAGES[args.stage]()
  seeds = FRESH if args.stage == 'confirm' else TUNING
  known = {(r['stage'], label(r)) for r in rows}
  families: dict[tuple, list[dict]] = {}
  for method, setting in settings:
    name = label({'method': method, 'setting': setting})
    if args.only in name and (args.stage, name) not in known:
      families.setdefault(family_of(method, setting), []).append(setting)
  stamp = {'stage': args.stage, **record.made(), 'jax': jax.__version__}
  total, done, began = sum(map(len, families.values())), 0, time.monotonic()
  for (method, _, _), members in families.items():
    width = max(1, args.members // len(seeds))
    for part in (members[i : i + width] for i in range(0, len(members), width)):
      found = [stamp | row for row in train_family(method, part, seeds)]
      record.add(args.out, *found)
      done += len(part)
      left = (time.monotonic() - began) / done * (total - done)
      print(table(found), f'\n{done}/{total} settings, {left / 60:.1f} min left', flush=True)


if __name__ == '__main__':
  main()
