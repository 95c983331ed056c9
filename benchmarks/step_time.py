"""How long a fused ULE step takes, beside ERM, the same mathematics in separate calls, and PyTorch.

  python benchmarks/step_time.py --out=NEW.jsonl                     every network, each in a process of its own
  python benchmarks/step_time.py --network=resnet20 --out=NEW.jsonl  one (several: --network=cnn,vit_s16)
  python benchmarks/step_time.py --network=resnet20,resnet50 --batch_norm=frozen --out=NEW.jsonl
                                                                     the same with running statistics that do not move
  python benchmarks/step_time.py --markdown                          the table of benchmarks/results/step_time.jsonl

Contestants, all with Adam and the same parameters at the beginning, those of ULE with its default options but for
holding back, which is left out so that their losses can be compared:

  erm             one network, our step
  ule             two networks, our one fused step
  ule_devices     the same over virtual devices (JAX_NUM_CPU_DEVICES), as many as cores or twice as many: the faster;
                  in a process of its own, as each process has one number of devices
  separate        the same numbers from three compiled calls: the student's gradients, the teacher's, the update
  torch_eager     torch.autograd.grad(create_graph=True), contiguous or channels_last and one thread or all: the fastest
  torch_compiled  torch.func.grad and functional_call under torch.compile (images channels_last), PyTorch's fused Adam

Before anything is timed, the losses of the first step of all ULE contestants are compared (recorded as `differences`).
They then take turns; a row's `ms` are its milliseconds per step in each turn, so that ratios are paired. FLOPs are
those that XLA counts in the optimised step, the peak is that of a product of matrices in the same process. One row is
one contestant. On a GPU (`device`) the same code runs there; without PyTorch its rows say why they are empty.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import record

RESULTS = Path(__file__).parent / 'results' / 'step_time.jsonl'
CONTESTANTS = ('erm', 'ule', 'ule_devices', 'separate', 'torch_eager', 'torch_compiled')


class Case(NamedTuple):
  """A network, and a batch whose step takes seconds at most on two cores."""

  batch: int
  size: int
  batch_norm: str = 'none'


CASES = {
  'cnn': Case(64, 32),
  'resnet20': Case(64, 32, 'batch'),
  'resnet50': Case(4, 224, 'batch'),
  'vit_s16': Case(4, 224),
  'vit_b16': Case(2, 224),
}
# The defaults of configs/base.py, whatever a data set's config makes of them, but for holding back: the student here
# only guesses, and a term that is left out could not be compared
ULE = {
  'term': 'oppose_signed', 'scalar': 'margin', 'weight': 0.03, 'a': 1.0, 'student_loss': 'generalized_cross_entropy',
  'q': 0.7, 'mistakes': 'balanced', 'mistake_share': 0.7, 'student_noise': 0.0,
  'hold_back': 0.0,
}  # fmt: skip
ADAM = {'name': 'adam', 'lr': 1e-4, 'weight_decay': 0.0}
LEAST = 0.5  # seconds of a turn
COPIED = 1 << 30  # bytes of a state that virtual devices may each have a copy of


class Problem(NamedTuple):
  """What all contestants are given."""

  config: Any
  method: Any
  model: Any
  tx: Any
  preprocess: Callable
  key: Any
  batch: Any
  state: Any


class Contestant(NamedTuple):
  """A step that is ready.

  step: make one step; return its losses, as a dictionary that `wait` waits for.
  wait: let everything that was begun be done.
  close: give back what it holds.
  """

  step: Callable[[], dict]
  wait: Callable[[], None]
  about: dict
  close: Callable[[], None] = lambda: None


def pose(name: str, precision: str, method: str, **changes) -> Problem:
  """Make a network's problem; `changes` are of `Case` and of `config.model`."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from ule_jax.cli.flags import parse
  from ule_jax.methods import METHODS, Batch, Sizes
  from ule_jax.models import make_model
  from ule_jax.models.build import make_preprocess
  from ule_jax.optim import make_optimizer
  from ule_jax.train.step import create_state

  case = CASES[name]._replace(**{k: v for k, v in changes.items() if k in Case._fields})
  model = {'name': name, 'batch_norm': case.batch_norm, 'precision': precision, 'weights': 'none'}
  model |= {k: v for k, v in changes.items() if k not in Case._fields}
  flags = [f'--config.model.{k}={v}' for k, v in model.items()]
  flags += [f'--config.optim.{k}={v}' for k, v in ADAM.items()]
  flags += [f'--config.method.{k}={v}' for k, v in ULE.items() if method == 'ule']
  config = parse([f'--config=celeba:{method}', '--config.data.dir=none', *flags], '', {}).config
  sizes = Sizes(1000, 2, 4, np.full(4, 250), config.model.batch_norm == 'batch')
  method = METHODS[method](config.method, sizes)
  network, tx = make_model(config.model, 2), make_optimizer(config.optim, method.roles, 100)
  preprocess, key = make_preprocess((0.5,) * 3, (0.5,) * 3), jax.random.key(0)
  rng, ids = np.random.default_rng(0), jnp.arange(case.batch, dtype=jnp.int32)
  image = rng.integers(0, 256, (case.batch, case.size, case.size, 3), np.uint8)
  batch = Batch(jnp.asarray(image), ids % 2, ids % 4, ids, jnp.ones(case.batch))
  state = jax.jit(lambda: create_state(method, network, tx, preprocess(batch.image[:1]), key))()
  return Problem(config, method, network, tx, preprocess, key, batch, state)


