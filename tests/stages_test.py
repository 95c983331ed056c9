"""Methods of two stages: what is made of a first run, against NumPy, and the two runs as one command."""

import json
import os
import shutil
import signal
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from common import from_flags

from ule_jax.config.validate import validate_config
from ule_jax.errors import Interrupted, UserError
from ule_jax.methods import METHODS, cnc
from ule_jax.runs.files import read_json
from ule_jax.train import conclude, loop, training_data, two_stage
from ule_jax.train.run import run
from ule_jax.two_stage import TWO_STAGE, dfr
from ule_jax.two_stage.contract import FirstRun

RNG = np.random.default_rng(0)


def options(name, **changes):
  return TWO_STAGE[name].options(**changes)


def first_of(n=400, k=2, d=5, held_out=0.25, strength=3.0):
  """A first run that follows an attribute more than the label, as ERM does."""
  rng = np.random.default_rng(1)
  label = rng.integers(0, k, n).astype(np.int32)
  attribute = np.where(rng.random(n) < 0.85, label, (label + 1) % k)
  features = rng.normal(size=(n, d)) * 0.5
  features[:, 0] += label
  features[:, 1] += 2.0 * attribute
  kernel = np.zeros((d, k))
  kernel[1] = strength * np.arange(k)
  bias = -strength * np.arange(k) ** 2
  arrays = {
    'index': np.arange(n), 'label': label, 'group': (label * k + attribute).astype(np.int32),
    'features': features.astype(np.float32), 'logits': (features @ kernel + bias).astype(np.float32),
  }  # fmt: skip
  mask = rng.random(n) < held_out
  names = tuple('abc'[:k])
  return FirstRun({'train': arrays, 'val': arrays}, kernel, bias, mask, names, seed=0)


def softmax(z):
  e = np.exp(z - z.max(1, keepdims=True))
  return e / e.sum(1, keepdims=True)


def test_jtt_draws_mistakes_more_often():
  first = first_of()
  found = TWO_STAGE['jtt'].prepare(options('jtt', up_weight=20.0), first)
  data = first.splits['train']
  wrong = data['logits'].argmax(1) != data['label']
  assert 10 < wrong.sum() < 200
  np.testing.assert_array_equal(found.sampling_weight, np.where(wrong, 21.0, 1.0))
  assert found.notes == {'error_set': wrong.sum()}


@pytest.mark.parametrize(('name', 'message'), [('jtt', 'shorter or weaker'), ('cnc', 'makes no mistake')])
def test_a_first_run_without_mistakes_is_refused_with_advice(name, message):
  first = first_of()
  data = first.splits['train']
  perfect = {**data, 'logits': np.eye(2, dtype=np.float32)[data['label']]}
  with pytest.raises(UserError, match=message):
    TWO_STAGE[name].prepare(options(name), first._replace(splits={'train': perfect}))


