"""Files of weights as other repositories save them: the network in them is found, and what is none is named."""

import argparse
import bz2
import datetime
import gzip
import io
import lzma
import os
import pathlib
import pickle
import subprocess
import sys
import tarfile
import types
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import KEY, network

from ule_jax.errors import UserError
from ule_jax.models.pretrained import mapping, weight_files

torch = pytest.importorskip('torch')


@cache
def shapes():
  model = network('resnet20', 3)
  return jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, 8, 8, 3)), train=False))


@pytest.fixture(scope='module')
def template():
  return shapes()


def state(seed=0, flavour='CIFAR ResNet'):
  """The tensors of a resnet20 of random weights."""
  rng = np.random.default_rng(seed)
  values = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes())
  exported = mapping.export_tensors(values['params'], values['batch_stats'], flavour)
  return OrderedDict((name, torch.tensor(value)) for name, value in exported.items())


def under(prefix, tensors):
  return OrderedDict((prefix + name, value) for name, value in tensors.items())


def body(tensors):
  return OrderedDict((n, t) for n, t in tensors.items() if not n.startswith(('linear.', 'fc.')))


def domainbed(seed=0):
  """As its ERM has it: body and classifier, and both again as a sequence."""
  own = state(seed)
  twice = {**under('featurizer.network.', body(own)), **under('network.0.network.', body(own))}
  for name in ('weight', 'bias'):
    twice |= {f'classifier.{name}': own[f'linear.{name}'], f'network.1.{name}': own[f'linear.{name}']}
  return twice


def instance(module, name, **attributes):
  """An object of a class that only the file knows when it is read."""
  kind = type(name, (), {'__module__': module})
  parts = module.split('.')
  for i in range(len(parts)):
    sys.modules.setdefault('.'.join(parts[: i + 1]), types.ModuleType('.'.join(parts[: i + 1])))
  setattr(sys.modules[module], name, kind)
  made = kind()
  made.__dict__ |= attributes
  return made


def optimizer(tensors):
  moments = {i: {'step': torch.tensor(3.0), 'exp_avg': 0 * t} for i, t in enumerate(tensors.values())}
  return {'state': moments, 'param_groups': [{'lr': 0.1, 'params': list(moments)}]}


ARGS = argparse.Namespace(data=pathlib.Path('data'), began=datetime.datetime(2020, 1, 1), lr=np.float64(0.1))
# What a repository saves -> what stands before the names
WRAPPED = {
  'WILDS': ({'algorithm': under('model.', state()), 'epoch': 3, 'best_val_metric': np.float64(0.7)}, 'algorithm.model'),
  'DomainBed': (
    {'args': {'lr': 1e-3}, 'model_hparams': {'x': np.int64(1)}, 'model_dict': domainbed()},
    'model_dict.featurizer.network',
  ),
  'SubpopBench': (
    {
      'args': vars(ARGS), 'model_dict': domainbed(),
      'early_stopper': instance('subpopbench.learning.early_stopping', 'EarlyStopping', best=np.float32(1), counts=[1]),
    },
    'model_dict.featurizer.network',
  ),
  'torchvision references': (
    {'model': state(), 'optimizer': optimizer(state()), 'lr_scheduler': {'last_epoch': 3}, 'args': ARGS}, 'model',
  ),
  'ImageNet example': (
    {'epoch': 1, 'arch': 'resnet20', 'state_dict': under('module.', state()), 'best_acc1': torch.tensor(7.0)},
    'state_dict.module',
  ),
  'Lightning': (
    {
      'state_dict': under('model.', state()), 'optimizer_states': [optimizer(state())], 'callbacks': {},
      'hyper_parameters': instance('lightning.fabric.utilities.data', 'AttributeDict', lr=0.1),
      'loops': defaultdict(dict, fit={'n': 1}),
    },
    'state_dict.model',
  ),
  'compiled': ({'net': under('_orig_mod.module.', state())}, 'net._orig_mod.module'),
  'VISSL': (
    {'classy_state_dict': {'base_model': {'model': {'trunk': under('_feature_blocks.', body(state()))}}}},
    'classy_state_dict.base_model.model.trunk._feature_blocks',
  ),
  'in a list': ([state(), optimizer(state())], '0'),
  'parameters': ({name: torch.nn.Parameter(value) for name, value in state().items()}, ''),
  'beside an optimiser': ({**state(), 'optimizer': optimizer(state()), 'epoch': 3}, ''),
}  # fmt: skip


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('kind', WRAPPED)
def test_the_network_is_found_in_what_is_saved_around_it(kind, legacy, template, tmp_path):
  content, place = WRAPPED[kind]
  path = tmp_path / 'model.pkl'
  torch.save(content, path, _use_new_zipfile_serialization=not legacy)
  keep_head = kind != 'VISSL'
  found = mapping.load_pretrained(str(path), 'resnet20', template, keep_head)
  expected = mapping.fit({n: t.numpy() for n, t in state().items()}, template, '', keep_head)
  jax.tree.map(np.testing.assert_array_equal, (found.params, found.batch_stats), expected[:2])
  assert found.place == place
  assert ('not used' in found.note) == (kind == 'ImageNet example')
  named = {row.theirs for row in found.rows}
  assert len(named) == len(found.rows)
  assert 'model_dict.network.1.weight' in named if 'args' in content and 'model_dict' in content else True


