"""The rivals against NumPy loops over the formulas of the repositories that their numbers come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import KEY, SIZES, assert_close, batch_of, method_of, network, options, setup

from configs import base
from ule_jax import losses
from ule_jax.config.validate import validate_config
from ule_jax.errors import UserError
from ule_jax.methods import LABEL_FREE, METHODS, Batch, Output, Sizes, Step

NEED_GROUPS = ('group_dro', 'irm', 'vrex', 'coral', 'mmd', 'lisa')
G, K, D = SIZES.g, 3, 5


def make(name, sizes=None, **changes):
  return METHODS[name].make(options(name, **changes), sizes or SIZES._replace(k=K))


def random_batch(rng, b=24, n=SIZES.n, k=K):
  """Examples of all kinds: groups of which one is absent and one occurs once, unknown groups, padding."""
  group = rng.choice([-1, 0, 1], b)
  group[5] = 3
  weight = np.ones(b)
  weight[[2, 9, 16]] = 0
  return Batch(
    image=jnp.zeros((b, 1, 1, 1)),
    label=jnp.asarray(rng.integers(0, k, b), jnp.int32),
    group=jnp.asarray(group, jnp.int32),
    index=jnp.asarray(rng.permutation(n)[:b], jnp.int32),
    weight=jnp.asarray(weight),
  )


def evaluate(method, batch, outputs, state=None, step=0):
  """The loss at given logits and features of each role, what comes with it, and its slopes."""

  def loss(outputs):
    def forward(role, x, train=True):
      logits, features = outputs[role]
      return Output(logits, features, {})

    return method.loss(Step({}, state, batch, jnp.asarray(step, jnp.int32), KEY, forward))

  (value, aux), slopes = jax.value_and_grad(loss, has_aux=True)(outputs)
  return value, aux, slopes


def output(rng, b=24):
  return jnp.asarray(rng.normal(size=(b, K))), jnp.asarray(0.3 * rng.normal(size=(b, D)))


# --- In NumPy: nothing of the package is called from here to the next line of dashes ---------------


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def cross_entropy(z, y):
  return -np.log(softmax(z)[np.arange(len(y)), y])


def cross_entropy_slope(z, y):
  return softmax(z) - np.eye(z.shape[1])[y]


def rows_of_groups(batch):
  """The rows of each group that the batch has, in order, without padding."""
  group, weight = np.asarray(batch.group), np.asarray(batch.weight)
  rows = [np.flatnonzero((group == g) & (weight > 0)) for g in range(G)]
  return [r for r in rows if len(r)]


def numeric_slope(f, x, step=1e-6):
  slope = np.zeros_like(x)
  for i in np.ndindex(x.shape):
    up, down = x.copy(), x.copy()
    up[i] += step
    down[i] -= step
    slope[i] = (f(up) - f(down)) / (2 * step)
  return slope


def irm_penalty(z, y):
  """DomainBed, algorithms.py, IRM: the slope along the scale of the logits, of each half of the minibatch."""

  def slope(z, y):  # of log sum_k exp(s z_k) - s z_y at s = 1
    return np.mean(np.sum(softmax(z) * z, axis=1) - z[np.arange(len(y)), y])

  return slope(z[::2], y[::2]) * slope(z[1::2], y[1::2])


def coral_distance(x, y):
  """DomainBed, algorithms.py, AbstractMMD with the kernel mean_cov."""
  return np.mean((x.mean(0) - y.mean(0)) ** 2) + np.mean((np.cov(x.T) - np.cov(y.T)) ** 2)


def mmd_distance(x, y):
  """DomainBed, algorithms.py, AbstractMMD with the kernel gaussian."""

  def kernel(x, y):
    pairs = [[np.sum((a - b) ** 2) for b in y] for a in x]
    return np.mean([np.exp(-s * np.array(pairs)) for s in (0.001, 0.01, 0.1, 1, 10, 100, 1000)], axis=(1, 2)).sum()

  return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)


def irm(batch, z, f, weight):
  y = np.asarray(batch.label)
  rows = rows_of_groups(batch)
  penalty = np.mean([irm_penalty(z[r], y[r]) for r in rows if len(r) > 1])
  return np.mean([cross_entropy(z[r], y[r]).mean() for r in rows]) + weight * penalty


def vrex(batch, z, f, weight):
  """DomainBed, algorithms.py, VREx."""
  y = np.asarray(batch.label)
  risks = np.array([cross_entropy(z[r], y[r]).mean() for r in rows_of_groups(batch)])
  return risks.mean() + weight * ((risks - risks.mean()) ** 2).mean()


def matching(distance):
  def reference(batch, z, f, weight):
    y = np.asarray(batch.label)
    rows = rows_of_groups(batch)
    full = [r for r in rows if len(r) > 1]
    apart = [distance(f[a], f[b]) for i, a in enumerate(full) for b in full[i + 1 :]]
    return np.mean([cross_entropy(z[r], y[r]).mean() for r in rows]) + weight * np.mean(apart)

  return reference


PENALTIES = {
  'irm': ('penalty_weight', irm),
  'vrex': ('penalty_weight', vrex),
  'coral': ('gamma', matching(coral_distance)),
  'mmd': ('gamma', matching(mmd_distance)),
}


def group_dro(steps, n_g, step_size, adjustment):
  """group_DRO, loss.py, compute_robust_loss: (loss, slope of the logits, q) after each step."""
  q = np.ones(G) / G
  for label, group, z in steps:
    each = cross_entropy(z, label)
    mean = np.array([each[group == g].mean() if (group == g).any() else 0.0 for g in range(G)])
    adjusted = mean + adjustment / np.sqrt(n_g)
    q = q * np.exp(step_size * adjusted)
    q = q / q.sum()
    share = np.array([q[g] / (group == g).sum() for g in group])
    yield adjusted @ q, share[:, None] * cross_entropy_slope(z, label), q


class Ema:
  """LfF, util.py."""

  def __init__(self, label, alpha):
    self.label, self.alpha = label, alpha
    self.parameter, self.updated = np.zeros(len(label)), np.zeros(len(label))

  def update(self, data, index):
    for i, value in zip(index, data, strict=True):
      self.parameter[i] = self.alpha * self.parameter[i] + (1 - self.alpha * self.updated[i]) * value
      self.updated[i] = 1

  def relative(self, index):
    return np.array([self.parameter[i] / self.parameter[self.label == self.label[i]].max() for i in index])


def lff(steps, label, q, alpha):
  """LfF, train.py: (losses, slopes of the logits, averages) after each step, for rows without padding."""
  biased, debiased = Ema(label, alpha), Ema(label, alpha)
  for index, z_b, z_d in steps:
    y = label[index]
    ce_b, ce_d = cross_entropy(z_b, y), cross_entropy(z_d, y)
    biased.update(ce_b, index)
    debiased.update(ce_d, index)
    w_b, w_d = biased.relative(index), debiased.relative(index)
    w = w_b / (w_b + w_d + 1e-8)
    gce = softmax(z_b)[np.arange(len(y)), y] ** q * q
    found = (np.mean(gce * ce_b), np.mean(w * ce_d))
    slopes = gce[:, None] * cross_entropy_slope(z_b, y) / len(y), w[:, None] * cross_entropy_slope(z_d, y) / len(y)
    yield found, slopes, (biased.parameter, debiased.parameter)


# --- The penalties --------------------------------------------------------------------------------


@pytest.mark.parametrize('step', [1, 2])
@pytest.mark.parametrize('name', PENALTIES)
@pytest.mark.parametrize('seed', range(3))
def test_penalties_equal_domainbed(name, step, seed, x64):
  rng = np.random.default_rng(seed)
  option, reference = PENALTIES[name]
  anneal = {'anneal_steps': 2} if option == 'penalty_weight' else {}
  batch, (z, f) = random_batch(rng), output(rng)
  if seed == 2:  # without the group of one example and the unknown ones
    batch = batch._replace(group=jnp.asarray(rng.integers(0, G, 24), jnp.int32))
  weight = 1.0 if anneal and step < 2 else 7.0
  value, aux, slopes = evaluate(make(name, **{option: 7.0}, **anneal), batch, {'model': (z, f)}, {}, step)
  z, f = np.asarray(z), np.asarray(f)
  assert float(value) == pytest.approx(reference(batch, z, f, weight), rel=1e-10)
  assert float(aux.losses['model']) == float(value)
  of_z, of_f = slopes['model']
  np.testing.assert_allclose(of_z, numeric_slope(lambda z: reference(batch, z, f, weight), z), rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(of_f, numeric_slope(lambda f: reference(batch, z, f, weight), f), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(('mean', 'spread', 'd'), [(0.4, 0.3, 512), (0, 1, 64), (10, 0.1, 64), (0, 0.01, 256)])
@pytest.mark.parametrize('g', [2, 4])
def test_mmd_in_float32_is_that_of_float64(mean, spread, d, g):
  """Features far from 0, some of them of one example: by their squared norms they would be apart from themselves."""
  rng = np.random.default_rng(0)
  group = rng.integers(0, g, 64)
  f = (mean + spread * rng.normal(size=(64, d)) + 0.1 * spread * group[:, None]).astype(np.float32)
  f[5], f[20:23] = f[6], f[23]
  batch = batch_of(64, k=K)._replace(group=jnp.asarray(group, jnp.int32))
  _, aux, slopes = evaluate(make('mmd'), batch, {'model': (jnp.zeros((64, K)), jnp.asarray(f))}, {})
  rows = [np.flatnonzero(group == i) for i in range(g)]
  wide = f.astype(np.float64)
  expected = np.mean([mmd_distance(wide[a], wide[b]) for i, a in enumerate(rows) for b in rows[i + 1 :]])
  rounding = 4e-6  # 8 units in the last place of kernels up to 7
  assert float(aux.metrics['penalty']) == pytest.approx(expected, rel=1e-6, abs=rounding)
  assert np.isfinite(slopes['model'][1]).all()


@pytest.mark.parametrize(
  ('group', 'without_penalty'),
  [
    ([0, 1, 2, 3], {'irm', 'coral', 'mmd'}),
    ([0, 0, 0, 1], {'coral', 'mmd'}),
    ([2, 2, 2, -1], {'vrex', 'coral', 'mmd'}),
    ([-1, -1, -1, -1], {'irm', 'vrex', 'coral', 'mmd'}),
  ],
)
def test_groups_that_are_too_small_give_no_penalty(group, without_penalty):
  batch = batch_of(4, k=K)._replace(group=jnp.asarray(group, jnp.int32))
  outputs = {'model': output(np.random.default_rng(0), 4)}
  for name in PENALTIES:
    _, aux, slopes = evaluate(make(name), batch, outputs, {})
    assert (aux.metrics['penalty'] == 0) == (name in without_penalty), name
    assert all(np.isfinite(slope).all() for slope in slopes['model'])


def test_a_gamma_of_zero_leaves_the_penalty_out():
  _, aux, slopes = evaluate(make('coral', gamma=0.0), batch_of(8, k=K), {'model': output(np.random.default_rng(0), 8)})
  assert 'penalty' not in aux.metrics
  assert not np.any(slopes['model'][1])


# --- Group DRO ------------------------------------------------------------------------------------


@pytest.mark.parametrize('adjustment', [0.0, 2.0])
def test_group_dro_equals_group_dro_over_five_steps(adjustment, x64):
  rng = np.random.default_rng(0)
  method = make('group_dro', step_size=0.5, adjustment=adjustment)
  batches = [random_batch(rng) for _ in range(5)]
  logits = [output(rng) for _ in range(5)]
  real = [np.flatnonzero((np.asarray(b.weight) > 0) & (np.asarray(b.group) >= 0)) for b in batches]
  steps = [
    (np.asarray(b.label)[r], np.asarray(b.group)[r], np.asarray(z)[r])
    for b, r, (z, _) in zip(batches, real, logits, strict=True)
  ]
  state = method.init({})
  for batch, r, out, expected in zip(
    batches, real, logits, group_dro(steps, SIZES.group_counts, 0.5, adjustment), strict=True
  ):
    value, aux, slopes = evaluate(method, batch, {'model': out}, state)
    state = aux.method_state
    assert float(value) == pytest.approx(expected[0], rel=1e-10)
    slope = np.zeros(out[0].shape)
    slope[r] = expected[1]
    np.testing.assert_allclose(slopes['model'][0], slope, atol=1e-12)
    np.testing.assert_allclose(state['q'], expected[2], rtol=1e-10)
    assert [float(aux.metrics[f'q/{g}']) for g in range(G)] == list(np.asarray(state['q']))


def test_a_group_that_train_lacks_has_no_weight_in_group_dro():
  counts = np.array([3, 0, 5, 2])
  method = make('group_dro', SIZES._replace(k=K, group_counts=counts), adjustment=1.0)
  state = method.init({})
  np.testing.assert_allclose(state['q'], [1 / 3, 0, 1 / 3, 1 / 3], rtol=1e-6)
  for seed in range(3):
    rng = np.random.default_rng(seed)
    value, aux, _ = evaluate(method, random_batch(rng), {'model': output(rng)}, state)
    state = aux.method_state
    assert np.isfinite(value)
    assert state['q'][1] == 0
    assert float(jnp.sum(state['q'])) == pytest.approx(1, rel=1e-6)


# --- Learning from failure ------------------------------------------------------------------------


def test_lff_equals_lff_over_five_steps_with_repeated_indices(x64):
  rng = np.random.default_rng(0)
  n, b = 30, 16
  label = rng.integers(0, K, n)
  method = make('lff', Sizes(n, K, G, np.full(G, 1)))
  # Half of the examples of a step were met before; four rows are padding, with indices that others have.
  drawn = [rng.permutation(n)[: b - 4] for _ in range(5)]
  drawn[1] = np.concatenate([drawn[0][:6], np.setdiff1d(np.arange(n), drawn[0])[:6]])
  logits = [(rng.normal(size=(b, K)), rng.normal(size=(b, K))) for _ in drawn]
  steps = [(i, *(z[: b - 4] for z in pair)) for i, pair in zip(drawn, logits, strict=True)]
  state = method.init({})
  for index, pair, expected in zip(drawn, logits, lff(steps, label, 0.7, 0.7), strict=True):
    batch = Batch(
      image=jnp.zeros((b, 1, 1, 1)),
      label=jnp.asarray(np.append(label[index], [0, 1, 2, 0]), jnp.int32),
      group=jnp.full(b, -1, jnp.int32),
      index=jnp.asarray(np.append(index, [index[0], n - 1, -1, -1]), jnp.int32),
      weight=jnp.asarray(np.append(np.ones(b - 4), [0.0, 0.0, 0.0, 1.0])),  # the last one has no index
    )
    outputs = {role: (jnp.asarray(z), jnp.zeros((b, D))) for role, z in zip(method.roles, pair, strict=True)}
    value, aux, slopes = evaluate(method, batch, outputs, state)
    state = aux.method_state
    found, of_logits, averages = expected
    assert float(value) == pytest.approx(sum(found), rel=1e-10)
    for i, role in enumerate(('biased', 'debiased')):
      assert float(aux.losses[role]) == pytest.approx(found[i], rel=1e-10)
      padded = np.concatenate([of_logits[i], np.zeros((4, K))])
      np.testing.assert_allclose(slopes[role][0], padded, atol=1e-12)
      np.testing.assert_allclose(state[role], averages[i], rtol=1e-10)
  seen = np.unique(np.concatenate(drawn))
  assert 0 < len(seen) < n
  np.testing.assert_array_equal(state['label'][seen], label[seen])
  assert (np.delete(np.asarray(state['label']), seen) == K).all()


@pytest.mark.parametrize('name', METHODS)
def test_float32_stays_float32_where_jax_may_use_64_bits(name, x64):
  """No warning (pytest makes them errors), and no state that grows."""
  method, batch = method_of(name), batch_of()
  state, step = setup(method, network(), batch)
  after, _ = jax.jit(step)(state, batch)
  types = [jax.tree.map(lambda x: x.dtype, (s.params, s.batch_stats, s.method_state)) for s in (state, after)]
  assert types[0] == types[1]
  made = jax.tree.leaves(method.init(state.params))
  assert all(x.dtype in (jnp.float32, jnp.int32) for x in made)


def test_lff_gives_the_last_example_a_place_of_its_own():
  """Padding points beyond the end of the state: not at its last element, not at its first from behind."""
  n = 4
  method = make('lff', Sizes(n, K, 1, np.array([n])))
  batch = batch_of(3, k=K)._replace(index=jnp.array([3, 1, -1]), weight=jnp.array([1.0, 1.0, 0.0]))
  outputs = {role: output(np.random.default_rng(i), 3) for i, role in enumerate(method.roles)}
  _, aux, _ = evaluate(method, batch, outputs, method.init({}))
  expected = cross_entropy(np.asarray(outputs['biased'][0]), np.asarray(batch.label))
  np.testing.assert_allclose(aux.method_state['biased'], [0, expected[1], 0, expected[0]], rtol=1e-5)


def test_an_example_twice_in_a_batch_enters_the_averages_of_lff_with_the_mean():
  n = 4
  method = make('lff', Sizes(n, K, 1, np.array([n])), decay=0.5)
  batch = batch_of(3, k=K)._replace(index=jnp.array([2, 0, 2]), label=jnp.array([1, 0, 1]))
  outputs = {role: output(np.random.default_rng(i), 3) for i, role in enumerate(method.roles)}
  state = method.init({})
  ce = cross_entropy(np.asarray(outputs['debiased'][0]), np.asarray(batch.label))
  for _ in range(2):  # the same losses again: the averages stay
    _, aux, _ = evaluate(method, batch, outputs, state)
    state = aux.method_state
    np.testing.assert_allclose(state['debiased'], [ce[1], 0, (ce[0] + ce[2]) / 2, 0], rtol=1e-5)


# --- Mixup and LISA -------------------------------------------------------------------------------


def images(rng, label, group, weight=None, index=None):
  b = len(label)
  return Batch(
    image=jnp.asarray(rng.normal(size=(b, 2, 2, 3)), jnp.float32),
    label=jnp.asarray(label, jnp.int32),
    group=jnp.asarray(group, jnp.int32),
    index=jnp.asarray(np.arange(b) if index is None else index, jnp.int32),
    weight=jnp.asarray(np.ones(b) if weight is None else weight, jnp.float32),
  )


def mixed_images(method, batch, keys, w):
  """For each key: the loss of a linear network, the images that it was shown, and the metrics."""

  def forward(role, x, train=True):
    flat = x.reshape(x.shape[0], -1)
    return Output(flat @ w, flat, {'shown': x})

  def one(key):
    value, aux = method.loss(Step({}, {}, batch, jnp.asarray(0, jnp.int32), key, forward))
    return value, aux.batch_stats['model']['shown'], aux.metrics

  return jax.jit(jax.vmap(one))(keys)


def take_apart(image, shown):
  """The partner and the share of each mixed image; an image that is as it was is its own partner."""
  image, shown = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (image, shown))
  partners, shares = [], []
  for i, m in enumerate(shown):
    away = image[i] - image
    share = np.sum((m - image) * away, 1) / np.maximum(np.sum(away**2, 1), 1e-12)
    off = np.sum((share[:, None] * image[i] + (1 - share)[:, None] * image - m) ** 2, 1)
    off[i] = np.sum((m - image[i]) ** 2)
    j = i if off[i] < 1e-9 else int(np.argmin(off))
    assert off[j] < 1e-9
    partners.append(j)
    shares.append(1.0 if i == j else share[j])
  return np.array(partners), np.array(shares)


def soft_loss(batch, shown, w, partner, share):
  """As in DomainBed, algorithms.py, Mixup: the two cross entropies, weighted by the shares."""
  z, y = np.asarray(shown, np.float64).reshape(len(shown), -1) @ np.asarray(w), np.asarray(batch.label)
  each = share * cross_entropy(z, y) + (1 - share) * cross_entropy(z, y[partner])
  return np.average(each, weights=np.asarray(batch.weight))


def test_mixup_is_one_share_and_one_permutation_for_the_batch():
  rng = np.random.default_rng(0)
  weight = np.array([1, 1, 0, 1, 1, 1, 0, 1])
  batch = images(rng, rng.integers(0, K, 8), np.full(8, -1), weight, index=[4, 1, 4, 9, 4, 2, -1, 0])
  w = jnp.asarray(rng.normal(size=(12, K)), jnp.float32)
  values, shown, _ = mixed_images(make('mixup', alpha=1.0), batch, jax.random.split(KEY, 400), w)
  real = np.flatnonzero(weight)
  pairs, shares = np.zeros((8, 8)), []
  for value, image in zip(values, shown, strict=True):
    partner, share = take_apart(batch.image, image)
    moved = [i for i in real if partner[i] != i]
    assert sorted(partner[real]) == list(real)  # nobody is mixed with padding
    if moved:
      assert np.ptp(share[moved]) < 1e-3
      shares.append(share[moved[0]])
      share = np.where(partner != np.arange(8), share[moved[0]], share)
    pairs[real, partner[real]] += 1
    assert float(value) == pytest.approx(soft_loss(batch, image, w, partner, share), rel=1e-4)
  # Every pair has the chance 1 / 6, its own place too; Beta(1, 1) is uniform.
  assert np.abs(pairs[np.ix_(real, real)] / 400 - 1 / 6).max() < 0.08
  assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
  assert np.var(shares) == pytest.approx(1 / 12, abs=0.02)


def test_small_alphas_hardly_mix():
  rng = np.random.default_rng(0)
  batch = images(rng, [0, 1], [-1, -1])
  w = jnp.zeros((12, K))
  _, shown, _ = mixed_images(make('mixup', alpha=0.2), batch, jax.random.split(KEY, 1000), w)
  shares = np.array([take_apart(batch.image, image)[1] for image in shown])
  mixed = shares[shares[:, 0] < 1, 0]
  # The variance of Beta(a, a) is 1 / (4 (2 a + 1)); the half of the draws that swap nobody shows no share.
  assert np.var(mixed) == pytest.approx(1 / 5.6, abs=0.03)


LABEL = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 0])
GROUP = np.array([0, 0, 1, 1, 2, 2, 3, 3, -1, 1])  # label * 2 + domain
WEIGHT = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 0])


def allowed(within_label):
  """Who may be the partner of whom, by LISA's two rules (LISA, train.py, mix_forward)."""
  real = [i for i in range(10) if WEIGHT[i] and GROUP[i] >= 0]
  rule = {
    True: lambda i, j: LABEL[i] == LABEL[j] and GROUP[i] != GROUP[j],
    False: lambda i, j: LABEL[i] != LABEL[j] and GROUP[i] % 2 == GROUP[j] % 2,
  }[within_label]
  return {i: {j for j in real if i in real and rule(i, j)} for i in range(10)}


