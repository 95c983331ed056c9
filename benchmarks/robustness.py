"""What ULE buys in worst-group accuracy: methods, controls and rivals on several shortcuts, tuned and confirmed alike.

  python benchmarks/robustness.py [--data=DIR] [--setting=digits] [--row='ULE, project'] [--out=NEW.jsonl]
  python benchmarks/robustness.py --markdown [--details]   the tables of benchmarks/results/robustness.jsonl

Each row of each setting is two populations (`ule_jax.sweep`): all values of the row's grid with seeds 0 and 1, from
which two settings are picked by mean validation score, and these with the fresh seeds 10 to 14, of which the test is
reported.
The picks: the oracle rule (worst group of validation, which needs group labels there) and a rule without group labels:
`val/mistake_balanced_accuracy` where a student is trained, else `val/worst_class_accuracy`. The same rule then selects
the step. The rows of `DEFAULT` are not tuned, but for `hold_back` in one and the weights of other terms. Where
convolutions are trained, members are single runs of `ule_jax.main`, and the grids (`FEW`) are smaller, with the
student's noise among what is tuned. The settings of `UNSEEN` were run once, after all options had been chosen. In those
of `RARE` few images, or none, break the shortcut.

DIR has mnist/, fashion_mnist/ and weights/ as their files are published, and celeba/ with a CelebA folder; only
`digits` needs none of it. Rows that the output has are left out, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import dominoes
import numpy as np
import record
import variants
from scipy import stats

RESULTS = Path(__file__).parent / 'results' / 'robustness.jsonl'
TUNED, FRESH = (0, 1), (10, 11, 12, 13, 14)


class Setting(NamedTuple):
  """A data set with a network.

  oracle: the rule that needs groups.
  single: members are single runs.
  grids: what is tuned of the rows that are run, if not all of `ROWS`.
  rate: share of dominoes whose garment follows the digit.
  """

  about: str
  config: str
  flags: dict[str, Any]
  oracle: str = 'val_balanced/worst_group_accuracy'
  needs: str = ''
  single: bool = False
  grids: dict[str, dict[str, list[float]]] | None = None
  rate: float = dominoes.RATE


MLP = {
  'data.size': 16, 'data.fit': 'stretch', 'data.augment': False, 'model.name': 'mlp', 'model.weights': 'none',
  'model.width': 64, 'model.depth': 1, 'optim.name': 'adam', 'optim.lr': 1e-3, 'optim.weight_decay': 0.0,
  'optim.schedule': 'cosine', 'train.batch_size': 128, 'train.steps': 600, 'train.epochs': 0.0, 'train.eval_every': 100,
}  # fmt: skip
RESNET = {
  'data.official': False, 'data.size': 32, 'data.augment': False, 'model.name': 'resnet20',
  'model.batch_norm': 'frozen', 'train.sampling': 'class_balanced',
}  # fmt: skip
FROZEN = RESNET | {
  'model.head_depth': 1, 'model.head_width': 64, 'optim.lr': 1e-3, 'optim.weight_decay': 0.0,
  'optim.schedule': 'cosine', 'train.batch_size': 128, 'train.steps': 600, 'train.epochs': 0.0, 'train.eval_every': 100,
}  # fmt: skip
TUNING = RESNET | {
  'optim.name': 'adam', 'optim.lr': 3e-4, 'optim.weight_decay': 0.0, 'optim.schedule': 'cosine', 'train.steps': 120,
  'train.epochs': 0.0, 'train.batch_size': 64, 'train.eval_every': 60,
}  # fmt: skip


def faces(target: str, flags: dict[str, Any], **others) -> Setting:
  """Make a setting of the 8,000 small faces: an attribute to predict, and Male beside it."""
  how = 'frozen CIFAR ResNet-20, heads of 64 units' if flags is FROZEN else 'ResNet-20, fine-tuned for 120 steps'
  flags = flags | {'data.target': target, 'data.attribute': 'Male'}
  return Setting(f'CelebA, {target}, {how}', 'celeba', flags, 'val/worst_group_accuracy', 'celeba', **others)


class Row(NamedTuple):
  """A method with what is fixed and what is tuned of it."""

  method: str
  flags: dict[str, Any]
  grid: dict[str, list[float]]
  groups: bool = False


STUDENT = {'method.q': 0.7, 'method.student_noise': 1.0, 'method.hold_back': 0.0}
ALONE = STUDENT | {'method.mistakes': 'none'}
MISTAKES = STUDENT | {'method.mistakes': 'balanced'}
OPPOSE, PROJECT = {'method.term': 'oppose_signed'}, {'method.term': 'project'}
BALANCED = {'train.sampling': 'group_balanced'}
SHARE = {'method.mistake_share': [0.5, 0.7]}
SIGNED = {'method.weight': [0.03, 0.1], 'method.a': [0.3, 1.0]}
ALONG = {'method.weight': [0.1, 1.0, 10.0]}
PENALTY = {'method.weight': [0.01, 0.03, 0.1, 0.3, 1.0]}
FORMER = {'method.weight': [0.03], 'method.a': [1.0], 'method.mistake_share': [0.7]}
# as in configs/base.py, whatever a data set's config makes of it
DEFAULT = {
  'method.q': 0.7, 'method.student_noise': 0.0, 'method.mistakes': 'balanced', 'method.mistake_share': 0.7,
  'method.hold_back': 3.0, 'method.weight': 0.03,
}  # fmt: skip
DEFAULT_ROW = 'ULE, one default'
NO_MISTAKES = 'default, `mistakes=none`, `weight=0.1`, `a=3`'
ROWS = {
  'ERM': Row('erm', {}, {}),
  'LfF': Row('lff', {}, {'method.q': [0.3, 0.5, 0.7]}),
  'control: gradient penalty': Row('gradient_penalty', ALONE, PENALTY),
  'control: shuffled, `oppose_signed`': Row('shuffled_student', ALONE | OPPOSE, SIGNED),
  'ULE, `oppose_signed`': Row('ule', ALONE | OPPOSE, SIGNED),
  'control: mistakes alone': Row(
    'ule', MISTAKES | {'method.weight': 0.0}, {'method.mistake_share': [0.3, 0.5, 0.6, 0.7, 0.8, 0.9]}
  ),
  'control: mistakes + gradient penalty': Row(
    'gradient_penalty', MISTAKES, SHARE | {'method.weight': [0.03, 0.1, 0.3]}
  ),
  'control: mistakes + shuffled, `oppose_signed`': Row('shuffled_student', MISTAKES | OPPOSE, SHARE | SIGNED),
  'control: mistakes + shuffled, `project`': Row('shuffled_student', MISTAKES | PROJECT, SHARE | ALONG),
  'ULE, mistakes + `project`': Row('ule', MISTAKES | PROJECT, SHARE | ALONG),
  'ULE, mistakes + `oppose_signed`': Row('ule', MISTAKES | OPPOSE, SHARE | SIGNED),
  'ULE, the former default': Row('ule', MISTAKES | OPPOSE, FORMER),
  DEFAULT_ROW: Row('ule', DEFAULT | OPPOSE, {}),
  'default, `hold_back` tuned': Row('ule', DEFAULT | OPPOSE, {'method.hold_back': [0.0, 1.0, 2.0, 3.0, 4.0]}),
  'default, without holding back': Row('ule', DEFAULT | OPPOSE | {'method.hold_back': 0.0}, {}),
  'default, control: mistakes alone': Row('ule', DEFAULT | {'method.weight': 0.0}, {}),
  'default, control: shuffled': Row('shuffled_student', DEFAULT | OPPOSE, {}),
  'default, control: gradient penalty': Row('gradient_penalty', DEFAULT, {}),
  'GroupDRO': Row('group_dro', {}, {'method.step_size': [0.01, 0.1]}, groups=True),
  'group-balanced ERM': Row('rwg', {}, {'optim.weight_decay': [0.0, 0.001, 0.01]}, groups=True),
  'oracle: the same with a gradient penalty': Row('gradient_penalty', BALANCED | ALONE, PENALTY, groups=True),
  NO_MISTAKES: Row('ule', DEFAULT | OPPOSE | {'method.mistakes': 'none', 'method.weight': 0.1, 'method.a': 3.0}, {}),
  'ERM on digits without the shortcut': Row('erm', {'data.rate': 0.5}, {}),
}  # fmt: skip

NOISE = {'method.student_noise': [0.0, 1.0]}
FEW = {  # what is tuned where members are single runs; rows that are not here are left out there
  'ERM': {},
  'LfF': ROWS['LfF'].grid,
  'control: gradient penalty': {'method.weight': [0.01, 0.1]},
  'control: mistakes alone': NOISE | SHARE,
  'control: mistakes + gradient penalty': NOISE | {'method.mistake_share': [0.7], 'method.weight': [0.01, 0.1]},
  'control: mistakes + shuffled, `oppose_signed`': NOISE | FORMER | {'method.weight': [0.003, 0.03]},
  'ULE, mistakes + `oppose_signed`': NOISE | FORMER | {'method.weight': [0.003, 0.03]},
  'ULE, the former default': FORMER,
  DEFAULT_ROW: {},
  'default, control: mistakes alone': {},
  'default, control: shuffled': {},
  'GroupDRO': ROWS['GroupDRO'].grid,
  'group-balanced ERM': {'optim.weight_decay': [0.0]},
}
ONCE = {
  'ERM': {},
  'ULE, the former default': FORMER,
  DEFAULT_ROW: {},
  'default, without holding back': {},
  'default, control: mistakes alone': {},
  'group-balanced ERM': {'optim.weight_decay': [0.0]},
}

# What is tuned where hardly an image, or none, breaks the shortcut; without one there are no groups to balance
WIDE = {'method.weight': [0.1, 0.3, 1.0, 3.0], 'method.a': [1.0, 3.0]}
WIDER = {'method.weight': [0.3, 1.0, 3.0, 10.0], 'method.a': [1.0, 3.0]}
SEVENTY = {'method.mistake_share': [0.7]}
SCARCE = {
  'ERM': {},
  'control: gradient penalty': {'method.weight': [0.03, 0.1, 0.3, 1.0, 3.0, 10.0]},
  'control: shuffled, `oppose_signed`': WIDER,
  'ULE, `oppose_signed`': WIDE,
  'control: mistakes alone': {'method.mistake_share': [0.3, 0.5, 0.7, 0.9, 0.95, 0.98]},
  'control: mistakes + gradient penalty': SEVENTY | {'method.weight': [0.03, 0.1, 0.3, 1.0, 3.0, 10.0]},
  'control: mistakes + shuffled, `oppose_signed`': WIDER | SEVENTY,
  'ULE, mistakes + `oppose_signed`': WIDE | SEVENTY,
  DEFAULT_ROW: {},
  NO_MISTAKES: {},
}
WITHOUT = {'ERM on digits without the shortcut': {}}
OF_RARE = (NO_MISTAKES, *WITHOUT)
GROUPS = {'group-balanced ERM': ROWS['group-balanced ERM'].grid, 'GroupDRO': ROWS['GroupDRO'].grid}

# The default with one option changed, each run once: what makes it so
CHANGES = {
  'student_loss': ['cross_entropy'], 'q': [0.3, 0.9], 'student_noise': [0.5, 1.0, 2.0],
  'scalar': ['label_logit', 'top_logit', 'loss'], 'a': [0.3, 3.0], 'weight': [0.01, 0.1], 'warmup_steps': [150, 450],
  'mistake_share': [0.5, 0.9], 'mistakes': ['none', 'weight', 'class_balanced_weight'],
}  # fmt: skip
CHANGED = {
  f'default, `{option}={value}`': Row('ule', DEFAULT | OPPOSE | {f'method.{option}': value}, {})
  for option, values in CHANGES.items()
  for value in values
}
# Other terms, whose weights have other scales, and other students
CHANGED |= {
  f'default, `term={term}`': Row('ule', DEFAULT | {'method.term': term}, {'method.weight': weights})
  for term, weights in {
    'project': [0.1, 1.0, 10.0], 'cosine': [0.1, 1.0, 10.0], 'suppress': [0.01, 0.1, 1.0], 'oppose': [0.001, 0.01, 0.1],
  }.items()
}  # fmt: skip
CHANGED |= {
  f'default, student {how}': Row(method, DEFAULT | OPPOSE | {f'method.{option}': value}, {})
  for how, method, option, value in (
    ('150 steps ahead', 'ule_ahead', 'ahead', 150),
    ('300 steps ahead', 'ule_ahead', 'ahead', 300),
    ('with L2 of 0.001', 'ule_decayed', 'decay', 0.001),
    ('with L2 of 0.01', 'ule_decayed', 'decay', 0.01),
    ('averaged over 4 noisy copies', 'ule_noisy', 'std', 0.5),
    ('averaged over 4 shifts', 'ule_shifted', 'pixels', 3),
    ('on means of 4 x 4 pixels', 'ule_coarse', 'block', 4),
  )
}
# Students that need an image: not on the features of a frozen encoder
OF_IMAGES = ('ule_shifted', 'ule_coarse')
VARIED = ('digits', 'dominoes_random', 'celeba_attractive')

SETTINGS = {
  'digits': Setting('digits, `tint`', 'digits', {}),
  'dominoes': Setting('dominoes: MNIST beside Fashion-MNIST', 'folder', MLP, needs='fixed'),
  'dominoes_random': Setting('dominoes, sides at random', 'folder', MLP, needs='random'),
  'celeba_wavy': faces('Wavy_Hair', FROZEN),
  'celeba_attractive': faces('Attractive', FROZEN),
  'celeba_nose': faces('Big_Nose', FROZEN),
  'celeba_tuned': faces('Attractive', TUNING, single=True, grids=FEW),
}
# The corner and the place of a digit; of the attributes with 450 images of each group, but for the above, three that
# are related to Male and one that is less so; and all of the network trained on another of the above.
UNSEEN = {
  'digits_patch': Setting('digits, `patch`', 'digits', {'data.shortcut': 'patch'}, grids=ONCE),
  'digits_place': Setting('digits, `place`', 'digits', {'data.shortcut': 'place'}, grids=ONCE),
  'celeba_bags': faces('Bags_Under_Eyes', FROZEN, grids=ONCE),
  'celeba_young': faces('Young', FROZEN, grids=ONCE),
  'celeba_cheekbones': faces('High_Cheekbones', FROZEN, grids=ONCE),
  'celeba_smiling': faces('Smiling', FROZEN, grids=ONCE),
  'celeba_tuned_wavy': faces(
    'Wavy_Hair', TUNING, single=True, grids={row: ONCE[row] for row in ('ERM', DEFAULT_ROW, 'group-balanced ERM')}
  ),
}
# The rarer a counter-example, the less mistakes say
RARE = {
  'digits_99.5': Setting('digits, `tint` in 99.5 %', 'digits', {'data.rate': 0.995}, grids=SCARCE | GROUPS | WITHOUT),
  'digits_100': Setting('digits, `tint` in all', 'digits', {'data.rate': 1.0}, grids=SCARCE | WITHOUT),
  'digits_patch_100': Setting(
    'digits, `patch` in all', 'digits', {'data.rate': 1.0, 'data.shortcut': 'patch'}, grids=SCARCE | WITHOUT
  ),
  'dominoes_100': Setting('dominoes, all of which follow', 'folder', MLP, needs='fixed', rate=1.0, grids=SCARCE),
}


# --- Runs ----------------------------------------------------------------------------------------------


def config_of(setting: Setting, row: Row, args) -> Any:
  """Make the config of a row in a setting, preparing its data if need be."""
  from ule_jax.cli.flags import parse

  method = f'{row.method},frozen' if 'model.head_depth' in setting.flags else row.method
  flags = dict(setting.flags)
  if setting.needs == 'celeba':
    (weights,) = (args.data / 'weights').glob('resnet20-*.th')
    flags |= {'data.dir': args.data / 'celeba', 'model.weights': weights}
  elif setting.needs:
    folder = args.work / f'dominoes-{setting.needs}-{setting.rate}'
    if not folder.exists():
      dominoes.build(args.data, folder, setting.needs, setting.rate)
    flags['data.dir'] = folder
  flags |= row.flags
  if row.groups:
    flags |= BALANCED
  argv = [f'--config={setting.config}:{method}', *(f'--config.{field}={value}' for field, value in flags.items())]
  return parse(argv, '', {}).config


def singly(config: Any, grid: dict[str, list[float]], folder: Path) -> dict[str, Any]:
  """Train what a sweep would, one run after the other; return what the sweep's comparison does."""
  from ule_jax.errors import UserError
  from ule_jax.sweep import axes
  from ule_jax.sweep.compare import compare
  from ule_jax.train.run import run as train_run

  members, failed, found = axes.expand(config, grid), {}, {}
  for member in members:
    try:
      found[member.name] = train_run(member.config, folder / member.name)
    except UserError as error:
      if 'finite' not in str(error):
        raise
      failed[member.name] = str(error)
  return compare(members, found, failed)


