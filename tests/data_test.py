"""The embedded task and the pipeline: order, hosts, padding, sampling, worker processes."""

from contextlib import closing

import numpy as np
import pytest
from writers import write_celeba

from ule_jax.data import digits, load, pipeline, read
from ule_jax.errors import UserError

DIGITS = {'shortcut': 'tint', 'rate': 0.9, 'crops': 1, 'brightness': 0.5, 'seed': 0}
CELEBA = {'target': 'Blond_Hair', 'attribute': 'Male', 'size': 32, 'resize': 'antialias', 'augment': True}


@pytest.fixture(scope='module')
def tint():
  return load('digits', DIGITS)


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
  return read('celeba', CELEBA | {'dir': str(write_celeba(tmp_path_factory.mktemp('celeba')))})


@pytest.mark.parametrize('shortcut', digits.SHORTCUTS)
def test_digits_follow_the_shortcut_in_train_and_not_in_test(shortcut):
  data = load('digits', DIGITS | {'shortcut': shortcut})
  for name, follows in (('train', 0.9), ('val', 0.9), ('val_balanced', 0.5), ('test', 0.5)):
    split = data.splits[name]
    assert (split.group // 2 == split.label).all()
    assert (split.group % 2 == split.label).mean() == pytest.approx(follows, abs=0.0 if follows == 0.5 else 0.05)
  assert [data.splits[n].count for n in ('train', 'val', 'val_balanced', 'test')] == [1000, 297, 594, 1000]


def test_the_shortcut_may_have_no_counter_example():
  data = load('digits', DIGITS | {'rate': 1.0})
  train, test = (data.group_counts(name) for name in ('train', 'test'))
  assert (train > 0).tolist() == [True, False, False, True]
  assert (test > 200).all()


def test_no_digit_is_in_two_splits_and_every_test_digit_stands_under_both_values(tint):
  def ids(name):
    split = tint.splits[name]
    return [split.name(i).split(',')[0] for i in range(split.count)]

  assert not set(ids('train')) & set(ids('val'))
  assert not set(ids('test')) & set(ids('train') + ids('val'))
  assert set(ids('val')) == set(ids('val_balanced'))
  assert {name: ids('test').count(name) for name in ids('test')} == dict.fromkeys(ids('test'), 2)


def test_the_tint_is_in_the_pixels(tint):
  split = tint.splits['test']
  warmth = np.array([np.subtract(*split.load(i).astype(float).mean((0, 1))[[0, 2]]) for i in range(split.count)])
  warm = split.group % 2 == 1
  assert warmth[warm].mean() > warmth[~warm].mean() + 15


def test_digits_are_the_same_for_the_same_seed_only(tint):
  same, other = load('digits', DIGITS), load('digits', DIGITS | {'seed': 1})
  a, b, c = (np.stack([d.splits['train'].load(i) for i in range(50)]) for d in (tint, same, other))
  np.testing.assert_array_equal(a, b)
  assert (a != c).any()


@pytest.mark.parametrize(('field', 'value'), [('rate', 1.5), ('crops', 0), ('brightness', 2.0), ('shortcut', 'tnt')])
def test_digits_options_out_of_range_are_named(field, value):
  with pytest.raises(UserError, match=field):
    load('digits', DIGITS | {field: value})


def batches(data, count, **changes):
  settings = {'batch_size': 32, 'seed': 3, 'sampling': 'uniform', 'start': 0, 'threads': 2} | changes
  with closing(pipeline.train_batches(data, **settings)) as stream:
    # A copy: what worker processes send lives in their shared memory.
    return [{name: np.array(value) for name, value in next(stream).items()} for _ in range(count)]


def test_an_epoch_has_every_example_once_and_epochs_differ(tint):
  index = np.concatenate([b['index'] for b in batches(tint, 125, batch_size=16)])
  first, second = index[:1000], index[1000:2000]
  assert sorted(first) == sorted(second) == list(range(1000))
  assert (first != second).any()


@pytest.mark.parametrize('source', ['tint', 'faces'])
@pytest.mark.parametrize('changes', [{'threads': 0}, {'start': 3}, {'seed': 4}])
def test_the_order_depends_on_the_seed_alone(source, changes, request):
  data = request.getfixturevalue(source)
  reference = batches(data, 6)[changes.get('start', 0) :]
  found = batches(data, len(reference), **changes)
  same = all(np.array_equal(a[k], b[k]) for a, b in zip(reference, found, strict=True) for k in a)
  assert same == ('seed' not in changes)


def numbered(label, group):
  from ule_jax.data.dataset import Split

  return Split(np.asarray(label, np.int32), np.asarray(group, np.int32), lambda i: pytest.fail(f'{i} is read'), str)


@pytest.mark.parametrize('sampling', pipeline.SAMPLINGS)
@pytest.mark.parametrize('batch_size', [7, 64])
def test_the_order_is_the_recorded_one_from_wherever_it_is_read(sampling, batch_size):
  """The formula of every recorded run, without a cache: a stream of each group, a permutation of each epoch."""
  rng = np.random.default_rng(0)
  split = numbered(rng.integers(0, 3, 300), rng.choice(5, 300, p=[0.5, 0.3, 0.15, 0.04, 0.01]))
  codes = {'uniform': np.zeros(300, int), 'class': split.label, 'group': split.group}[sampling.split('_')[0]]
  members = [np.flatnonzero(codes == c) for c in np.unique(codes)]
  if sampling.endswith('subsampled'):
    least = min(map(len, members))
    drawn = [np.random.default_rng((3, i, 0, 2)).permutation(m)[:least] for i, m in enumerate(members)]
    members = [np.concatenate(drawn)]

  def at(position):
    place, s = divmod(position, len(members))
    epoch, offset = divmod(place, len(members[s]))
    return members[s][np.random.default_rng((3, s, epoch)).permutation(len(members[s]))[offset]]

  block = pipeline.order(split, seed=3, sampling=sampling, batch_size=batch_size)
  for step in (0, 1, 2, 40, 41, 3, 40, 1, 2000, 0):  # forth, back, and as threads do
    expected = [at(position) for position in range(step * batch_size, (step + 1) * batch_size)]
    np.testing.assert_array_equal(block(step), expected)


@pytest.mark.parametrize('groups', [1, 4, 200])
def test_permutations_of_a_million_images_take_little(groups):
  from concurrent.futures import ThreadPoolExecutor

  n = 1_300_000
  kept = pipeline.Permutations(0, tuple(len(part) for part in np.array_split(np.arange(n), groups)))
  asked = [(s, epoch) for epoch in range(6) for s in range(groups)]
  with ThreadPoolExecutor(4) as pool:
    made = list(pool.map(lambda key: kept(*key)[:5].copy(), asked))
  assert sum(p.nbytes for _, p in kept._kept.values()) <= 8 * n  # 1.3 GB before
  for i in np.random.default_rng(0).integers(0, len(asked), 5):
    s, epoch = asked[i]
    whole = np.random.default_rng((0, s, epoch)).permutation(kept._sizes[s])
    np.testing.assert_array_equal(made[i], whole[:5])
  assert kept(0, 5) is kept(0, 5)


@pytest.mark.parametrize('hosts', [2, 4])
def test_global_batches_do_not_depend_on_the_host_count(hosts, faces):
  whole = batches(faces, 4)
  shares = [batches(faces, 4, host=h, hosts=hosts) for h in range(hosts)]
  for step, batch in enumerate(whole):
    for name in batch:  # images too: the augmentation is keyed by the position in the global batch
      np.testing.assert_array_equal(np.concatenate([share[step][name] for share in shares]), batch[name])


@pytest.mark.parametrize('hosts', [1, 3])
def test_evaluation_sees_every_example_once(hosts, tint):
  seen = []
  for host in range(hosts):
    for batch in pipeline.eval_batches(tint, 'val', batch_size=120, threads=1, host=host, hosts=hosts):
      assert ((batch['index'] >= 0) == (batch['weight'] == 1)).all()
      seen.extend(batch['index'][batch['weight'] == 1])
  assert sorted(seen) == list(range(297))


@pytest.mark.parametrize(('sampling', 'part'), [('class_balanced', 'label'), ('group_balanced', 'group')])
def test_balanced_batches_are_balanced(sampling, part, tint):
  for batch in batches(tint, 5, sampling=sampling):
    assert len(set(np.bincount(batch[part]))) == 1


def test_group_balance_needs_groups(tint):
  split = tint.splits['train']
  blind = tint._replace(splits=tint.splits | {'train': split._replace(group=np.full_like(split.group, -1))})
  with pytest.raises(UserError, match='group_balanced'):
    batches(blind, 1, sampling='group_balanced')


def test_worker_processes_give_the_same_batches_and_the_same_errors(faces):
  reference = batches(faces, 6)[2:]
  for a, b in zip(reference, batches(faces, 4, start=2, workers=2), strict=True):
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])

  def broken(i):
    raise UserError(f'image {i} is broken')

  split = faces.splits['train']
  with pytest.raises(UserError, match=r'image \d+ is broken'):
    batches(faces._replace(splits=faces.splits | {'train': split._replace(load=broken)}), 1, workers=1)


def test_the_input_spec_is_the_same_without_the_data():
  from configs import base
  from ule_jax.data import DATASETS, input_spec

  for name, source in DATASETS.items():
    options = base.make(name, 'erm').data.to_dict()
    spec = input_spec(name, options)
    assert spec.description
    if source.is_features:
      assert spec.eval_transform is None
      assert spec.dtype == np.float32
      continue
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    assert spec.eval_transform is not None
    assert spec.eval_transform(image, np.random.default_rng(0)).shape == spec.image_shape
