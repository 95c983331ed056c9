"""Tables in the terminal: every number is there, within 100 columns."""

import re

import pytest

from ule_jax.cli import tables

LONG = 'a group of a name of many words, as metadata files of several attributes make them: '
ROLES = ('student', 'teacher')


def results(prefix=''):
  def split(shift):
    groups = {f'{prefix}g{g}': {'count': 1000 * g + 7, 'accuracy': (10 * g + shift) / 100} for g in range(3)}
    return {'accuracy': shift / 100, 'mistake_balanced_accuracy': None, 'groups': groups, 'classes': {}, 'reasons': {}}

  entry = {'step': 12, 'test': {'accuracy': 0.25, 'worst_group_accuracy': None}}
  return {
    'method': 'ule', 'dataset': 'folder', 'seed': 3, 'step': 12, 'select': 'val/accuracy', 'titles': {},
    'roles': {role: {'test': split(shift)} for role, shift in zip(ROLES, (31, 57), strict=True)},
    'last': entry, 'selected': {'val/accuracy': entry | {'step': 8}},
  }  # fmt: skip


def spread(mean):
  return {'mean': mean, 'sd': 0.125, 'n': 5}


def sweep(settings, rules):
  entry = {'test': {'accuracy': spread(0.5), 'worst_group_accuracy': spread(0.25)}}
  selected = {f'val/rule_{i}': {'test': {name: spread(i / 10) for name in entry['test']}} for i in range(rules)}
  picked = {
    rule: {'setting': settings[0], 'val': {rule.split('/')[1]: spread(0.75)}, **cells}
    for rule, cells in selected.items()
  }
  rows = [{'name': name, 'seeds': [0, 1, 2, 3, 4], 'last': entry, 'selected': selected} for name in settings]
  rows.append({'name': 'diverged', 'seeds': [], 'last': {}, 'selected': {}})
  failed = {'diverged,seed=0': 'the loss is not finite'}
  return {'method': 'ule', 'dataset': 'digits', 'settings': rows, 'picked': picked, 'failed': failed}


def cells_of(text, name):
  (line,) = (line for line in text.splitlines() if line.startswith(name))
  return re.split(r'  +', line.removeprefix(name).strip())


@pytest.mark.parametrize('prefix', ['', LONG])
def test_results_have_their_groups_and_roles(prefix):
  text = tables.results_table(results(prefix))
  assert max(map(len, text.splitlines())) <= 100
  assert text.splitlines()[0] == 'ule on folder, seed 3: test, % (step 12, chosen by val/accuracy)'
  assert cells_of(text, 'accuracy') == ['31.0', '57.0']
  assert cells_of(text, 'mistake balanced accuracy') == ['-', '-']
  assert [line.split()[-3:] for line in text.splitlines() if line.startswith('group')] == [
    ['7', '31.0', '57.0'], ['1,007', '41.0', '67.0'], ['2,007', '51.0', '77.0']
  ]  # fmt: skip
  words = ' '.join(text.split())
  assert all(word in words for word in prefix.split())


def test_rules_have_their_steps():
  text = tables.rules_table(results())
  assert cells_of(text, 'last step') == ['12', '25.0', '-']
  assert cells_of(text, 'val/accuracy') == ['8', '25.0', '-']


@pytest.mark.parametrize('name', ['weight=1', 'method.weight=10,optim.lr=0.001,optim.weight_decay=0.0001'])
@pytest.mark.parametrize('rules', [1, 8])
def test_a_sweep_of_many_rules_goes_on_below(name, rules):
  text = tables.sweep_tables(sweep([name], rules))
  assert max(map(len, text.splitlines())) <= 100
  worst, accuracy = text.split('test accuracy, %')
  expected = [f'{10 * i:.1f} ± 12.5' for i in range(rules)]
  for part, last in ((worst, '25.0 ± 12.5'), (accuracy.split('Mean ±')[0], '50.0 ± 12.5')):
    cells = re.findall(r'\d+\.\d ± 12\.5', ' '.join(line for line in part.splitlines() if not line.startswith('div')))
    assert cells == [last, *expected]
  assert text.count('75.0 ± 12.5') == rules
  assert text.endswith('failed: diverged,seed=0: the loss is not finite')