@pytest.mark.parametrize(
  ('changes', 'chance'),
  [({}, 1.0), ({'p_sel': 0.0}, 1.0), ({'domains': 2, 'p_sel': 0.25}, 0.25), ({'domains': 2, 'p_sel': 1.0}, 1.0)],
)
def test_lisa_mixes_within_labels_or_within_domains(changes, chance):
  rng = np.random.default_rng(0)
  batch = images(rng, LABEL, GROUP, WEIGHT)
  w = jnp.asarray(rng.normal(size=(12, 2)), jnp.float32)
  method, count = make('lisa', SIZES, **changes), 600
  values, shown, metrics = mixed_images(method, batch, jax.random.split(KEY, count), w)
  within, pairs, shares = 0, {True: np.zeros((10, 10)), False: np.zeros((10, 10))}, []
  for value, image in zip(values, shown, strict=True):
    partner, share = take_apart(batch.image, image)
    rule = bool(LABEL[partner[0]] == LABEL[0])
    within += rule
    for i in range(10):
      assert partner[i] in (allowed(rule)[i] or {i})
      pairs[rule][i, partner[i]] += 1
    shares.append(share[:8])
    assert float(value) == pytest.approx(soft_loss(batch, image, w, partner, share), rel=1e-4)
  assert within / count == pytest.approx(chance, abs=0.06)
  for rule, tally in pairs.items():
    for i, partners in allowed(rule).items():
      if tally.sum() and partners:
        assert np.abs(tally[i, list(partners)] / tally[i].sum() - 1 / len(partners)).max() < 0.1
  # Beta(2, 2), a draw of its own for each example.
  assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
  assert np.var(shares) == pytest.approx(1 / 20, abs=0.005)
  assert np.abs(np.corrcoef(np.array(shares).T) - np.eye(8)).max() < 0.2
  np.testing.assert_allclose(metrics['mixed'], 8 / 9, rtol=1e-6)


