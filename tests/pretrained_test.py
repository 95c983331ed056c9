"""Foreign weights: the networks they come from say the same, every tensor has its place, bad files are refused."""

import os
import pickle
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import KEY, network

from ule_jax import losses
from ule_jax.cli import app
from ule_jax.errors import UserError
from ule_jax.models.pretrained import conversions, layouts, mapping, sources, weight_files

torch = pytest.importorskip('torch')
F = torch.nn.functional


@pytest.fixture(scope='session')
def timm(torchvision):
  del torchvision  # timm imports it
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return pytest.importorskip('timm')


def ours(name: str, size: int, k: int, **changes):
  """Our network, and the shapes of its parameters at images of a size."""
  model = network(name, k, **changes)
  return model, jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, size, size, 3)), train=False))


def tensors_of(net) -> dict[str, np.ndarray]:
  return {name: value.numpy().copy() for name, value in net.state_dict().items()}


def randomized(net):
  """The network in float64 with all of its parameters and statistics away from zeros and ones."""
  net, generator = net.double(), torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, value in net.state_dict().items():
      if value.dtype.is_floating_point:
        noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        value.copy_(noise.abs() * 0.3 + 0.8 if name.endswith('running_var') else value + 0.05 * noise)
  return net


def torch_gradients(net, x, y):
  """Logits, input gradients and parameter gradients of cross entropy plus a penalty on the input gradient."""
  x = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2), requires_grad=True)
  y = torch.tensor(np.asarray(y)).long()
  with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the only one with a double backward
    z = net(x)
  (g,) = torch.autograd.grad(z.gather(1, y[:, None]).sum(), x, create_graph=True)
  loss = F.cross_entropy(z, y) + (g**2).sum((1, 2, 3)).mean()
  names, params = zip(*net.named_parameters(), strict=True)
  slopes = torch.autograd.grad(loss, params)
  return z.detach().numpy(), g.detach().numpy().transpose(0, 2, 3, 1), dict(zip(names, slopes, strict=True))


def our_gradients(model, variables, x, y, train: bool):
  def loss(params):
    def run(x):
      seen = {'params': params, 'batch_stats': variables['batch_stats']}
      (z, _), updated = model.apply(seen, x, train=train, mutable=['batch_stats'])
      return z, updated

    (z, updated), g = losses.input_gradient(run, x, lambda out: losses.label_logit(out[0], y))
    value = losses.cross_entropy(z, y).mean() + losses.gradient_penalty(g).mean()
    return value, (z, g, updated.get('batch_stats', {}))

  slopes, (z, g, stats) = jax.jit(jax.grad(loss, has_aux=True))(variables['params'])
  return z, g, slopes, stats


def assert_relative(mine, theirs, limit=1e-8):
  assert np.abs(np.asarray(mine) - np.asarray(theirs)).max() <= limit * max(np.abs(np.asarray(theirs)).max(), 1e-3)


def agree(net, name: str, size: int, k: int, **changes):
  """Compare our network with another one of the same weights, in evaluation."""
  net = randomized(net).eval()
  model, template = ours(name, size, k, **changes)
  params, stats, rows, _ = mapping.fit(tensors_of(net), template, name, keep_head=True)
  assert {row.theirs for row in rows} == set(net.state_dict())
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, size, size, 3)))
  y = jnp.array([0, k - 1])
  z, g, slopes, _ = our_gradients(model, {'params': params, 'batch_stats': stats}, x, y, train=False)
  z_t, g_t, slopes_t = torch_gradients(net, x, y)
  assert_relative(z, z_t)
  assert_relative(g, g_t)
  # Gradients have the layout of their parameters.
  with_stats = tensors_of(net) | {n: s.numpy() for n, s in slopes_t.items()}
  expected, *_ = mapping.fit(with_stats, template, name, keep_head=True)
  jax.tree.map(assert_relative, slopes, expected)


def small_torchvision_vit(torchvision, size: int):
  return torchvision.models.VisionTransformer(size, 4, 2, 2, 16, 64, num_classes=3)


