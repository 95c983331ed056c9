"""A population of 32 ULE heads on cached features, beside 32 single runs and 32 PyTorch runs.

  python benchmarks/population.py --data=DIR --weights=FILE [--out=NEW.jsonl]   CelebA's folder, a CIFAR ResNet-20
  python benchmarks/population.py --markdown               the table of benchmarks/results/population.jsonl

Each of the three trains the same members (four seeds, eight weights of the term) on the same batches: frozen features
of the faces at 32 x 32, `project`, no mistake weights, Adam, batches of 128. Only the loops of training are timed, from
the first batch to the last parameter: the population draws the order on the host and the rest in `ule_jax.sweep`'s
graph; a single run makes the steps of `ule_jax.main` with its loader (one compiled step serves all of them here);
PyTorch is eager, in this process, with the features as one tensor, at the better of one and two threads. What is left
out for all: start-up, compilation, evaluation, saving. The three take turns; ratios are paired by turn. Before that,
PyTorch's losses are compared with ours.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import record

RESULTS = Path(__file__).parent / 'results' / 'population.jsonl'
CASES = {
  'linear': ('--config.model.head_depth=0',),
  'one hidden layer of 32': ('--config.model.head_depth=1', '--config.model.head_width=32'),
  'one hidden layer of 256': ('--config.model.head_depth=1', '--config.model.head_width=256'),
}
AXES = {'method.weight': [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0], 'seed': [0, 1, 2, 3]}
STEPS, TURNS = 100, 3


def load(args, case: str):
  """Return the config and the features of a case."""
  from ule_jax import data
  from ule_jax.cli.flags import parse
  from ule_jax.runs import progress
  from ule_jax.train.features import encode_dataset
  from ule_jax.train.weights import load_weights

  flags = [
    '--config=celeba:ule,frozen', f'--config.data.dir={args.data}', '--config.data.official=False',
    '--config.data.size=32', '--config.model.name=resnet20', f'--config.model.weights={args.weights}',
    '--config.model.batch_norm=frozen', f'--config.train.steps={STEPS}', *CASES[case],
    '--config.method.mistakes=none', '--config.method.term=project', '--config.method.student_noise=0',
    '--config.method.hold_back=0',
  ]  # fmt: skip
  config = parse(flags, '', {}).config
  options = dict(config.data)
  dataset = data.load(options.pop('name'), options, progress.say)
  args.work.mkdir(parents=True, exist_ok=True)
  return config, encode_dataset(config, dataset, load_weights(config, dataset, args.work))


def of_population(config, dataset) -> Callable[[], float]:
  """Make the function that trains all members at once and returns seconds."""
  import jax

  from ule_jax.sweep import axes, loop, population

  members = axes.numbers_of(axes.expand(config, AXES))
  train = population.read(dataset, 'train', config.train.eval_batch_size, 0)
  graphs = population.compile_members(config, dataset, len(dataset.groups), members, train)
  room = loop.STEPS

  def run(steps: int = STEPS) -> float:
    state = jax.block_until_ready(graphs.create())
    began = time.perf_counter()
    order = population.make_order(config, dataset, members.seeds)
    for first in range(0, steps, room):
      count = min(room, steps - first)
      state, _ = graphs.advance(state, order(first, count, room), count)
    jax.block_until_ready(state.params)
    return time.perf_counter() - began

  run(1)
  return run


def of_singles(config, dataset) -> Callable[[], float]:
  """Make the function that trains the members one after the other, as `ule_jax.main` does, and returns seconds."""
  import jax

  from ule_jax.data import pipeline
  from ule_jax.devices.mesh import compile_step, make_mesh
  from ule_jax.methods import Batch
  from ule_jax.sweep import axes
  from ule_jax.train import assemble
  from ule_jax.train.step import make_train_step

  mesh = make_mesh()
  built = assemble.initialise(config, dataset, mesh)
  step = make_train_step(built.method, built.model, built.tx, built.key, built.preprocess)
  step = compile_step(step, mesh, 'jit', jax.tree.map(lambda leaf: leaf.sharding, built.state))

  def batches_of(own):
    return pipeline.train_batches(
      dataset, batch_size=own.train.batch_size, seed=own.seed, sampling=own.train.sampling, start=0,
      threads=config.loader.threads,
    )  # fmt: skip

  def run(steps: int = STEPS) -> float:
    seconds = 0.0
    for member in axes.expand(config, AXES):
      state = jax.block_until_ready(jax.tree.map(lambda leaf: leaf.copy(), built.state))
      began = time.perf_counter()
      batches = batches_of(member.config)
      for _ in range(steps):
        state, _ = step(state, Batch(**next(batches)))
      jax.block_until_ready(state.params)
      seconds += time.perf_counter() - began
      batches.close()
    return seconds

  run(1)
  return run


class Torch:
  """The same runs in PyTorch, written as one would there."""

  def __init__(self, config, dataset):
    import numpy as np
    import torch

    self.torch, self.config, self.dataset = torch, config, dataset
    split = dataset.splits['train']
    features = np.stack([split.load(i) for i in range(split.count)])
    self.features = torch.from_numpy((features - np.float32(dataset.mean)) / np.float32(dataset.std))
    self.label = torch.from_numpy(split.label.astype(np.int64))

  def network(self):
    torch, model = self.torch, self.config.model
    sizes = [self.features.shape[1], *[model.head_width] * model.head_depth]
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], len(self.dataset.classes)))

  def loss(self, student, teacher, x, y, weight: float):
    """The sum of both losses: GCE for the student, cross entropy and `project` of the margins for the teacher."""
    torch, q = self.torch, self.config.method.q
    rows = torch.arange(len(y))

    def margin(z):
      return z[rows, y] - z[rows, 1 - y]  # of two classes

    x = x.requires_grad_()
    z_s, z_t = student(x), teacher(x)
    (g_s,) = torch.autograd.grad(margin(z_s).sum(), x, retain_graph=True)
    (g_t,) = torch.autograd.grad(margin(z_t).sum(), x, create_graph=True)
    fitted = ((1 - torch.softmax(z_s, 1)[rows, y] ** q) / q).mean()
    along = (g_s * g_t).sum(1) / g_s.norm(dim=1)
    learned = torch.nn.functional.cross_entropy(z_t, y) + weight * (along**2).mean()
    return fitted, learned

  def run(self, threads: int, steps: int = STEPS) -> float:
    """Train all members, one after the other; return seconds."""
    from ule_jax.data import pipeline
    from ule_jax.sweep import axes

    torch, seconds = self.torch, 0.0
    torch.set_num_threads(threads)
    for member in axes.expand(self.config, AXES):
      own = member.config
      torch.manual_seed(own.seed)
      student, teacher = self.network(), self.network()
      adam = torch.optim.Adam([*student.parameters(), *teacher.parameters()], lr=own.optim.lr)
      began = time.perf_counter()
      block = pipeline.order(
        self.dataset.splits['train'], seed=own.seed, sampling=own.train.sampling, batch_size=own.train.batch_size
      )
      for i in range(steps):
        ids = torch.from_numpy(block(i))
        adam.zero_grad()
        sum(self.loss(student, teacher, self.features[ids], self.label[ids], own.method.weight)).backward()
        adam.step()
      seconds += time.perf_counter() - began
    return seconds

  def difference(self) -> float:
    """Compare the losses of our first step with PyTorch's on the same parameters; return the largest difference."""
    import jax
    import numpy as np

    from ule_jax.data import pipeline
    from ule_jax.devices.mesh import make_mesh
    from ule_jax.methods import Batch
    from ule_jax.train import assemble
    from ule_jax.train.step import make_train_step

    torch, config = self.torch, self.config
    built = assemble.initialise(config, self.dataset, make_mesh())
    batch = next(
      pipeline.train_batches(
        self.dataset, batch_size=config.train.batch_size, seed=0, sampling=config.train.sampling, start=0, threads=0
      )
    )
    step = make_train_step(built.method, built.model, built.tx, built.key, built.preprocess)
    _, metrics = jax.jit(step)(built.state, Batch(**batch))
    networks = []
    for role in built.method.roles:
      network = self.network()
      own = built.state.params[role]
      names = [*(f'hidden{i}' for i in range(config.model.head_depth)), 'head']
      for layer, name in zip([m for m in network if isinstance(m, torch.nn.Linear)], names, strict=True):
        layer.weight.data = torch.tensor(np.asarray(own[name]['kernel']).T.copy())
        layer.bias.data = torch.tensor(np.asarray(own[name]['bias']))
      networks.append(network)
    ids = torch.from_numpy(batch['index'].astype(np.int64))
    found = self.loss(*networks, self.features[ids], self.label[ids], config.method.weight)
    return max(abs(f.item() - float(metrics[f'loss/{r}'])) for f, r in zip(found, built.method.roles, strict=True))


