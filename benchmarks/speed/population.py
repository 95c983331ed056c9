"""A population of 32 ULE heads on cached features, beside 32 single runs and 32 PyTorch runs.

  python -m benchmarks.speed.population --data=DIR --weights=FILE [--out=NEW.jsonl]   CelebA's folder, a CIFAR ResNet-20

Each trains the same members (four seeds, eight weights) on the same batches (docs/results/methodology.md).
"""

import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from benchmarks import harness
from benchmarks.speed.problem import make_step
from ule_jax import Batch
from ule_jax.config.validate import validate_config
from ule_jax.data import pipeline
from ule_jax.devices.mesh import compile_step, make_mesh
from ule_jax.runs.fingerprint import Fingerprint
from ule_jax.sweep import loop, population
from ule_jax.sweep.axes import expand, overrides_of
from ule_jax.train.assemble import initialise
from ule_jax.train.weights import start_from_weights

CASES = {
  'linear': {'model.head_depth': 0},
  'one hidden layer of 32': {'model.head_depth': 1, 'model.head_width': 32},
  'one hidden layer of 256': {'model.head_depth': 1, 'model.head_width': 256},
}
AXES = {'method.weight': [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0], 'seed': [0, 1, 2, 3]}
STEPS = 100


def load(data: str, weights: str, case: str) -> tuple[Any, Any]:
  """Return the config and the features of a case."""
  fields = {
    'data.dir': data, 'data.official': False, 'data.size': 32, 'model.name': 'resnet20', 'model.weights': weights,
    'model.batch_norm': 'frozen', 'train.steps': STEPS, 'method.mistakes': 'none', 'method.term': 'project',
    'method.student_noise': 0, 'method.trust_exponent': 0,
  }  # fmt: skip
  config = validate_config(harness.load_config('celeba:ule,frozen', fields | CASES[case]))
  dataset = harness.load_dataset(config)
  with tempfile.TemporaryDirectory() as folder:
    features, _, _ = start_from_weights(config, Path(folder), Fingerprint(dataset), force=False)
  return config, features


def of_population(config: Any, dataset: Any) -> Callable[[], float]:
  """Return a function that trains all members at once and returns seconds."""
  members = overrides_of(expand(config, AXES))
  examples = population.read(dataset, 'train', config.train.eval_batch_size, 0)
  graphs = population.compile_members(config, dataset, len(dataset.groups), members, examples)

  def run(steps: int = STEPS) -> float:
    state = jax.block_until_ready(graphs.create())
    began = time.perf_counter()
    order = population.make_order(config, dataset, members.seeds)
    for first in range(0, steps, loop.STEPS):
      count = min(loop.STEPS, steps - first)
      state, _ = graphs.advance(state, order(first, count, loop.STEPS), count)
    jax.block_until_ready(state.params)
    return time.perf_counter() - began

  run(1)
  return run


def batches_of(config: Any, dataset: Any) -> Iterator[dict[str, np.ndarray]]:
  """Return the batches of a single run."""
  settings = {'batch_size': config.train.batch_size, 'seed': config.seed, 'sampling': config.train.sampling}
  return pipeline.train_batches(dataset, start=0, threads=config.loader.threads, **settings)


def of_singles(config: Any, dataset: Any) -> Callable[[], float]:
  """Return a function that trains the members sequentially, as `ule_jax.main` does, and returns seconds."""
  mesh = make_mesh()
  trainer = initialise(config, dataset, mesh)
  places = jax.tree.map(lambda leaf: leaf.sharding, trainer.state)
  step = compile_step(make_step(trainer), mesh, 'jit', places)

  def run(steps: int = STEPS) -> float:
    seconds = 0.0
    for member in expand(config, AXES):
      state = jax.block_until_ready(jax.tree.map(lambda leaf: leaf.copy(), trainer.state))
      began = time.perf_counter()
      batches = batches_of(member.config, dataset)
      for _ in range(steps):
        state, _ = step(state, Batch(**next(batches)))
      jax.block_until_ready(state.params)
      seconds += time.perf_counter() - began
      batches.close()
    return seconds

  run(1)
  return run