@pytest.mark.parametrize('ending', ['.pkl', '.tar', '.pth.tar', '.ckpt', '.bin', '.torch', '.safetensors', '.npz', ''])
def test_the_ending_says_nothing(ending, tmp_path):
  from safetensors.torch import save

  path = tmp_path / f'model{ending}'
  torch.save(state(), path)
  names = weight_files.read(path).keys()
  path.write_bytes(save(state()))
  assert weight_files.read(path).keys() == names
  with path.open('wb') as file:
    np.savez(file, **{n: t.numpy() for n, t in state().items()})
  assert weight_files.read(path).keys() == names


class Classifier(torch.nn.Module):
  """Whole modules are saved by group_DRO and those who follow it; none of their code is run to read them."""

  def __init__(self):
    super().__init__()
    from pretrained_test import CifarResNet20

    self.backbone = CifarResNet20()
    self.backbone.linear = torch.nn.Linear(64, 3)

  def __setstate__(self, state):
    raise AssertionError('code of the file was run')


def test_a_whole_module_is_read_without_its_code(template, tmp_path):
  net = Classifier()
  torch.save({'model': torch.nn.DataParallel(net)}, tmp_path / 'last_model.pth')
  found = mapping.load_pretrained(str(tmp_path / 'last_model.pth'), 'resnet20', template, keep_head=True)
  assert found.place == 'model.module.backbone'
  own = {name: value.numpy() for name, value in net.backbone.state_dict().items()}
  expected, *_ = mapping.fit(own, template, '', keep_head=True)
  jax.tree.map(np.testing.assert_array_equal, found.params, expected)


SEVERAL = {
  'timm': ({'state_dict': state(0), 'state_dict_ema': state(1)}, 'state_dict', 'state_dict_ema'),
  'EMA': ({'model': state(0), 'model_ema': under('module.', state(1))}, 'model', 'model_ema.module'),
  'DINO': ({'student': state(1), 'teacher': state(0)}, 'teacher', 'student'),
  'MoCo': (
    {'state_dict': {**under('module.encoder_q.', state(0)), **under('module.encoder_k.', state(1)), 'q': torch.ones(2),
    }},
    'state_dict.module.encoder_q', 'state_dict.module.encoder_k',
  ),
  'beside': ({**state(0), **under('ema.', state(1))}, '', 'ema'),
  'LfF': ({**under('model_b.', state(0)), **under('model_d.', state(1))}, None, 'model_d'),
  'pairs': ({'netA': state(0), 'netB': state(1), 'netC': state(0)}, None, 'netB'),
}  # fmt: skip