def population(setting: Setting, row: Row, grid: dict[str, list[float]], seeds, args) -> dict[str, Any]:
  """Train a grid with some seeds; return sweep.json and the entries of each member."""
  from ule_jax.sweep.run import run as sweep_run

  config, grid = config_of(setting, row, args), grid | {'seed': list(seeds)}
  folder = args.work / 'sweep'
  shutil.rmtree(folder, ignore_errors=True)
  found = singly(config, grid, folder) if setting.single else sweep_run(config, grid, folder)
  found['results'] = {
    name: json.loads((folder / name / 'results.json').read_text())
    for name in found['members']
    if (folder / name / 'done').exists()
  }
  return found


def worst(entry: dict[str, Any]) -> list[float]:
  """Take accuracy and worst group of the test from an entry of results.json."""
  return [entry['test']['accuracy'], entry['test']['worst_group_accuracy']]


def label_free(rules) -> str:
  """Name the rule without group labels."""
  return next(r for r in ('val/mistake_balanced_accuracy', 'val/worst_class_accuracy') if r in rules)


def tune(setting: Setting, row: Row, args) -> dict[str, Any]:
  """Pick a value of each axis by the two rules; keep what all were worth."""
  if not row.grid or all(len(values) == 1 for values in row.grid.values()):
    only = {field: values[0] for field, values in row.grid.items()}
    return {'picked': {'oracle': only, 'label_free': only}, 'tried': []}
  found = population(setting, row, row.grid, TUNED, args)
  rules = {'oracle': setting.oracle, 'label_free': label_free(found['picked'])}

  def score(one, rule):
    split, metric = rule.split('/')
    return one['selected'][rule][split][metric]['mean']

  whole = [one for one in found['settings'] if not one['failed']]
  tried = [
    {
      'setting': one['setting'],
      'test': [round(one['last']['test'][m]['mean'], 4) for m in ('accuracy', 'worst_group_accuracy')],
      **{name: round(score(one, rule), 4) for name, rule in rules.items()},
    }
    for one in whole
  ]
  picked = {name: max(whole, key=lambda one: score(one, rule))['setting'] for name, rule in rules.items()}
  return {'picked': picked, 'tried': tried}


