"""Runs that differ only in numbers as one graph: `vmap` over seeds and settings, with the data on the device.

Letters beside the usual ones: `s` seeds, `n` settings (all other axes, multiplied), `c` steps of a call, `r` selection
rules. What depends on the seed alone (batches, noise on them) is made once for all settings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ule_jax.data import Dataset, pipeline
from ule_jax.devices import runtime
from ule_jax.errors import UserError
from ule_jax.methods import Batch
from ule_jax.metrics import Counts
from ule_jax.train.assemble import assemble, sample_of
from ule_jax.train.evaluate import make_score
from ule_jax.train.step import TrainState, create_state, make_train_step

LIMIT = 1 << 30  # bytes of images or features that are kept on the device


class Members(NamedTuple):
  """The numbers of a population: every seed under every setting, of which `numbers` has each field's values."""

  seeds: Int[np.ndarray, 's']
  numbers: dict[str, Float[np.ndarray, 'n']]
  settings: int


class Graphs(NamedTuple):
  """What is compiled, each once; states and networks have the axes `s n` before their own.

  create: () -> initial state
  advance: (state, order: int32[s c b], count) -> (state, metrics of the last step: float[s n]); the state is donated,
    and of the order the first `count` batches are trained on
  score: (params, batch_stats, blocks of a split) -> role -> counts
  """

  roles: tuple[str, ...]
  create: Callable[[], TrainState]
  advance: Callable[[TrainState, Array, int], tuple[TrainState, dict[str, Array]]]
  score: Callable[[PyTree, PyTree, Batch], dict[str, Counts]]


def compile_members(config: Any, training: Dataset, groups: int, members: Members, train: Batch) -> Graphs:
  """Make the compiled functions of a population.

  Args:
    config: of any member.
    training: what is trained on, as in train.assemble.
    groups: of the data set that is evaluated on.
    train: the training split in blocks.
  """
  method, model, _, preprocess = assemble(config, training)
  sample = sample_of(training, preprocess)
  seeds, numbers = jnp.asarray(members.seeds, jnp.int32), jax.tree.map(jnp.asarray, members.numbers)
  options = runtime.compiler_options()

  def create(seed: Array, numbers: dict[str, Array]) -> TrainState:
    parts = assemble(config, training, numbers)
    return create_state(parts.method, parts.model, parts.tx, sample, jax.random.key(seed))

  def advance(state: TrainState, seed: Array, numbers: dict[str, Array], order: Array, count: Array, train: Batch):
    parts = assemble(config, training, numbers)
    settings = config.train.accumulate, config.optim.trainable
    step = make_train_step(*parts[:3], jax.random.key(seed), parts.preprocess, *settings)
    image, label, group = (flat(values) for values in (train.image, train.label, train.group))

    def turn(i, carry):
      ids = order[i]
      return step(carry[0], Batch(image[ids], label[ids], group[ids], ids, jnp.ones(ids.shape)))

    # A loop of any length, so that pieces of all lengths are one graph.
    metrics = jax.eval_shape(lambda: turn(0, (state, None))[1])
    zeros = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), metrics)
    return jax.lax.fori_loop(0, count, turn, (state, zeros))

  score_batch = make_score(model, preprocess, method.roles, groups)

  def score(params: PyTree, batch_stats: PyTree, block: Batch) -> dict[str, Counts]:
    return score_batch(params, batch_stats, block._asdict())[0]

  def everyone(function: Callable, of_seed: tuple, of_setting: tuple) -> Callable:
    """Map a function of one member over all; the axes are those of `vmap`, for each argument."""
    inner = jax.vmap(function, of_setting, axis_size=members.settings)
    return jax.vmap(inner, of_seed, axis_size=len(seeds))

  create = jax.jit(everyone(create, (0, None), (None, 0)))
  advance = everyone(advance, (0, 0, None, 0, None, None), (0, None, 0, None, None, None))
  advance = jax.jit(advance, donate_argnums=0, compiler_options=options)
  score = jax.jit(everyone(score, (0, 0, None), (0, 0, None)))

  def score_all(params: PyTree, batch_stats: PyTree, blocks: Batch) -> dict[str, Counts]:
    # One block after the other, so that splits of all sizes are one graph.
    each = [score(params, batch_stats, jax.tree.map(lambda x: x[i], blocks)) for i in range(len(blocks.label))]  # noqa: B023
    return {role: functools.reduce(Counts.merge, [counts[role] for counts in each]) for role in method.roles}

  return Graphs(
    roles=method.roles,
    create=lambda: create(seeds, numbers),
    advance=lambda state, order, count: advance(state, seeds, numbers, order, count, train),
    score=score_all,
  )


def flat(blocks: Array) -> Array:
  """Undo the division of a split into blocks."""
  return blocks.reshape(-1, *blocks.shape[2:])


@jax.jit
def keep_better(better: Bool[Array, 's n'], new: PyTree, old: PyTree) -> PyTree:
  """Take the new arrays of the members that are better, the old ones of the others."""
  return jax.tree.map(lambda x, y: jnp.where(better.reshape(better.shape + (1,) * (x.ndim - 2)), x, y), new, old)


def load(dataset: Dataset, block: int, threads: int) -> dict[str, Batch]:
  """Put all splits on the device: their arrays in blocks, the last one of which is padded with weight 0.

  Args:
    block: examples that are evaluated at once.

  Raises:
    UserError: images are transformed at random, or they are too many.
  """
  if dataset.train_transform not in (None, dataset.eval_transform):
    raise UserError(
      'a sweep keeps its images on the device, where they cannot be augmented: set data.augment=False, or '
      'model.encoder=frozen with model.weights.'
    )
  count = sum(split.count for split in dataset.splits.values())
  size = count * int(np.prod(dataset.image_shape)) * np.dtype(dataset.dtype).itemsize
  if size > LIMIT:
    raise UserError(
      f'a sweep keeps its images on the device, up to {LIMIT:,} bytes, and these take {size:,}: lower data.size, set '
      'model.encoder=frozen with model.weights, or train one after the other with ule_jax.main.'
    )

  return {split: read(dataset, split, block, threads) for split in dataset.splits}


def read(dataset: Dataset, split: str, block: int, threads: int) -> Batch:
  """Put a split on the device, in blocks."""
  transform = dataset.train_transform if split == 'train' else dataset.eval_transform
  dataset = dataset._replace(eval_transform=transform)
  batches = [Batch(**b) for b in pipeline.eval_batches(dataset, split, batch_size=block, threads=threads)]
  return jax.tree.map(lambda *arrays: jnp.asarray(np.stack(arrays)), *batches)


def make_order(config: Any, training: Dataset, seeds: Int[np.ndarray, 's']) -> Callable[[int, int, int], Array]:
  """Make `(first step, steps, room) -> int32[s room b]`: each seed's batches, as a single run draws them."""
  draw = partial(pipeline.order, training.splits['train'])
  sampling, size = config.train.sampling, config.train.batch_size
  blocks = [draw(seed=int(seed), sampling=sampling, batch_size=size) for seed in seeds]

  def order(first: int, steps: int, room: int) -> Array:
    found = np.zeros((len(blocks), room, size), np.int32)
    for s, block in enumerate(blocks):
      for i in range(steps):
        found[s, i] = block(first + i)
    return jnp.asarray(found)

  return order
