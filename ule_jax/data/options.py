"""Options that several data sets share."""

from __future__ import annotations

from ule_jax.data.transforms import RESIZES
from ule_jax.options import Options, option

ON_BAD_IMAGE = ('fail', 'skip')


class Files(Options):
  """Options of data sets whose images are files."""

  dir: str = option(
    '',
    'the folder, or a data set that ule_jax.prepare wrote; $ULE_DATA/NAME if empty',
    identity=False,
    treatment=True,
  )
  resize: str = option(
    'antialias',
    'antialias (as torchvision) or linear (faster, rougher where it shrinks)',
    choices=RESIZES,
    treatment=True,
  )
  white: float = option(
    0.0,
    'pixel value that is white in the files; 0: by their type, 255, 65535 (4095 in 12 bits), 1 in floats',
    ge=0,
    treatment=True,
    added=True,
  )
  background: str = option(
    'white', 'colour below transparent pixels, by name or as #808080', treatment=True, added=True
  )
  on_bad_image: str = option(
    'fail',
    'an image that cannot be decoded: fail when it is read, or skip: decode all first, leave it out and report it',
    choices=ON_BAD_IMAGE,
    identity=False,
    treatment=True,
  )


class Released(Files):
  """Options of data sets whose release has known group counts."""

  official: bool = option(True, 'refuse group counts that differ from the release; False, for subsets, only warns')


def size(pixels: int) -> int:
  """Declare the option `size`."""
  return option(pixels, 'pixels, height and width', treatment=True)


def augment(default: bool, meaning: str) -> bool:
  """Declare the option `augment`."""
  return option(default, f'{meaning} in training', treatment=True)
