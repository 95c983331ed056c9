"""Groups that nobody has named are found, in a page that stands alone."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from report_test import read

from ule_jax.cli import app
from ule_jax.errors import UserError
from ule_jax.explain.answer import answer
from ule_jax.explain.clusters import Clusters, Match, Summary, examples, find_clusters, match, remark, summarise


def misled(rng, minority):
  """Two classes whose student sees a shortcut; it is wrong about the minority and a few others."""
  n = 400
  label = rng.integers(0, 2, n)
  shortcut = np.where(rng.random(n) < minority, 1 - label, label)
  features = 6.0 * shortcut[:, None] * np.array([1, -1, 1, 0, 0, 0]) + rng.normal(size=(n, 6))
  wrong = np.where(rng.random(n) < minority / 5, shortcut == label, shortcut != label)
  return label, shortcut, features, wrong


@pytest.mark.parametrize('minority', [0.05, 0.5])
def test_clusters_are_the_groups_and_not_only_the_mistakes(minority):
  label, shortcut, features, wrong = misled(np.random.default_rng(0), minority)
  found = find_clusters(label, wrong, features)
  rows = {row.name: row for row in match(found, label, wrong, 2 * label + shortcut)}
  assert rows['clusters'].rand > 0.97
  assert rows['clusters'].rand > rows["classes x the network's mistakes"].rand + 0.01
  assert found.label == (0, 0, 1, 1)
  assert [found.place(c) for c in range(4)] == [0, 1, 0, 1]
  # What the student usually sees comes first in each class.
  assert [(shortcut[found.cluster == c] == k).mean() > 0.9 for c, k in enumerate(found.label)] == [True, False] * 2


def test_what_groups_are_not_known_is_left_out_of_the_comparison():
  label, shortcut, features, wrong = misled(np.random.default_rng(1), 0.5)
  group = 2 * label + shortcut
  clusters = find_clusters(label, wrong, features)
  some = np.where(np.arange(len(label)) < 100, group, -1)
  first = Clusters(clusters.cluster[:100], clusters.label, clusters.distance[:100])
  assert match(clusters, label, wrong, some) == match(first, label[:100], wrong[:100], group[:100])


def test_a_class_without_mistakes_is_one_cluster_and_more_can_be_asked_for():
  rng = np.random.default_rng(0)
  label, features = np.repeat([0, 1, 2], 100), rng.normal(size=(300, 4))
  wrong = (label == 1) & (np.arange(300) % 10 < 3) | (label == 2)
  for turn, where in enumerate((9, -9)):
    features[wrong & (np.arange(300) % 10 == turn + 1)] += where
  wrong &= np.arange(300) % 10 > 0
  wrong |= label == 2
  found = find_clusters(label, wrong, features, 3)
  assert found.label == (0, 1, 1, 1, 2)
  assert len(np.unique(found.cluster[label == 1])) == 3
  summaries = summarise(found, {'s': ~wrong}, wrong, np.full(300, -1), ())
  assert [one.accuracy['s'] for one in summaries] == [0, 0, 0, 1, 1]
  chosen = examples(found, wrong, 1, 5)
  assert len(chosen) == 5
  assert (found.cluster[chosen] == 1).all()


@pytest.fixture(scope='module')
def page(ule_run, tmp_path_factory):
  out = tmp_path_factory.mktemp('d') / 'look'
  app.call('diagnose', [f'--run={ule_run}', f'--out={out}', '--split=test', '--examples=3'])
  return out


def test_the_shortcut_of_the_embedded_task_is_found(page, ule_run):
  """After 20 steps already: the clusters are the groups, which their classes are not."""
  cells = {row[0]: row for row in read(page).cells}
  assert float(cells['one cluster (majority)'][2]) < 0.3
  assert float(cells['classes'][2]) < 0.55
  assert float(cells['clusters'][2]) > 0.8
  assert float(cells['clusters'][3]) > 0.6
  with (page / 'clusters.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  results = json.loads((ule_run / 'results.json').read_text())
  assert len(rows) == sum(group['count'] for group in results['test']['groups'].values())
  right = np.mean([row['prediction_student'] == row['label'] for row in rows])
  assert right == pytest.approx(results['roles']['student']['test']['accuracy'])
  assert rows[0]['filename'].startswith('digit ')
  assert {(row['label'], row['cluster']) for row in rows} == {(c, n) for c in results['classes'] for n in '01'}


def test_the_page_stands_alone(page):
  found, text = read(page), (page / 'index.html').read_text()
  assert not re.findall(r'(?:https?:)?//[a-z]', re.sub(r'base64,[^"]*', '', text))
  assert not found.of('script') + found.of('link')
  images = found.of('img')
  photographs = [image for image in images if image['alt'].startswith('The photograph ')]
  assert len(photographs) == 4 * 3
  assert len(images) == 3 * len(photographs) + 4  # a map for each network, and the colours of each cluster's table
  assert all(image['src'].startswith('data:image/') and len(image['alt']) > 20 for image in images)
  assert all('scope' in cell for cell in found.of('th'))
  assert 'They disagree on' in ''.join(found.text)
  text = ' '.join(''.join(found.text).split())
  assert text.index('the student is much worse in cluster 1 of'.capitalize()) < text.index('They disagree on')
  assert 'The groups confirm a shortcut' in text


def test_a_run_on_a_frozen_encoder_without_pictures(frozen_run, tmp_path, capsys):
  app.call('diagnose', [f'--run={frozen_run}', f'--out={tmp_path / "d"}', '--no-images'])
  found = read(tmp_path / 'd')
  assert not found.of('img')
  assert 'CelebA is for non-commercial research' in ''.join(found.text)
  text = capsys.readouterr().out
  assert 'adjusted Rand index' in text
  last = ' '.join(text.partition('index.html')[2].split())
  assert last.endswith('.')
  assert last in ' '.join(''.join(found.text).split())  # the answer, as the page has it


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ([], r'give --run=DIR'),
    (['--run=w', '--split=tset'], r"unknown split 'tset': did you mean 'test'"),
    (['--run=w', '--clusters=1'], r'--clusters is 1: give a number from 2 to 20'),
    (['--run=w', '--out=thesis'], r'thesis exists and is no page of ule_jax.diagnose'),
  ],
)
def test_bad_usage_is_one_sentence(flags, message, ule_run, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'w').symlink_to(ule_run)
  (tmp_path / 'thesis').mkdir()
  (tmp_path / 'thesis' / 'thesis.tex').write_text('irreplaceable')
  with pytest.raises(UserError, match=message) as end:
    app.call('diagnose', flags or ['--split=test'])
  assert '\n' not in str(end.value)


def test_a_report_is_not_overwritten_by_a_diagnosis(page, ule_run, tmp_path):
  shutil.copytree(page, tmp_path / 'd')
  text = (tmp_path / 'd' / 'index.html').read_text().replace('ule_jax.diagnose', 'ule_jax.report')
  (tmp_path / 'd' / 'index.html').write_text(text)
  with pytest.raises(UserError, match=r'is no page of ule_jax\.diagnose'):
    app.call('diagnose', [f'--run={ule_run}', f'--out={tmp_path / "d"}'])


def clusters(*rows, groups=({}, {})):
  """Two clusters of a cat: the usual one, and one of mistakes; a row is (examples, accuracy of each network)."""
  return [
    Summary(number, number, 0, count, dict(zip(roles, accuracies, strict=True)), 0, groups[number])
    for number, (count, *accuracies) in enumerate(rows)
    for roles in [('student', 'teacher') if len(accuracies) == 2 else ('model',)]
  ]


def test_the_answer_names_the_cluster_its_evidence_and_the_next_step():
  first, sure, after = answer(clusters((300, 0.99, 0.95), (40, 0.05, 0.9)), ['cat'], 'val')
  assert first.startswith("The student is much worse in cluster 1 of 'cat', 40 examples: 5.0 % right, 94.0 points less")
  assert first.endswith('the teacher, with 90.0 %, is not.')
  assert sure.startswith('No group is known')
  assert after.startswith('Next: the teacher is what predict and export use')


def test_the_answer_is_about_the_deployed_network_too():
  first, _, after = answer(clusters((300, 0.99, 0.95), (40, 0.05, 0.1)), ['cat'], 'val')
  assert first.endswith('the teacher, with 10.0 %, is worse there, too.')
  assert 'collect such images' in after
  first, _, after = answer(clusters((300, 0.99), (40, 0.05)), ['cat'], 'val')
  assert first.startswith('The network is much worse')
  assert 'collect such images' in after


@pytest.mark.parametrize(
  ('broken', 'verdict'),
  [(36, "The groups confirm a shortcut: 90.0 % of the cluster are 'out'"), (4, 'The groups do not explain it')],
)
def test_the_answer_looks_at_groups_that_are_known(broken, verdict):
  groups = {'in': 290, 'out': 10}, {'in': 40 - broken, 'out': broken}
  assert answer(clusters((300, 0.99), (40, 0.05), groups=groups), ['cat'], 'val')[1].startswith(verdict)


@pytest.mark.parametrize('row', [(40, 0.9), (3, 0.66)])  # a small gap; three examples
def test_the_answer_may_be_that_nothing_stands_out(row):
  first, second = answer(clusters((300, 0.99), row), ['cat'], 'val')
  assert first.startswith('No cluster of val stands out')
  assert 'cannot be seen' in second


def test_one_cluster_is_compared_with_nothing():
  (text,) = answer(clusters((300, 0.99)), ['cat'], 'val')
  assert text.startswith('No class of val has two clusters')


def test_it_says_where_the_clusters_tell_nothing_more():
  own, classes = Match('clusters', 0.9, 0.8, 4), Match('classes', 0.9, 0.7, 2)
  assert remark([classes, own]) == ''
  assert remark([classes._replace(rand=0.8), own]).startswith('Here classes agree')
  assert remark([]) == ''
