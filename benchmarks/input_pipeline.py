"""How many images a second the input pipeline makes, beside PIL + torch DataLoader and tf.data, in one run.

  pip install '.[bench]'
  python benchmarks/input_pipeline.py [--threads=2] [--repeats=5] [--out=benchmarks/results/input_pipeline.jsonl]

Work of every row: a JPEG of 256 x 256 (crops of scikit-learn's photographs, quality 90, about 20 kB) -> random
crop of 0.7 to 1 of the area -> 224 x 224 -> random flip -> uint8 batch of 64. Every rival gets the same number of
cores: threads (ours, tf.data), processes (DataLoader, which has no threads). The rows of one repeat run
one after the other, and the median over repeats and the range are printed. Files are in the page cache.

tf.data's resize does not antialias: `linear` is the row to compare with it; `antialias` that for PIL.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import record

SIZE, BATCH, IMAGES = 224, 64, 2048
SECONDS = 4.0  # of one measurement, after the warm-up
SCALE, RATIO = (0.7, 1.0), (0.75, 4 / 3)


def write_images(root: Path) -> None:
  """Write the folder data set: crops of real photographs."""
  import numpy as np
  from PIL import Image
  from sklearn.datasets import load_sample_image

  rng = np.random.default_rng(0)
  sources = [load_sample_image(name) for name in ('china.jpg', 'flower.jpg')]
  lines = ['filename,label,split']
  for i in range(IMAGES + 2):
    source = sources[i % 2]
    top, left = (rng.integers(0, extent - 256) for extent in source.shape[:2])
    Image.fromarray(source[top : top + 256, left : left + 256]).save(root / f'{i}.jpg', quality=90)
    lines.append(f'{i}.jpg,{i % 2},{"train" if i < IMAGES else ("val", "test")[i - IMAGES]}')
  (root / 'metadata.csv').write_text('\n'.join(lines) + '\n')


def ours(folder: Path, threads: int, resize: str, workers: int = 0) -> Iterator:
  from ule_jax.data import load, pipeline

  options = {'dir': str(folder), 'size': SIZE, 'fit': 'stretch', 'resize': resize, 'augment': True}
  dataset = load('folder', options | {'scale': SCALE, 'ratio': RATIO, 'jitter': 0.0, 'unlisted': 'fail'})
  settings = {'batch_size': BATCH, 'seed': 0, 'sampling': 'uniform', 'start': 0}
  return pipeline.train_batches(dataset, threads=threads, workers=workers, **settings)


class TorchDataset:
  """What a PyTorch loader does for one image, with torchvision's arithmetic (PIL) written out."""

  def __init__(self, folder: Path):
    self.paths = [str(folder / f'{i}.jpg') for i in range(IMAGES)]

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, i: int):
    import math
    import random

    import numpy as np
    import torch
    from PIL import Image

    with Image.open(self.paths[i]) as file:
      image = file.convert('RGB')
    while True:
      area = image.width * image.height * random.uniform(*SCALE)
      aspect = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
      w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
      if w <= image.width and h <= image.height:
        break
    left, top = random.randint(0, image.width - w), random.randint(0, image.height - h)
    image = image.crop((left, top, left + w, top + h)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    if random.random() < 0.5:
      image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(image)), i % 2


def torch_batches(folder: Path, processes: int) -> Iterator:
  import torch

  loader = torch.utils.data.DataLoader(
    TorchDataset(folder), BATCH, shuffle=True, num_workers=processes, persistent_workers=True, drop_last=True
  )
  while True:
    yield from loader


