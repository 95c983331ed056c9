"""Tables in the terminal: every number is there, within 100 columns."""

import re
import shlex

import pytest

from ule_jax.cli import tables

LONG = 'a group of a name of many words, as metadata files of several attributes make them: '


def results(prefix='', classes=2, **more):
  def split(shift):
    groups = {f'{prefix}g{g}': {'count': 1000 * g + 7, 'accuracy': (10 * g + shift) / 100} for g in range(3)}
    groups['never seen'] = {'count': 0, 'accuracy': None}
    of_classes = {f'c{c}': {'count': 1500 + c, 'accuracy': (shift + c) / 100} for c in range(classes)}
    values = {'accuracy': shift / 100, 'mistake_balanced_accuracy': None, 'worst_group_accuracy': shift / 100}
    return values | {'groups': groups, 'classes': of_classes, 'reasons': {}}

  student, teacher = ({'test': split(shift)} for shift in (31, 57))
  entry = {'step': 12, 'test': {'accuracy': 0.25, 'worst_class_accuracy': 0.125, 'worst_group_accuracy': None}}
  return {
    'method': 'ule', 'dataset': 'folder', 'seed': 3, 'step': 12, 'select': 'val/accuracy', 'titles': {},
    'roles': {'student': student, 'teacher': teacher}, 'train': split(71), 'val': split(61), **teacher,
    'val_broken': split(41), 'last': entry, 'selected': {'val/accuracy': entry | {'step': 8}},
  } | more  # fmt: skip


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
  assert 'mistake balanced accuracy' not in text  # it exists in no column
  assert [line.split()[-3:] for line in text.splitlines() if line.startswith('group')] == [
    ['7', '31.0', '57.0'], ['1,007', '41.0', '67.0'], ['2,007', '51.0', '77.0']
  ]  # fmt: skip
  words = ' '.join(text.split())
  assert all(word in words for word in prefix.split())


def test_a_run_ends_with_its_splits_beside_chance():
  text = tables.run_table(results())
  assert max(map(len, text.splitlines())) <= 100
  assert text.splitlines()[0] == 'ule on folder, seed 3: accuracy, % (step 12, chosen by val/accuracy)'
  assert cells_of(text, 'teacher') == ['train', 'val', 'test', 'student test', 'test examples']
  assert cells_of(text, 'accuracy') == ['71.0', '61.0', '57.0', '31.0']
  assert cells_of(text, 'chance: a guess') == ['50.0', '50.0', '50.0']
  assert cells_of(text, 'class: c1') == ['72.0', '62.0', '58.0', '32.0', '1,501']
  assert cells_of(text, 'group: g2') == ['91.0', '81.0', '77.0', '51.0', '2,007']
  assert 'never seen' not in text
  assert 'mistake' not in text
  assert '-' not in {cell for line in text.splitlines()[3:] for cell in line.split()}


def test_the_split_that_selects_is_in_the_table_of_a_run():
  text = tables.run_table(results(select='val_broken/accuracy'))
  assert cells_of(text, 'teacher')[:4] == ['train', 'val', 'val_broken', 'test']
  assert cells_of(text, 'accuracy')[2] == '41.0'


def test_the_most_frequent_class_is_a_row_where_it_is_no_guess():
  run = results()
  run['test']['classes'] = {'c0': {'count': 75, 'accuracy': 0.5}, 'c1': {'count': 25, 'accuracy': 0.5}}
  assert cells_of(tables.run_table(run), 'chance: the most frequent class') == ['50.0', '50.0', '75.0']


def test_of_many_classes_the_lowest_are_rows():
  text = tables.run_table(results(classes=40))
  assert [line.split()[1] for line in text.splitlines() if line.startswith('class: ')] == [f'c{c}' for c in range(30)]
  assert '10 other classes, not lower' in text


def test_a_group_of_train_alone_is_a_row():
  run = results()
  run['train']['groups']['never seen'] = {'count': 3, 'accuracy': 0.25}
  assert cells_of(tables.run_table(run), 'group: never seen') == ['25.0', '-', '-', '-', '0']


def test_rules_of_one_checkpoint_share_a_row():
  run = results()
  assert cells_of(tables.rules_table(run), '  12') == ['25.0', '12.5', 'last step']
  assert cells_of(tables.rules_table(run), '   8') == ['25.0', '12.5', 'val/accuracy']
  run['selected'] = {f'val/rule_{i}': run['last'] for i in range(20)}
  text = tables.rules_table(run)
  assert max(map(len, text.splitlines())) <= 100
  assert text.count('25.0') == 1
  assert re.findall(r'val/rule_\d+', text) == [*run['selected']]
  run['last'] = {'step': 12, 'test': {'accuracy': 0.25, 'worst_group_accuracy': 0.375}}
  assert cells_of(tables.rules_table(run | {'selected': {}}), '  12') == ['25.0', '37.5', 'last step']


def test_the_next_commands_have_the_folder(tmp_path):
  folder = tmp_path / 'my run'
  assert [shlex.split(line, comments=True) for line in tables.next_commands(folder).splitlines()[1:]] == [
    ['python', '-m', 'ule_jax.diagnose', f'--run={folder}'],
    ['python', '-m', 'ule_jax.report', str(folder), '--out=report'],
    ['python', '-m', 'ule_jax.export', f'--run={folder}'],
  ]


def test_sentences_are_wrapped():
  lines = ['A sentence of many words that has to be wrapped. ' * 4, 'Short.']
  text = tables.sentences(lines)
  assert max(map(len, text.splitlines())) <= 100
  assert text.split() == ' '.join(lines).split()
  assert text.endswith('\nShort.')


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
