"""Batches in a fixed order, read by threads or processes through grain.

The order is a pure function of (seed, sampling, batch size, step): no state of the steps before is needed, so that a
resumed run is bitwise equal. A host reads one contiguous block of each global batch, so that the global batches do not
depend on the number of hosts.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags
from jaxtyping import Int

from ule_jax.data.dataset import Dataset, Split, Transform
from ule_jax.errors import UserError
from ule_jax.streams import Stream, generator

SAMPLINGS = ('uniform', 'class_balanced', 'group_balanced', 'class_subsampled', 'group_subsampled')

Arrays = dict[str, Any]  # image, label, group, index, weight -> the array of one batch


class Batches(Iterator[Arrays], Protocol):
  """An iterator over batches; `close` ends its threads and worker processes."""

  def close(self) -> None: ...


def order(split: Split, *, seed: int, sampling: str, batch_size: int) -> Callable[[int], Int[np.ndarray, 'b']]:
  """Return the function from a step to the example indices of its batch.

  The permutations are our own, because grain's shuffle and repeat cost 40 us an example, and ten times that for
  groups of a few dozen, which is more than reading a small image.

  Args:
    seed: of the permutations and draws.
    sampling: `uniform` permutes all examples in each epoch, or draws with replacement by the split's `sampling_weight`
      if it has one; `class_balanced` and `group_balanced` alternate between the classes or groups, each in
      its own permutations; `class_subsampled` and `group_subsampled` keep as many examples of each class or
      group as the smallest has, and permute those.
    batch_size: examples of the global batch.

  Raises:
    UserError: a label, or a group that the sampling needs, is unknown.
  """
  if missing := int((split.label < 0).sum()):
    raise UserError(f'{missing} training examples have no label: label them, or take them out of the data.')
  indices = np.arange(split.count)
  if sampling == 'uniform' and split.sampling_weight is not None:
    share = np.cumsum(split.sampling_weight)
    share /= share[-1]
    return lambda step: share.searchsorted(generator(Stream.DRAW, seed, step).random(batch_size), side='right')
  if sampling == 'uniform':
    members = [indices]
  elif sampling.startswith('class'):
    members = [indices[split.label == k] for k in np.unique(split.label)]
  else:
    if (split.group < 0).any():
      missing = int((split.group < 0).sum())
      raise UserError(
        f'train.sampling is {sampling}, but {missing} training examples have no group: '
        'label them or use class_balanced.'
      )
    members = [indices[split.group == g] for g in np.unique(split.group)]
  if sampling.endswith('subsampled'):
    least = min(len(m) for m in members)
    members = [
      np.concatenate([generator(Stream.SUBSAMPLE, seed, i).permutation(m)[:least] for i, m in enumerate(members)])
    ]

  permutation = Permutations(seed, tuple(len(m) for m in members))

  def block(step: int) -> Int[np.ndarray, 'b']:
    position, stream = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), len(members))
    epoch, offset = np.divmod(position, np.array([len(m) for m in members])[stream])
    chosen = np.empty(batch_size, np.int64)
    for s, e in set(zip(stream.tolist(), epoch.tolist(), strict=True)):
      rows = (stream == s) & (epoch == e)
      chosen[rows] = members[s][permutation(s, e)[offset[rows]]]
    return chosen

  return block


class Permutations:
  """A cache of each stream's permutations: the two newest epochs, which take 8 bytes an example.

  A batch rarely spans more than two epochs of a stream, and threads read batches that are close to each other.
  """

  def __init__(self, seed: int, sizes: tuple[int, ...]):
    self._seed, self._sizes = seed, sizes
    self._kept: dict[tuple[int, int], tuple[int, Int[np.ndarray, 'm']]] = {}

  def __call__(self, stream: int, epoch: int) -> Int[np.ndarray, 'm']:
    """Return the permutation of a stream in an epoch."""
    slot = stream, epoch % 2
    cached = self._kept.get(slot)
    if cached is None or cached[0] != epoch:
      permutation = np.random.default_rng((self._seed, stream, epoch)).permutation(self._sizes[stream])
      self._kept[slot] = cached = epoch, permutation.astype(np.int32)  # as the indices of batches
    return cached[1]


def _refuse_lost(reason: str) -> None:
  raise UserError(reason)


def train_batches(
  dataset: Dataset,
  *,
  batch_size: int,
  seed: int,
  sampling: str,
  start: int,
  threads: int,
  workers: int = 0,
  lost: Callable[[str], None] = _refuse_lost,
  host: int = 0,
  hosts: int = 1,
) -> Batches:
  """Iterate over this host's blocks of the training batches from step `start` on, without end.

  Args:
    batch_size: examples of the global batch; a multiple of `hosts`.
    seed: of the order and of the transforms.
    sampling: as in `order`.
    threads: that read and transform; 0 for the calling thread.
    workers: processes that read and transform instead, with as many threads each; 0 for none.
    lost: receives a sentence when a worker dies, such as one that the system kills for lack of memory; the calling
      process then reads all further batches, so that the run can stop in order.
    host: index of this host, from 0.
    hosts: their number.
  """
  local = batch_size // hosts
  block = order(dataset.splits['train'], seed=seed, sampling=sampling, batch_size=batch_size)
  mine = slice(host * local, (host + 1) * local)

  def read(step: int) -> Arrays:
    # Keyed by the position in the global batch, which does not depend on the number of hosts.
    keys = [(seed, step, position) for position in range(mine.start, mine.stop)]
    return _read(dataset, 'train', dataset.train_transform, block(step)[mine], keys)

  def batches(start: int, workers: int) -> Batches:
    # The start is part of the data and not an iterator state, as every worker process has its own state.
    return iter(_threaded(grain.MapDataset.range(start, sys.maxsize).map(read), threads, workers))

  return _from_workers(batches, start, workers, lost) if workers else batches(start, 0)


def eval_batches(
  dataset: Dataset, split: str, *, batch_size: int, threads: int, host: int = 0, hosts: int = 1
) -> Iterator[Arrays]:
  """Iterate once over this host's blocks of a split in order; padding has weight 0 and index -1.

  Args:
    batch_size: examples of the global batch; a multiple of `hosts`.
    threads: that read and transform; 0 for the calling thread.
    host: index of this host, from 0.
    hosts: their number.
  """
  local, count = batch_size // hosts, dataset.splits[split].count
  steps = -(-count // batch_size)
  padded = np.full(steps * batch_size, -1)
  padded[:count] = np.arange(count)
  blocks = padded.reshape(steps, hosts, local)[:, host]
  keys = [(0, 0, 0)] * local  # evaluation draws nothing

  def read(block: np.ndarray) -> Arrays:
    return _read(dataset, split, dataset.eval_transform, block, keys)

  # Not by worker processes, which take longer to start than most validation splits take to read.
  return iter(_threaded(grain.MapDataset.source(list(blocks)).map(read), threads))


def _read(
  dataset: Dataset, name: str, transform: Transform | None, block: np.ndarray, keys: list[tuple[int, ...]]
) -> Arrays:
  """Load, transform and stack the examples of a block of indices, of which -1 is padding.

  Args:
    keys: seed of the transform of each example.
  """
  split = dataset.splits[name]
  real, safe = block >= 0, np.maximum(block, 0)
  image = np.zeros((len(block), *dataset.image_shape), dataset.dtype)
  if split.load_rows is not None and transform is None:
    image[real] = split.load_rows(block[real])
  else:
    for row, (i, key) in enumerate(zip(block.tolist(), keys, strict=True)):
      if i >= 0:
        pixels = split.load(i)
        image[row] = pixels if transform is None else transform(pixels, np.random.default_rng(key))
  return {
    'image': image,
    'label': np.where(real, split.label[safe], 0).astype(np.int32),
    'group': np.where(real, split.group[safe], -1).astype(np.int32),
    'index': block.astype(np.int32),
    'weight': real.astype(np.float32),
  }


def _threaded(batches: grain.MapDataset, threads: int, workers: int = 0) -> grain.IterDataset:
  # An element is a whole batch: a buffer of one for each thread instead of grain's default of 500 elements.
  stream = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
  if not workers:
    return stream
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain's workers read absl's flags, which ule_jax.cli does not parse
  options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
  return stream.mp_prefetch(options, worker_init_fn=_begin_worker)


def _begin_worker(index: int, count: int) -> None:
  """Ignore signals, which the parent handles for all processes of the job, and exit when the parent has exited."""
  del index, count
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)

  def follow() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, 'this is a worker process'
    parent.join()
    os._exit(0)

  threading.Thread(target=follow, daemon=True).start()


def _from_workers(
  batches: Callable[[int, int], Batches], start: int, workers: int, lost: Callable[[str], None]
) -> Generator[Arrays, None, None]:
  """Iterate over `batches(start, workers)`, and from the step at which a worker dies over `batches(step, 0)`."""
  reading = batches(start, workers)
  try:
    for step in itertools.count(start):
      try:
        batch = next(reading)
      except RuntimeError as error:  # grain has no specific type for it
        code = re.search(r'terminated unexpectedly with exit code (-?\d+)', str(error))
        if not code:
          raise
        lost(_why_lost(int(code[1]), workers))
        reading.close()
        reading = batches(step, 0)
        batch = next(reading)
      yield batch
  finally:
    reading.close()


def _why_lost(code: int, workers: int) -> str:
  killed = -code in set(signal.Signals)
  how = f'was killed by {signal.Signals(-code).name}' if killed else f'ended with exit code {code}'
  lack = 'shared memory (/dev/shm)' if code == -signal.SIGBUS else 'memory'
  return f'a data worker {how} (loader.workers={workers}: for lack of {lack}, lower it or give the job more)'
