"""Data sets from arrays in memory."""

import numpy as np

from ule_jax.data import pipeline
from ule_jax.data.arrays import Rows, feature_statistics, from_rows


def test_features_of_half_precision_are_standardised_by_train():
  rng = np.random.default_rng(0)
  x = rng.normal(300, 5, (4000, 3)).astype(np.float16)
  x[:, 2] = 7  # constant
  mean, std = feature_statistics(x)
  np.testing.assert_allclose(mean, x.astype(np.float64).mean(0))
  np.testing.assert_allclose(std, [*x.astype(np.float64).std(0)[:2], 1])
  rows = Rows(x, np.arange(4000) % 2)
  dataset = from_rows({'train': rows, 'val': rows, 'test': rows}, ('a', 'b'))
  assert (dataset.image_shape, dataset.dtype, dataset.mean) == ((3,), np.float16, tuple(mean.tolist()))
  batch = next(iter(pipeline.eval_batches(dataset, 'test', batch_size=8, threads=0)))
  np.testing.assert_array_equal(batch['image'], x[:8].astype(np.float32))
  assert batch['group'].tolist() == [-1] * 8


def test_statistics_leave_the_features_as_they_are():
  x = np.random.default_rng(0).normal(3, 2, (50, 4))
  before = x.copy()
  mean, std = feature_statistics(x)
  np.testing.assert_array_equal(x, before)
  np.testing.assert_allclose((mean, std), (x.mean(0), x.std(0)))


def test_images_stay_uint8():
  x = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3)).astype(np.uint8)
  rows = Rows(x, np.array([0, 1, 2, 0, 1, 2]), np.array([0, 0, 1, 1, 0, -1]), names=list('abcdef'))
  dataset = from_rows({'train': rows, 'val': rows, 'test': rows}, ('a', 'b', 'c'), ('p', 'q'))
  batch = next(iter(pipeline.eval_batches(dataset, 'train', batch_size=8, threads=0)))
  assert batch['image'].dtype == np.uint8
  np.testing.assert_array_equal(batch['image'][:6], x)
  assert batch['group'].tolist()[:6] == [0, 0, 1, 1, 0, -1]
  assert dataset.splits['train'].name(2) == 'c'
  assert len(dataset.mean) == 3