def tf_batches(folder: Path, threads: int) -> Iterator:
  import tensorflow as tf

  def read(path):
    encoded = tf.io.read_file(path)
    begin, size, _ = tf.image.sample_distorted_bounding_box(
      tf.image.extract_jpeg_shape(encoded),
      tf.zeros([1, 0, 4]),
      aspect_ratio_range=RATIO,
      area_range=SCALE,
      max_attempts=10,
      use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], size[:2]], 0)
    image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
    image = tf.image.resize(image, (SIZE, SIZE))
    return tf.cast(tf.image.random_flip_left_right(image), tf.uint8)

  options = tf.data.Options()
  options.threading.private_threadpool_size = threads
  names = tf.data.Dataset.from_tensor_slices([str(folder / f'{i}.jpg') for i in range(IMAGES)])
  stream = names.shuffle(IMAGES).repeat().map(read, num_parallel_calls=threads, deterministic=True)
  return stream.batch(BATCH).prefetch(2).with_options(options).as_numpy_iterator()


def rate(batches: Iterator) -> float:
  """Count images a second after a warm-up."""
  for _ in range(8):
    next(batches)
  began, count = time.perf_counter(), 0
  while (spent := time.perf_counter() - began) < SECONDS:
    next(batches)
    count += BATCH
  return count / spent


ROWS: dict[str, Callable[[Path, Path, int], Iterator]] = {
  'ours, linear, folder': lambda folder, records, n: ours(folder, n, 'linear'),
  'ours, linear, array_record': lambda folder, records, n: ours(records, n, 'linear'),
  'ours, antialias, folder': lambda folder, records, n: ours(folder, n, 'antialias'),
  'ours, antialias, array_record': lambda folder, records, n: ours(records, n, 'antialias'),
  'ours, antialias, folder, processes': lambda folder, records, n: ours(folder, 1, 'antialias', n),
  'tf.data decode_and_crop, no antialias': lambda folder, records, n: tf_batches(folder, n),
  'PIL + torch DataLoader, antialias': lambda folder, records, n: torch_batches(folder, n),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--threads', type=int, default=2)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--out', type=Path)
  parser.add_argument('--row', help=argparse.SUPPRESS)  # one measurement in a process of its own
  parser.add_argument('--data', type=Path, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.row:
    print(rate(ROWS[args.row](args.data / 'folder', args.data / 'records', args.threads)), flush=True)
    os._exit(0)  # the rivals' threads and processes need not be waited for
  with tempfile.TemporaryDirectory() as scratch:
    root = Path(scratch)
    (root / 'folder').mkdir()
    write_images(root / 'folder')
    prepare = ['-m', 'ule_jax.prepare', '--config=folder', f'--config.data.dir={root}/folder', f'--out={root}/records']
    subprocess.run([sys.executable, *prepare], check=True, capture_output=True)
    found: dict[str, list[float]] = {name: [] for name in ROWS}
    for repeat in range(args.repeats):
      for name in ROWS:
        command = [sys.executable, __file__, f'--row={name}', f'--data={root}', f'--threads={args.threads}']
        environment = os.environ | {'TF_CPP_MIN_LOG_LEVEL': '3', 'CUDA_VISIBLE_DEVICES': ''}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        found[name].append(float(done.stdout.split()[-1]))
        print(f'{repeat + 1}/{args.repeats} {name}: {found[name][-1]:,.0f}', file=sys.stderr, flush=True)
  print(table(found))
  if args.out:
    rows = ({'row': name, 'images_per_second': values, 'threads': args.threads} for name, values in found.items())
    record.add(args.out, *(row | record.made() for row in rows))


def table(found: dict[str, list[float]]) -> str:
  """Lay out medians, ranges, and ratios to the two rivals (medians over repeats of the paired ratio)."""
  rivals = [name for name in found if not name.startswith('ours')]
  lines = ['| | images/s, median (range) | / tf.data | / DataLoader |', '|---|---|---|---|']
  for name, values in found.items():
    ratios = [statistics.median(v / r for v, r in zip(values, found[rival], strict=True)) for rival in rivals]
    shown = ' | '.join(f'{ratio:.2f}' for ratio in ratios)
    lines.append(f'| {name} | {statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f}) | {shown} |')
  return '\n'.join(lines)


if __name__ == '__main__':
  main()