# --- Ours ----------------------------------------------------------------------------------------


def compiled(function: Callable, *arguments, **settings) -> tuple[Callable, dict]:
  """Compile ahead; return the function and what the compiler says of it."""
  import jax

  from ule_jax.devices import runtime

  began = time.perf_counter()
  function = jax.jit(function, compiler_options=runtime.compiler_options(), **settings)
  function = function.lower(*arguments).compile()
  about = {
    'compile_s': time.perf_counter() - began,
    'gflop': function.cost_analysis()['flops'] / 1e9,
    'temporary_gib': function.memory_analysis().temp_size_in_bytes / 2**30,
  }
  return function, about


def losses_of(metrics: dict) -> dict:
  return {name.removeprefix('loss/'): value for name, value in metrics.items() if name.startswith('loss/')}


def fused(problem: Problem, devices: int = 1) -> Contestant:
  """Make our step, as `ule_jax.train` runs it; what the compiler says of it is of one of the devices."""
  import jax
  import jax.numpy as jnp

  from ule_jax.devices.mesh import make_mesh, replicated_sharding, shard_batch
  from ule_jax.train.step import make_train_step

  mesh = make_mesh(jax.devices()[:devices])
  everywhere = replicated_sharding(mesh)
  step = make_train_step(problem.method, problem.model, problem.tx, problem.key, problem.preprocess)
  batch = shard_batch(problem.batch, mesh)
  state = jax.jit(lambda state: jax.tree.map(jnp.copy, state), out_shardings=everywhere)(problem.state)
  step, about = compiled(step, state, batch, donate_argnums=0, out_shardings=everywhere)

  def run() -> dict:
    nonlocal state
    state, metrics = step(state, batch)
    return losses_of(metrics)

  return Contestant(run, lambda: jax.block_until_ready(state), about | {'devices': mesh.size})


class Served:
  """Our step in a process of its own, which waits for its turn: how many devices a CPU has is up to the process.

  Args:
    one: what `serve` is told.
  """

  def __init__(self, one: dict):
    command = [sys.executable, __file__, f'--serve={json.dumps(one)}']
    environment = os.environ | {'JAX_NUM_CPU_DEVICES': str(one['devices'])}
    self.process = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, bufsize=1
    )
    self.about = json.loads(self.process.stdout.readline())
    self.asked = 0

  def step(self) -> dict:
    self.asked += 1
    return {}

  def wait(self) -> None:
    if self.asked:
      self.process.stdin.write(f'{self.asked}\n')
      self.process.stdout.readline()
    self.asked = 0

  def close(self) -> None:
    self.process.stdin.close()
    self.process.stdout.close()
    self.process.wait()


def serve(name: str, precision: str, changes: dict, devices: int) -> None:
  """Make as many steps as each line of the standard input says, and say so when they are done."""
  from ule_jax.devices import runtime

  runtime.keep_memory()
  contestant = fused(pose(name, precision, 'ule', **changes), devices)
  first = {role: float(loss) for role, loss in contestant.step().items()}
  print(json.dumps(contestant.about | {'first': first}), flush=True)
  for line in sys.stdin:
    for _ in range(int(line)):
      contestant.step()
    contestant.wait()
    print('done', flush=True)


