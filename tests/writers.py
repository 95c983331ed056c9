"""Write official layouts at small size, with real image content."""

import csv
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from ule_jax.data.dataset import Dataset
from ule_jax.data.tables import Table

ATTRIBUTES = ('Bald', 'Blond_Hair', 'Male', 'Smiling')
LOCATIONS = ('desert', 'jungle', 'dirt', 'mountain', 'snow', 'beach')
BREEDS = ('bulldog', 'corgi', 'dachshund', 'labrador')
CITY = ('urban', 'country')


def photograph(rng: np.random.Generator, width: int, height: int) -> Image.Image:
  """A random crop of a real photograph."""
  source = load_sample_image(('china.jpg', 'flower.jpg')[rng.integers(2)])
  top, left = rng.integers(0, source.shape[0] - height), rng.integers(0, source.shape[1] - width)
  return Image.fromarray(source[top : top + height, left : left + width])


def table_of(dataset: Dataset) -> Table:
  """The table of a data set that was read from files."""
  assert dataset.table is not None
  return dataset.table


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable]) -> None:
  with path.open('w', newline='') as file:
    csv.writer(file).writerows([header, *rows])


def write_celeba(
  root: Path, counts=((12, 8, 6, 4), (4, 4, 3, 3), (4, 4, 3, 2)), form='csv', nested=False, size=(60, 74)
) -> Path:
  """CelebA with `counts[split][group]` images; Blond_Hair against Male; `size` is (width, height)."""
  rng = np.random.default_rng(0)
  folder = root / 'img_align_celeba' / ('img_align_celeba' if nested else '')
  folder.mkdir(parents=True)
  rows = []
  for split, groups in enumerate(counts):
    for group, count in enumerate(groups):
      for _ in range(count):
        values = {'Bald': -1, 'Blond_Hair': 2 * (group // 2) - 1, 'Male': 2 * (group % 2) - 1, 'Smiling': 1}
        rows.append((f'{len(rows) + 1:06}.jpg', split, values))
        photograph(rng, *size).save(folder / rows[-1][0], quality=90)
  if form == 'csv':
    write_csv(
      root / 'list_attr_celeba.csv', ('image_id', *ATTRIBUTES), ([n, *(v[a] for a in ATTRIBUTES)] for n, _, v in rows)
    )
    write_csv(root / 'list_eval_partition.csv', ('image_id', 'partition'), ([n, s] for n, s, _ in rows))
  else:
    lines = [str(len(rows)), ' '.join(ATTRIBUTES)]
    lines += [f'{n}  ' + ' '.join(f'{v[a]:2}' for a in ATTRIBUTES) for n, _, v in rows]
    (root / 'list_attr_celeba.txt').write_text('\n'.join(lines) + '\n')
    (root / 'list_eval_partition.txt').write_text(''.join(f'{n} {s}\n' for n, s, _ in rows))
  return root


def write_waterbirds(root: Path, counts=((8, 3, 2, 6), (3, 3, 2, 2), (4, 4, 2, 2)), size=(64, 50)) -> Path:
  """Waterbirds with `counts[split][group]` images, in species folders."""
  rng = np.random.default_rng(1)
  rows = []
  for split, groups in enumerate(counts):
    for group, count in enumerate(groups):
      for _ in range(count):
        species = ('001.Albatross', '002.Sparrow')[1 - group // 2]
        (root / species).mkdir(parents=True, exist_ok=True)
        name = f'{species}/bird_{len(rows):04}.jpg'
        photograph(rng, *size).save(root / name, quality=90)
        place = ('/f/forest/broadleaf/1.jpg', '/o/ocean/1.jpg')[group % 2]
        rows.append((len(rows) + 1, name, group // 2, split, group % 2, place))
  header = ('img_id', 'img_filename', 'y', 'split', 'place', 'place_filename')
  write_csv(root / 'metadata.csv', header, rows)
  return root


def write_spawrious(root: Path, count: int, size: int | None = 32) -> Path:
  """The whole tree of Spawrious with `count` images in each folder; hard links to one where size is None."""
  rng = np.random.default_rng(2)
  for directory in '01':
    for location in LOCATIONS:
      for breed in BREEDS:
        folder = root / 'spawrious224' / directory / location / breed
        folder.mkdir(parents=True)
        first = folder / f'{location}_{breed}_0.png'
        photograph(rng, size or 8, size or 8).save(first)
        for i in range(1, count):
          path = folder / f'{location}_{breed}_{i}.png'
          photograph(rng, size, size).save(path) if size else os.link(first, path)
  return root


def write_urbancars(root: Path, counts=((12, 4, 4, 2), (2,) * 4, (3,) * 4), size=48, masks=True) -> Path:
  """UrbanCars with `counts[split][off]` images of each class, off = 2 * (background off) + (object off)."""
  rng = np.random.default_rng(3)
  for below, cells in zip(
    ('bg-0.95_co_occur_obj-0.95/train', 'bg-0.5_co_occur_obj-0.5/val', 'bg-0.5_co_occur_obj-0.5/test'),
    counts,
    strict=True,
  ):
    for obj in (0, 1):
      for off, count in enumerate(cells):
        bg, co = obj ^ (off // 2), obj ^ (off % 2)
        folder = root / below / f'obj-{CITY[obj]}_bg-{CITY[bg]}_co_occur_obj-{CITY[co]}'
        folder.mkdir(parents=True)
        for i in range(count):
          photograph(rng, size, size).save(folder / f'{i:03}.jpg', quality=90)
          for suffix, box in (('_mask.png', (8, 12, 40, 36)), ('_co_occur_obj_mask.png', (18, 36, 30, 48))):
            if masks:
              mask = Image.new('L', (size, size))
              mask.paste(255, box)
              mask.save(folder / f'{i:03}{suffix}')
  return root


def write_folder(root: Path, rows: Iterable[tuple], header=('filename', 'label', 'split'), size=(40, 30)) -> Path:
  """Your own images: `rows` of metadata.csv, and a file for each."""
  rng, rows = np.random.default_rng(4), list(rows)
  for name, *_ in rows:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    photograph(rng, *size).save(root / name)
  write_csv(root / 'metadata.csv', header, rows)
  return root


def features(n: int = 240, d: int = 6, seed: int = 5) -> dict[str, np.ndarray]:
  """Features of two classes, with an attribute that is easier to see and goes with the class in train."""
  rng = np.random.default_rng(seed)
  split = np.repeat(['train', 'val', 'test'], [n // 2, n // 4, n - n // 2 - n // 4])
  label = np.arange(n) % 2
  attribute = np.where(rng.random(n) < 0.9, label, 1 - label)
  attribute[n // 2 :] = np.arange(n - n // 2) // 2 % 2
  x = rng.normal(0, 1, (n, d)).astype(np.float32)
  x[:, 0] += 2 * label
  x[:, 1] += 4 * attribute
  return {
    'x': x, 'label': np.array(['cat', 'dog'])[label], 'split': split, 'attribute': np.array(['in', 'out'])[attribute],
    'id': np.array([f'row {i}' for i in range(n)]),
  }  # fmt: skip


def write_features(path: Path, arrays: dict[str, np.ndarray] | None = None) -> Path:
  """A file of features, by its ending; its columns are inside, or in a .csv beside it."""
  arrays = features() if arrays is None else arrays
  path.parent.mkdir(parents=True, exist_ok=True)
  columns = {name: values for name, values in arrays.items() if name != 'x'}
  if path.suffix == '.npz':
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType] no array has the name allow_pickle
  elif path.suffix == '.parquet':
    import pyarrow as pa
    from pyarrow import parquet

    table = {'x': pa.array(list(arrays['x']))} | {name: pa.array(values.tolist()) for name, values in columns.items()}
    parquet.write_table(pa.table(table), path)
  else:
    from safetensors.numpy import save_file

    np.save(path, arrays['x']) if path.suffix == '.npy' else save_file({'x': arrays['x']}, path)
    write_csv(path.with_suffix('.csv'), tuple(columns), zip(*columns.values(), strict=True))
  return path
