"""Draw docs/images/photographs.png: photographs, and where student and teacher look at them.

  python docs/images/photographs.py [FOLDER]

The task: grey crops of the two photographs that scikit-learn ships, a temple and a flower. A round sticker follows the
class in 98 % of the training crops (orange on temples, blue on flowers), and nothing in the test crops, which are other
crops of the same two photographs. FOLDER keeps crops and runs (default: a temporary one); a run that is there is not
made again.
"""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_sample_image

matplotlib.use('Agg')
from matplotlib import pyplot as plt

SEEN = 160  # pixels, side of a crop as it is stored and drawn
SIDE = 48  # pixels, side of the networks' input
COUNTS = {'train': 1600, 'val': 400, 'test': 400}
CLASSES = {'flower': 'flower.jpg', 'temple': 'china.jpg'}
STICKERS = {'orange': (255, 140, 0), 'blue': (0, 120, 255)}
USUAL = {'temple': 'orange', 'flower': 'blue'}
FIELDS = {
  'data.size': SIDE,
  'data.augment': False,
  'model.name': 'cnn',
  'model.width': 16,
  'model.weights': 'none',
  'model.batch_norm': 'none',
  'optim.name': 'adam',
  'optim.lr': 1e-3,
  'optim.weight_decay': 0.0,
  'train.steps': 400,
  'train.batch_size': 64,
  'train.eval_every': 100,
  'loader.threads': 1,
}


def crop(photograph: np.ndarray, sticker: str, rng: np.random.Generator) -> Image.Image:
  """Return a grey square of a photograph, with a sticker somewhere."""
  height, width = photograph.shape
  side = int(rng.integers(120, 220))
  x, y = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
  grey = photograph[y : y + side, x : x + side] ** rng.uniform(0.6, 1.6)
  image = Image.fromarray(np.uint8(255 * grey)).resize((SEEN, SEEN), Image.Resampling.LANCZOS).convert('RGB')
  radius = SEEN * 0.09
  cx, cy = rng.uniform(1.3 * radius, SEEN - 1.3 * radius, 2)
  ImageDraw.Draw(image).ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=STICKERS[sticker])
  return image


def write_crops(folder: Path, counts: dict[str, int]) -> None:
  """Write the crops and metadata.csv."""
  rng = np.random.default_rng(0)
  grey = {name: load_sample_image(file).mean(-1) / 255 for name, file in CLASSES.items()}
  rows = []
  for split, count in counts.items():
    for i in range(count):
      label = list(CLASSES)[i % 2]
      usual = rng.random() < (0.5 if split == 'test' else 0.98)
      sticker = next(name for name in STICKERS if (name == USUAL[label]) == usual)
      name = f'{split}/{i:04}.png'
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      crop(grey[label], sticker, rng).save(folder / name)
      rows.append((name, label, split, sticker))
  with (folder / 'metadata.csv').open('w', newline='') as file:
    csv.writer(file).writerows([('filename', 'label', 'split', 'attribute'), *rows])


def run(verb: str, *flags: str) -> None:
  """Run a verb of ule_jax."""
  subprocess.run([sys.executable, '-m', f'ule_jax.{verb}', *flags], check=True)


def train(folder: Path, fields: dict[str, object]) -> Path:
  """Train ULE on the crops with its default options, and return its saliency of the test split."""
  changes = [f'--config.{field}={value}' for field, value in ({'data.dir': folder / 'crops'} | fields).items()]
  run('main', '--config=folder:ule', *changes, f'--workdir={folder / "ule"}')
  run('evaluate', f'--run={folder / "ule"}', '--saliency=40')
  return folder / 'ule' / 'saliency' / 'test.npz'


def overlay(photograph: np.ndarray, saliency: np.ndarray) -> np.ndarray:
  """Return a photograph under a map: red where the output depends most on the pixels."""
  side = len(photograph)
  smooth = gaussian_filter(saliency.astype(np.float32) ** 2, 1.5)
  smooth = np.asarray(Image.fromarray(smooth).resize((side, side), Image.Resampling.BICUBIC))
  smooth = np.clip(smooth / np.quantile(smooth, 0.995), 0, 1)
  heat = plt.get_cmap('inferno')(smooth)[..., :3]
  weight = (0.85 * smooth**0.7)[..., None]
  return (1 - weight) * (photograph / 255) * 0.9 + weight * heat


def draw(folder: Path, path: Path, count: int = 3) -> None:
  """Draw photographs that the student has wrong and the teacher right, each with both maps."""
  arrays = dict(np.load(folder / 'ule' / 'saliency' / 'test.npz'))
  with (folder / 'crops' / 'metadata.csv').open() as file:
    files = [row['filename'] for row in csv.DictReader(file) if row['split'] == 'test']
  only = np.flatnonzero(arrays['category'] == 'only teacher right')
  margin = arrays['probability_teacher'].max(1)
  classes = sorted(CLASSES)
  rows = []
  for i in range(count):
    of_class = [row for row in only if arrays['label'][row] == i % len(classes)]
    rows.append(sorted(of_class, key=lambda row: -margin[row])[i // len(classes)])
  figure, axes = plt.subplots(3, count, figsize=(2.3 * count, 6.9), dpi=150)
  for column, row in enumerate(rows):
    photograph = np.asarray(Image.open(folder / 'crops' / files[arrays['index'][row]]))
    truth = classes[arrays['label'][row]]
    axes[0, column].imshow(photograph)
    axes[0, column].set_xlabel(f'a {truth}', fontsize=11)
    for role, axis in zip(('student', 'teacher'), axes[1:, column], strict=True):
      axis.imshow(overlay(photograph, arrays[f'saliency_{role}'][row]))
      answer = int(arrays[f'prediction_{role}'][row])
      right, chance = answer == arrays['label'][row], arrays[f'probability_{role}'][row, answer]
      mark, color = ('✓', '#1a7f37') if right else ('✗', '#cf222e')
      axis.set_xlabel(f'{mark} {classes[answer]}, {100 * chance:.0f} %', fontsize=11, color=color)
  for axis, title in zip(axes[:, 0], ('photograph', 'the student looks here', 'the teacher looks here'), strict=True):
    axis.set_ylabel(title, fontsize=11)
  for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
  figure.tight_layout(pad=0.6)
  figure.savefig(path, pil_kwargs={'optimize': True})
  plt.close(figure)


def main(folder: Path) -> None:
  """Make whatever is missing in a folder, and draw the picture."""
  if not (folder / 'crops' / 'metadata.csv').exists():
    write_crops(folder / 'crops', COUNTS)
  if not (folder / 'ule' / 'saliency' / 'test.npz').exists():
    train(folder, FIELDS)
  draw(folder, Path(__file__).with_suffix('.png'))


if __name__ == '__main__':
  if len(sys.argv) > 1:
    main(Path(sys.argv[1]))
  else:
    with tempfile.TemporaryDirectory() as name:
      main(Path(name))
