"""A frozen encoder: its features of every image, computed once, and the data set that has them for images.

Features are of images as they are evaluated, without augmentation. They lie in a cache that student, teacher and
further runs share, under a key of the weights, the code, the preprocessing and the data: the digest of all images, and
the first ones of a split by their prepared pixels.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from ule_jax import models
from ule_jax.data import Dataset, Split, decoding, image_files, pipeline, transforms
from ule_jax.devices import processes, runtime
from ule_jax.devices.mesh import local_mesh, replicate, shard_batch
from ule_jax.errors import UserError
from ule_jax.models.build import headless, make_preprocess, network_and_shapes, pixel_scale
from ule_jax.models.pretrained import mapping
from ule_jax.paths import local_path
from ule_jax.runs import fingerprint
from ule_jax.runs.fingerprint import Fingerprint
from ule_jax.runs.progress import say

PROBES = 8  # images of a split whose prepared pixels are part of the key
Apply = Callable[[np.ndarray], np.ndarray]


def encode_splits(
  dataset: Dataset,
  apply: Apply,
  encoder: str,
  contents: Mapping[str, str],
  cache: Path,
  batch_size: int,
  threads: int,
  say: Callable[[str], None],
) -> Dataset:
  """Replace the images of a data set by their features, standardised over train.

  Args:
    apply: prepared images -> features.
    encoder: what `apply` depends on, weights and code included: part of the key.
    contents: split -> the digest of its images: part of the key.
    cache: a folder, made if it is not there.

  Raises:
    UserError: an image cannot be read, the cache cannot be written, or a feature is not finite.
  """
  splits, features = {}, {}
  for name, split in dataset.splits.items():
    path = cache / f'{key(dataset, split, encoder, contents[name])}.npy'
    found = _open(path, split.count)
    if found is None:
      say(f'computing the features of {split.count:,} images of {name}, once, into {path}')
      _write(path, _compute(dataset, name, apply, batch_size, threads, say))
      found = _open(path, split.count)
    features[name] = found
    splits[name] = split._replace(load=lambda i, found=found: found[i])
  mean, std = _statistics(features['train'])
  return dataset._replace(
    splits=splits,
    image_shape=mean.shape,
    dtype=np.float32,
    train_transform=None,
    eval_transform=None,
    mean=tuple(mean.tolist()),
    std=tuple(std.tolist()),
    table=None,
  )


def key(dataset: Dataset, split: Split, encoder: str, content: str) -> str:
  """Name the features of a split by all that they depend on."""
  digest = hashlib.sha256(f'{encoder} {dataset.image_shape} {dataset.decoding} {split.count} {content}'.encode())
  for i in range(min(split.count, PROBES)):
    digest.update(_prepared(dataset, split, i).tobytes())
  return digest.hexdigest()[:32]


def _prepared(dataset: Dataset, split: Split, i: int) -> np.ndarray:
  image = split.load(i)
  return image if dataset.eval_transform is None else dataset.eval_transform(image, np.random.default_rng(0))


def _open(path: Path, count: int) -> Float32[np.ndarray, 'n d'] | None:
  """Open cached features without reading them; None if they are not there, or not whole."""
  try:
    found = np.load(path, mmap_mode='r', allow_pickle=False)
  except (OSError, ValueError, EOFError):
    return None
  return found if found.shape[:1] == (count,) and found.dtype == np.float32 and found.ndim == 2 else None


def _write(path: Path, features: Float32[np.ndarray, 'n d']) -> None:
  """Write features, all or nothing; another process may be writing the same."""
  partial = path.with_suffix(f'.{platform.node()}.{os.getpid()}.partial')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open('wb') as file:
      np.save(file, features)
    partial.replace(path)
  except OSError as error:
    with contextlib.suppress(OSError):
      partial.unlink()
    raise UserError(
      f'the features cannot be written to {path} ({error.strerror}): choose another --config.model.feature_cache.'
    ) from None


def _compute(
  dataset: Dataset, name: str, apply: Apply, batch_size: int, threads: int, say: Callable[[str], None]
) -> Float32[np.ndarray, 'n d']:
  count, found = dataset.splits[name].count, None
  began = said = time.monotonic()
  for batch in pipeline.eval_batches(dataset, name, batch_size=batch_size, threads=threads):
    kept = batch['weight'] > 0
    rows = np.asarray(apply(batch['image']), np.float32)[kept]
    if not np.isfinite(rows).all():
      bad = int(batch['index'][kept][~np.isfinite(rows).all(1)][0])
      raise UserError(f'the features of {dataset.splits[name].name(bad)} are not finite: are these the right weights?')
    found = np.empty((count, rows.shape[1]), np.float32) if found is None else found
    found[batch['index'][kept]] = rows
    done, now = int(batch['index'].max()) + 1, time.monotonic()
    if now - said > 5:
      said, rate = now, done / (now - began)
      say(f'features of {name}: {done:,} of {count:,}, {rate:,.0f} images/s, {(count - done) / rate:,.0f} s left')
  return found


def _statistics(features: Float32[np.ndarray, 'n d']) -> tuple[np.ndarray, np.ndarray]:
  """Compute mean and standard deviation of each feature, 1 for one that never changes."""
  mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
  return mean, np.where(std > 1e-6, std, 1.0)


@functools.cache
def feature_code() -> str:
  """Make the digest of the code that the features of a frozen encoder depend on."""
  return fingerprint.code(models, decoding, transforms, image_files, sys.modules[__name__], make_preprocess)


def encode_dataset(config: Any, current: Fingerprint, weights: mapping.Pretrained) -> Dataset:
  """Replace images by what the config's frozen encoder makes of them, from the cache where they are in it.

  Raises:
    UserError: an image cannot be read, or the cache cannot be written.
  """
  dataset = current.dataset
  scale, mesh = pixel_scale(config, dataset), local_mesh()
  preprocess = make_preprocess(*scale)
  network, template = network_and_shapes(config, len(dataset.classes), dataset.image_shape)
  variables = replicate(headless(weights, template), mesh)
  apply = jax.jit(lambda variables, image: network.apply(variables, preprocess(image), train=False)[1])
  with processes.first_process_first('features'):  # who find them in the cache, if it is one for all
    return encode_splits(
      dataset,
      lambda image: apply(variables, shard_batch(image, mesh)),
      encoder=f'{weights.sha256} {config.model.name} {config.model.precision} {scale} {feature_code()}',
      contents={name: current.content(name)['content'] for name in dataset.splits},
      cache=local_path(config.model.feature_cache or runtime.user_cache() / 'features', 'model.feature_cache'),
      batch_size=config.train.eval_batch_size,
      threads=config.loader.threads,
      say=say,
    )
