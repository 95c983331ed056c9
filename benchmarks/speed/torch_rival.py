"""The ULE step in PyTorch, as one would write it there: eager, and with torch.func under torch.compile."""

import os
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad
from torch.nn import functional as F

from benchmarks import harness
from benchmarks.speed.problem import Contestant, Problem
from ule_jax.models.pretrained import layouts, mapping


class Block(nn.Module):
  """A block of a CIFAR ResNet, whose shortcut is padded."""

  def __init__(self, a: int, b: int, stride: int):
    super().__init__()
    self.conv1, self.bn1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
    self.conv2, self.bn2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
    self.stride, self.half = stride, (b - a) // 2

  def forward(self, x):
    y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
    if self.half:
      x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.half, self.half))
    return F.relu(x + y)


class CifarResNet(nn.Module):
  """The CIFAR ResNet-20 of He et al. 2016."""

  def __init__(self):
    super().__init__()
    self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
    for i, width in enumerate((16, 32, 64)):
      first = Block(width // 2, width, 2) if i else Block(16, 16, 1)
      setattr(self, f'layer{i + 1}', nn.Sequential(first, Block(width, width, 1), Block(width, width, 1)))
    self.linear = nn.Linear(64, 2)

  def forward(self, x):
    x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
    return self.linear(x.mean((2, 3)))


def make_cnn() -> nn.Module:
  """Return three convolutions and a head."""
  layers: dict[str, nn.Module] = {}
  for i, (a, b) in enumerate(((3, 32), (32, 64), (64, 128))):
    layers |= {f'conv{i}': nn.Conv2d(a, b, 3, padding=1), f'relu{i}': nn.ReLU(), f'pool{i}': nn.AvgPool2d(2)}
  layers |= {'mean': nn.AdaptiveAvgPool2d(1), 'flat': nn.Flatten(), 'head': nn.Linear(128, 2)}
  return nn.Sequential(OrderedDict(layers))


def make_network(name: str, size: int) -> nn.Module:
  """Return the network as PyTorch has it: torchvision's, timm's, or written here as one would."""
  if name in ('cnn', 'resnet20'):
    return make_cnn() if name == 'cnn' else CifarResNet()
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    torchvision = harness.import_torchvision()
    import timm
  if name == 'resnet50':
    return torchvision.models.resnet50(num_classes=2)
  timm.layers.set_fused_attn(False)  # the fused one has no second derivative
  kind = {'s': 'small', 'b': 'base'}[name.split('_')[1][0]]
  return timm.create_model(f'vit_{kind}_patch16_224', num_classes=2, img_size=size)


def with_parameters(network: Any, name: str, batch_norm: str, params: Any, batch_stats: Any) -> Any:
  """Return a PyTorch network with the parameters of ours."""
  params, batch_stats = jax.tree.map(np.asarray, (params, batch_stats))
  if name == 'cnn':
    tensors = {f'{layer}.bias': arrays['bias'] for layer, arrays in params.items()}
    for layer, arrays in params.items():
      tensors[f'{layer}.weight'] = arrays['kernel'].T if layer == 'head' else arrays['kernel'].transpose(3, 2, 0, 1)
  else:
    tensors = mapping.export_tensors(params, batch_stats, layouts.layout_of(name, batch_norm))
  if params['head']['kernel'].dtype == np.float64:
    network = network.double()
  missing, extra = network.load_state_dict({k: torch.tensor(v.copy()) for k, v in tensors.items()}, strict=False)
  assert not extra, extra
  assert all(key.endswith('num_batches_tracked') for key in missing), missing
  return network.train(batch_norm != 'frozen')  # of all its layers only BatchNorm asks


class TorchStep:
  """The step in two ways of writing it, which train the same networks."""

  def __init__(self, problem: Problem, name: str, precision: str):
    self.options, self.half = problem.config.method, precision != 'float32'
    self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    self.networks, state = {}, problem.state
    for role in ('student', 'teacher'):
      network, batch_norm = make_network(name, problem.batch.image.shape[1]), problem.config.model.batch_norm
      network = with_parameters(network, name, batch_norm, state.params[role], state.batch_stats[role])
      self.networks[role] = network.to(self.device)
    self.image = torch.tensor(np.asarray(problem.batch.image)).permute(0, 3, 1, 2).to(self.device)
    self.label = torch.tensor(np.asarray(problem.batch.label)).long().to(self.device)
    self.kinds = ('contiguous_format',) if name.startswith('vit') else ('contiguous_format', 'channels_last')
    parameters = [p for network in self.networks.values() for p in network.parameters()]
    self.dtype = parameters[0].dtype
    self.adam = torch.optim.Adam(parameters, lr=problem.config.optim.lr, fused=True)

  def lay_out(self, kind: str) -> None:
    memory = getattr(torch, kind)
    self.image = self.image.contiguous(memory_format=memory)
    for network in self.networks.values():
      network.to(memory_format=memory)

  def wait(self) -> None:
    if self.device == 'cuda':
      torch.cuda.synchronize()

  def pixels(self, image):
    return (image.to(self.dtype) / 255 - 0.5) / 0.5

  def autocast(self):
    return torch.autocast(self.device, torch.bfloat16, enabled=self.half)

  def margin(self, z):
    return (z.gather(1, self.label[:, None]) - z.gather(1, 1 - self.label[:, None]))[:, 0]

  def losses(self, z_s, z_t, g_s, g_t):
    """Return both losses: GCE for the student; for the teacher cross entropy by its mistakes, and `oppose_signed`."""
    y, o = self.label, self.options
    right = F.softmax(z_s, 1).gather(1, y[:, None])[:, 0]
    classes = F.one_hot(y, 2).to(right.dtype)
    p = right.detach()
    shares = ((o.mistake_share, 1 - p), (1 - o.mistake_share, p))
    weights = sum(share * part / (2 * (part @ classes)[y] + 1e-16) for share, part in shares) * len(y)
    learned = (weights * F.cross_entropy(z_t, y, reduction='none')).mean()
    term = (g_t + o.a * g_s).flatten(1).square().sum(1).mean()
    return ((1 - right**o.q) / o.q).mean(), learned + o.weight * term

  def eager(self) -> dict:
    x = self.pixels(self.image).requires_grad_()
    with self.autocast():
      z_s, z_t = (self.networks[role](x).to(self.dtype) for role in ('student', 'teacher'))
    (g_s,) = torch.autograd.grad(self.margin(z_s).sum(), x, retain_graph=True)
    (g_t,) = torch.autograd.grad(self.margin(z_t).sum(), x, create_graph=True)
    student, teacher = self.losses(z_s, z_t, g_s, g_t)
    self.adam.zero_grad()
    (student + teacher).backward()
    self.adam.step()
    return {'student': student.detach(), 'teacher': teacher.detach()}

  def make_functional(self) -> Callable:
    """Return `(parameters, buffers, image) -> (gradients, (losses, buffers))` of nothing but functions."""

    def run(role, parameters, buffers, x):
      buffers = {name: value.clone() for name, value in buffers[role].items()}
      with self.autocast():
        z = functional_call(self.networks[role], (parameters[role], buffers), (x,)).to(self.dtype)
      return self.margin(z).sum(), (z, buffers)

    def total(parameters, buffers, x):
      g_s, (z_s, moved_s) = grad(lambda x: run('student', parameters, buffers, x), has_aux=True)(x)
      g_t, (z_t, moved_t) = grad(lambda x: run('teacher', parameters, buffers, x), has_aux=True)(x)
      student, teacher = self.losses(z_s, z_t, g_s.detach(), g_t)
      losses = {'student': student, 'teacher': teacher}
      return student + teacher, (losses, {'student': moved_s, 'teacher': moved_t})

    return lambda parameters, buffers, image: grad(total, has_aux=True)(parameters, buffers, self.pixels(image))

  def make_compiled(self) -> Callable[[], dict]:
    function = torch.compile(self.make_functional())
    parameters = {role: dict(network.named_parameters()) for role, network in self.networks.items()}
    buffers = {role: dict(network.named_buffers()) for role, network in self.networks.items()}

    def step() -> dict:
      with torch.no_grad():
        gradients, (losses, moved) = function(parameters, buffers, self.image)
        for role, by_name in parameters.items():
          for name, parameter in by_name.items():
            slope = gradients[role][name]
            # The fused Adam goes through memory and not through indices: a transposed gradient would be misread.
            same = slope.stride() == parameter.stride()
            parameter.grad = slope if same else torch.empty_like(parameter).copy_(slope)
          for name, value in buffers[role].items():
            value.copy_(moved[role][name])
        self.adam.step()
      return losses

    return step


def on_threads(count: int, step: Callable[[], dict]) -> Callable[[], dict]:
  """Return a step that sets the number of threads first, as other contestants may change it."""

  def run() -> dict:
    torch.set_num_threads(count)
    return step()

  return run


def eager(rival: TorchStep) -> Contestant:
  """Return the eager step in the layout and with the threads that are fastest here."""
  first = {role: float(loss) for role, loss in rival.eager().items()}

  def seconds(way: tuple[str, int]) -> float:
    rival.lay_out(way[0])
    return harness.timed(on_threads(way[1], rival.eager), rival.wait)()

  ways = [(kind, threads) for kind in rival.kinds for threads in {1, len(os.sched_getaffinity(0))}]
  kind, threads = min(ways, key=seconds)
  rival.lay_out(kind)
  return Contestant(on_threads(threads, rival.eager), rival.wait, {}, first)


def compiled(rival: TorchStep) -> Contestant:
  """Return the compiled step."""
  rival.lay_out(rival.kinds[-1])
  began = time.perf_counter()
  step = on_threads(len(os.sched_getaffinity(0)), rival.make_compiled())
  first = {role: float(loss) for role, loss in step().items()}
  return Contestant(step, rival.wait, {'compile_s': round(time.perf_counter() - began, 1)}, first)


CONTESTANTS = {'torch_eager': eager, 'torch_compiled': compiled}
