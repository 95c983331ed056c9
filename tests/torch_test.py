"""The ULE step's gradients against an independent double backward in PyTorch, in float64.

The networks, the losses, the scalars and the terms are written again here with torch functions;
only the parameter values are taken over.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import KEY, batch_of, method_of, network

from ule_jax import losses
from ule_jax.train.step import create_state, make_train_step

torch = pytest.importorskip('torch')
F = torch.nn.functional


def cnn(p, x):
  """The CNN of models/cnn.py; x is NHWC and kernels are HWIO, as in flax."""
  x = x.permute(0, 3, 1, 2)
  for i in range(2):
    kernel, bias = p[f'conv{i}']['kernel'], p[f'conv{i}']['bias']
    x = F.avg_pool2d(F.relu(F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=1)), 2)
  return x.mean((2, 3)) @ p['head']['kernel'] + p['head']['bias']


def vit(p, x):
  """The ViT of models/vit.py with patch 4 and 2 heads."""
  kernel, bias = p['patches']['kernel'], p['patches']['bias']
  x = F.conv2d(x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), bias, stride=4).flatten(2).transpose(1, 2)
  width = x.shape[-1]
  x = torch.cat([p['token'].expand(len(x), 1, width), x], 1) + p['position']
  for i in range(2):
    b = p[f'block{i}']
    y = F.layer_norm(x, (width,), b['norm1']['scale'], b['norm1']['bias'], 1e-6)
    a = b['attention']
    q, k, v = (
      torch.einsum('btd,dhe->bhte', y, a[n]['kernel']) + a[n]['bias'][:, None] for n in ('query', 'key', 'value')
    )
    scores = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
    x = x + torch.einsum('bhte,hed->btd', scores @ v, a['out']['kernel']) + a['out']['bias']
    y = F.layer_norm(x, (width,), b['norm2']['scale'], b['norm2']['bias'], 1e-6)
    y = F.gelu(y @ b['mlp1']['kernel'] + b['mlp1']['bias'])
    x = x + y @ b['mlp2']['kernel'] + b['mlp2']['bias']
  x = F.layer_norm(x, (width,), p['norm']['scale'], p['norm']['bias'], 1e-6)[:, 0]
  return x @ p['head']['kernel'] + p['head']['bias']


NETWORKS = {'cnn': cnn, 'vit': vit}


def scalar(name, z, y):
  own = z.gather(1, y[:, None])[:, 0]
  if name == 'label_logit':
    return own
  if name == 'top_logit':
    return z.max(1).values
  if name == 'loss':
    return F.cross_entropy(z, y, reduction='none')
  rest = z.masked_fill(F.one_hot(y, z.shape[1]).bool(), -torch.inf)
  return own - torch.logsumexp(rest, 1)


def term(name, s, t, a):
  s, t = s.flatten(1), t.flatten(1)

  def minmax(g):
    g = g.abs()
    low, high = g.amin(1, keepdim=True), g.amax(1, keepdim=True)
    return (g - low) / (high - low)

  if name == 'oppose':
    return ((minmax(t) - (1 - minmax(s))) ** 2).sum(1)
  if name == 'oppose_signed':
    return ((t + a * s) ** 2).sum(1)
  if name == 'suppress':
    return (s**2 / (s**2).mean(1, keepdim=True) * t**2).sum(1)
  along = (s * t).sum(1) / s.norm(dim=1)
  return along**2 if name == 'project' else (along / t.norm(dim=1)) ** 2


def reference(net, params, x, y, o):
  """Student and teacher gradients of ULE, by two separate backward passes."""

  def grown(tree):
    if isinstance(tree, dict):
      return {k: grown(v) for k, v in tree.items()}
    return torch.tensor(np.asarray(tree), requires_grad=True)

  def leaves(tree):
    return [leaf for v in tree.values() for leaf in (leaves(v) if isinstance(v, dict) else [v])]

  # sorted as jax sorts dictionaries, so that the leaves meet
  p = {role: grown(jax.tree.map(lambda v: v, params[role])) for role in ('student', 'teacher')}
  x = torch.tensor(np.asarray(x), requires_grad=True)
  y = torch.tensor(np.asarray(y)).long()
  z_s, z_t = net(p['student'], x), net(p['teacher'], x)
  g_s = torch.autograd.grad(scalar(o.scalar, z_s, y).sum(), x, retain_graph=True)[0].detach()
  g_t = torch.autograd.grad(scalar(o.scalar, z_t, y).sum(), x, create_graph=True)[0]
  p_s = torch.softmax(z_s, 1).gather(1, y[:, None])[:, 0]
  l_s = -torch.log(p_s) if o.student_loss == 'cross_entropy' else (1 - p_s**o.q) / o.q
  m, classes = torch.ones(len(y), dtype=torch.float64), y.unique()
  right = sum((z_s.argmax(1) == y)[y == c].double().mean() for c in classes) / len(classes)
  k = z_s.shape[1]
  assert not o.trust_exponent or 1 / k < right < 1  # else trust tells nothing
  trust = max(float((k * right - 1) / (k - 1)), 0) ** o.trust_exponent
  share = 0.5 + trust * (o.mistake_share - 0.5)
  if o.mistakes != 'none':
    m = (1 - p_s).detach()
  if o.mistakes == 'class_balanced_weight':
    for c in classes:
      m = torch.where(y == c, (1 - p_s).detach() * len(y) / len(classes) / (1 - p_s).detach()[y == c].sum(), m)
  if o.mistakes == 'balanced':
    for c in classes:
      own = y == c
      parts = [(share, (1 - p_s).detach()), (1 - share, p_s.detach())]
      m = torch.where(own, sum(s * v / v[own].sum() for s, v in parts) * len(y) / len(classes), m)
  l_t = (m * F.cross_entropy(z_t, y, reduction='none')).mean() + trust * o.weight * term(o.term, g_s, g_t, o.a).mean()
  return {
    'student': torch.autograd.grad(l_s.mean(), leaves(p['student']), retain_graph=True),
    'teacher': torch.autograd.grad(l_t, leaves(p['teacher'])),
  }


CASES = [
  *(('cnn', {'term': t, 'scalar': s}) for t in losses.TERMS for s in losses.SCALARS),
  *(('cnn', {'mistakes': m, 'student_loss': s}) for m in losses.MISTAKES for s in losses.CLASSIFICATION_LOSSES),
  *(('vit', {'term': t}) for t in losses.TERMS),
  ('cnn', {'trust_exponent': 0.5}),
]


@pytest.mark.parametrize(('name', 'changes'), CASES, ids=[f'{n}-{"-".join(map(str, c.values()))}' for n, c in CASES])
def test_gradients_equal_torchs_double_backward(name, changes, x64):
  from common import options

  k = 3
  changes = {'a': 2.0, 'weight': 0.7, 'student_noise': 0.0} | changes
  batch = batch_of(5, k=k, size=8, dtype=np.float64)
  model, method, tx = network(name, k=k, width=8), method_of('ule', k=k, **changes), optax.sgd(1.0)
  state = create_state(method, model, tx, batch.image[:1], KEY)
  rng = np.random.default_rng(0)  # away from zero biases and a zero class token, where a slip would not show
  params = jax.tree.map(lambda p: jnp.asarray(np.asarray(p, np.float64) + rng.normal(0, 0.3, p.shape)), state.params)
  params = {role: dict(sorted(params[role].items())) for role in params}
  state = dataclasses.replace(state, params=params, opt_state=tx.init(params))
  after, _ = jax.jit(make_train_step(method, model, tx, KEY))(state, batch)
  expected = reference(NETWORKS[name], params, batch.image, batch.label, options('ule', **changes))
  for role in ('student', 'teacher'):
    ours = jax.tree.leaves(jax.tree.map(lambda a, b: a - b, params[role], after.params[role]))
    assert len(ours) == len(expected[role])
    for mine, theirs in zip(ours, expected[role], strict=True):
      theirs = theirs.numpy()
      assert np.abs(mine - theirs).max() <= 1e-8 * max(np.abs(theirs).max(), 1e-3), role