def small_timm_vit(timm, size: int):
  net = timm.models.vision_transformer.VisionTransformer(size, 4, num_classes=3, embed_dim=16, depth=2, num_heads=2)
  return net


VIT = {'width': 16, 'depth': 2, 'heads': 2, 'patch': 4}


def test_resnet18_is_torchvisions(torchvision, x64):
  agree(torchvision.models.resnet18(num_classes=3), 'resnet18', 33, 3)


def test_bottlenecks_are_torchvisions(torchvision, x64):
  net = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 2, 1, 1], num_classes=3)
  model, template = ours('resnet50', 32, 3)
  short = model.clone(stages=(1, 2, 1, 1))
  template = jax.eval_shape(lambda: short.init(KEY, jnp.zeros((1, 32, 32, 3)), train=False))
  net = randomized(net).eval()
  params, stats, *_ = mapping.fit(tensors_of(net), template, 'short', keep_head=True)
  x = np.random.default_rng(0).normal(size=(2, 32, 32, 3))
  z, _ = short.apply({'params': params, 'batch_stats': stats}, jnp.asarray(x), train=False)
  assert_relative(z, net(torch.tensor(x.transpose(0, 3, 1, 2))).detach().numpy())


def test_the_small_vit_is_torchvisions(torchvision, x64):
  agree(small_torchvision_vit(torchvision, 8), 'vit', 8, 3, **VIT)


def test_the_small_vit_is_timms(timm, x64):
  agree(small_timm_vit(timm, 8), 'vit', 8, 3, **VIT)


@pytest.mark.slow
def test_resnet50_is_torchvisions(torchvision, x64):
  agree(torchvision.models.resnet50(num_classes=3), 'resnet50', 64, 3)


@pytest.mark.slow
def test_resnet50_is_timms(timm, x64):
  agree(timm.create_model('resnet50', num_classes=3), 'resnet50', 64, 3)


@pytest.mark.slow
@pytest.mark.parametrize('size', [224, 384])
def test_vit_b16_is_torchvisions(torchvision, size, x64):
  agree(torchvision.models.vit_b_16(image_size=size, num_classes=3), 'vit_b16', size, 3)


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'theirs'), [('ti', 'tiny'), ('s', 'small'), ('b', 'base')])
def test_vits_are_timms(timm, name, theirs, x64):
  agree(timm.create_model(f'vit_{theirs}_patch16_224', num_classes=3), f'vit_{name}16', 224, 3)


def test_running_statistics_differ_from_torchs_by_the_unbiased_variance_alone(torchvision, x64):
  """After three batches: the mean as it is; the variance once the n - 1 of torch is undone."""
  net = randomized(torchvision.models.resnet18(num_classes=3))
  model, template = ours('resnet18', 32, 3)
  params, stats, *_ = mapping.fit(tensors_of(net), template, 'resnet18', keep_head=True)
  first, rng = stats, np.random.default_rng(0)
  net.train()
  for _ in range(3):
    x = rng.normal(size=(4, 32, 32, 3))
    net(torch.tensor(x.transpose(0, 3, 1, 2)))
    seen = {'params': params, 'batch_stats': stats}
    _, updated = model.apply(seen, jnp.asarray(x), train=True, mutable=['batch_stats'])
    stats = updated['batch_stats']
  _, theirs, *_ = mapping.fit(tensors_of(net), template, 'resnet18', keep_head=True)
  side = {'norm': 16, 'stage0': 8, 'stage1': 4, 'stage2': 2, 'stage3': 1}
  for path, mine in jax.tree_util.tree_leaves_with_path(stats):
    keys = [key.key for key in path]
    other, before = theirs, first
    for part in keys:
      other, before = other[part], before[part]
    if keys[-1] == 'var':
      n = 4 * side[keys[0].split('_')[0]] ** 2
      kept = 0.9**3 * before
      other = kept + (other - kept) * (n - 1) / n
    assert_relative(mine, other)


