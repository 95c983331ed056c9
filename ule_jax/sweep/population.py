"""Runs that differ only in numbers as one graph: `vmap` over seeds and settings, with the data on the device.

Axes beyond the usual ones: `s` seeds, `n` settings (all combinations of the other axes), `c` steps of a call, `r`
selection rules. Batches and the noise on them depend on the seed alone and are computed once for all settings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ule_jax.config.schema import Config
from ule_jax.data import Dataset, pipeline
from ule_jax.devices import runtime
from ule_jax.errors import UserError
from ule_jax.methods import Batch
from ule_jax.metrics import Counts
from ule_jax.train.assemble import assemble, sample_of
from ule_jax.train.evaluate import make_score
from ule_jax.train.step import TrainState, create_state, make_train_step

OF_IMAGES = 'lower data.size, set model.encoder=frozen with model.weights'
LIMIT = 1 << 31  # bytes of images or features that may be kept on the device


class Members(NamedTuple):
  """The values in which the members of a population differ: every seed is combined with every setting.

  Attributes:
    seeds: of all members.
    overrides: dotted field -> its value in each setting.
    settings: their number, which is 1 without overrides.
  """

  seeds: Int[np.ndarray, 's']
  overrides: dict[str, Float[np.ndarray, 'n']]
  settings: int


class Graphs(NamedTuple):
  """The compiled functions of a population; states and networks have the axes `s n` before their own.

  create: () -> initial state
  advance: (state, order: int32[s c b], count) -> (state, metrics of the last step: float[s n]); the state is donated,
    and of the order the first `count` batches are trained on
  score: (params, batch_stats, blocks of a split) -> role -> counts
  """

  roles: tuple[str, ...]
  create: Callable[[], TrainState]
  advance: Callable[[TrainState, Array, int], tuple[TrainState, dict[str, Array]]]
  score: Callable[[PyTree, PyTree, Batch], dict[str, Counts]]


def compile_members(config: Config, training: Dataset, groups: int, members: Members, train: Batch) -> Graphs:
  """Return the compiled functions of a population.

  Args:
    config: of any member.
    training: the data set that is trained on.
    groups: number of groups of the data set that is evaluated on.
    members: their seeds and settings.
    train: the training split in blocks.
  """
  method, model, _, preprocess = assemble(config, training)
  sample = sample_of(training, preprocess)
  seeds, overrides = jnp.asarray(members.seeds, jnp.int32), jax.tree.map(jnp.asarray, members.overrides)
  options = runtime.compiler_options()

  def create(seed: Array, overrides: dict[str, Array]) -> TrainState:
    parts = assemble(config, training, overrides)
    return create_state(parts.method, parts.model, parts.tx, sample, jax.random.key(seed))

  score_batch = make_score(model, preprocess, method.roles, groups)

  def score(params: PyTree, batch_stats: PyTree, block: Batch) -> dict[str, Counts]:
    return score_batch(params, batch_stats, block._asdict())[0]

  def over_members(function: Callable, of_seed: tuple, of_setting: tuple) -> Callable:
    """Map a function of one member over all members: `vmap` over the seeds around `vmap` over the settings.

    Args:
      function: of one member.
      of_seed: for each argument the axis of the seeds, None without one.
      of_setting: likewise of the settings.
    """
    inner = jax.vmap(function, of_setting, axis_size=members.settings)
    return jax.vmap(inner, of_seed, axis_size=len(seeds))

  create = jax.jit(over_members(create, (0, None), (None, 0)))
  advance = over_members(
    partial(advance_member, config, training), (0, 0, None, 0, None, None), (0, None, 0, None, None, None)
  )
  advance = jax.jit(advance, donate_argnums=0, compiler_options=options)
  score = jax.jit(over_members(score, (0, 0, None), (0, 0, None)))

  def score_all(params: PyTree, batch_stats: PyTree, blocks: Batch) -> dict[str, Counts]:
    # One block after the other, so that splits of all sizes are one graph.
    each = [score(params, batch_stats, jax.tree.map(lambda x: x[i], blocks)) for i in range(len(blocks.label))]  # noqa: B023
    return {role: functools.reduce(Counts.merge, [counts[role] for counts in each]) for role in method.roles}

  return Graphs(
    roles=method.roles,
    create=lambda: create(seeds, overrides),
    advance=lambda state, order, count: advance(state, seeds, overrides, order, count, train),
    score=score_all,
  )


def advance_member(
  config: Config,
  training: Dataset,
  state: TrainState,
  seed: Array,
  overrides: dict[str, Array],
  order: Array,
  count: Array,
  train: Batch,
) -> tuple[TrainState, dict[str, Array]]:
  """Train one member for some steps; return its state and the metrics of the last step.

  Args:
    config: of any member.
    training: the data set that is trained on.
    state: before the first of these steps.
    seed: of the member.
    overrides: its values of the axes.
    order: int32 [c b], the examples of each step.
    count: number of steps, at most c.
    train: the training split in blocks.
  """
  parts = assemble(config, training, overrides)
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


def flat(blocks: Array) -> Array:
  """Return the arrays of a split [n ...] from those in blocks [m b ...]."""
  return blocks.reshape(-1, *blocks.shape[2:])


@jax.jit
def keep_better(better: Bool[Array, 's n'], new: PyTree, old: PyTree) -> PyTree:
  """Return the new arrays of the members whose score is better, and the old ones of the others."""
  return jax.tree.map(lambda x, y: jnp.where(better.reshape(better.shape + (1,) * (x.ndim - 2)), x, y), new, old)


def load(dataset: Dataset, block: int, threads: int) -> dict[str, Batch]:
  """Copy all splits to the device in blocks [m b ...]; padding in the last block has weight 0.

  Args:
    dataset: with all of its splits.
    block: examples that are evaluated at once.
    threads: that read images.

  Raises:
    UserError: images are augmented, or take more than LIMIT bytes.
  """
  if dataset.train_transform not in (None, dataset.eval_transform):
    raise UserError(
      'a sweep keeps its images on the device, where they cannot be augmented: set data.augment=False, or '
      'model.encoder=frozen with model.weights.'
    )
  count = sum(split.count for split in dataset.splits.values())
  size = count * int(np.prod(dataset.image_shape)) * np.dtype(dataset.dtype).itemsize
  if size > LIMIT:
    kind = 'features' if dataset.is_features else 'images'
    less = 'save them in half precision' if dataset.is_features else OF_IMAGES
    raise UserError(
      f'a sweep keeps its {kind} on the device, up to {LIMIT:,} bytes, and these take {size:,}: {less}, or train '
      'sequentially with ule_jax.main.'
    )

  return {split: read(dataset, split, block, threads) for split in dataset.splits}


def read(dataset: Dataset, split: str, block: int, threads: int) -> Batch:
  """Copy one split to the device in blocks, as `load`."""
  transform = dataset.train_transform if split == 'train' else dataset.eval_transform
  dataset = dataset._replace(eval_transform=transform)
  batches = [Batch(**b) for b in pipeline.eval_batches(dataset, split, batch_size=block, threads=threads)]
  return jax.tree.map(lambda *arrays: jnp.asarray(np.stack(arrays)), *batches)


def make_order(config: Config, training: Dataset, seeds: Int[np.ndarray, 's']) -> Callable[[int, int, int], Array]:
  """Return `(first step, steps, room) -> int32 [s room b]`: each seed's batches, as a single run draws them.

  Args:
    config: of any member.
    training: the data set that is trained on.
    seeds: of the members.
  """
  draw = partial(pipeline.order, training.splits['train'])
  sampling, size = config.train.sampling, config.train.batch_size
  blocks = [draw(seed=int(seed), sampling=sampling, batch_size=size) for seed in seeds]

  def order(first: int, steps: int, room: int) -> Array:
    indices = np.zeros((len(blocks), room, size), np.int32)
    for s, block in enumerate(blocks):
      for i in range(steps):
        indices[s, i] = block(first + i)
    return jnp.asarray(indices)

  return order