def over_devices(name: str, precision: str, changes: dict, problem: Problem) -> Contestant:
  """Make our step over virtual devices of a CPU: as many as cores or twice as many, whichever is faster."""
  import jax

  if jax.default_backend() != 'cpu':
    return Contestant(dict, lambda: None, {'note': 'for a CPU'})
  size = sum(leaf.nbytes for leaf in jax.tree.leaves((problem.state.params, problem.state.opt_state)))
  if size > COPIED:
    return Contestant(dict, lambda: None, {'note': f'not run: {size / 2**30:.1f} GiB of state on each'})
  examples, cores, found = len(problem.batch.label), len(os.sched_getaffinity(0)), {}
  for devices in (cores, 2 * cores):
    if examples % devices == 0:
      served = Served({'name': name, 'precision': precision, 'changes': changes, 'devices': devices})
      found[seconds_of(served)] = served
  if not found:
    return Contestant(dict, lambda: None, {'note': f'{examples} images on {cores} cores'})
  fastest = found.pop(min(found))
  for other in found.values():
    other.close()
  return Contestant(fastest.step, fastest.wait, fastest.about, fastest.close)


def seconds_of(contestant: Contestant | Served) -> float:
  """Return the median time of a step after a first, of three or of what three seconds hold."""
  times = []
  while len(times) < 4 or sum(times) < 3:
    began = time.perf_counter()
    contestant.step()
    contestant.wait()
    times.append(time.perf_counter() - began)
  return statistics.median(times[1:])


def make_separate(problem: Problem) -> tuple[Callable, dict]:
  """Make `state -> (state, losses)` of three compiled calls, with the numbers of the fused step."""
  import jax
  import jax.numpy as jnp
  import optax

  from ule_jax.losses import (
    SCALARS,
    classification_loss,
    cross_entropy,
    fit_and_input_gradient,
    is_proportional,
    mistake_weights,
    unlearning_term,
    weighted_mean,
  )
  from ule_jax.methods import Output

  options, state = problem.config.method, problem.state
  scalar, term = SCALARS[options.scalar], unlearning_term(options.term, options.a)
  fit = classification_loss(options.student_loss, options.q)
  mistakes = mistake_weights(options.mistakes, options.mistake_share)

  proportional = is_proportional(options.scalar, 2, problem.config.model.batch_norm == 'batch')

  def run(params, batch_stats, batch, loss):
    def network(x):
      variables = {'params': params, 'batch_stats': batch_stats}
      (logits, features), updated = problem.model.apply(variables, x, train=True, mutable=['batch_stats'])
      return Output(logits, features, updated.get('batch_stats', {}))

    def mean(logits):
      return weighted_mean(loss(logits, batch.label), batch.weight)

    x = problem.preprocess(batch.image)
    return fit_and_input_gradient(network, x, batch.label, mean, scalar, proportional)

  def of_student(params, batch_stats, batch):
    def loss(params):
      student, fitted, gradient = run(params, batch_stats, batch, fit)
      wrong = mistakes(student.logits, batch.label, batch.weight)
      return fitted, (student.batch_stats, gradient, wrong)

    (value, rest), slopes = jax.value_and_grad(loss, has_aux=True)(params)
    return value, slopes, rest

  def of_teacher(params, batch_stats, batch, student, wrong):
    def loss(params):
      teacher, learned, gradient = run(params, batch_stats, batch, lambda *at: wrong * cross_entropy(*at))
      shared = weighted_mean(term(student, gradient), batch.weight)
      return learned + options.weight * shared, teacher.batch_stats

    (value, moved), slopes = jax.value_and_grad(loss, has_aux=True)(params)
    return value, slopes, moved

  def update(params, opt_state, slopes):
    updates, opt_state = problem.tx.update(slopes, opt_state, params)
    # The fused step looks for what is not finite, too.
    norms = {role: optax.tree.norm(slope) for role, slope in slopes.items()}
    return optax.apply_updates(params, updates), opt_state, jax.tree.map(jnp.isfinite, norms)

  def inputs(role):
    return state.params[role], state.batch_stats[role], problem.batch

  shapes = jax.eval_shape(of_student, *inputs('student'))[2]
  student, about_student = compiled(of_student, *inputs('student'))
  teacher, about_teacher = compiled(of_teacher, *inputs('teacher'), *shapes[1:])
  change, about_update = compiled(update, state.params, state.opt_state, state.params, donate_argnums=(0, 1))
  each = (about_student, about_teacher, about_update)
  about = {key: sum(a[key] for a in each) for key in ('compile_s', 'gflop')}
  about['temporary_gib'] = max(a['temporary_gib'] for a in each)

  def step(state):
    params, stats = state.params, state.batch_stats
    fitted, slope_s, (moved_s, gradient, wrong) = student(params['student'], stats['student'], problem.batch)
    learned, slope_t, moved_t = teacher(params['teacher'], stats['teacher'], problem.batch, gradient, wrong)
    params, opt_state, _ = change(params, state.opt_state, {'student': slope_s, 'teacher': slope_t})
    moved = {'student': moved_s, 'teacher': moved_t}
    state = state.replace(step=state.step + 1, params=params, batch_stats=moved, opt_state=opt_state)
    return state, {'student': fitted, 'teacher': learned}

  return step, about