class CifarResNet20(torch.nn.Module):
  """The network of the real file, by its own names: 6 n + 2 layers, shortcuts without parameters."""

  def __init__(self):
    super().__init__()
    nn = torch.nn
    self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
    c_in = 16
    for i, c in enumerate((16, 32, 64)):
      blocks = []
      for j in range(3):
        block = nn.Module()
        block.conv1 = nn.Conv2d(c_in, c, 3, 2 if i and not j else 1, 1, bias=False)
        block.conv2 = nn.Conv2d(c, c, 3, 1, 1, bias=False)
        block.bn1, block.bn2 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)
        blocks.append(block)
        c_in = c
      setattr(self, f'layer{i + 1}', nn.Sequential(*blocks))
    self.linear = nn.Linear(64, 10)

  def forward(self, x):
    x = F.relu(self.bn1(self.conv1(x)))
    for layer in (self.layer1, self.layer2, self.layer3):
      for block in layer:
        y = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
        if y.shape != x.shape:
          more = (y.shape[1] - x.shape[1]) // 2
          x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, more, more))
        x = F.relu(x + y)
    return self.linear(x.mean((2, 3)))


def test_cifar_resnets_are_the_other_networks(x64):
  agree(CifarResNet20(), 'resnet20', 16, 10)


def test_a_real_file_gives_the_logits_that_torch_gives(real_data):
  path = real_data / 'weights' / 'resnet20-12fca82f.th'
  model, template = ours('resnet20', 32, 10)
  found = mapping.load_pretrained(str(path), 'resnet20', template, keep_head=True)
  net = CifarResNet20().eval()
  state = torch.load(path, map_location='cpu', weights_only=True)['state_dict']
  net.load_state_dict({name.removeprefix('module.'): value for name, value in state.items()})
  assert {row.theirs for row in found.rows} == {name.removeprefix('module.') for name in state}
  x = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32)
  mine, _ = model.apply({'params': found.params, 'batch_stats': found.batch_stats}, jnp.asarray(x), train=False)
  with torch.no_grad():
    theirs = net(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
  assert np.abs(mine - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize('flavour', layouts.FLAVOURS)
def test_there_and_back(flavour):
  names = {'CIFAR ResNet': 'resnet20', 'torchvision or timm ResNet': 'resnet18'}
  names |= {'timm EfficientNet': 'efficientnet_lite0', 'EfficientNet of 16 blocks': 'efficientnet_lite0'}
  names |= {'EfficientNet of 21 blocks': 'efficientnet_lite1'}
  name = names.get(flavour, 'vit')
  _, template = ours(name, 8, 3, **(VIT if name == 'vit' else {}))
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), template)
  tensors = mapping.export_tensors(variables['params'], variables.get('batch_stats', {}), flavour)
  params, stats, _, found = mapping.fit(tensors, template, name, keep_head=True)
  assert found == flavour
  jax.tree.map(np.testing.assert_array_equal, params, dict(variables['params']))
  jax.tree.map(np.testing.assert_array_equal, stats, dict(variables.get('batch_stats', {})))


def test_timm_reads_the_original_format_as_we_write_it(timm, tmp_path):
  model, template = ours('vit', 8, 3, **VIT)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), template['params'])
  path = tmp_path / 'vit.npz'
  np.savez(path, allow_pickle=False, **mapping.export_tensors(params, {}, 'original ViT'))
  net = small_timm_vit(timm, 8).eval()
  net.load_pretrained(str(path))
  x = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
  mine, _ = model.apply({'params': params}, jnp.asarray(x), train=False)
  with torch.no_grad():
    np.testing.assert_allclose(mine, net(torch.tensor(x.transpose(0, 3, 1, 2))), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('old', 'new'), [(14, 24), (24, 14)])
def test_positions_are_resampled_as_timm_does(timm, old, new):
  position = np.random.default_rng(0).normal(size=(1, old**2 + 1, 5)).astype(np.float32)
  theirs = timm.layers.resample_abs_pos_embed(torch.tensor(position), [new, new]).numpy()
  np.testing.assert_allclose(conversions.resample(position, new**2 + 1), theirs, atol=1e-5)