def confirm(setting: Setting, row: Row, picked: dict[str, dict[str, float]], args) -> dict[str, Any]:
  """Train the picked values with fresh seeds; accuracy and worst group of the test for each seed."""
  rows: dict[str, Any] = {}
  for name, values in picked.items():
    if name == 'label_free' and values == picked['oracle']:
      found = rows['found']
    else:
      grid = {field: [value] for field, value in values.items()}
      found = rows['found'] = population(setting, row, grid, FRESH, args)
    results = list(found['results'].values())
    if len(results) < len(FRESH):
      raise SystemExit(f'{found["failed"]}: a picked setting is not finite')
    if name == 'oracle':
      rows['last'] = [worst(one['last']) for one in results]
      rows['oracle'] = [worst(one['selected'][setting.oracle]) for one in results]
    else:
      rule = label_free(results[0]['selected'])
      rows['label_free'] = [worst(one['selected'][rule]) for one in results]
  return {'seeds': FRESH} | {name: np.round(v, 4).tolist() for name, v in rows.items() if name != 'found'}


def run(args) -> None:
  """Make the rows that the output does not have."""
  from ule_jax.devices import runtime
  from ule_jax.errors import UserError

  runtime.keep_memory()
  variants.register()
  made = record.made()
  done = {(row['setting'], row['row']) for row in record.read(args.out)}
  for name, setting in (SETTINGS | UNSEEN | RARE).items():
    rows = {label: row for label, row in ROWS.items() if label not in OF_RARE} | (CHANGED if name in VARIED else {})
    if setting.grids:
      rows = {label: ROWS[label]._replace(grid=grid) for label, grid in setting.grids.items()}
    for label, row in rows.items():
      if args.setting not in (None, name) or args.row not in (None, label) or (name, label) in done:
        continue
      if row.method in OF_IMAGES and 'model.head_depth' in setting.flags:
        continue
      if setting.needs and not args.data:
        print(f'{name}: left out, as it needs --data')
        break
      began = time.monotonic()
      try:
        found = tune(setting, row, args)
        found |= confirm(setting, row, found['picked'], args)
      except UserError as error:
        raise SystemExit(f'{name}, {label}: {error}') from None
      about = {'setting': name, 'row': label, 'groups': row.groups, 'seconds': round(time.monotonic() - began)}
      record.add(args.out, about | found | made)
      print(
        f'{name}, {label}: worst group {100 * np.mean(found["last"], 0)[1]:.1f} in {about["seconds"]} s', flush=True
      )