def separate(problem: Problem) -> Contestant:
  import jax

  step, about = make_separate(problem)
  state = jax.tree.map(lambda x: x.copy(), problem.state)

  def run() -> dict:
    nonlocal state
    state, found = step(state)
    return found

  return Contestant(run, lambda: jax.block_until_ready(state), about)


def product_peak(precision: str) -> float:
  """Return the FLOP/s of the best of products of square matrices, several sizes."""
  import jax
  import jax.numpy as jnp

  best = 0.0
  for size in (1024, 2048) if jax.default_backend() == 'cpu' else (4096, 8192):
    a = jnp.ones((size, size), precision)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    for _ in range(5):
      began = time.perf_counter()
      product(a, a).block_until_ready()
      best = max(best, 2 * size**3 / (time.perf_counter() - began))
  return best


# --- PyTorch -------------------------------------------------------------------------------------


def make_torch_network(name: str, size: int):
  """Make the network as PyTorch has it: torchvision's, timm's, or written here as one would."""
  import torch
  from torch import nn
  from torch.nn import functional as F

  class Small(nn.Module):
    def __init__(self):
      super().__init__()
      pairs = ((3, 32), (32, 64), (64, 128))
      for i, (a, b) in enumerate(pairs):
        setattr(self, f'conv{i}', nn.Conv2d(a, b, 3, padding=1))
      self.depth, self.head = len(pairs), nn.Linear(128, 2)

    def forward(self, x):
      for i in range(self.depth):
        x = F.avg_pool2d(F.relu(getattr(self, f'conv{i}')(x)), 2)
      return self.head(x.mean((2, 3)))

  class Block(nn.Module):
    def __init__(self, a, b, stride):
      super().__init__()
      self.conv1, self.bn1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
      self.conv2, self.bn2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
      self.stride, self.missing = stride, b - a

    def forward(self, x):
      y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
      if self.missing:
        half = self.missing // 2
        x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.missing - half))
      return F.relu(x + y)

  class Cifar(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
      for i in range(3):
        width = 16 * 2**i
        first = Block(width // 2, width, 2) if i else Block(16, 16, 1)
        setattr(self, f'layer{i + 1}', nn.Sequential(first, Block(width, width, 1), Block(width, width, 1)))
      self.linear = nn.Linear(64, 2)

    def forward(self, x):
      x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
      return self.linear(x.mean((2, 3)))

  if name in ('cnn', 'resnet20'):
    return Small() if name == 'cnn' else Cifar()
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    try:
      import torchvision
    except RuntimeError:  # its compiled part is for another build of PyTorch; nothing here needs it
      for module in [m for m in sys.modules if m.split('.')[0] == 'torchvision']:
        del sys.modules[module]
      make_torch_network.library = torch.library.Library('torchvision', 'DEF')  # kept: it undoes itself
      for operation in ('nms', 'qnms'):
        make_torch_network.library.define(f'{operation}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
      import torchvision
    import timm
  if name == 'resnet50':
    return torchvision.models.resnet50(num_classes=2)
  timm.layers.set_fused_attn(False)  # the fused one has no second derivative
  kind = {'s': 'small', 'b': 'base'}[name.split('_')[1][0]]
  return timm.create_model(f'vit_{kind}_patch16_224', num_classes=2, img_size=size)


def with_parameters(network, name: str, batch_norm: str, params, batch_stats):
  """Give a PyTorch network the parameters of ours."""
  import jax
  import numpy as np
  import torch

  from ule_jax.models.pretrained import layouts, mapping

  params, batch_stats = jax.tree.map(np.asarray, (params, batch_stats))
  if name == 'cnn':
    tensors = {f'{layer}.bias': own['bias'] for layer, own in params.items()}
    for layer, own in params.items():
      tensors[f'{layer}.weight'] = own['kernel'].T if layer == 'head' else own['kernel'].transpose(3, 2, 0, 1)
  else:
    tensors = mapping.export_tensors(params, batch_stats, layouts.layout_of(name, batch_norm))
  if params['head']['kernel'].dtype == np.float64:
    network = network.double()
  missing, extra = network.load_state_dict({k: torch.tensor(v.copy()) for k, v in tensors.items()}, strict=False)
  assert not extra, extra
  assert all(key.endswith('num_batches_tracked') for key in missing), missing
  return network.train(batch_norm != 'frozen')  # of all its layers only BatchNorm asks


class Torch:
  """The same step in PyTorch, written as one would there; both ways of writing it train the same networks."""

  def __init__(self, problem: Problem, name: str, precision: str):
    import numpy as np
    import torch

    self.torch, self.options = torch, problem.config.method
    self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    self.half = precision != 'float32'
    self.networks = {
      role: with_parameters(
        make_torch_network(name, problem.batch.image.shape[1]), name, problem.config.model.batch_norm,
        problem.state.params[role], problem.state.batch_stats[role],
      ).to(self.device)
      for role in ('student', 'teacher')
    }  # fmt: skip
    self.image = torch.tensor(np.asarray(problem.batch.image)).permute(0, 3, 1, 2).to(self.device)
    self.label = torch.tensor(np.asarray(problem.batch.label)).long().to(self.device)
    self.kinds = 'contiguous_format', 'channels_last'
    if name.startswith('vit'):
      self.kinds = self.kinds[:1]
    parameters = [p for network in self.networks.values() for p in network.parameters()]
    self.dtype = parameters[0].dtype
    self.adam = torch.optim.Adam(parameters, lr=problem.config.optim.lr, fused=True)

  def lay_out(self, kind: str) -> None:
    memory = getattr(self.torch, kind)
    self.image = self.image.contiguous(memory_format=memory)
    for network in self.networks.values():
      network.to(memory_format=memory)

  def wait(self) -> None:
    if self.device == 'cuda':
      self.torch.cuda.synchronize()

  def pixels(self, image):
    return (image.to(self.dtype) / 255 - 0.5) / 0.5

  def autocast(self):
    return self.torch.autocast(self.device, self.torch.bfloat16, enabled=self.half)

  def margin(self, z):
    own = z.gather(1, self.label[:, None])
    return (own - z.gather(1, 1 - self.label[:, None]))[:, 0]

  def losses(self, z_s, z_t, g_s, g_t):
    """Both losses: GCE for the student; for the teacher cross entropy by its mistakes, and `oppose_signed`."""
    F, y, o = self.torch.nn.functional, self.label, self.options
    right = F.softmax(z_s, 1).gather(1, y[:, None])[:, 0]
    own = F.one_hot(y, 2).to(right.dtype)
    p = right.detach()
    shares = ((o.mistake_share, 1 - p), (1 - o.mistake_share, p))
    weights = sum(share * part / (2 * (part @ own)[y] + 1e-16) for share, part in shares) * len(y)
    learned = (weights * F.cross_entropy(z_t, y, reduction='none')).mean()
    term = (g_t + o.a * g_s).flatten(1).square().sum(1).mean()
    return ((1 - right**o.q) / o.q).mean(), learned + o.weight * term

  def eager(self) -> dict:
    grad = self.torch.autograd.grad
    x = self.pixels(self.image).requires_grad_()
    with self.autocast():
      z_s, z_t = (self.networks[role](x).to(self.dtype) for role in ('student', 'teacher'))
    (g_s,) = grad(self.margin(z_s).sum(), x, retain_graph=True)
    (g_t,) = grad(self.margin(z_t).sum(), x, create_graph=True)
    student, teacher = self.losses(z_s, z_t, g_s, g_t)
    self.adam.zero_grad()
    (student + teacher).backward()
    self.adam.step()
    return {'student': student.detach(), 'teacher': teacher.detach()}

  def make_functional(self) -> Callable:
    """Make `(parameters, buffers, image) -> (gradients, (losses, buffers))` of nothing but functions."""
    from torch.func import functional_call, grad

    def run(role, parameters, buffers, x):
      buffers = {name: value.clone() for name, value in buffers[role].items()}
      with self.autocast():
        z = functional_call(self.networks[role], (parameters[role], buffers), (x,)).to(self.dtype)
      return self.margin(z).sum(), (z, buffers)

    def total(parameters, buffers, x):
      g_s, (z_s, moved_s) = grad(lambda x: run('student', parameters, buffers, x), has_aux=True)(x)
      g_t, (z_t, moved_t) = grad(lambda x: run('teacher', parameters, buffers, x), has_aux=True)(x)
      student, teacher = self.losses(z_s, z_t, g_s.detach(), g_t)
      found = {'student': student, 'teacher': teacher}
      return student + teacher, (found, {'student': moved_s, 'teacher': moved_t})

    return lambda parameters, buffers, image: grad(total, has_aux=True)(parameters, buffers, self.pixels(image))

  def make_compiled(self) -> Callable[[], dict]:
    torch = self.torch
    function = torch.compile(self.make_functional())
    parameters = {role: dict(network.named_parameters()) for role, network in self.networks.items()}
    buffers = {role: dict(network.named_buffers()) for role, network in self.networks.items()}

    def step() -> dict:
      with torch.no_grad():
        gradients, (found, moved) = function(parameters, buffers, self.image)
        for role, own in parameters.items():
          for name, parameter in own.items():
            slope = gradients[role][name]
            # The fused Adam goes through memory and not through indices: a transposed gradient would be misread.
            same = slope.stride() == parameter.stride()
            parameter.grad = slope if same else torch.empty_like(parameter).copy_(slope)
          for name, value in buffers[role].items():
            value.copy_(moved[role][name])
        self.adam.step()
      return found

    return step


def torch_contestants(problem: Problem, name: str, precision: str, wanted: Sequence[str]) -> dict[str, Contestant]:
  """Make PyTorch's contestants; one that cannot be is a Contestant whose `about` has a `note`."""

  def failed(error: Exception) -> Contestant:
    lines = [line for line in str(error).splitlines() if line.strip()] or ['']
    return Contestant(dict, lambda: None, {'note': f'{type(error).__name__}: {lines[0][:200]}'})

  if not wanted:
    return {}
  try:
    rival = Torch(problem, name, precision)
  except Exception as error:  # ImportError on a machine without PyTorch, torchvision or timm
    return dict.fromkeys(wanted, failed(error))
  torch, made, first = rival.torch, {}, None
  cores = len(os.sched_getaffinity(0))
  start = {role: {k: v.clone() for k, v in n.state_dict().items()} for role, n in rival.networks.items()}

  def seconds(kind: str, threads: int) -> float:
    torch.set_num_threads(threads)
    rival.lay_out(kind)
    rival.eager()
    rival.wait()
    began = time.perf_counter()
    rival.eager()
    rival.wait()
    return time.perf_counter() - began

  def restore() -> None:
    for role, network in rival.networks.items():
      network.load_state_dict(start[role])
    rival.adam.state.clear()

  def as_contestant(step: Callable, kind: str, threads: int, about: dict) -> Contestant:
    def run() -> dict:
      torch.set_num_threads(threads)
      return step()

    return Contestant(run, rival.wait, about | {'layout': kind, 'threads': threads, 'first': first})

  if 'torch_eager' in wanted:
    try:
      first = {role: float(loss) for role, loss in rival.eager().items()}
      ways = [(kind, n) for kind in rival.kinds for n in {1, cores}]
      kind, threads = min(ways, key=lambda way: seconds(*way))
      made['torch_eager'] = as_contestant(rival.eager, kind, threads, {})
    except Exception as error:
      made['torch_eager'] = failed(error)
    restore()
  if 'torch_compiled' in wanted:
    kind = rival.kinds[-1]
    torch.set_num_threads(cores)
    rival.lay_out(kind)
    try:
      began = time.perf_counter()
      step = rival.make_compiled()
      first = {role: float(loss) for role, loss in step().items()}
      made['torch_compiled'] = as_contestant(step, kind, cores, {'compile_s': time.perf_counter() - began})
    except Exception as error:
      made['torch_compiled'] = failed(error)
  if len(made) == 2 and all('layout' in c.about for c in made.values()):
    kind = made['torch_eager'].about['layout']
    if kind != rival.kinds[-1]:  # the two want their networks laid out differently: give eager its own
      other = Torch(problem, name, precision)
      other.lay_out(kind)
      own = as_contestant(other.eager, kind, made['torch_eager'].about['threads'], {})
      made['torch_eager'] = own._replace(about=made['torch_eager'].about)
  return made


# --- One network ---------------------------------------------------------------------------------


def measure(name: str, precision: str, turns: int, contestants: Sequence[str], changes: dict) -> list[dict]:
  """Prepare all contestants of a network, compare their losses, and time them in turns; return their rows."""
  import jax

  from ule_jax.devices import runtime

  runtime.keep_memory()  # as `ule_jax.main` does; PyTorch gains by it, too
  problem = pose(name, precision, 'ule', **changes)
  makers = {'erm': lambda: fused(pose(name, precision, 'erm', **changes)), 'ule': lambda: fused(problem)}
  makers['separate'] = lambda: separate(problem)
  ready = {who: make() for who, make in makers.items() if who in contestants}
  first = {who: jax.tree.map(float, c.step()) for who, c in ready.items()}
  if 'ule_devices' in contestants:
    ready['ule_devices'] = over_devices(name, precision, changes, problem)
  rivals = torch_contestants(problem, name, precision, [who for who in contestants if who.startswith('torch')])
  ready |= rivals
  first |= {who: c.about.pop('first') for who, c in ready.items() if 'first' in c.about}
  reference = first.get('ule')
  differences = {
    who: {role: abs(loss / reference[role] - 1) for role, loss in losses.items()}
    for who, losses in first.items()
    if reference and who not in ('ule', 'erm')
  }
  # In float64 they are equal: tests/step_time_test.py.
  limit = 5e-3 if precision == 'float32' else 5e-2  # ResNet-50's input gradients are ill-conditioned with 4 images
  for who, by_role in differences.items():
    assert max(by_role.values()) < limit, f'{who} computes something else: {first}'

  running = {who: c for who, c in ready.items() if 'note' not in c.about}
  counts, ms, load = {}, {who: [] for who in running}, []
  for who, contestant in running.items():  # the second step of each: how many make a turn
    contestant.wait()
    began = time.perf_counter()
    contestant.step()
    contestant.wait()
    counts[who] = math.ceil(LEAST / (time.perf_counter() - began))
  peaks = [product_peak(precision)]
  for _ in range(turns):
    load.append(round(os.getloadavg()[0], 1))
    for who, contestant in running.items():
      began = time.perf_counter()
      for _ in range(counts[who]):
        contestant.step()
      contestant.wait()
      ms[who].append(round((time.perf_counter() - began) / counts[who] * 1e3, 3))
  peaks.append(product_peak(precision))
  for contestant in ready.values():
    contestant.close()
  common = {
    'network': name,
    'batch_norm': problem.config.model.batch_norm,
    'precision': precision,
    'batch': len(problem.batch.label),
    'size': problem.batch.image.shape[1],
    'device': jax.devices()[0].device_kind,
    'load_average': load,
    'peak_gflops': max(peaks) / 1e9,
    'versions': versions('jax', 'jaxlib', 'flax', 'torch', 'torchvision', 'timm'),
    'run': time.time_ns(),
    'tunables': os.environ.get('GLIBC_TUNABLES', ''),
  }
  if jax.default_backend() != 'cpu':
    common['device_peak_gib'] = jax.devices()[0].memory_stats()['peak_bytes_in_use'] / 2**30
  rows = []
  for who, contestant in ready.items():
    about = {'contestant': who, 'ms': ms.get(who, []), **contestant.about}
    rows.append(common | about | {'differences': differences.get(who, {})})
  return rows


def versions(*packages: str) -> dict[str, str]:
  found = {}
  for package in packages:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


# --- The table -----------------------------------------------------------------------------------


def spread(values: Sequence[float], digits: int = 2) -> str:
  middle, low, high = (f'{v:.{digits}f}' for v in (statistics.median(values), min(values), max(values)))
  return f'{middle} ({low}-{high})'


def paired(one: Sequence[float], other: Sequence[float]) -> list[float]:
  return [a / b for a, b in zip(one, other, strict=True)]


def markdown(rows: list[dict]) -> str:
  """Lay out the two tables of the README: our step, and what it is compared with. A later run replaces an earlier."""
  cases: dict[tuple, dict[str, dict]] = {}
  for row in rows:
    batch_norm = row.get('batch_norm', CASES[row['network']].batch_norm)  # the first rows do not say
    key = row['network'], batch_norm, row['batch'], row['size'], row['precision'], row['device']
    if any(kept['run'] != row['run'] for kept in cases.get(key, {}).values()):
      del cases[key]  # only what took turns can be compared
    cases.setdefault(key, {})[row['contestant']] = row
  ours = [
    '| ULE step | compile, s | ms | images/s | GFLOP | time / ERM | FLOPs / ERM | quotient '
    '| of the peak | memory, GiB |',
    '|---|---|---|---|---|---|---|---|---|---|',
  ]
  theirs = [
    '| time / fused step | the same on virtual devices | separate calls | eager PyTorch | compiled PyTorch '
    '| its compile, s |',
    '|---|---|---|---|---|---|',
  ]
  for (network, batch_norm, batch, size, precision, device), case in cases.items():
    frozen, place = ', frozen statistics' * (batch_norm == 'frozen'), f', {device}' * (device != 'cpu')
    label = f'`{network}`{frozen}, {batch} of {size} x {size}, {precision}{place}'
    ule, erm = case['ule'], case['erm']
    ms, slower = statistics.median(ule['ms']), paired(ule['ms'], erm['ms'])
    more = ule['gflop'] / erm['gflop']
    memory = ule.get('device_peak_gib', ule['temporary_gib'])
    ours.append(
      f'| {label} | {ule["compile_s"]:.0f} | {spread(ule["ms"], 0)} | {batch / ms * 1e3:.1f} | {ule["gflop"]:.0f} '
      f'| {spread(slower)} | {more:.2f} | {statistics.median(slower) / more:.2f} '
      f'| {ule["gflop"] / ms * 1e3 / ule["peak_gflops"]:.0%} | {memory:.2f} |'
    )
    cells = []
    for who in ('ule_devices', 'separate', 'torch_eager', 'torch_compiled'):
      row = case.get(who, {})
      cells.append(spread(paired(row['ms'], ule['ms'])) if row.get('ms') else row.get('note', '-'))
      if row.get('devices', 1) > 1:
        cells[-1] += f' on {row["devices"]}'
    compile_s = case.get('torch_compiled', {}).get('compile_s')
    theirs.append(f'| {label} | {" | ".join(cells)} | {"-" if compile_s is None else f"{compile_s:.0f}"} |')
  return '\n'.join([*ours, '', *theirs])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--network', default=','.join(CASES), help='of these, with commas between')
  parser.add_argument('--precision', default='float32', help='float32, bfloat16 or both, with a comma between')
  parser.add_argument('--contestants', default=','.join(CONTESTANTS), help='of these, with commas between')
  parser.add_argument('--batch', type=int, help='another batch size')
  parser.add_argument('--size', type=int, help='another image size')
  parser.add_argument('--batch_norm', help="another than the network's: none, batch or frozen")
  parser.add_argument('--turns', type=int, default=5)
  parser.add_argument('--out', type=Path)
  parser.add_argument('--markdown', action='store_true')
  parser.add_argument('--one', help=argparse.SUPPRESS)
  parser.add_argument('--serve', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.markdown:
    print(markdown(record.read(args.out or RESULTS)))
    return
  if args.one:
    print(json.dumps(measure(**json.loads(args.one))))
    return
  if args.serve:
    serve(**json.loads(args.serve))
    return
  made = record.made()
  changes = {
    name: value
    for name, value in (('batch', args.batch), ('size', args.size), ('batch_norm', args.batch_norm))
    if value
  }
  for network in args.network.split(','):
    for precision in args.precision.split(','):
      one = SimpleNamespace(
        name=network, precision=precision, turns=args.turns, contestants=args.contestants.split(','), changes=changes
      )
      command = [sys.executable, __file__, f'--one={json.dumps(vars(one))}']
      environment = os.environ | {
        'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',  # PyTorch needs some of a GPU, too
        'TORCHINDUCTOR_FORCE_DISABLE_CACHES': '1',  # both compile anew
        'JAX_ENABLE_COMPILATION_CACHE': 'false',
      }
      done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
      for row in json.loads(done.stdout.splitlines()[-1]):
        print(json.dumps(row | made), flush=True)
        record.add(args.out, row | made)


if __name__ == '__main__':
  main()
