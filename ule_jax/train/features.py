"""Features of a frozen encoder: computed once for every image, cached, and put in place of the images of a data set.

Images are preprocessed as in evaluation, without augmentation. Student, teacher and further runs share the cache. Its
key is a digest of the weights, the code, the preprocessing and the data: of all image files, and of the pixels of the
first images of a split.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float32

from ule_jax import models
from ule_jax.config.schema import Config
from ule_jax.data import Dataset, Split, decoding, image_files, pipeline, transforms
from ule_jax.devices import processes, runtime
from ule_jax.devices.mesh import local_mesh, replicate, shard_batch
from ule_jax.errors import UserError
from ule_jax.models.build import headless, make_preprocess, network_and_shapes, pixel_scale
from ule_jax.models.pretrained import mapping
from ule_jax.paths import local_path
from ule_jax.runs import fingerprint
from ule_jax.runs.files import write_atomic
from ule_jax.runs.fingerprint import Fingerprint

log = logging.getLogger(__name__)

PROBES = 8  # images of a split whose preprocessed pixels are part of the key
EVERY = 5.0  # seconds between lines of progress
Apply = Callable[[np.ndarray], np.ndarray]


def encode_splits(
  dataset: Dataset,
  apply: Apply,
  encoder: str,
  contents: Mapping[str, str],
  cache: Path,
  batch_size: int,
  threads: int,
) -> Dataset:
  """Return a data set with the features of its images in their place; `mean` and `std` are those of train.

  Args:
    dataset: of images.
    apply: preprocessed images [b h w c] -> features [b d].
    encoder: identity of `apply`, of its weights and its code: part of the key.
    contents: split -> the digest of its images: part of the key.
    cache: a folder, which is created if it does not exist.
    batch_size: images at a time.
    threads: that read images.

  Raises:
    UserError: an image cannot be read, the cache cannot be written, or a feature is not finite.
  """
  splits, features = {}, {}
  for name, split in dataset.splits.items():
    path = cache / f'{key(dataset, split, encoder, contents[name])}.npy'
    rows = _open(path, split.count)
    if rows is None:
      log.info(f'computing the features of {split.count:,} images of {name}, once, into {path}')
      computed = compute(dataset, name, apply, batch_size, threads)
      _write(path, computed)
      stored = _open(path, split.count)
      rows = computed if stored is None else stored
    features[name] = rows
    splits[name] = split._replace(load=lambda i, rows=rows: rows[i], load_rows=lambda block, rows=rows: rows[block])
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
  """Return the cache key of the features of a split: a digest of everything that they depend on.

  Args:
    dataset: of images.
    split: one of its splits.
    encoder: as in `encode_splits`.
    content: the digest of the images of the split.
  """
  digest = hashlib.sha256(f'{encoder} {dataset.image_shape} {dataset.decoding} {split.count} {content}'.encode())
  for i in range(min(split.count, PROBES)):
    digest.update(_preprocessed(dataset, split, i).tobytes())
  return digest.hexdigest()[:32]


def _preprocessed(dataset: Dataset, split: Split, i: int) -> np.ndarray:
  image = split.load(i)
  return image if dataset.eval_transform is None else dataset.eval_transform(image, np.random.default_rng(0))


def _open(path: Path, count: int) -> Float32[np.ndarray, 'n d'] | None:
  """Return cached features as a memory map; None if the file is missing or incomplete."""
  try:
    rows = np.load(path, mmap_mode='r', allow_pickle=False)
  except (OSError, ValueError, EOFError):
    return None
  return rows if rows.shape[:1] == (count,) and rows.dtype == np.float32 and rows.ndim == 2 else None


def _write(path: Path, features: Float32[np.ndarray, 'n d']) -> None:
  """Write features to the cache; another process may write the same file."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomic(path) as file:
      np.save(file, features)
  except OSError as error:
    raise UserError(
      f'the features cannot be written to {path} ({error.strerror}): choose another --config.model.feature_cache.'
    ) from None