def measure(args, case: str) -> dict:
  """Time the three in turns."""
  import os

  import jax
  import torch

  config, dataset = load(args, case)
  rival = Torch(config, dataset)
  difference = rival.difference()
  assert difference < 1e-5, difference
  ours, singles = of_population(config, dataset), of_singles(config, dataset)
  threads = min((1, 2), key=lambda n: rival.run(n, steps=20))
  times: dict[str, list[float]] = {'population_s': [], 'singles_s': [], 'torch_s': []}
  load_average = []
  for _ in range(TURNS):
    load_average.append(round(os.getloadavg()[0], 1))
    for name, run in (('population_s', ours), ('singles_s', singles), ('torch_s', lambda: rival.run(threads))):
      times[name].append(round(run(), 4))
  return {
    'case': case,
    'members': len(AXES['seed']) * len(AXES['method.weight']),
    'steps': STEPS,
    'batch': config.train.batch_size,
    'examples': dataset.splits['train'].count,
    'features': dataset.image_shape[0],
    **times,
    'torch_threads': threads,
    'loss_difference': difference,
    'load_average': load_average,
    'jax': jax.__version__,
    'torch': torch.__version__,
  }


def markdown(rows: list[dict]) -> str:
  """Lay out the table of the README."""
  lines = [
    '| 32 ULE heads, 100 steps of 128 | population, s | 32 single runs / it | 32 PyTorch runs / it |',
    '|---|---|---|---|',
  ]

  def ratio(row: dict, name: str) -> str:
    found = [rival / own for rival, own in zip(row[name], row['population_s'], strict=True)]
    return f'{statistics.median(found):.1f} ({min(found):.1f}-{max(found):.1f})'

  for row in rows:
    own = row['population_s']
    seconds = f'{statistics.median(own):.2f} ({min(own):.2f}-{max(own):.2f})'
    lines.append(f'| {row["case"]} | {seconds} | {ratio(row, "singles_s")} | {ratio(row, "torch_s")} |')
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data')
  parser.add_argument('--weights')
  parser.add_argument('--work', type=Path, default=Path('runs/population'), help='a folder for what is written beside')
  parser.add_argument('--case', choices=CASES, help='only this one')
  parser.add_argument('--out', type=Path)
  parser.add_argument('--markdown', action='store_true')
  args = parser.parse_args()
  if args.markdown:
    print(markdown(record.read(RESULTS)))
    return
  if not (args.data and args.weights):
    parser.error('give --data and --weights')
  made = record.made()
  for case in [args.case] if args.case else CASES:
    row = measure(args, case) | made
    print(json.dumps(row), flush=True)
    record.add(args.out, row)


if __name__ == '__main__':
  main()