def test_eiil_finds_the_environments_that_violate_invariance_most():
  """On BigML-CS-UCLA/SpuCo's objective, a plain NumPy ascent from another start ends in the same split."""
  first = first_of()
  data = first.splits['train']
  found = TWO_STAGE['eiil'].prepare(options('eiil', steps=3000, lr=1e-2), first)
  assert found.group is not None
  environment, z, y = found.group % 2, data['logits'].astype(float), data['label']
  step = 1e-5

  def cross_entropy(w):
    return -np.log(softmax(w * z)[np.arange(len(y)), y])

  slope = (cross_entropy(1 + step) - cross_entropy(1 - step)) / (2 * step)
  w = np.random.default_rng(5).normal(size=len(y))
  for _ in range(20_000):
    q = 1 / (1 + np.exp(-w))
    gradient = ((q * slope).mean() - ((1 - q) * slope).mean()) * slope * q * (1 - q)
    w += 2.0 * np.sign(gradient) * 1e-3
  ours = (environment == 1)[np.abs(slope) > 1e-3]
  theirs = (w > 0)[np.abs(slope) > 1e-3]
  assert max((ours == theirs).mean(), (ours != theirs).mean()) > 0.98
  np.testing.assert_array_equal(found.group // 2, y)
  assert found.groups == ('a, environment 0', 'a, environment 1', 'b, environment 0', 'b, environment 1')
  # What EIIL is for: the environments tell the attribute.
  attribute = data['group'] % 2
  for k in (0, 1):
    agree = (environment[y == k] == attribute[y == k]).mean()
    assert max(agree, 1 - agree) > 0.9


def test_spare_clusters_and_weighs_as_its_code():
  first = first_of(strength=6.0)
  data = first.splits['train']
  found = TWO_STAGE['spare'].prepare(options('spare', max_clusters=2), first)
  assert found.group is not None
  assert found.sampling_weight is not None
  silhouettes = found.notes['silhouettes']
  assert isinstance(silhouettes, list)
  attribute = data['group'] % 2
  for k in (0, 1):
    members = data['label'] == k
    clusters = found.group[members]
    agree = ((clusters == clusters.min()) == (attribute[members] == 0)).mean()
    assert max(agree, 1 - agree) > 0.9
    assert found.sampling_weight[members].sum() == pytest.approx(1)
    sizes = {c: (clusters == c).sum() for c in np.unique(clusters)}
    score = silhouettes[k]
    power = 1 if score >= 0.9 else 2
    weight = np.array([1 / sizes[c] ** power for c in clusters])
    np.testing.assert_allclose(found.sampling_weight[members], weight / weight.sum())
  same = {**data, 'logits': np.zeros_like(data['logits'])}
  with pytest.raises(UserError, match='finds no clusters'):
    TWO_STAGE['spare'].prepare(options('spare'), first._replace(splits={'train': same}))


@pytest.mark.parametrize('clusters', [2, 4])
def test_spare_makes_as_many_clusters_as_it_is_told(clusters):
  first = first_of(strength=6.0)
  made = TWO_STAGE['spare'].prepare(options('spare', clusters=clusters), first)
  assert made.group is not None
  assert made.sampling_weight is not None
  silhouettes = made.notes['silhouettes']
  assert isinstance(silhouettes, list)
  assert len(made.groups) == 2 * clusters
  assert made.groups[:clusters] == tuple(f'a, cluster {c}' for c in range(clusters))
  for k in (0, 1):
    members = first.splits['train']['label'] == k
    assert len(np.unique(made.group[members])) == clusters
    sizes = np.bincount(made.group)[made.group[members]]
    weight = sizes ** -(1.0 if silhouettes[k] >= 0.9 else 2.0)
    np.testing.assert_allclose(made.sampling_weight[members], weight / weight.sum())
  data = first.splits['train']
  two_outputs = np.where(data['features'][:, :1] > 0.5, [[1.0, 0.0]], [[0.0, 1.0]])
  coarse = {**data, 'logits': two_outputs}
  with pytest.raises(UserError, match=f"class 'a': the first run has 2 different outputs .* too few for {clusters}"):
    TWO_STAGE['spare'].prepare(options('spare', clusters=clusters), first._replace(splits={'train': coarse}))


def around(f, anchor, positives, negatives, temperature):
  """HazyResearch/correct-n-contrast, contrastive_network.py, SupervisedContrastiveLoss: the loss of one anchor."""

  def exp_sim(j):
    return np.exp(f[anchor] @ f[j] / np.linalg.norm(f[anchor]) / np.linalg.norm(f[j]) / temperature)

  below = sum(exp_sim(j) for j in negatives) + sum(exp_sim(j) for j in positives)
  return np.mean([-np.log(exp_sim(j) / below) for j in positives])


def two_sided(f, y, p, rows, temperature):
  """Theirs, train_supervised_contrast.py: right anchors among wrong examples, plus wrong anchors among right ones."""
  right, sides = [i for i in rows if y[i] == p[i]], []
  wrong = [i for i in rows if y[i] != p[i]]
  for anchors, others in ((right, wrong), (wrong, right)):
    each = []
    for i in anchors:
      positives = [j for j in others if y[j] == y[i]]
      negatives = [j for j in others if y[j] != y[i] and p[j] == p[i]]
      each += [around(f, i, positives, negatives, temperature)] if positives else []
    sides.append(np.mean(each) if each else 0.0)
  return sum(sides)


@pytest.mark.parametrize('k', [2, 3, 5])
@pytest.mark.parametrize('temperature', [0.05, 0.3])
def test_cnc_is_the_two_sided_loss_of_its_code(k, temperature, x64):
  rng = np.random.default_rng(k)
  f, y, p = rng.normal(size=(40, 6)), rng.integers(0, k, 40), rng.integers(0, k, 40)
  p[:20] = y[:20]  # anchors with many positives, and some with few
  weight = np.ones(40)
  weight[[3, 30, 39]] = 0
  expected = two_sided(f, y, p, np.flatnonzero(weight), temperature)
  features, label, prediction, weight = (jnp.asarray(values) for values in (f, y, p, weight))
  value = cnc.contrastive(features, label, prediction, weight, temperature)
  assert float(value) == pytest.approx(expected, rel=1e-9)
  one_sided = cnc.contrastive(features[:2], jnp.array([0, 0]), jnp.array([0, 1]), jnp.ones(2), temperature)
  assert float(one_sided) == 0  # a positive on either side, nothing to push away
  assert float(cnc.contrastive(features, label, label, weight, temperature)) == 0  # nobody has a positive


def test_cnc_groups_and_the_weight_of_its_two_losses(x64):
  import jax

  from ule_jax.methods import Batch, Output, Sizes, Step

  first = first_of(k=3, n=90)
  data = first.splits['train']
  made = TWO_STAGE['cnc'].prepare(options('cnc'), first)
  p = data['logits'].argmax(1)
  np.testing.assert_array_equal(made.group, data['label'] * 3 + p)
  z, f, y = RNG.normal(size=(90, 3)), RNG.normal(size=(90, 4)), data['label']
  batch = Batch(jnp.zeros((90, 1, 1, 1)), jnp.asarray(y), jnp.asarray(made.group), jnp.arange(90), jnp.ones(90))
  method = METHODS['cnc'].make(METHODS['cnc'].options(), Sizes(90, 3, 9, np.full(9, 10)))
  output = Output(jnp.asarray(z), jnp.asarray(f), {})
  value, _ = method.loss(Step({}, {}, batch, jnp.asarray(0), jax.random.key(0), lambda role, x, train=True: output))
  entropy = -np.log(softmax(z)[np.arange(90), y]).mean()
  assert float(value) == pytest.approx(0.25 * entropy + 0.75 * two_sided(f, y, p, range(90), 0.1), rel=1e-9)


def test_dfr_is_the_fit_of_its_code():
  """PolinaKirichenko/deep_feature_reweighting, with one strength: averaged l1 fits on balanced draws."""
  from sklearn.exceptions import ConvergenceWarning
  from sklearn.linear_model import LogisticRegression
  from sklearn.preprocessing import StandardScaler

  first = first_of(n=2000)
  data = first.splits['val']
  head = TWO_STAGE['dfr'].prepare(options('dfr', strengths=(0.3,), fits=20), first).head
  assert head is not None
  kernel, bias = head
  x, y, group = data['features'].astype(float), data['label'], data['group']
  least, rng, weights = np.bincount(group).min(), np.random.default_rng(7), []
  for _ in range(20):
    ids = np.concatenate([rng.permutation(np.flatnonzero(group == g))[:least] for g in range(4)])
    scaler = StandardScaler().fit(first.splits['train']['features'].astype(float))
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', ConvergenceWarning)
      model = LogisticRegression(l1_ratio=1, C=0.3, solver='liblinear').fit(scaler.transform(x[ids]), y[ids])
    weights.append(
      np.r_[model.coef_[0] / scaler.scale_, model.intercept_ - (model.coef_ / scaler.scale_) @ scaler.mean_]
    )
  theirs = np.mean(weights, 0)
  ours = np.r_[kernel[:, 1] - kernel[:, 0], bias[1] - bias[0]]
  np.testing.assert_allclose(ours, theirs, atol=0.1)
  right = (x @ kernel + bias).argmax(1) == y
  worst = min(right[group == g].mean() for g in range(4))
  erm = data['logits'].argmax(1) == y
  assert worst > min(erm[group == g].mean() for g in range(4)) + 0.3


def l1_reference(x, y, k, strength, penalised_bias, steps=20_000):
  """Minimise strength * sum of cross entropies + |w|_1 by proximal steps; bias and weights, the bias last."""
  x = np.c_[x, np.ones(len(x))]
  w, target = np.zeros((x.shape[1], k)), np.eye(k)[y]
  shrink = np.ones((x.shape[1], 1))
  shrink[-1] = penalised_bias
  rate = 1 / (strength * np.linalg.norm(x, 2) ** 2)
  look, t = w, 1.0
  for _ in range(steps):
    moved = look - rate * strength * x.T @ (softmax(x @ look) - target)
    new = np.sign(moved) * np.maximum(np.abs(moved) - rate * shrink, 0)
    ahead = (1 + np.sqrt(1 + 4 * t * t)) / 2
    look, w, t = new + (t - 1) / ahead * (new - w), new, ahead
  return w


def l1_objective(w, x, y, strength, penalised_bias):
  z = np.c_[x, np.ones(len(x))] @ w
  entropy = -np.log(softmax(z)[np.arange(len(y)), y]).sum()
  return strength * entropy + np.abs(w[:-1]).sum() + penalised_bias * np.abs(w[-1]).sum()


def correlated(n, d, k, seed=0):
  """Standardised features of a network: many, non-negative, alike."""
  rng = np.random.default_rng(seed)
  y = rng.integers(0, k, n)
  x = np.maximum(rng.normal(size=(n, d)) + rng.normal(size=(n, 8)) @ rng.normal(size=(8, d)), 0)
  x[:, :k] += 0.7 * np.eye(k)[y]
  return (x - x.mean(0)) / x.std(0), y


def test_dfr_of_two_classes_is_an_l1_fit_with_exact_zeros():
  """The weights of two classes are those of one logit: (0, w) costs what liblinear's w does, its bias included."""
  x, y = correlated(200, 30, 2)
  # standardised on itself, so that weights are as they are fitted
  (kernel, bias), converged = dfr._fit(x, y, np.arange(200), 0.05, 2, like=x)
  assert converged
  margin = np.c_[x, np.ones(200)]
  w, rate = np.zeros(31), 1 / (0.05 * 0.25 * np.linalg.norm(margin, 2) ** 2)
  for _ in range(20_000):
    moved = w - rate * 0.05 * margin.T @ (1 / (1 + np.exp(-margin @ w)) - y)
    w = np.sign(moved) * np.maximum(np.abs(moved) - rate, 0)
  ours = np.r_[kernel[:, 1] - kernel[:, 0], bias[1] - bias[0]]
  np.testing.assert_allclose(ours, w, atol=2e-3)
  np.testing.assert_array_equal(ours[:-1] == 0, w[:-1] == 0)
  assert 5 < (ours[:-1] == 0).sum() < 30
  # The strongest of the authors' strengths on few examples leaves next to nothing.
  (kernel, _), _ = dfr._fit(x, y, np.arange(200), 0.01, 2, like=x)
  assert (kernel[:, 1] == 0).sum() > 25


def test_dfr_of_three_classes_converges():
  x, y = correlated(150, 120, 3)
  (kernel, bias), converged = dfr._fit(x, y, np.arange(150), 1.0, 3, like=x)
  assert converged
  reference = l1_reference(x, y, 3, 1.0, False)
  best, ours = (l1_objective(w, x, y, 1.0, False) for w in (reference, np.r_[kernel, bias[None]]))
  assert best - 1e-6 < ours < 1.005 * best
  assert 20 < (kernel == 0).sum() < 340
  assert ((kernel == 0) == (reference[:-1] == 0)).mean() > 0.9


@pytest.mark.parametrize('k', [2, 3])
def test_fits_of_dfr_that_do_not_converge_are_said(k, monkeypatch):
  monkeypatch.setattr(dfr, 'ITERATIONS', {'liblinear': 2, 'saga': 2})
  made = TWO_STAGE['dfr'].prepare(options('dfr', strengths=(1.0, 0.5), fits=3), first_of(n=900, k=k))
  assert made.notes['not_converged'] == 5
  (message,) = made.messages
  assert '5 of 5 fits of DFR stopped at 2 iterations' in message
  monkeypatch.undo()
  made = TWO_STAGE['dfr'].prepare(options('dfr', strengths=(0.1,), fits=3), first_of(n=900, k=k))
  assert (made.notes['not_converged'], made.messages) == (0, ())


def test_only_the_warning_of_convergence_is_passed_over(monkeypatch):
  from sklearn.linear_model import LogisticRegression

  fit = LogisticRegression.fit

  def warning(self, *args):
    warnings.warn('penalty will be removed', FutureWarning, stacklevel=2)
    return fit(self, *args)

  monkeypatch.setattr(LogisticRegression, 'fit', warning)
  with pytest.raises(FutureWarning, match='will be removed'):
    TWO_STAGE['dfr'].prepare(options('dfr', strengths=(1.0,), fits=1), first_of())


@pytest.mark.parametrize(('version', 'old'), [('1.6.1', True), ('1.7.2', True), ('1.8.0', False), ('1.10.0rc1', False)])
def test_a_scikit_learn_that_would_fit_l2_is_refused_before_the_first_run(version, old, monkeypatch):
  import sklearn

  monkeypatch.setattr(sklearn, '__version__', version)
  splits = {name: (data['label'], data['group']) for name, data in first_of().splits.items()}
  if not old:
    dfr.check(dfr.Dfr(), splits, ('a', 'b'))
    return
  with pytest.raises(UserError, match=f'DFR needs scikit-learn 1.8 or later.*{version} is installed'):
    dfr.check(dfr.Dfr(), splits, ('a', 'b'))


def test_scikit_learn_is_required_as_dfr_needs_it(root):
  import tomllib

  required = tomllib.loads((root / 'pyproject.toml').read_text())['project']['dependencies']
  (line,) = (each for each in required if 'scikit' in each)
  assert line == f'scikit-learn>={".".join(map(str, dfr.OLDEST))}'


@pytest.mark.parametrize('n', [400, 401])
def test_dfr_chooses_on_the_smaller_half(n, monkeypatch):
  """dfr_evaluate_spurious.py: idx[n // 2:] is fitted on, idx[:n // 2] is judged by."""
  seen, balanced = [], dfr._balanced

  def recorded(group, among, rng):
    seen.append(among.sum())
    return balanced(group, among, rng)

  monkeypatch.setattr(dfr, '_balanced', recorded)
  TWO_STAGE['dfr'].prepare(options('dfr', strengths=(1.0,), fits=2), first_of(n=n))
  assert seen == [n - n // 2, n, n]


def test_dfr_of_three_classes_and_what_it_needs():
  first = first_of(n=1500, k=3, d=8)
  found = TWO_STAGE['dfr'].prepare(options('dfr', strengths=(1.0, 0.1), fits=2), first)
  assert found.head is not None
  assert found.head[0].shape == (8, 3)
  assert found.notes['strength'] in (1.0, 0.1)
  with pytest.raises(UserError, match=r"two_stage\.dfr\.split is 'vall'"):
    TWO_STAGE['dfr'].prepare(options('dfr', split='vall'), first)
  with pytest.raises(UserError, match='test is for testing'):
    TWO_STAGE['dfr'].prepare(
      options('dfr', split='test'), first._replace(splits={**first.splits, 'test': first.splits['val']})
    )
  data = first.splits['val']
  for name, gone, message in (('group', 4, 'no example of group 4'), ('label', 2, "no example of the class 'c'")):
    kept = {key: values[data[name] != gone] for key, values in data.items()}
    splits = {'train': data if name == 'group' else {**data, 'group': kept['group'][:1].repeat(1500)}, 'val': kept}
    with pytest.raises(UserError, match=message):
      TWO_STAGE['dfr'].prepare(options('dfr'), first._replace(splits=splits))
  blind = {**data, 'group': np.where(data['index'] < 5, -1, data['group'])}
  with pytest.raises(UserError, match='5 have none'):
    TWO_STAGE['dfr'].prepare(options('dfr'), first._replace(splits={'val': blind}))


def afr_descent(first, gamma, strength, steps, lr, max_norm=1.0):
  """AndPotap/afr, losses.get_exp_weights, supervised_utils.{rebalance_weights,take_step}; the norms before the clip."""
  data = {name: values[first.held_out] for name, values in first.splits['train'].items()}
  x, y, k = data['features'].astype(float), data['label'], first.kernel.shape[1]
  mu = np.exp(-gamma * softmax(data['logits'].astype(float))[np.arange(len(y)), y])
  for c in range(k):
    mu[y == c] *= len(y) / (y == c).sum()
  mu /= mu.sum()
  kernel, bias, norms = first.kernel.copy(), first.bias.astype(float).copy(), []
  for _ in range(steps):
    error = mu[:, None] * (softmax(x @ kernel + bias) - np.eye(k)[y])
    of_kernel = x.T @ error + 2 * strength * (kernel - first.kernel)
    of_bias = error.sum(0) + 2 * strength * (bias - first.bias)
    norms.append(np.sqrt((of_kernel**2).sum() + (of_bias**2).sum()))
    scale = min(1.0, max_norm / (norms[-1] + 1e-6))  # torch.nn.utils.clip_grad_norm_
    kernel, bias = kernel - lr * scale * of_kernel, bias - lr * scale * of_bias
  return kernel, bias, norms


@pytest.mark.parametrize(('k', 'scale', 'clipped'), [(2, 0.2, False), (2, 1.0, True), (3, 10.0, True)])
@pytest.mark.parametrize('strength', [0.0, 0.1])
def test_afr_is_the_descent_of_its_code(k, scale, clipped, strength, x64):
  first = first_of(k=k)
  data = first.splits['train']
  data = {**data, 'features': scale * data['features']}
  first = first._replace(splits={'train': data}, kernel=first.kernel / scale)
  made = TWO_STAGE['afr'].prepare(options('afr', gamma=3.0, strength=strength, steps=60, lr=0.05), first)
  kernel, bias, norms = afr_descent(first, 3.0, strength, 60, 0.05)
  assert (max(norms) > 1) == clipped
  assert made.head is not None
  np.testing.assert_allclose(made.head[0], kernel, rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(made.head[1], bias, rtol=1e-9, atol=1e-12)


def test_afr_in_float32_and_what_it_needs():
  first = first_of()
  made = TWO_STAGE['afr'].prepare(options('afr', gamma=3.0, strength=0.1, steps=50, lr=0.05), first)
  kernel, bias, _ = afr_descent(first, 3.0, 0.1, 50, 0.05)
  assert made.head is not None
  assert made.head[0].dtype == np.float32
  np.testing.assert_allclose(made.head[0], kernel, atol=2e-6)
  np.testing.assert_allclose(made.head[1], bias, atol=2e-6)
  with pytest.raises(UserError, match=r'train.holdout'):
    TWO_STAGE['afr'].prepare(options('afr'), first._replace(held_out=np.zeros(400, bool)))


FAST = [
  '--config.train.steps=20',
  '--config.train.eval_every=10',
  '--config.data.crops=1',
  '--config.two_stage.steps=10',
]
FAST += ['--config.two_stage.eiil.steps=50', '--config.two_stage.spare.max_clusters=2', '--config.two_stage.dfr.fits=2']
FAST += [
  '--config.two_stage.dfr.split=val_balanced',
  '--config.two_stage.dfr.strengths=(1.0,)',
  '--config.two_stage.lr=1e-4',
]


def config_of(method, *changes):
  return from_flags(f'digits:{method}', *FAST, *changes)


@pytest.mark.parametrize('method', TWO_STAGE)
def test_two_runs_in_one_command(method, tmp_path):
  results = run(config_of(method), tmp_path / 'w')
  assert (tmp_path / 'w' / 'done').exists()
  assert (tmp_path / 'w' / 'first' / 'done').exists()
  assert results['method'] == method
  assert results['first']['prepare'] == method
  assert results['needs_groups'] == {'train': False, 'validation': method == 'dfr'}
  fitted = method in ('dfr', 'afr')
  assert results['last']['step'] == (0 if fitted else 20)
  first = read_json(tmp_path / 'w' / 'first' / 'results.json')
  assert first['method'] == 'erm'
  assert first['select'] == 'last'
  assert first['step'] == first['last']['step'] == 10
  again = run(config_of(method), tmp_path / 'w')
  assert json.loads(json.dumps(again)) == json.loads(json.dumps(results))


@pytest.mark.parametrize('method', ['jtt', 'dfr'])
def test_a_first_run_is_shared_and_an_interrupted_second_one_goes_on(method, tmp_path, monkeypatch):
  whole = run(config_of(method), tmp_path / 'a')
  shared = f'--config.two_stage.workdir={tmp_path}/a/first'
  before = (tmp_path / 'a' / 'first' / 'results.json').stat().st_mtime_ns
  evaluate, broken = conclude.evaluate_checkpoints, []

  def interrupt(task, *args):
    if task.config.method.name == method and not broken:
      broken.append(True)
      raise KeyboardInterrupt
    return evaluate(task, *args)

  monkeypatch.setattr(loop, 'evaluate_checkpoints', interrupt)
  with pytest.raises(KeyboardInterrupt):
    run(config_of(method, shared), tmp_path / 'b')
  assert run(config_of(method, shared), tmp_path / 'b') == whole
  assert not (tmp_path / 'b' / 'first').exists()
  assert (tmp_path / 'a' / 'first' / 'results.json').stat().st_mtime_ns == before
  # Options of what is made of it do not matter to a first run; its seed does.
  other = '--config.two_stage.jtt.up_weight=3' if method == 'jtt' else '--config.two_stage.dfr.fits=3'
  run(config_of(method, shared, other), tmp_path / 'd')
  with pytest.raises(UserError, match='holds a run with another config'):
    run(config_of(method, shared, '--config.seed=1'), tmp_path / 'c')


def test_a_signal_in_the_first_run_saves_the_first_run(tmp_path, monkeypatch):
  batch, calls = loop.Batch, []

  def signalling(**arrays):
    calls.append(1)
    if len(calls) == 3:
      os.kill(os.getpid(), signal.SIGTERM)
    return batch(**arrays)

  with monkeypatch.context() as patch:
    patch.setattr(loop, 'Batch', signalling)
    with pytest.raises(Interrupted, match='at step 3 of 10'):
      run(config_of('jtt'), tmp_path / 'w')
  assert (tmp_path / 'w' / 'first' / 'checkpoints' / '3').is_dir()
  assert not list(tmp_path.glob('**/lock'))
  assert run(config_of('jtt'), tmp_path / 'w')['last']['step'] == 20


def test_the_first_run_may_have_other_batch_norm(tmp_path):
  config = validate_config(from_flags('waterbirds:cnc', '--config.data.dir=x'))
  assert (config.model.batch_norm, two_stage.first_config(config).model.batch_norm) == ('frozen', 'batch')
  same = config.replace({'two_stage.batch_norm': 'same'})
  assert two_stage.first_config(same).model.batch_norm == 'frozen'
  with pytest.raises(UserError, match=r"unknown two_stage.batch_norm 'moving'"):
    run(config_of('cnc', '--config.two_stage.batch_norm=moving'), tmp_path / 'w')


@pytest.mark.parametrize('method', ['mmd', 'vrex'])
def test_a_run_that_goes_on_with_a_corrected_loss_says_so_once(method, tmp_path, monkeypatch, capsys):
  batch, calls, workdir = loop.Batch, [], tmp_path / 'w'

  def signalling(**arrays):
    calls.append(1)
    if len(calls) in (3, 5):
      os.kill(os.getpid(), signal.SIGTERM)
    return batch(**arrays)

  monkeypatch.setattr(loop, 'Batch', signalling)
  with pytest.raises(Interrupted):
    run(config_of(method), workdir)
  assert 'was corrected' not in capsys.readouterr().err
  environment = read_json(workdir / 'env.json')
  assert environment['correction'] == METHODS[method].correction
  del environment['correction']  # as a run of before has none
  (workdir / 'env.json').write_text(json.dumps(environment))
  with pytest.raises(Interrupted):
    run(config_of(method), workdir)
  said = capsys.readouterr().err
  assert (f'the loss of {method} was corrected since this run began' in said) == bool(METHODS[method].correction)
  run(config_of(method), workdir)
  assert 'was corrected' not in capsys.readouterr().err


def test_a_run_that_was_recorded_without_the_new_fields_goes_on(tmp_path):
  place = tmp_path / 'w'
  run(config_of('jtt'), place)
  for folder in (place, place / 'first'):
    config = read_json(folder / 'config.json')
    first = config.pop('two_stage')  # as they were recorded before
    first['prepare'] = first.pop('rule')
    first.pop('batch_norm', None)
    first.get('spare', {}).pop('clusters', None)
    config['first'] = first | {'method': {'name': 'erm', 'loss': 'cross_entropy', 'q': 0.7, 'noise': 0.0}}
    (folder / 'config.json').write_text(json.dumps(config))
  assert run(config_of('jtt'), place)['method'] == 'jtt'
  with pytest.raises(UserError, match=r"two_stage.batch_norm \('same' there, 'none' here\)"):
    run(config_of('jtt', '--config.two_stage.batch_norm=none'), place)


def test_group_inference_feeds_any_method(tmp_path):
  changes = ['--config.two_stage.rule=spare', '--config.train.sampling=group_subsampled']
  results = run(config_of('vrex', *changes), tmp_path / 'w')
  assert results['needs_groups']['train'] is False
  assert len(results['first']['clusters']) == 4
  assert len(results['test']['groups']) == 4
  assert 'below five, cold' in results['test']['groups']  # it is evaluated on the groups that are known


def test_damaged_predictions_of_the_first_run_are_named(tmp_path):
  run(config_of('jtt'), tmp_path / 'w')
  (tmp_path / 'w' / 'first' / 'predictions' / 'train.npz').write_bytes(b'x')
  shutil.rmtree(tmp_path / 'w' / 'checkpoints')
  (tmp_path / 'w' / 'done').unlink()
  with pytest.raises(UserError, match=r"train.npz cannot be read .*: remove the first run's folder"):
    run(config_of('jtt'), tmp_path / 'w')


def test_held_out_examples_are_not_trained_on():
  from ule_jax.data import load
  from ule_jax.two_stage.contract import SecondStage

  config = validate_config(config_of('afr'))
  dataset = load('digits', config.data)
  mask = training_data.held_out(config, dataset)
  assert mask.mean() == pytest.approx(0.2, abs=0.01)
  kept = training_data.of_stage(config, dataset, SecondStage()).splits['train']
  names = [dataset.splits['train'].name(i) for i in np.flatnonzero(~mask).tolist()]
  assert [kept.name(i) for i in range(kept.count)] == names


@pytest.mark.parametrize('sampling', ['class_subsampled', 'group_subsampled'])
def test_subsampling_leaves_as_many_of_each(sampling):
  from ule_jax.data import digits, pipeline

  split = digits.load(digits.Options(rate=0.9, crops=1)).splits['train']
  codes = split.label if sampling.startswith('class') else split.group
  least = np.bincount(codes).min()
  kinds = len(np.unique(codes))
  block = pipeline.order(split, seed=0, sampling=sampling, batch_size=least * kinds)
  assert (np.bincount(codes[block(0)]) == least).all()
  assert sorted(block(0)) == sorted(block(1)) != list(block(1))


def test_draws_follow_the_chance():
  from ule_jax.data import digits, pipeline

  split = digits.load(digits.Options(rate=0.9, crops=1)).splits['train']
  sampling_weight = np.where(split.group == 1, 20.0, 1.0)
  block = pipeline.order(split._replace(sampling_weight=sampling_weight), seed=0, sampling='uniform', batch_size=20_000)
  share = (split.group[block(3)] == 1).mean()
  assert share == pytest.approx(sampling_weight[split.group == 1].sum() / sampling_weight.sum(), abs=0.02)
  np.testing.assert_array_equal(block(3), block(3))
  assert (block(3) != block(4)).any()


def test_a_first_run_on_other_data_and_a_lost_checkpoint_are_named(tmp_path):
  run(config_of('jtt'), tmp_path / 'a')
  place = tmp_path / 'a' / 'first'
  with np.load(place / 'predictions' / 'train.npz') as file:
    arrays = dict(file)
  np.savez(place / 'predictions' / 'train.npz', **arrays | {'label': 1 - arrays['label']})
  shared = config_of('jtt', f'--config.two_stage.workdir={place}')
  with pytest.raises(UserError, match='first run on other data'):
    run(shared, tmp_path / 'b')
  shutil.rmtree(place / 'checkpoints')
  with pytest.raises(UserError, match='has no checkpoint of the first run'):
    run(shared, tmp_path / 'c')


@pytest.mark.parametrize(
  ('method', 'changes', 'message'),
  [
    ('jtt', ['--config.two_stage.rule=none'], 'made by two_stage.rule=jtt'),
    ('jtt', ['--config.train.sampling=class_balanced'], 'would undo the sampling weights of jtt'),
    ('jtt', ['--config.two_stage.steps=0', '--config.two_stage.epochs=0'], 'say how long the first run'),
    ('ule', ['--config.two_stage.rule=afr', '--config.train.holdout=0.2'], 'leaves nothing to train'),
    ('afr', ['--config.train.holdout=0'], 'set train.holdout'),
    ('afr', ['--config.train.holdout=1'], 'train.holdout is 1'),
    ('dfr', ['--config.two_stage.dfr.split=test'], 'test is for testing'),
    ('dfr', ['--config.two_stage.dfr.strengths=abc'], 'give numbers above 0'),
    ('eiil', ['--config.two_stage.method.name=ule'], 'a first run is erm'),
    ('spare', ['--config.two_stage.spare.clusters=1'], 'clusters is 1, which divides nothing'),
    ('spare', ['--config.two_stage.spare.clusters=-2'], 'clusters is -2: give a number from 0 on'),
  ],
)
def test_settings_that_cannot_work_are_refused_before_a_run(method, changes, message, tmp_path):
  with pytest.raises(UserError, match=message):
    run(config_of(method, *changes), tmp_path / 'w')
  assert not (tmp_path / 'w' / 'first').exists()


def test_dfr_says_where_it_needs_groups(tmp_path):
  results = run(config_of('dfr', '--config.two_stage.dfr.split=train'), tmp_path / 'w')
  assert results['needs_groups'] == {'train': True, 'validation': False}