class TorchRuns:
  """The same runs in PyTorch, written as one would there."""

  def __init__(self, config: Any, dataset: Any):
    self.config, self.dataset, self.split = config, dataset, dataset.splits['train']
    features = np.stack([self.split.load(i) for i in range(self.split.count)])
    self.features = torch.from_numpy((features - np.float32(dataset.mean)) / np.float32(dataset.std))
    self.label = torch.from_numpy(self.split.label.astype(np.int64))

  def network(self) -> torch.nn.Sequential:
    model = self.config.model
    sizes = [self.features.shape[1], *[model.head_width] * model.head_depth]
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], len(self.dataset.classes)))

  def losses(self, student, teacher, ids, weight: float):
    """Return both losses: GCE for the student, cross entropy and `project` of the margins for the teacher."""
    x, y, q, rows = self.features[ids].requires_grad_(), self.label[ids], self.config.method.q, torch.arange(len(ids))

    def margin(z):
      return z[rows, y] - z[rows, 1 - y]  # of two classes

    z_s, z_t = student(x), teacher(x)
    (g_s,) = torch.autograd.grad(margin(z_s).sum(), x, retain_graph=True)
    (g_t,) = torch.autograd.grad(margin(z_t).sum(), x, create_graph=True)
    along = (g_s * g_t).sum(1) / g_s.norm(dim=1)
    learned = torch.nn.functional.cross_entropy(z_t, y) + weight * (along**2).mean()
    return ((1 - torch.softmax(z_s, 1)[rows, y] ** q) / q).mean(), learned

  def run(self, threads: int, steps: int = STEPS) -> float:
    """Train all members sequentially; return seconds."""
    torch.set_num_threads(threads)
    options, seconds = self.config.train, 0.0
    for member in expand(self.config, AXES):
      seed, weight = member.config.seed, member.config.method.weight
      torch.manual_seed(seed)
      student, teacher = self.network(), self.network()
      adam = torch.optim.Adam([*student.parameters(), *teacher.parameters()], lr=self.config.optim.lr)
      began = time.perf_counter()
      order = pipeline.order(self.split, seed=seed, sampling=options.sampling, batch_size=options.batch_size)
      for i in range(steps):
        adam.zero_grad()
        sum(self.losses(student, teacher, torch.from_numpy(order(i)), weight)).backward()
        adam.step()
      seconds += time.perf_counter() - began
    return seconds

  def difference(self) -> float:
    """Return the largest difference of the first losses, PyTorch's and ours, on the same parameters."""
    trainer, batch = initialise(self.config, self.dataset, make_mesh()), next(batches_of(self.config, self.dataset))
    _, metrics = jax.jit(make_step(trainer))(trainer.state, Batch(**batch))
    networks = []
    for role in trainer.method.roles:
      network, params = self.network(), trainer.state.params[role]
      names = [*(f'hidden{i}' for i in range(self.config.model.head_depth)), 'head']
      for layer, name in zip(network[::2], names, strict=True):  # each second one is a ReLU
        layer.weight.data = torch.tensor(np.asarray(params[name]['kernel']).T.copy())
        layer.bias.data = torch.tensor(np.asarray(params[name]['bias']))
      networks.append(network)
    losses = self.losses(*networks, torch.from_numpy(batch['index'].astype(np.int64)), self.config.method.weight)
    pairs = zip(losses, trainer.method.roles, strict=True)
    return max(abs(loss.item() - float(metrics[f'loss/{role}'])) for loss, role in pairs)


def measure(case: str, data: str, weights: str, turns: int) -> dict[str, Any]:
  """Return the row of a case: the seconds of the three in each turn."""
  config, dataset = load(data, weights, case)
  rival = TorchRuns(config, dataset)
  difference = rival.difference()
  assert difference < 1e-5, difference
  threads = min((1, 2), key=lambda n: rival.run(n, steps=20))
  contestants = {'population_s': of_population(config, dataset), 'singles_s': of_singles(config, dataset)}
  seconds = harness.in_turns(contestants | {'torch_s': lambda: rival.run(threads)}, turns)
  return {'case': case} | {name: [round(s, 4) for s in values] for name, values in seconds.items()}


def main() -> None:
  parser = harness.command_parser(__doc__)
  parser.add_argument('--data', required=True)
  parser.add_argument('--weights', required=True)
  parser.add_argument('--case', choices=CASES, help='only this one')
  parser.add_argument('--turns', type=int, default=3)
  args = parser.parse_args()
  for case in [args.case] if args.case else CASES:
    row = measure(case, args.data, args.weights, args.turns) | harness.provenance('torch')
    print(json.dumps(row), flush=True)
    harness.append_rows(args.out, [row])


if __name__ == '__main__':
  main()
