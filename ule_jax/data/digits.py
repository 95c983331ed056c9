"""Handwritten digits with a shortcut: the embedded task, made of real pixels that scikit-learn ships.

The core task is whether a digit is below five. Every digit is drawn in white on a random crop of
one of scikit-learn's two sample photographs. What follows the label, `data.shortcut`, is one of

  tint   a warm or a cold colour cast over the whole image, as from two scanners
  place  which of the two photographs the crop is from
  patch  a dark or a bright square in the corner

In `train` and `val` the shortcut follows the label at the stated `rate`; in `val_balanced` and
`test` every digit stands under both values of it, `crops` times each. No digit is in two splits.

Sources: the digits are the test part of UCI's "Optical recognition of handwritten digits"
(E. Alpaydin, C. Kaynak, 1998) through `sklearn.datasets.load_digits`; the photographs are
`china.jpg` and `flower.jpg` of `sklearn.datasets.load_sample_image` (CC BY).
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from ule_jax.data.dataset import Dataset, Preparation, Split
from ule_jax.data.image_files import stretch
from ule_jax.data.transforms import antialias
from ule_jax.errors import UserError, unknown

SIZE = 16  # pixels, height and width of an image
DIGIT = 12  # pixels, height and width of the digit in the middle of it
SHRINK = 8  # the photographs are reduced by this factor before they are cropped
DIGITS_TRAIN, DIGITS_VAL = 1000, 297  # the remaining 500 digits are test
CLASSES = ('below five', 'five or more')
SHORTCUTS = {'tint': ('cold', 'warm'), 'place': ('temple', 'flower'), 'patch': ('dark', 'bright')}
TINT, TINT_SPREAD = 0.2, 0.05  # gain of red and loss of blue, and its standard deviation over images
PATCH = 3  # pixels, height and width of the square


def preparation(**_) -> Preparation:
  """Say how images are prepared: ours have their size already."""
  mean, std, words = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), f'resize to {SIZE} x {SIZE} (antialias)'
  return Preparation((SIZE, SIZE, 3), stretch(SIZE, antialias), mean, std, words=words)


def load(*, shortcut: str, rate: float, crops: int, brightness: float, seed: int) -> Dataset:
  """Compose the four splits.

  Args:
    shortcut: tint, place or patch.
    rate: share of the examples of train and val whose shortcut follows the label, above 0 and up to 1.
    crops: how many times each digit is composed, each time on another crop.
    brightness: factor on the photograph's pixels, in [0, 1]; the digit is white.
    seed: of the split into digits and of the crops.

  Raises:
    UserError: an option is out of its range.
  """
  if shortcut not in SHORTCUTS:
    raise unknown('data.shortcut', shortcut, SHORTCUTS)
  if not 0 < rate <= 1:
    raise UserError(f'data.rate is {rate}: give the share of examples that follow the shortcut, above 0 and up to 1.')
  if crops < 1:
    raise UserError(f'data.crops is {crops}: give a whole number from 1 on.')
  if not 0 <= brightness <= 1:
    raise UserError(f'data.brightness is {brightness}: give a factor from 0 to 1.')
  strokes, digit = _strokes()
  label = (digit >= 5).astype(np.int32)
  order = np.random.default_rng([seed, 0]).permutation(len(label))
  parts = np.split(order, [DIGITS_TRAIN, DIGITS_TRAIN + DIGITS_VAL])

  def compose(ids: Int[np.ndarray, 'm'], values: Int[np.ndarray, 'm'], rng: np.random.Generator) -> Split:
    images = _draw(strokes[ids], values, shortcut, brightness, rng)
    return Split(
      label=label[ids],
      group=(label[ids] * 2 + values).astype(np.int32),
      load=images.__getitem__,
      name=lambda i: f'digit {ids[i]}, {SHORTCUTS[shortcut][values[i]]}',
      masks=lambda i: {'digit': (strokes[ids[i]] * 255).astype(np.uint8)},
    )

  def biased(ids: Int[np.ndarray, 'm'], rng: np.random.Generator) -> Split:
    ids = np.repeat(ids, crops)
    follows = rng.random(len(ids)) < rate
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
    **preparation()._asdict(),
    notes={'shortcut': shortcut, 'rate': rate, 'crops': crops, 'brightness': brightness, 'data_seed': seed},
  )


@functools.cache
def _strokes() -> tuple[Float[np.ndarray, 'm h w'], Int[np.ndarray, 'm']]:
  """Load the digits as opacities in [0, 1], enlarged and centred on the canvas."""
  from sklearn.datasets import load_digits

  digits = load_digits()
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
  """Blend white strokes over one random crop each, and put the shortcut's value on it."""
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
