"""Draw the pictures of photographs in docs/images: where student and teacher look at them.

  python docs/images/photographs.py [FOLDER]

The task: grey crops of the two photographs that scikit-learn ships, a temple and a flower. A round sticker follows the
class in 98 % of the training crops (orange on temples, blue on flowers), and nothing in the test crops, which are other
crops of the same two photographs. A map is bright where a grey square over the photograph takes most away from the
answer. In the second task a tint of the whole crop takes the sticker's place; its picture has the answers to the same
crop under both tints, and which change of colour each network asks for. photographs_report.png is the slide that the
report draws of the first task, with plain training beside. FOLDER keeps crops and runs (default: a temporary one); a
run that is there is not made again.
"""

import csv
import io
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import matplotlib
import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage, special
from sklearn.datasets import load_sample_image

from ule_jax.explain import saliency
from ule_jax.runs.restore import Restored, restore

matplotlib.use('Agg')
from matplotlib import pyplot as plt

SEEN = 160  # pixels, side of a crop as it is stored and drawn
SIDE = 32  # pixels, side of the networks' input
COVER, STRIDE = 48, 8  # pixels, side of the square that covers a photograph, and its steps
COUNTS = {'train': 1600, 'val': 400, 'test': 400}
CLASSES = {'flower': 'flower.jpg', 'temple': 'china.jpg'}
CENTRES = {'flower': (200, 420, 120, 340), 'temple': (130, 320, 70, 370)}  # pixels, left, right, top, bottom
STICKERS = {'orange': (255, 140, 0), 'blue': (0, 120, 255)}
TINTS = {'orange': (1.0, 0.82, 0.6), 'blue': (0.6, 0.82, 1.0)}
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