# --- Tables --------------------------------------------------------------------------------------------


def spread(values, column: int = 1) -> str:
  """Write mean and standard deviation over seeds, in %."""
  own = 100 * np.asarray(values)[:, column]
  return f'{own.mean():.1f} ± {own.std(ddof=1):.1f}'


def cell(values) -> str:
  """Write the spread of worst groups and the mean accuracy, in %."""
  return f'{spread(values)} ({100 * np.mean(values, 0)[0]:.0f})'


def summary(rows: list[dict[str, Any]], settings: Iterable[str] = SETTINGS, of: dict[str, Row] = ROWS) -> list[str]:
  """Write a table of settings: worst groups at the last step, and accuracies in parentheses."""
  by = {(row['setting'], row['row']): row for row in rows}
  names = [name for name in settings if any(name == setting for setting, _ in by)]
  lines = [
    '| worst group (accuracy), last step | ' + ' | '.join(f'`{name}`' for name in names) + ' |',
    '|---' * (len(names) + 1) + '|',
  ]
  for label, row in of.items():
    cells = [cell(by[name, label]['last']) if (name, label) in by else '' for name in names]
    if any(cells):
      lines.append(f'| {heading(label, row)} | ' + ' | '.join(cells) + ' |')
  return lines


def details(rows: list[dict[str, Any]]) -> list[str]:
  """Write a table of each setting, with both rules, how many values were tried and what the oracle rule picked."""
  lines = []
  for name, setting in (SETTINGS | UNSEEN | RARE).items():
    own = {row['row']: row for row in rows if row['setting'] == name}
    if own:
      lines += [f'`{name}`: {setting.about}; seeds {", ".join(map(str, next(iter(own.values()))["seeds"]))}', '']
      head = '| | accuracy | worst group, last step | label-free rule | oracle rule | tried, picked | default - this |'
      lines += [head, '|---' * 7 + '|']
    for label in (label for label in ROWS if label in own):
      one = own[label]
      picked = ', '.join(f'{k.split(".")[-1]} {v:g}' for k, v in next(iter(one['picked'].values())).items())
      picked = f'{len(one["tried"])}: {picked}' if one.get('tried') else f'none: {picked}' if picked else 'none'
      cells = [f'{100 * np.mean(one["last"], 0)[0]:.1f}', *(spread(one[r]) for r in ('last', 'label_free', 'oracle'))]
      lines.append(
        f'| {heading(label, ROWS[label])} | ' + ' | '.join([*cells, picked, minus(own.get(DEFAULT_ROW), one)]) + ' |'
      )
    lines += [''] if own else []
  return lines


