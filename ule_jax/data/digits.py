"""Handwritten digits with a shortcut: the embedded task, composed from images that scikit-learn ships.

The core task is whether a digit is below five. Every digit is drawn in white on a random crop of
one of scikit-learn's two sample photographs. The shortcut that goes with the label is `data.shortcut`:

  tint   a warm or a cold colour cast over the whole image, as from two scanners
  place  the photograph that the crop is from
  patch  a dark or a bright square in the corner

In `train` and `val` the shortcut agrees with the label at the stated `rate`; in `val_balanced` and
`test` every digit occurs with both values of it, `crops` times each. No digit is in two splits.

Sources: the digits are the test part of UCI's "Optical recognition of handwritten digits"
(E. Alpaydin, C. Kaynak, 1998) through `sklearn.datasets.load_digits`; the photographs are
`china.jpg` and `flower.jpg` of `sklearn.datasets.load_sample_image` (CC BY).
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from ule_jax import options as declared
from ule_jax.data.dataset import Dataset, InputSpec, Split
from ule_jax.data.image_files import stretch
from ule_jax.data.transforms import antialias
from ule_jax.options import option

SIZE = 16  # pixels, height and width of an image
DIGIT = 12  # pixels, height and width of the digit in the centre of the image
SHRINK = 8  # factor by which the photographs are reduced before cropping
DIGITS_TRAIN, DIGITS_VAL = 1000, 297  # the remaining 500 digits are test
CLASSES = ('below five', 'five or more')
SHORTCUTS = {'tint': ('cold', 'warm'), 'place': ('temple', 'flower'), 'patch': ('dark', 'bright')}
TINT, TINT_SPREAD = 0.2, 0.05  # relative gain of red and loss of blue, and its standard deviation over images
PATCH = 3  # pixels, height and width of the square


class Options(declared.Options):
  """Options of the embedded task."""

  shortcut: str = option('tint', 'tint, place or patch: what follows the label in train and val', choices=SHORTCUTS)
  rate: float = option(0.98, 'share of train and val whose shortcut follows the label', gt=0, le=1)
  crops: int = option(8, 'times each digit is composed, each time on another crop of a photograph', ge=1)
  brightness: float = option(0.5, 'factor on the photograph behind the digit', ge=0, le=1)
  seed: int = option(0, 'of the split and the composition, not of training', ge=0)


def input_spec(options: Options) -> InputSpec:
  """Return the input contract; the images of this data set already have their size."""
  del options
  mean, std, description = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), f'resize to {SIZE} x {SIZE} (antialias)'
  return InputSpec((SIZE, SIZE, 3), stretch(SIZE, antialias), mean, std, description=description)


def load(options: Options) -> Dataset:
  """Compose the four splits: train, val, val_balanced and test."""
  shortcut, crops, seed = options.shortcut, options.crops, options.seed
  strokes, digit = _strokes()
  label = (digit >= 5).astype(np.int32)
  order = np.random.default_rng([seed, 0]).permutation(len(label))
  parts = np.split(order, [DIGITS_TRAIN, DIGITS_TRAIN + DIGITS_VAL])

  def compose(ids: Int[np.ndarray, 'm'], values: Int[np.ndarray, 'm'], rng: np.random.Generator) -> Split:
    images = _draw(strokes[ids], values, shortcut, options.brightness, rng)
    return Split(
      label=label[ids],
      group=(label[ids] * 2 + values).astype(np.int32),
      load=images.__getitem__,
      name=lambda i: f'digit {ids[i]}, {SHORTCUTS[shortcut][values[i]]}',
      masks=lambda i: {'digit': (strokes[ids[i]] * 255).astype(np.uint8)},
    )

  def biased(ids: Int[np.ndarray, 'm'], rng: np.random.Generator) -> Split:
    ids = np.repeat(ids, crops)
    follows = rng.random(len(ids)) < options.rate
    return compose(ids, np.where(follows, label[ids], 1 - label[ids]), rng)

  def balanced(ids: Int[np.ndarray, 'm'], rng: np.random.Generator) -> Split:
    return compose(np.repeat(ids, 2 * crops), np.tile(np.repeat([0, 1], crops), len(ids)), rng)

  streams = [np.random.default_rng([seed, i]) for i in (1, 2, 3, 4)]
  splits = {
    'train': biased(parts[0], streams[0]),
    'val': biased(parts[1], streams[1]),
    'val_balanced': balanced(parts[1], streams[2]),
    'test': balanced(parts[2], streams[3]),
  }
  return Dataset(
    splits=splits,
    classes=CLASSES,
    groups=tuple(f'{c}, {value}' for c in CLASSES for value in SHORTCUTS[shortcut]),
    train_transform=None,
    **input_spec(options)._asdict(),
    notes={
      'shortcut': shortcut, 'rate': options.rate, 'crops': crops, 'brightness': options.brightness, 'data_seed': seed,
    },
  )  # fmt: skip


@functools.cache
def _strokes() -> tuple[Float[np.ndarray, 'm h w'], Int[np.ndarray, 'm']]:
  """Load the digits as opacities in [0, 1], enlarged and centred, with their values 0 to 9."""
  from sklearn.datasets import load_digits
  from sklearn.utils import Bunch

  digits = load_digits()
  assert isinstance(digits, Bunch)  # a tuple where return_X_y is set
  canvas = np.zeros((len(digits.images), SIZE, SIZE))
  edge = (SIZE - DIGIT) // 2
  inner = slice(edge, edge + DIGIT)
  for i, image in enumerate(digits.images):
    pixels = Image.fromarray((image * 255 / 16).astype(np.uint8))
    canvas[i, inner, inner] = np.asarray(pixels.resize((DIGIT, DIGIT), Image.Resampling.BILINEAR)) / 255
  return canvas, digits.target


@functools.cache
def _photographs() -> list[UInt8[np.ndarray, 'H W 3']]:
  from sklearn.datasets import load_sample_image

  pictures = [Image.fromarray(load_sample_image(name)) for name in ('china.jpg', 'flower.jpg')]
  return [np.asarray(p.reduce(SHRINK)) for p in pictures]


def _draw(
  strokes: Float[np.ndarray, 'm h w'],
  values: Int[np.ndarray, 'm'],
  shortcut: str,
  brightness: float,
  rng: np.random.Generator,
) -> UInt8[np.ndarray, 'm h w 3']:
  """Blend white strokes over one random crop each, and apply the shortcut.

  Args:
    strokes: opacities in [0, 1].
    values: value of the shortcut in each image, 0 or 1.
  """
  photographs = _photographs()
  images = np.empty((*strokes.shape, 3), np.uint8)
  for i, value in enumerate(values):
    photograph = photographs[value if shortcut == 'place' else rng.integers(2)]
    top, left = (rng.integers(0, extent - SIZE + 1) for extent in photograph.shape[:2])
    opacity = strokes[i][..., None]
    image = photograph[top : top + SIZE, left : left + SIZE] * brightness * (1 - opacity) + 255 * opacity
    if shortcut == 'tint':
      cast = rng.normal(TINT if value else -TINT, TINT_SPREAD)
      image = image * np.array([1 + cast, 1, 1 - cast]) / (1 + TINT)
    elif shortcut == 'patch':
      image[:PATCH, :PATCH] = 255 * value
    images[i] = image.clip(0, 255)
  return images