@pytest.mark.parametrize('kind', SEVERAL)
def test_of_several_networks_one_is_taken_by_a_rule_and_said_or_the_user_chooses(kind, template, tmp_path):
  content, place, other = SEVERAL[kind]
  path = tmp_path / 'a#b.pth'
  torch.save(content, path)
  first, second = (mapping.fit({n: t.numpy() for n, t in state(seed).items()}, template, '')[0] for seed in (0, 1))
  if place is None:
    with pytest.raises(UserError, match=r'networks that differ \(.*: say which, as model.weights=FILE#NAME'):
      mapping.load_pretrained(str(path), 'resnet20', template)
  else:
    found = mapping.load_pretrained(str(path), 'resnet20', template)
    assert found.place == place
    assert f'FILE#NAME takes another ({other})' in found.note
    jax.tree.map(np.testing.assert_array_equal, found.params, first)
  chosen = mapping.load_pretrained(f'{path}#{other}', 'resnet20', template)
  assert chosen.place == other
  jax.tree.map(np.testing.assert_array_equal, chosen.params, second)
  with pytest.raises(UserError, match=r'no network in it is called nothing; there are: '):
    mapping.load_pretrained(f'{path}#nothing', 'resnet20', template)


def test_an_mlp_in_the_place_of_the_last_layer_is_left_out_and_not_kept(template, tmp_path):
  own = state(flavour='torchvision or timm ResNet')
  tensors = body(own) | {'fc.0.weight': torch.ones(64, 64), 'fc.2.weight': torch.ones(8, 64)}
  torch.save({'state_dict': under('backbone.', tensors)}, tmp_path / 'simclr.tar')
  found = mapping.load_pretrained(str(tmp_path / 'simclr.tar'), 'resnet20', template)
  assert {row.note for row in found.rows if row.theirs.startswith('fc.')} == {'the last layer, not kept'}
  with pytest.raises(UserError, match=r'it has no tensor fc\.\w+'):
    mapping.load_pretrained(str(tmp_path / 'simclr.tar'), 'resnet20', template, keep_head=True)


def test_a_classifier_that_differs_from_its_twin_is_not_guessed(template, tmp_path):
  tensors = domainbed()
  tensors['classifier.bias'] = tensors['classifier.bias'] + 1
  torch.save({'model_dict': tensors}, tmp_path / 'x.pkl')
  with pytest.raises(UserError, match=r'it has no tensor fc\.\w+'):
    mapping.load_pretrained(str(tmp_path / 'x.pkl'), 'resnet20', template, keep_head=True)


def saved(content):
  file = io.BytesIO()
  torch.save(content, file)
  return file.getvalue()


def zipped(names):
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as archive:
    for name in names:
      archive.writestr(name, b'x')
  return file.getvalue()


def tarred():
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w') as archive:
    archive.addfile(tarfile.TarInfo('model.pth'), io.BytesIO())
  return file.getvalue()


def script():
  file = io.BytesIO()
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', DeprecationWarning)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
  return file.getvalue()


def single_array():
  file = io.BytesIO()
  np.save(file, np.zeros(3))
  return file.getvalue()


POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 46807446\n'
# name -> what lies there, what is said of it
OTHERS = {
  'pointer': (lambda: POINTER, 'is a git-lfs pointer and not the file itself: fetch that with git lfs pull'),
  'page': (lambda: b'<!DOCTYPE html><html>Google Drive</html>', 'is a web page or XML and not weights: download it ag'),
  'page with a mark': (lambda: b'\xef\xbb\xbf \n<html>', 'is a web page or XML'),
  'denied': (lambda: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', 'is a web page or XML'),
  'JSON': (lambda: b'{"error": "Repository not found"}', 'is JSON and not weights'),
  'index': (lambda: b'{\n  "metadata": {}, "weight_map": {}}', 'is JSON and not weights'),
  'text': (lambda: b'Not Found\n', 'is a text and not weights: download it again'),
  'empty': (lambda: b'', 'is empty: download it again'),
  'blank': (lambda: b'\0' * 4096, 'is none of .safetensors, .npz and what torch.save writes'),
  'gzip': (lambda: gzip.compress(saved(state())), r'is compressed \(gzip\): unpack it'),
  'bzip2': (lambda: bz2.compress(b'x'), r'is compressed \(bzip2\)'),
  'xz': (lambda: lzma.compress(b'x'), r'is compressed \(xz\)'),
  'tar': (tarred, 'is a tar archive: unpack it'),
  'zip': (lambda: zipped(['model.pth', 'readme.txt']), 'is a zip archive of something else: unpack it'),
  'nothing in a zip': (lambda: zipped([]), 'is a zip archive of something else'),
  'program': (script, 'is a TorchScript program: save the state dict alone'),
  'array': (single_array, 'is a single NumPy array'),
  'HDF5': (lambda: b'\x89HDF\r\n\x1a\n' + b'\0' * 99, 'is an HDF5 file'),
  'plain pickle': (lambda: pickle.dumps({'conv1.weight': np.zeros(3)}), 'is refused: a plain pickle may run any code'),
  'old pickle': (lambda: pickle.dumps({'conv1.weight': np.zeros(3)}, 0), 'is refused: a plain pickle may run any code'),
  'pickled tensors': (lambda: pickle.dumps(state()), 'is refused: a plain pickle may run any code'),
  'half of it': (lambda: saved(state())[:20000], 'cannot be read .* download it again'),
  'half a header': (lambda: (1000).to_bytes(8, 'little') + b'{"a":', 'cannot be read .* download it again'),
  'no tensors': (lambda: saved({'epoch': 3}), 'holds no tensors: give a state dict'),
  'an optimiser': (lambda: saved({'optimizer': optimizer(state())}), 'holds no tensors'),
  'complex': (lambda: saved({'w': torch.zeros(2, dtype=torch.complex64)}), 'cannot be read .w is no ordinary tensor'),
}


@pytest.mark.parametrize('ending', ['.pth', '.safetensors', '.npz', '.pkl', '.tar'])
@pytest.mark.parametrize('kind', OTHERS)
def test_what_is_no_file_of_weights_is_named_by_its_content(kind, ending, tmp_path):
  make, message = OTHERS[kind]
  path = tmp_path / f'x{ending}'
  path.write_bytes(make())
  with pytest.raises(UserError, match=rf'x{ending} {message}') as error:
    weight_files.read(path)
  assert len(str(error.value).splitlines()) == 1


class Call:
  def __init__(self, function, *arguments):
    self.parts = function, arguments

  def __reduce__(self):
    return self.parts


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('depth', ['first', 'nested', 'key', 'state'])
def test_what_would_be_called_is_refused_and_not_run(depth, legacy, tmp_path):
  path, made = tmp_path / 'evil.pkl', tmp_path / 'made'
  for function, *arguments in (
    (os.mkdir, str(made)),
    (eval, f'__import__("os").mkdir({str(made)!r})'),
    (exec, f'import os; os.mkdir({str(made)!r})'),
    (subprocess.Popen, ['mkdir', str(made)]),
    (getattr, torch.nn.Module, 'load_state_dict'),
    (__import__, 'antigravity'),
    (torch.load, str(path)),
    (pathlib.Path.mkdir, pathlib.Path(made)),
  ):
    evil = Call(function, *arguments)
    content = {
      'first': {'args': evil, 'model': state()},
      'nested': {'model': {**state(), 'extra': [evil]}},
      'key': {(evil,): 1, 'model': state()},
      'state': {'model': state(), 'stop': instance('somewhere', 'Stop', inside=evil)},
    }[depth]
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
      UserError, match=r'evil.pkl is refused, as it holds more than tensors, which could run code \('
    ) as e:
      weight_files.read(path)
    assert len(str(e.value).splitlines()) == 1
    assert not made.exists()


def test_deep_and_endless_structures_end(tmp_path):
  loop: dict[str, Any] = {'model': state()}
  loop['again'] = loop
  deep = []
  for _ in range(300):
    deep = [deep]
  torch.save({**loop, 'deep': deep}, tmp_path / 'x.pth')
  assert len(weight_files.read(tmp_path / 'x.pth')) == len(state())
