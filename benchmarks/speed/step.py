"""Time of a fused ULE step, beside ERM, the same mathematics in separate calls, and PyTorch.

  python -m benchmarks.speed.step --out=NEW.jsonl                     every network, each in a process of its own
  python -m benchmarks.speed.step --network=resnet20 --out=NEW.jsonl  one (several: --network=cnn,vit_s16)
  python -m benchmarks.speed.step --network=resnet20 --batch_norm=frozen --out=NEW.jsonl   running statistics that stay

A row is a contestant; its `ms` are its milliseconds per step in each turn. docs/results/methodology.md has the
protocol. On a GPU the same code runs there; without PyTorch its rows say why they are empty.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import harness
from benchmarks.speed.problem import CASES, Contestant, Problem, absent, compile_ahead, make_problem, make_step
from ule_jax import Output, losses
from ule_jax.devices.mesh import make_mesh, replicated_sharding, shard_batch

# ule_devices: over virtual devices; torch_eager: autograd with create_graph; torch_compiled: torch.func, compiled
CONTESTANTS = ('erm', 'ule', 'ule_devices', 'separate', 'torch_eager', 'torch_compiled')
LEAST = 0.5  # seconds of a turn
COPIED = 1 << 30  # bytes of a state that virtual devices may each have a copy of
# Relative differences of the first losses; in float64 they are equal (tests/benchmarks/step_test.py).
TOLERANCE = {'float32': 5e-3, 'bfloat16': 5e-2}  # ResNet-50's input gradients are ill-conditioned with 4 images


def losses_of(metrics: dict[str, Any]) -> dict[str, Any]:
  """Return the losses by role."""
  return {name.removeprefix('loss/'): value for name, value in metrics.items() if name.startswith('loss/')}


def fused(problem: Problem, devices: int = 1) -> Contestant:
  """Return our step as `ule_jax.train` runs it; the compiler's columns are of one of the devices."""
  mesh = make_mesh(jax.devices()[:devices])
  everywhere = replicated_sharding(mesh)
  batch = shard_batch(problem.batch, mesh)
  state = jax.jit(lambda state: jax.tree.map(jnp.copy, state), out_shardings=everywhere)(problem.state)
  step, columns = compile_ahead(make_step(problem), state, batch, donate_argnums=0, out_shardings=everywhere)

  return with_state(lambda state: step(state, batch), state, columns | {'devices': mesh.size})


def with_state(step: Callable[[Any], tuple[Any, dict]], state: Any, columns: dict[str, Any]) -> Contestant:
  """Return a contestant of `state -> (state, metrics)`."""

  def run() -> dict:
    nonlocal state
    state, metrics = step(state)
    return losses_of(metrics)

  return Contestant(run, lambda: jax.block_until_ready(state), columns)


ready: list[Contestant] = []  # in a process of its own, the step that it serves


def prepare(network: str, precision: str, changes: dict[str, Any], devices: int) -> tuple[dict, dict]:
  """Make our step ready for `make_steps` in this process; return its columns and the losses of its first step."""
  harness.reuse_memory()
  ready.append(fused(make_problem(network, precision, 'ule', **changes), devices))
  return ready[0].columns, jax.tree.map(float, ready[0].step())


def make_steps(count: int) -> None:
  """Make steps, and wait for them."""
  for _ in range(count):
    ready[0].step()
  ready[0].wait()


def served(network: str, precision: str, changes: dict[str, Any], devices: int) -> Contestant:
  """Return our step in a process of its own, which waits for its turn: a process has one number of CPU devices."""
  pool, pending = harness.worker(JAX_NUM_CPU_DEVICES=str(devices)), 0
  columns, first = pool.submit(prepare, network, precision, changes, devices).result()

  def step() -> dict:
    nonlocal pending
    pending += 1
    return {}

  def wait() -> None:
    nonlocal pending
    pool.submit(make_steps, pending).result()
    pending = 0

  return Contestant(step, wait, columns, first, pool.shutdown)


def over_devices(network: str, precision: str, changes: dict[str, Any], problem: Problem) -> Contestant:
  """Return our step over virtual devices of a CPU: as many as cores or twice as many, whichever is faster."""
  if jax.default_backend() != 'cpu':
    return absent('for a CPU')
  size = sum(leaf.nbytes for leaf in jax.tree.leaves((problem.state.params, problem.state.opt_state)))
  if size > COPIED:
    return absent(f'not run: {size / 2**30:.1f} GiB of state on each')
  examples, cores, processes = len(problem.batch.label), len(os.sched_getaffinity(0)), {}
  for devices in (cores, 2 * cores):
    if examples % devices == 0:
      contestant = served(network, precision, changes, devices)
      seconds = harness.timed(contestant.step, contestant.wait)
      processes[min(seconds() for _ in range(3))] = contestant
  if not processes:
    return absent(f'{examples} images on {cores} cores')
  fastest = processes.pop(min(processes))
  for other in processes.values():
    other.close()
  return fastest