def compute(
  dataset: Dataset, name: str, apply: Apply, batch_size: int, threads: int, first: int = 0, total: int = 0
) -> Float32[np.ndarray, 'n d']:
  """Compute the features of a split, in its order.

  Args:
    dataset: of images.
    name: of the split.
    apply, batch_size, threads: as in `encode_splits`.
    first: number of images before these, and `total` of all, for lines of progress; 0 where the split is everything.
    total: see `first`.

  Raises:
    UserError: an image cannot be read, or a feature is not finite.
  """
  count, features = dataset.splits[name].count, np.empty((0, 0), np.float32)
  total = total or count
  began = logged = time.monotonic()
  for batch in pipeline.eval_batches(dataset, name, batch_size=batch_size, threads=threads):
    kept = batch['weight'] > 0
    rows = np.asarray(apply(batch['image']), np.float32)[kept]
    if not np.isfinite(rows).all():
      bad = int(batch['index'][kept][~np.isfinite(rows).all(1)][0])
      raise UserError(f'the features of {dataset.splits[name].name(bad)} are not finite: are these the right weights?')
    features = features if features.size else np.empty((count, rows.shape[1]), np.float32)
    features[batch['index'][kept]] = rows
    done, now = int(batch['index'].max()) + 1, time.monotonic()
    if now - logged > EVERY:
      logged, rate = now, done / (now - began)
      left = (total - first - done) / rate
      log.info(f'features of {name}: {first + done:,} of {total:,}, {rate:,.0f} images/s, {left:,.0f} s left')
  return features


def _statistics(features: Float32[np.ndarray, 'n d']) -> tuple[np.ndarray, np.ndarray]:
  """Return mean and standard deviation of each feature in float64; the latter is 1 for a constant feature.

  Not scikit-learn's StandardScaler, which would copy the memory map.
  """
  mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
  return mean, np.where(std > 1e-6, std, 1.0)


@functools.cache
def feature_code() -> str:
  """Return the digest of the code that the features of a frozen encoder depend on."""
  return fingerprint.code(models, decoding, transforms, image_files, sys.modules[__name__], make_preprocess)


class Encoder(NamedTuple):
  """A frozen network as a function.

  Attributes:
    apply: images as `InputSpec.eval_transform` leaves them [b h w c] -> features [b d].
    identity: of its weights, code and pixel scale, for keys.
    scale: mean and standard deviation by which pixels in [0, 1] are normalised.
  """

  apply: Apply
  identity: str
  scale: tuple[tuple[float, ...], tuple[float, ...]]


def encoder_of(config: Config, dataset: Dataset, weights: mapping.Pretrained) -> Encoder:
  """Return the network of a config with some weights as an encoder, on all local devices.

  Args:
    config: names the network.
    dataset: of images.
    weights: of the network.
  """
  scale, mesh = pixel_scale(config, dataset), local_mesh()
  preprocess = make_preprocess(*scale)
  network, template = network_and_shapes(config, len(dataset.classes), dataset.image_shape)
  variables = replicate(headless(weights, template), mesh)
  apply = jax.jit(lambda variables, image: network.apply(variables, preprocess(image), train=False)[1])
  return Encoder(
    lambda image: apply(variables, shard_batch(image, mesh)),
    f'{weights.sha256} {config.model.name} {config.model.precision} {scale} {feature_code()}',
    scale,
  )


def encode_dataset(config: Config, current: Fingerprint, weights: mapping.Pretrained) -> Dataset:
  """Return a data set with the features of the config's frozen encoder, from the cache where they are in it.

  Args:
    config: of the run.
    current: the data set of images.
    weights: of the encoder.

  Raises:
    UserError: an image cannot be read, or the cache cannot be written.
  """
  encoder = encoder_of(config, current.dataset, weights)
  with processes.first_process_first('features'):  # the others read them from the cache, if it is shared
    return encode_splits(
      current.dataset,
      encoder.apply,
      encoder=encoder.identity,
      contents={name: current.content(name)['content'] for name in current.dataset.splits},
      cache=local_path(config.model.feature_cache or runtime.user_cache() / 'features', 'model.feature_cache'),
      batch_size=config.train.eval_batch_size,
      threads=config.loader.threads,
    )
