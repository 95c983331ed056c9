"""Write official layouts at small size, with real image content."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

ATTRIBUTES = ('Bald', 'Blond_Hair', 'Male', 'Smiling')


def photograph(rng: np.random.Generator, width: int, height: int) -> Image.Image:
  """A random crop of a real photograph."""
  source = load_sample_image(('china.jpg', 'flower.jpg')[rng.integers(2)])
  top, left = rng.integers(0, source.shape[0] - height), rng.integers(0, source.shape[1] - width)
  return Image.fromarray(source[top : top + height, left : left + width])


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
    lines = [','.join(('image_id', *ATTRIBUTES))] + [
      ','.join([n, *(str(v[a]) for a in ATTRIBUTES)]) for n, _, v in rows
    ]
    (root / 'list_attr_celeba.csv').write_text('\n'.join(lines) + '\n')
    (root / 'list_eval_partition.csv').write_text('image_id,partition\n' + ''.join(f'{n},{s}\n' for n, s, _ in rows))
  else:
    lines = [str(len(rows)), ' '.join(ATTRIBUTES)]
    lines += [f'{n}  ' + ' '.join(f'{v[a]:2}' for a in ATTRIBUTES) for n, _, v in rows]
    (root / 'list_attr_celeba.txt').write_text('\n'.join(lines) + '\n')
    (root / 'list_eval_partition.txt').write_text(''.join(f'{n} {s}\n' for n, s, _ in rows))
  return root