def test_repeated_examples_are_mixed_differently():
  batch = images(np.random.default_rng(0), [0] * 8, [0, 0, 0, 0, 1, 1, 1, 1], index=[3, 3, 3, 3, 5, 5, 5, 5])
  _, shown, _ = mixed_images(make('lisa'), batch, KEY[None], jnp.zeros((12, K)))
  partner, share = take_apart(batch.image, shown[0])
  assert len(set(np.round(share, 5))) == 8
  assert len(set(partner[:4])) > 1


def test_ids_do_not_depend_on_the_place_or_on_padding():
  index, weight = jnp.array([7, 2, 7, 2, 7]), jnp.array([0.0, 1.0, 1.0, 1.0, 1.0])
  assert losses.example_ids(index, weight, 10)[1:].tolist() == [2, 7, 12, 17]


def test_soft_cross_entropy_equals_a_loop(x64):
  rng = np.random.default_rng(0)
  z, target = rng.normal(size=(6, K)), softmax(rng.normal(size=(6, K)))
  expected = [sum(target[i, k] * cross_entropy(z[i : i + 1], [k])[0] for k in range(K)) for i in range(6)]
  np.testing.assert_allclose(losses.soft_cross_entropy(jnp.asarray(z), jnp.asarray(target)), expected, rtol=1e-12)
  label = jnp.asarray(rng.integers(0, K, 6))
  hard = losses.soft_cross_entropy(jnp.asarray(z), jax.nn.one_hot(label, K))
  np.testing.assert_allclose(hard, losses.cross_entropy(jnp.asarray(z), label), rtol=1e-12)