def make_separate(problem: Problem) -> tuple[Callable, dict[str, float]]:
  """Return `state -> (state, metrics)` of three compiled calls, with the numbers of the fused step."""
  options, state = problem.config.method, problem.state
  scalar, term = losses.SCALARS[options.scalar], losses.unlearning_term(options.term, options.a)
  fit = losses.classification_loss(options.student_loss, options.q)
  mistakes = losses.mistake_weights(options.mistakes, options.mistake_share)
  proportional = losses.is_proportional(options.scalar, 2, problem.config.model.batch_norm == 'batch')

  def run(params, batch_stats, batch, loss):
    def network(x):
      variables = {'params': params, 'batch_stats': batch_stats}
      (logits, features), updated = problem.model.apply(variables, x, train=True, mutable=['batch_stats'])
      return Output(logits, features, updated.get('batch_stats', {}))

    def mean(logits):
      return losses.weighted_mean(loss(logits, batch.label), batch.weight)

    x = problem.preprocess(batch.image)
    return losses.fit_and_input_gradient(network, x, batch.label, mean, scalar, proportional)

  def of_student(params, batch_stats, batch):
    student, value, gradient = run(params, batch_stats, batch, fit)
    wrong = mistakes(student.logits, batch.label, batch.weight)
    return value, (student.batch_stats, gradient, wrong)

  def of_teacher(params, batch_stats, batch, student, wrong):
    teacher, value, gradient = run(params, batch_stats, batch, lambda *at: wrong * losses.cross_entropy(*at))
    shared = losses.weighted_mean(term(student, gradient), batch.weight)
    return value + options.weight * shared, teacher.batch_stats

  def update(params, opt_state, slopes):
    updates, opt_state = problem.tx.update(slopes, opt_state, params)
    # The fused step looks for what is not finite, too.
    norms = {role: optax.tree.norm(slope) for role, slope in slopes.items()}
    return optax.apply_updates(params, updates), opt_state, jax.tree.map(jnp.isfinite, norms)

  def inputs(role):
    return state.params[role], state.batch_stats[role], problem.batch

  of_student, of_teacher = (jax.value_and_grad(loss, has_aux=True) for loss in (of_student, of_teacher))
  (_, (_, *shapes)), _ = jax.eval_shape(of_student, *inputs('student'))
  student, of_first = compile_ahead(of_student, *inputs('student'))
  teacher, of_second = compile_ahead(of_teacher, *inputs('teacher'), *shapes)
  change, of_third = compile_ahead(update, state.params, state.opt_state, state.params, donate_argnums=(0, 1))
  calls = (of_first, of_second, of_third)
  columns = {key: sum(call[key] for call in calls) for key in ('compile_s', 'gflop')}
  columns['temporary_gib'] = max(call['temporary_gib'] for call in calls)

  def step(state):
    params, stats = state.params, state.batch_stats
    (loss_s, (moved_s, gradient, wrong)), slope_s = student(params['student'], stats['student'], problem.batch)
    (loss_t, moved_t), slope_t = teacher(params['teacher'], stats['teacher'], problem.batch, gradient, wrong)
    params, opt_state, _ = change(params, state.opt_state, {'student': slope_s, 'teacher': slope_t})
    moved = {'student': moved_s, 'teacher': moved_t}
    state = state.replace(step=state.step + 1, params=params, batch_stats=moved, opt_state=opt_state)
    return state, {'loss/student': loss_s, 'loss/teacher': loss_t}

  return step, columns


def separate(problem: Problem) -> Contestant:
  """Return the step of three calls."""
  step, columns = make_separate(problem)
  return with_state(step, jax.tree.map(lambda x: x.copy(), problem.state), columns)


def rival(name: str, problem: Problem, network: str, precision: str) -> Contestant:
  """Return a contestant of PyTorch, or the reason why this machine has none."""
  try:
    from benchmarks.speed import torch_rival

    return torch_rival.CONTESTANTS[name](torch_rival.TorchStep(problem, network, precision))
  except Exception as error:  # no PyTorch, torchvision or timm; or its compiler refuses
    lines = [line for line in str(error).splitlines() if line.strip()] or ['']
    return absent(f'{type(error).__name__}: {lines[0][:200]}')