def minus(default: dict[str, Any] | None, other: dict[str, Any]) -> str:
  """Write how far the default is above a row, paired by seed, with a bootstrap interval."""
  if default is None or other is default:
    return ''
  apart = 100 * (np.asarray(default['last']) - np.asarray(other['last']))[:, 1]
  if not apart.any():
    return '0 in each seed'
  interval = stats.bootstrap((apart,), np.mean, method='percentile', rng=0).confidence_interval
  return f'{apart.mean():+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]'


def heading(label: str, row: Row) -> str:
  """Write the first cell of a row."""
  label = f'**{label}**' if label == DEFAULT_ROW else label
  return f'{label} (needs groups)' if row.groups else label


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', type=Path)
  parser.add_argument('--out', type=Path, default=RESULTS)
  parser.add_argument('--setting', choices=SETTINGS | UNSEEN | RARE)
  parser.add_argument('--row', choices=ROWS | CHANGED)
  parser.add_argument('--markdown', action='store_true')
  parser.add_argument('--details', action='store_true', help='with --markdown: a table of each setting')
  args = parser.parse_args()
  if args.markdown:
    rows = record.read(args.out)
    varied = summary(rows, VARIED, {DEFAULT_ROW: ROWS[DEFAULT_ROW]} | CHANGED)
    tables = [*summary(rows), '', *summary(rows, UNSEEN), '', *summary(rows, RARE)]
    print('\n'.join([*details(rows), *varied] if args.details else tables))
    return
  with tempfile.TemporaryDirectory() as work:
    args.work = Path(work)
    run(args)


if __name__ == '__main__':
  main()