def resnet_file(path, torchvision, change=lambda state: state):
  torch.save(change(torchvision.models.resnet18(num_classes=3).state_dict()), path)
  return str(path)


def test_wrappers_prefixes_and_half_precision_are_seen_through(torchvision, tmp_path):
  from safetensors.torch import save_file

  _, template = ours('resnet18', 32, 3)
  net = torchvision.models.resnet18(num_classes=3)
  state = {name: value.bfloat16() if value.is_floating_point() else value for name, value in net.state_dict().items()}
  wrapped = {'epoch': 3, 'state_dict': {f'module.{name}': value for name, value in state.items()}}
  torch.save(wrapped, tmp_path / 'a.pth')
  save_file(state, tmp_path / 'b.safetensors')
  a, b = (mapping.load_pretrained(str(tmp_path / f), 'resnet18', template) for f in ('a.pth', 'b.safetensors'))
  jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
  assert 'head' not in a.params
  assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(b.params))
  assert a.sha256 != b.sha256
  notes = {row.theirs: row.note for row in a.rows if not row.ours}
  assert notes['fc.weight'] == 'the last layer, not kept'
  assert notes['bn1.num_batches_tracked'] == 'no weight of a classifier'


class Payload:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('zipped', [True, False])
def test_a_payload_is_refused_and_not_run(zipped, tmp_path):
  path, made = tmp_path / 'evil.pth', tmp_path / 'made'
  state = {'conv1.weight': torch.zeros(3), 'extra': Payload(made)}
  torch.save(state, path, _use_new_zipfile_serialization=zipped)
  with pytest.raises(UserError, match=r'evil.pth is refused, as it holds more than tensors'):
    weight_files.read(path)
  assert not made.exists()
  torch.load(path, weights_only=False)  # the payload is one
  assert made.exists()


def test_a_payload_in_an_npz_is_refused(tmp_path):
  path, made = tmp_path / 'evil.npz', tmp_path / 'made'
  np.savez(path, allow_pickle=True, **{'embedding/kernel': np.array([Payload(made)], object)})
  with pytest.raises(UserError, match=r'evil.npz cannot be read'):
    weight_files.read(path)
  assert not made.exists()


def drop(*names):
  return lambda state: {n: v for n, v in state.items() if n not in names}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (drop('layer2.0.conv2.weight'), r'it has no tensor layer2.0.conv2.weight, to become params/stage1_block0/conv1'),
    (lambda s: s | {'layer9.weight': torch.zeros(2)}, r'1 tensors have no place, the first is layer9.weight'),
    (
      lambda s: s | {'conv1.weight': torch.zeros(64, 1, 7, 7)},
      r'conv1.weight of shape \(64, 1, 7, 7\) does not become params/stem/kernel of shape \(7, 7, 3, 64\)',
    ),
    (lambda s: {'weight': torch.zeros(2)}, r'no known layout has tensors named weight'),
    (lambda s: {}, r'holds no tensors'),
    (lambda s: [1, 2], r'holds no tensors'),
  ],
)
def test_what_does_not_fit_is_named(change, message, torchvision, tmp_path):
  _, template = ours('resnet18', 32, 3)
  path = resnet_file(tmp_path / 'x.pth', torchvision, change)
  with pytest.raises(UserError, match=message):
    mapping.load_pretrained(path, 'resnet18', template)


def test_a_kept_head_needs_its_classes(torchvision, tmp_path):
  _, template = ours('resnet18', 32, 2)
  with pytest.raises(UserError, match=r'fc.\w+ of shape .* of as many classes'):
    mapping.load_pretrained(resnet_file(tmp_path / 'x.pth', torchvision), 'resnet18', template, keep_head=True)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors', '.npz', '.gz'])
def test_damaged_and_unknown_files_are_named(suffix, tmp_path):
  path = tmp_path / f'x{suffix}'
  path.write_bytes(pickle.dumps({'a': 1}, protocol=4)[:-4] + os.urandom(64))
  with pytest.raises(UserError, match=rf'x{suffix} is refused: a plain pickle'):
    weight_files.read(path)