# --- What they ask for ----------------------------------------------------------------------------


def test_who_needs_groups():
  for name in (*NEED_GROUPS, 'lff', 'mixup'):
    assert (LABEL_FREE not in method_of(name).properties) == (name in NEED_GROUPS), name


@pytest.mark.parametrize('name', NEED_GROUPS)
def test_data_without_groups_are_refused(name):
  with pytest.raises(UserError, match=r'no training example has a group'):
    make(name, SIZES._replace(group_counts=np.zeros(G, int)))


def test_domains_have_to_fit_the_groups():
  with pytest.raises(UserError, match=r'method.domains is 3, but 2 classes have 4 groups'):
    make('lisa', SIZES, domains=3)


@pytest.mark.parametrize(
  ('method', 'option', 'value'),
  [
    ('group_dro', 'step_size', -1.0),
    ('group_dro', 'adjustment', -1.0),
    ('lff', 'q', 0.0),
    ('lff', 'decay', 1.5),
    ('irm', 'penalty_weight', -1.0),
    ('vrex', 'anneal_steps', -1),
    ('coral', 'gamma', float('nan')),
    ('mixup', 'alpha', 0.0),
    ('lisa', 'p_sel', -0.1),
    ('lisa', 'domains', -1),
  ],
)
def test_options_out_of_range_are_refused(method, option, value):
  config = base.make('digits', method)
  config.train.steps = 1
  validate_config(config)
  config.method[option] = value
  with pytest.raises(UserError, match=f'method.{option} is'):
    validate_config(config)


@pytest.mark.parametrize('name', ['lff', 'mixup', 'group_dro'])
def test_batch_statistics_are_those_after_the_batch(name):
  method, batch = method_of(name), batch_of()
  state, step = setup(method, network(batch_norm='batch'), batch)
  after, _ = jax.jit(step)(state, batch)
  for role in method.roles:
    assert jax.tree.leaves(after.batch_stats[role])
    with pytest.raises(AssertionError):
      assert_close(after.batch_stats[role], state.batch_stats[role])
