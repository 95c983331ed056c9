"""Exports give the run's predictions: the artifact on any batch, the weights in PyTorch and in ours."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import from_flags

from ule_jax.cli import app
from ule_jax.errors import UserError
from ule_jax.models import make_network
from ule_jax.models.pretrained import layouts, mapping
from ule_jax.runs.restore import restore
from ule_jax.runs.results import REQUIRED

SHAPES = {
  'resnet18': ('--config.data.size=33',),
  'vit': ('--config.data.size=8', '--config.model.width=16', '--config.model.depth=2', '--config.model.heads=2'),
}


def read(path):
  from safetensors.numpy import load_file

  return load_file(path)


def images_of(run, n=3):
  return np.random.default_rng(0).integers(0, 256, (n, *run.input_spec.image_shape), dtype=np.uint8)


def deployed(run):
  return run.forward()(run.variables(run.roles[-1]), images_of(run))


@pytest.fixture(scope='module')
def untrained(tmp_path_factory):
  """Folders of runs as they are after training, of networks with random weights and statistics."""

  def make(name):
    root = tmp_path_factory.mktemp(name)
    flags = [f'--config.model.name={name}', '--config.model.weights=none', '--config.data.dir=gone', *SHAPES[name]]
    config = from_flags('folder:erm', *flags)
    results = dict.fromkeys(REQUIRED) | {'step': 3, 'classes': ['cat', 'dog', 'owl'], 'roles': {'model': {}}}
    network = make_network(SimpleNamespace(**config.model), 3)
    sample = jnp.zeros((1, config.data.size, config.data.size, 3))
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), sample, train=False))
    rng = np.random.default_rng(0)

    def noise(path, leaf):
      values = rng.normal(0, 1 / np.sqrt(max(np.prod(leaf.shape[:-1]), 1)), leaf.shape)
      return jnp.asarray(0.8 + np.abs(values) if path[-1].key in ('var', 'scale') else values, jnp.float32)

    one = jax.tree_util.tree_map_with_path(noise, shapes)
    state = {'params': {'model': one['params']}, 'batch_stats': {'model': one.get('batch_stats', {})}}
    from ule_jax.runs.checkpoints import Checkpoints

    checkpoints = Checkpoints(root / 'checkpoints', ())
    checkpoints.save(3, state, {})
    checkpoints.close()
    (root / 'config.json').write_text(json.dumps(config.to_dict()))
    (root / 'results.json').write_text(json.dumps(results))
    (root / 'done').touch()
    return root

  return make


def test_the_artifact_says_what_the_run_says_at_any_batch_size(ule_run, tmp_path, capsys):
  app.call('export', [f'--run={ule_run}', f'--out={tmp_path / "deep" / "m.stablehlo"}'])
  assert 'weights of the teacher of ule, step 20: names of ours, as mlp has no other home' in capsys.readouterr().out
  exported = jax.export.deserialize(bytearray((tmp_path / 'deep' / 'm.stablehlo').read_bytes()))
  assert exported.platforms == ('cpu', 'cuda', 'tpu')
  about = json.loads((tmp_path / 'deep' / 'm.json').read_text())
  assert about['classes'] == ['below five', 'five or more']
  assert about['image_shape'] == [16, 16, 3]
  assert about['prepare'] == 'resize to 16 x 16 (antialias)'
  assert (about['mean'], about['std']) == ([0.5] * 3, [0.25] * 3)
  run = restore(ule_run)
  images = images_of(run, 5)
  expected = run.forward()(run.variables('teacher'), jnp.asarray(images))
  for n in (1, 5):
    np.testing.assert_allclose(exported.call(images[:n]), expected[:n], atol=1e-5)
  student = run.forward()(run.variables('student'), jnp.asarray(images))
  assert np.abs(student - expected).max() > 0.1


def test_our_own_names_start_another_run(ule_run, tmp_path):
  app.call('export', [f'--run={ule_run}', f'--out={tmp_path / "m.stablehlo"}'])
  run = restore(ule_run)
  variables = run.variables('teacher')
  found = mapping.load_pretrained(str(tmp_path / 'm.safetensors'), 'mlp', variables, keep_head=True)
  jax.tree.map(np.testing.assert_array_equal, found.params, dict(variables['params']))
  assert found.flavour == 'ule_jax'


@pytest.mark.parametrize(
  'name', [pytest.param(name, marks=pytest.mark.full) if name == 'resnet18' else name for name in SHAPES]
)
def test_weights_go_to_pytorch_and_back(name, untrained, torchvision, tmp_path):
  torch = pytest.importorskip('torch')
  run = restore(untrained(name))
  app.call('export', [f'--run={run.directory}', f'--out={tmp_path / "m.stablehlo"}'])
  tensors, about = read(tmp_path / 'm.safetensors'), json.loads((tmp_path / 'm.json').read_text())
  if name == 'vit':
    timm = pytest.importorskip('timm')
    net = timm.models.vision_transformer.VisionTransformer(8, 4, num_classes=3, embed_dim=16, depth=2, num_heads=2)
  else:
    net = torchvision.models.resnet18(num_classes=3)
  net.load_state_dict({key: torch.tensor(value) for key, value in tensors.items()})
  # As the .json says, and nothing else.
  mean, std = (np.array(about[key], np.float32) for key in ('mean', 'std'))
  x = (images_of(run) / np.float32(255) - mean) / std
  with torch.no_grad():
    theirs = net.eval()(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
  expected = np.asarray(deployed(run))
  assert np.ptp(expected) > 0.1
  np.testing.assert_allclose(theirs, expected, atol=1e-4)
  exported = jax.export.deserialize(bytearray((tmp_path / 'm.stablehlo').read_bytes()))
  np.testing.assert_allclose(exported.call(images_of(run)), expected, atol=1e-4)
  back = mapping.load_pretrained(str(tmp_path / 'm.safetensors'), name, run.variables('model'), keep_head=True)
  jax.tree.map(np.testing.assert_array_equal, back.params, dict(run.variables('model')['params']))


def test_a_head_on_a_frozen_encoder_becomes_the_last_layer_of_one_network(frozen_run, tmp_path):
  app.call('export', [f'--run={frozen_run}', f'--out={tmp_path / "m.stablehlo"}'])
  run = restore(frozen_run)
  tensors = read(tmp_path / 'm.safetensors')
  assert tensors['linear.weight'].shape == (2, 64)
  network = make_network(run.config.model, 2)
  template = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))
  found = mapping.load_pretrained(str(tmp_path / 'm.safetensors'), 'resnet20', template, keep_head=True)
  variables = {'params': found.params, 'batch_stats': found.batch_stats}
  logits, _ = network.apply(variables, run.preprocess(jnp.asarray(images_of(run))), train=False)
  np.testing.assert_allclose(logits, deployed(run), atol=1e-4)
  exported = jax.export.deserialize(bytearray((tmp_path / 'm.stablehlo').read_bytes()))
  np.testing.assert_allclose(exported.call(images_of(run)), deployed(run), atol=1e-4)


def test_layouts():
  assert layouts.layout_of('resnet50', 'frozen') == 'torchvision or timm ResNet'
  assert layouts.layout_of('resnet50', 'none') == layouts.layout_of('cnn', 'batch') == 'ule_jax'
  assert layouts.layout_of('vit_b16', 'none') == 'timm ViT'


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--out=x.stablehlo'], r'give --run=DIR'),
    (['--run=nowhere'], r'nowhere holds no run'),
    (['--run=w', '--out=x.json'], r'--out x.json is for the StableHLO artifact: end it on .stablehlo'),
    (['--run=w', '--out=file/x.stablehlo'], r'file/x.stablehlo cannot be written'),
  ],
)
def test_bad_usage_is_one_sentence(flags, message, ule_run, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'w').symlink_to(ule_run)
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match=message) as end:
    app.call('export', flags)
  assert '\n' not in str(end.value)
  assert [p.name for p in tmp_path.iterdir() if p.name not in ('w', 'file')] == []