def crop(label: str, photograph: np.ndarray, colour: str, rng: np.random.Generator, tint: bool) -> Image.Image:
  """Return a grey square of a photograph, whose centre lies on the object, with a sticker somewhere or a tint."""
  height, width = photograph.shape
  side = int(rng.integers(120, 220))
  left, right, top, bottom = CENTRES[label]
  x = int(np.clip(rng.integers(left, right) - side // 2, 0, width - side))
  y = int(np.clip(rng.integers(top, bottom) - side // 2, 0, height - side))
  grey = photograph[y : y + side, x : x + side] ** rng.uniform(0.6, 1.6)
  image = Image.fromarray(np.uint8(255 * grey)).resize((SEEN, SEEN), Image.Resampling.LANCZOS).convert('RGB')
  if tint:
    return tinted(image, colour)
  radius = SEEN * 0.09
  cx, cy = rng.uniform(1.3 * radius, SEEN - 1.3 * radius, 2)
  ImageDraw.Draw(image).ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=STICKERS[colour])
  return image


def tinted(image: Image.Image, colour: str) -> Image.Image:
  """Return an image under a tint, whose own is lost."""
  grey = np.asarray(image, np.float64).max(-1, keepdims=True)  # of a tinted grey: one channel of each tint is 1
  return Image.fromarray(np.uint8(grey * TINTS[colour]))


def write_crops(folder: Path, counts: dict[str, int], tint: bool = False) -> None:
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
      crop(label, grey[label], sticker, rng, tint).save(folder / name)
      rows.append((name, label, split, sticker))
  with (folder / 'metadata.csv').open('w', newline='') as file:
    csv.writer(file).writerows([('filename', 'label', 'split', 'attribute'), *rows])


def occlusion(run: Restored, photograph: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Return, by role, the probabilities of a photograph and the loss of logit margin where a square covers it."""
  margins = {role: np.zeros(photograph.shape[:2]) for role in run.roles}
  steps = range(-COVER // 2, SEEN - COVER // 2, STRIDE)
  squares = [np.s_[max(y, 0) : y + COVER, max(x, 0) : x + COVER] for y, x in itertools.product(steps, repeat=2)]
  covered = [photograph]
  for square in squares:
    covered.append(photograph.copy())
    covered[-1][square] = np.median(photograph)
  transform = run.input_spec.eval_transform
  images = np.stack([transform(image, np.random.default_rng(0)) for image in covered])
  forward = jax.jit(run.forward())
  maps = {}
  for role, total in margins.items():
    logits = np.asarray(forward(run.variables(role), images), np.float64)
    answer = logits[0].argmax()
    margin = logits[:, answer] - np.delete(logits, answer, 1).max(1)
    count = np.zeros_like(total)
    for square, left in zip(squares, margin[1:], strict=True):
      total[square] += margin[0] - left
      count[square] += 1
    maps[role] = special.softmax(logits[0]), np.maximum(total / count, 0)
  return maps


def overlay(photograph: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Return a photograph under a map, bright where the map is large."""
  smooth = ndimage.gaussian_filter(values, STRIDE)
  smooth = np.clip(smooth / smooth.max(), 0, 1)
  heat = plt.get_cmap('inferno')(smooth)[..., :3]
  weight = (0.75 * smooth)[..., None]
  return (1 - weight) * (photograph / 255) + weight * heat


def choose(folder: Path, count: int) -> list[str]:
  """Return files of the test split, of both classes in turn, that the student has wrong and the teacher right."""
  predictions = np.load(folder / 'ule' / 'predictions' / 'test.npz')
  with (folder / 'crops' / 'metadata.csv').open() as file:
    files = [row['filename'] for row in csv.DictReader(file) if row['split'] == 'test']
  label = predictions['label']
  margin = {role: predictions[f'logits_{role}'] for role in ('student', 'teacher')}
  margin = {role: (logits[:, 1] - logits[:, 0]) * (2 * label - 1) for role, logits in margin.items()}
  only = np.flatnonzero((margin['student'] < 0) & (margin['teacher'] > 0))
  only = sorted(only, key=lambda row: -min(margin['teacher'][row], -margin['student'][row]))
  by_class = [[files[predictions['index'][row]] for row in only if label[row] == k] for k in (0, 1)]
  return [by_class[i % 2][i // 2] for i in range(count)]


def draw(folder: Path, path: Path, count: int = 2) -> None:
  """Draw photographs that the student has wrong and the teacher right: a row each, with both maps."""
  run, classes = restore(folder / 'ule'), sorted(CLASSES)
  with (folder / 'crops' / 'metadata.csv').open() as file:
    labels = {row['filename']: row['label'] for row in csv.DictReader(file)}
  figure, axes = plt.subplots(count, 3, figsize=(6.6, 2.35 * count + 0.2), dpi=120)
  for axis, title in zip(axes[0], ('photograph', 'the student looks here', 'the teacher looks here'), strict=True):
    axis.set_title(title, fontsize=11)
  for row, name in zip(axes, choose(folder, count), strict=True):
    photograph = np.asarray(Image.open(folder / 'crops' / name))
    row[0].imshow(photograph)
    row[0].set_xlabel(f'a {labels[name]}', fontsize=11)
    for axis, (probabilities, values) in zip(row[1:], occlusion(run, photograph).values(), strict=True):
      axis.imshow(overlay(photograph, values))
      answer = classes[probabilities.argmax()]
      mark, color = ('✓', '#1a7f37') if answer == labels[name] else ('✗', '#cf222e')
      axis.set_xlabel(f'{mark} {answer}, {100 * probabilities.max():.0f} %', fontsize=11, color=color)
  save(figure, axes, path)


def save(figure, axes, path: Path) -> None:
  """Write a figure without ticks and frames as a PNG of 256 colours."""
  for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
  figure.tight_layout(pad=0.5)
  picture = io.BytesIO()
  figure.savefig(picture)
  plt.close(figure)
  colors = Image.open(picture).convert('RGB')
  colors.quantize(palette=colors.quantize(256), dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def colours_asked_for(run: Restored, photograph: np.ndarray, label: int) -> dict[str, np.ndarray]:
  """Return, by role, the change of colour that raises the label's score, blurred, as a picture; grey is none."""
  step = saliency.make_saliency_step(run.model, run.preprocess, run.roles, run.scalar)
  image = run.input_spec.eval_transform(photograph, np.random.default_rng(0))
  gradients, _, _ = step(run.networks.params, run.networks.batch_stats, image[None], np.array([label], np.int32))
  drawn = {}
  for role, gradient in gradients.items():
    blurred = ndimage.gaussian_filter(np.asarray(gradient[0], np.float64), (1.5, 1.5, 0))
    drawn[role] = np.clip(0.5 + 0.5 * blurred / np.abs(blurred).max(), 0, 1)
  return drawn


def draw_tints(folder: Path, path: Path, count: int = 2) -> None:
  """Draw photographs that the student has wrong and the teacher right under both tints, and the gradients' colours."""
  run, classes = restore(folder / 'ule'), sorted(CLASSES)
  with (folder / 'crops' / 'metadata.csv').open() as file:
    labels = {row['filename']: row['label'] for row in csv.DictReader(file)}
  forward = jax.jit(run.forward())
  figure, axes = plt.subplots(count, 4, figsize=(8.8, 2.65 * count + 0.2), dpi=120)
  titles = ('warm', 'cold', 'the student asks for', 'the teacher asks for')
  for axis, title in zip(axes[0], titles, strict=True):
    axis.set_title(title, fontsize=11)
  for row, name in zip(axes, choose(folder, count), strict=True):
    photograph = Image.open(folder / 'crops' / name)
    for axis, colour in zip(row, TINTS, strict=False):
      image = np.asarray(tinted(photograph, colour))
      axis.imshow(image)
      seen = run.input_spec.eval_transform(image, np.random.default_rng(0))[None]
      for line, role in enumerate(run.roles):
        probabilities = special.softmax(np.asarray(forward(run.variables(role), seen), np.float64)[0])
        answer = classes[probabilities.argmax()]
        mark, color = ('✓', '#1a7f37') if answer == labels[name] else ('✗', '#cf222e')
        text = f'{role}: {mark} {answer}, {100 * probabilities.max():.0f} %'
        axis.text(0, 1.13 * SEEN + 0.13 * SEEN * line, text, fontsize=10, color=color)
    colours = colours_asked_for(run, np.asarray(photograph), classes.index(labels[name]))
    for axis, picture in zip(row[2:], colours.values(), strict=True):
      axis.imshow(picture)
      axis.text(0, 1.13 * SIDE, f'to see more of a {labels[name]}', fontsize=10)
  save(figure, axes, path)


def python(*arguments: str) -> None:
  """Run a verb."""
  subprocess.run([sys.executable, '-m', *arguments], check=True)


def train(task: Path, method: str) -> Path:
  """Train on the crops of a task, and return the folder of the run; one that is done is left as it is."""
  changes = [f'--config.{field}={value}' for field, value in ({'data.dir': task / 'crops'} | FIELDS).items()]
  python('ule_jax.main', f'--config=folder:{method}', *changes, f'--workdir={task / method}')
  return task / method


def draw_slide(folder: Path, path: Path) -> None:
  """Copy the slide of a report, in 256 colours."""
  runs = [train(folder, method) for method in ('erm', 'ule')]
  for run in runs:
    python('ule_jax.evaluate', f'--run={run}', '--saliency=4')
  python('ule_jax.report', *map(str, runs), f'--out={folder / "report"}')
  slide = Image.open(folder / 'report' / 'figures' / 'crops-ule-saliency.png').convert('RGB')
  slide.quantize(palette=slide.quantize(256), dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def main(folder: Path) -> None:
  """Make whatever is missing in a folder, and draw the pictures."""
  for name, tint, paint in (('photographs', False, draw), ('photographs_tint', True, draw_tints)):
    task = folder / 'tint' if tint else folder
    if not (task / 'crops' / 'metadata.csv').exists():
      write_crops(task / 'crops', COUNTS, tint)
    train(task, 'ule')
    paint(task, Path(__file__).with_name(f'{name}.png'))
  draw_slide(folder, Path(__file__).with_name('photographs_report.png'))


if __name__ == '__main__':
  if len(sys.argv) > 1:
    main(Path(sys.argv[1]))
  else:
    with tempfile.TemporaryDirectory() as name:
      main(Path(name))
