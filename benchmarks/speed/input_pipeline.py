"""Images a second of the input pipeline, beside PIL + torch DataLoader and tf.data, in one run.

  pip install '.[bench]'
  python -m benchmarks.speed.input_pipeline [--threads=2] [--turns=5] [--out=NEW.jsonl]

Work of every row: a JPEG of 256 x 256 (crops of scikit-learn's photographs, quality 90, about 20 kB) -> random crop of
0.7 to 1 of the area -> 224 x 224 -> random flip -> uint8 batch of 64. docs/results/methodology.md has the protocol.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from benchmarks import harness
from ule_jax.data import load, pipeline

SIZE, BATCH, IMAGES = 224, 64, 2048
SECONDS = 4.0  # of one measurement, after the warm-up
SCALE, RATIO = (0.7, 1.0), (0.75, 4 / 3)


def write_images(root: Path) -> None:
  """Write a folder data set of crops of real photographs."""
  rng = np.random.default_rng(0)
  sources = [load_sample_image(name) for name in ('china.jpg', 'flower.jpg')]
  lines = ['filename,label,split']
  for i in range(IMAGES + 2):
    source = sources[i % 2]
    top, left = (rng.integers(0, extent - 256) for extent in source.shape[:2])
    Image.fromarray(source[top : top + 256, left : left + 256]).save(root / f'{i}.jpg', quality=90)
    lines.append(f'{i}.jpg,{i % 2},{"train" if i < IMAGES else ("val", "test")[i - IMAGES]}')
  (root / 'metadata.csv').write_text('\n'.join(lines) + '\n')


def our_batches(folder: Path, threads: int, resize: str, workers: int = 0) -> Iterator:
  """Return the batches of our pipeline."""
  options = {'dir': str(folder), 'size': SIZE, 'fit': 'stretch', 'resize': resize, 'augment': True}
  dataset = load('folder', options | {'scale': SCALE, 'ratio': RATIO, 'jitter': 0.0, 'unlisted': 'fail'})
  settings = {'batch_size': BATCH, 'seed': 0, 'sampling': 'uniform', 'start': 0}
  return pipeline.train_batches(dataset, threads=threads, workers=workers, **settings)


class TorchImages:
  """The images for PyTorch's loader, decoded by PIL and transformed by torchvision."""

  def __init__(self, folder: Path):
    transforms = harness.import_torchvision().transforms
    self.paths = [str(folder / f'{i}.jpg') for i in range(IMAGES)]
    crop, flip = transforms.RandomResizedCrop(SIZE, SCALE, RATIO), transforms.RandomHorizontalFlip()
    self.transform = transforms.Compose([crop, flip, transforms.PILToTensor()])

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, i: int):
    with Image.open(self.paths[i]) as file:
      return self.transform(file.convert('RGB')), i % 2


def torch_batches(folder: Path, processes: int) -> Iterator:
  """Return the batches of a DataLoader."""
  import torch

  loader = torch.utils.data.DataLoader(
    TorchImages(folder), BATCH, shuffle=True, num_workers=processes, persistent_workers=True, drop_last=True
  )
  while True:
    yield from loader


def tf_batches(folder: Path, threads: int) -> Iterator:
  """Return the batches of tf.data."""
  import tensorflow as tf

  def read(path):
    encoded = tf.io.read_file(path)
    begin, size, _ = tf.image.sample_distorted_bounding_box(
      tf.image.extract_jpeg_shape(encoded), tf.zeros([1, 0, 4]), aspect_ratio_range=RATIO, area_range=SCALE,
      max_attempts=10, use_image_if_no_bounding_boxes=True,
    )  # fmt: skip
    window = tf.concat([begin[:2], size[:2]], 0)
    image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
    image = tf.image.resize(image, (SIZE, SIZE))
    return tf.cast(tf.image.random_flip_left_right(image), tf.uint8)

  options = tf.data.Options()
  options.threading.private_threadpool_size = threads
  names = tf.data.Dataset.from_tensor_slices([str(folder / f'{i}.jpg') for i in range(IMAGES)])
  stream = names.shuffle(IMAGES).repeat().map(read, num_parallel_calls=threads, deterministic=True)
  return stream.batch(BATCH).prefetch(2).with_options(options).as_numpy_iterator()


def rate(name: str, root: Path, cores: int) -> float:
  """Return the images a second of a row, after a warm-up."""
  batches = ROWS[name](root / 'folder', root / 'records', cores)
  for _ in range(8):
    next(batches)
  began, count = time.perf_counter(), 0
  while (seconds := time.perf_counter() - began) < SECONDS:
    next(batches)
    count += BATCH
  return count / seconds


# name -> the batches of two folders (files, records) on a number of cores
ROWS: dict[str, Callable[[Path, Path, int], Iterator]] = {
  'linear_folder': lambda files, records, n: our_batches(files, n, 'linear'),
  'linear_array_record': lambda files, records, n: our_batches(records, n, 'linear'),
  'antialias_folder': lambda files, records, n: our_batches(files, n, 'antialias'),
  'antialias_array_record': lambda files, records, n: our_batches(records, n, 'antialias'),
  'antialias_folder_processes': lambda files, records, n: our_batches(files, 1, 'antialias', n),
  'tf_data': lambda files, records, n: tf_batches(files, n),
  'torch_dataloader': lambda files, records, n: torch_batches(files, n),
}


def main() -> None:
  parser = harness.command_parser(__doc__)
  parser.add_argument('--threads', type=int, default=2)
  parser.add_argument('--turns', type=int, default=5)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as scratch:
    root = Path(scratch)
    (root / 'folder').mkdir()
    write_images(root / 'folder')
    prepare = ['-m', 'ule_jax.prepare', '--config=folder', f'--config.data.dir={root}/folder', f'--out={root}/records']
    subprocess.run([sys.executable, *prepare], check=True, capture_output=True, cwd=harness.ROOT)

    def measure(name: str) -> float:
      pool = harness.worker(TF_CPP_MIN_LOG_LEVEL='3', CUDA_VISIBLE_DEVICES='')
      images = round(pool.submit(rate, name, root, args.threads).result(), 2)
      with contextlib.suppress(BrokenProcessPool):  # threads and processes of rivals need not be waited for
        pool.submit(os._exit, 0).result()
      print(f'{name}: {images:,.0f}', file=sys.stderr, flush=True)
      return images

    rates = harness.in_turns({name: lambda name=name: measure(name) for name in ROWS}, args.turns)
  source = {'threads': args.threads} | harness.provenance('tensorflow-cpu', 'torch')
  rows = [{'row': name, 'images_per_second': values} | source for name, values in rates.items()]
  print('\n'.join(map(str, rows)))
  harness.append_rows(args.out, rows)


if __name__ == '__main__':
  main()