@pytest.mark.parametrize(
  'name', [name for name, (source, _) in sources.DEFAULTS.items() if source.startswith('package:')]
)
def test_usual_weights_in_a_package_are_of_no_other_content(name, tmp_path, monkeypatch):
  path = tmp_path / 'x.pth'
  path.write_bytes(b'of somebody else')
  monkeypatch.setattr(sources, '_in_package', lambda source, name: path)
  with pytest.raises(UserError, match=rf'is not the file that default means for {name} \(its SHA-256 is \w+, and not'):
    mapping.load_pretrained('default', name, {})
  assert re.fullmatch('[0-9a-f]{64}', sources.SHA256[name])


@pytest.mark.parametrize('name', [name for name, (source, _) in sources.DEFAULTS.items() if source.startswith('hf:')])
def test_usual_weights_are_of_one_revision_and_of_no_other_content(name, tmp_path, monkeypatch):
  hub = pytest.importorskip('huggingface_hub')
  asked = []

  def download(repository, file, revision):
    asked.append((repository, file, revision))
    path = tmp_path / 'snapshots' / (revision or 'a' * 40) / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b'of somebody else')
    return str(path)

  monkeypatch.setattr(hub, 'hf_hub_download', download)
  with pytest.raises(UserError, match=rf'is not the file that default means for {name} \(its SHA-256 is \w+, and not'):
    mapping.load_pretrained('default', name, {})
  ((repository, file, revision),) = asked
  assert repository.startswith('timm/')
  assert file == 'model.safetensors'
  assert re.fullmatch('[0-9a-f]{40}', revision)
  assert re.fullmatch('[0-9a-f]{64}', sources.SHA256[name])


def test_the_commit_of_a_name_is_known_afterwards(tmp_path, monkeypatch, torchvision):
  hub = pytest.importorskip('huggingface_hub')
  path = tmp_path / 'snapshots' / ('c' * 40) / 'pytorch_model.bin'
  path.parent.mkdir(parents=True)
  resnet_file(path, torchvision)
  monkeypatch.setattr(hub, 'hf_hub_download', lambda *_, **__: str(path))
  _, template = ours('resnet18', 32, 3)
  assert mapping.load_pretrained('hf:a/b', 'resnet18', template).revision == 'c' * 40
  assert not mapping.load_pretrained(str(resnet_file(tmp_path / 'x.pth', torchvision)), 'resnet18', template).revision


def test_weights_that_are_not_there(monkeypatch):
  with pytest.raises(UserError, match=r'nowhere.pth is no file'):
    sources.find_file('nowhere.pth', 'resnet18')
  with pytest.raises(UserError, match=r'resnet20 has no usual weights'):
    sources.find_file('default', 'resnet20')


def test_the_hub_offline_is_one_sentence(monkeypatch, tmp_path):
  constants = pytest.importorskip('huggingface_hub.constants')
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
  with pytest.raises(UserError, match=r'hf:timm/resnet18.tv_in1k@bbd144b\w+ cannot be fetched .*give the file'):
    sources.find_file('default', 'resnet18')


def test_the_verb_prints_the_mapping(real_data, capsys):
  path = real_data / 'weights' / 'resnet20-12fca82f.th'
  app.call('models.pretrained', [str(path), '--model=resnet20', '--classes=10', '--size=32'])
  lines = capsys.readouterr().out.splitlines()
  (stem,) = [line for line in lines if line.startswith('conv1.weight')]
  assert stem.split() == ['conv1.weight', '16x3x3x3', 'stem/kernel', '(OIHW', 'to', 'HWIO)']
  assert '269,722 parameters of resnet20' in lines[-2]
  for argv, message in (
    ([str(path)], 'this network'),
    ([str(path), '--model=resnet21'], "unknown network 'resnet21': did you mean 'resnet20'"),
    ([str(path), '--model=cnn'], 'sizes of its own'),
    (['--model=resnet20'], 'give FILE, one file'),
  ):
    with pytest.raises(UserError, match=message):
      app.call('models.pretrained', argv)