def product_peak(precision: str) -> float:
  """Return the GFLOP/s of the best of some products of square matrices."""
  rates = []
  for size in (1024, 2048) if jax.default_backend() == 'cpu' else (4096, 8192):
    a = jnp.ones((size, size), precision)
    seconds = harness.timed(lambda a=a: jnp.matmul(a, a).block_until_ready())
    rates += [2 * size**3 / seconds() / 1e9 for _ in range(5)]
  return max(rates)


def compare_losses(first: dict[str, dict[str, float]], tolerance: float) -> None:
  """Refuse contestants of whose first losses one is not that of our fused step."""
  for name, by_role in first.items():
    if name not in ('ule', 'erm') and 'ule' in first:
      gaps = [abs(loss / first['ule'][role] - 1) for role, loss in by_role.items()]
      assert max(gaps) < tolerance, f'{name} computes something else: {first}'


def measure(
  network: str, precision: str, turns: int, contestants: Sequence[str], changes: dict[str, Any]
) -> list[dict[str, Any]]:
  """Return the rows of a network: prepare all contestants, compare their losses, and time them in turns."""
  harness.reuse_memory()  # PyTorch gains by it, too
  problem = make_problem(network, precision, 'ule', **changes)
  makers = {
    'erm': lambda: fused(make_problem(network, precision, 'erm', **changes)),
    'ule': lambda: fused(problem),
    'separate': lambda: separate(problem),
  }
  ready = {name: make() for name, make in makers.items() if name in contestants}
  first = {name: jax.tree.map(float, contestant.step()) for name, contestant in ready.items()}
  if 'ule_devices' in contestants:
    ready['ule_devices'] = over_devices(network, precision, changes, problem)
  ready |= {name: rival(name, problem, network, precision) for name in contestants if name.startswith('torch')}
  first |= {name: contestant.first for name, contestant in ready.items() if contestant.first}
  compare_losses(first, TOLERANCE[precision])

  running = {
    name: harness.timed(contestant.step, contestant.wait, LEAST)
    for name, contestant in ready.items()
    if 'note' not in contestant.columns
  }
  peaks = [product_peak(precision)]
  seconds = harness.in_turns(running, turns)
  peaks.append(product_peak(precision))
  for contestant in ready.values():
    contestant.close()
  common = {'network': network, 'batch_norm': problem.config.model.batch_norm}
  common |= {'batch': len(problem.batch.label), 'size': problem.batch.image.shape[1], 'precision': precision}
  common |= {'device': jax.devices()[0].device_kind, 'run': int(time.time()), 'peak_gflops': round(max(peaks), 1)}
  if jax.default_backend() != 'cpu':
    common['device_peak_gib'] = round(jax.devices()[0].memory_stats()['peak_bytes_in_use'] / 2**30, 3)
  return [
    common | {'contestant': name, 'ms': [round(1e3 * s, 3) for s in seconds.get(name, [])]} | contestant.columns
    for name, contestant in ready.items()
  ]


def main() -> None:
  parser = harness.command_parser(__doc__)
  parser.add_argument('--network', default=','.join(CASES), help='of these, with commas between')
  parser.add_argument('--precision', default='float32', help='float32, bfloat16 or both, with a comma between')
  parser.add_argument('--contestants', default=','.join(CONTESTANTS), help='of these, with commas between')
  parser.add_argument('--batch_norm', help="another than the network's: none, batch or frozen")
  parser.add_argument('--turns', type=int, default=20)
  args = parser.parse_args()
  changes = {'batch_norm': args.batch_norm} if args.batch_norm else {}
  environment = {
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',  # PyTorch needs some of a GPU, too
    'TORCHINDUCTOR_FORCE_DISABLE_CACHES': '1',  # both compile again
    'JAX_ENABLE_COMPILATION_CACHE': 'false',
  }
  for network in args.network.split(','):
    for precision in args.precision.split(','):
      with harness.worker(**environment) as pool:
        case = network, precision, args.turns, args.contestants.split(','), changes
        rows = pool.submit(measure, *case).result()
      rows = [row | source for source in [harness.provenance('torch')] for row in rows]
      print('\n'.join(map(json.dumps, rows)), flush=True)
      harness.append_rows(args.out, rows)


if __name__ == '__main__':
  main()
