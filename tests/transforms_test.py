"""Decoding whatever a file is, and what happens to images, beside torchvision where it is installed."""

import io

import numpy as np
import pytest
from PIL import Image
from writers import photograph

from ule_jax.data import transforms
from ule_jax.data.decoding import decode
from ule_jax.errors import UserError


@pytest.fixture(scope='module')
def picture():
  return photograph(np.random.default_rng(0), 178, 218)


def encoded(image: Image.Image, form: str, **options) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, form, **options)
  return buffer.getvalue()


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'CMYK', 'P', 'I;16', 'LA', '1'])
def test_every_mode_becomes_rgb(mode):
  ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (8, 1))
  if mode == 'I;16':
    image = Image.fromarray(ramp.astype(np.uint16) * 257)
  else:
    grey = Image.fromarray(ramp)
    image = grey.convert(mode) if mode in 'LP1' else grey.convert('RGB').convert(mode)
  found = decode(encoded(image, 'tiff' if mode == 'CMYK' else 'png'), 'x')
  assert found.shape == (8, 64, 3)
  assert found.dtype == np.uint8
  assert np.abs(found.astype(int).mean(-1) - ramp).max() <= (255 if mode == '1' else 2)


@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
@pytest.mark.parametrize('progressive', [False, True])
def test_jpegs_have_the_pixels_that_pil_gives(mode, progressive, picture):
  data = encoded(picture.convert(mode), 'jpeg', quality=85, progressive=progressive)
  with Image.open(io.BytesIO(data)) as image:
    np.testing.assert_array_equal(decode(data, 'x'), np.asarray(image.convert('RGB')))


@pytest.mark.parametrize('form', ['jpeg', 'png'])
def test_exif_rotation_is_applied(form):
  image = Image.fromarray(np.r_[np.full((8, 32, 3), 250, np.uint8), np.zeros((8, 32, 3), np.uint8)])
  exif = Image.Exif()
  exif[0x0112] = 6  # shown turned by 90 degrees clockwise
  found = decode(encoded(image, form, exif=exif, quality=95), 'x')
  assert found.shape == (32, 16, 3)
  assert found[:, 10:].mean() > 200 > 50 > found[:, :6].mean()


@pytest.mark.parametrize('form', ['jpeg', 'png', 'bmp', 'gif', 'webp'])
def test_truncated_and_foreign_bytes_are_named(form, picture):
  data = encoded(picture, form)
  for broken in (data[: len(data) // 2], data[:10], b'hello', b''):
    with pytest.raises(UserError, match=r'image some/x.jpg cannot be decoded'):
      decode(broken, 'some/x.jpg')


def test_doubtful_jpegs_get_pils_verdict(picture):
  data = encoded(picture, 'jpeg')
  np.testing.assert_array_equal(decode(data + b'\0\0', 'x'), decode(data, 'x'))
  decode(data[:-2] + b'\x00\x11\xff\xd9', 'x')  # extraneous bytes before the end


def test_random_resized_crop_has_the_distribution_of_torchvision(torchvision):
  from scipy.stats import ks_2samp

  boxes = []
  rng, image = np.random.default_rng(0), np.zeros((218, 178, 3), np.uint8)
  scale, ratio = (0.3, 0.8), (0.75, 4 / 3)

  def record(crop, size):
    boxes.append((*crop.shape[:2], crop.__array_interface__['data'][0] - image.__array_interface__['data'][0]))
    return crop

  for _ in range(10_000):
    transforms.random_resized_crop(image, (8, 8), rng, scale=scale, ratio=ratio, resize=record)
  ours = np.array([(h, w, at // (178 * 3), at % (178 * 3) // 3) for h, w, at in boxes])
  import torch

  torch.manual_seed(0)
  params = torchvision.transforms.RandomResizedCrop.get_params
  theirs = [params(torch.zeros(3, 218, 178), scale, ratio) for _ in range(10_000)]
  theirs = np.array([(h, w, top, left) for top, left, h, w in theirs])
  for values in (
    lambda b: b[:, 0],
    lambda b: b[:, 1],
    lambda b: b[:, 2],
    lambda b: b[:, 3],
    lambda b: b[:, 0] * b[:, 1],
  ):
    assert ks_2samp(values(ours), values(theirs)).statistic < 0.025  # pyright: ignore[reportAttributeAccessIssue] made by SciPy at run time


def test_an_impossible_ratio_falls_back_to_the_centre():
  image = np.zeros((100, 10, 3), np.uint8)
  seen = []

  def record(crop, size):
    seen.append(crop.shape)
    return crop

  transforms.random_resized_crop(
    image,
    (8, 8),
    np.random.default_rng(0),
    scale=(1, 1),
    ratio=(1, 1),
    resize=record,
  )
  assert seen == [(10, 10, 3)]


@pytest.mark.parametrize('size', [(224, 224), (64, 64), (100, 150)])
def test_resize_is_that_of_torchvision(size, torchvision, picture):
  theirs = np.asarray(torchvision.transforms.functional.resize(picture, size))
  np.testing.assert_array_equal(transforms.antialias(np.asarray(picture), size), theirs)
  tensor = torchvision.transforms.functional.pil_to_tensor(picture)
  theirs = torchvision.transforms.functional.resize(tensor, size, antialias=False).permute(1, 2, 0).numpy()
  assert np.abs(transforms.linear(np.asarray(picture), size).astype(int) - theirs).max() <= 1


@pytest.mark.parametrize('size', [178, 177, 100])
def test_center_crop_is_that_of_torchvision(size, torchvision, picture):
  theirs = np.asarray(torchvision.transforms.functional.center_crop(picture, size))
  np.testing.assert_array_equal(transforms.center_crop(np.asarray(picture), (size, size)), theirs)


@pytest.mark.parametrize(
  ('name', 'i', 'factor'),
  [
    ('adjust_brightness', 0, 0.7),
    ('adjust_brightness', 0, 1.3),
    ('adjust_contrast', 1, 0.7),
    ('adjust_contrast', 1, 1.3),
    ('adjust_saturation', 2, 0.7),
    ('adjust_saturation', 2, 1.3),
    ('adjust_hue', 3, -0.3),
    ('adjust_hue', 3, 0.2),
  ],
)
def test_colour_adjustments_are_those_of_torchvision(name, i, factor, torchvision, picture):
  theirs = np.asarray(getattr(torchvision.transforms.functional, name)(picture, factor)).astype(int)
  assert np.abs(np.asarray(transforms.ADJUSTMENTS[i](picture, factor)).astype(int) - theirs).max() <= 1


def test_colour_jitter_and_grey_are_random_and_keyed(picture):
  image = np.asarray(picture)

  def draw(seed):
    rng = np.random.default_rng(seed)
    return transforms.random_grayscale(transforms.color_jitter(image, rng, 0.3, 0.3), rng, 0.5)

  np.testing.assert_array_equal(draw(0), draw(0))
  assert (draw(0) != draw(1)).any()
  grey = [bool((d[..., 0] == d[..., 1]).all()) for d in map(draw, range(40))]
  assert 8 < sum(grey) < 32
  untouched = transforms.color_jitter(image, np.random.default_rng(0), 0.0, 0.0)
  assert np.abs(untouched.astype(int) - image).max() <= 8  # the way to HSV and back


def test_flip_is_a_mirror_half_of_the_time(picture):
  image, rng = np.asarray(picture), np.random.default_rng(0)
  flipped = [transforms.random_flip(image, rng) for _ in range(100)]
  mirrored = [f for f in flipped if not np.array_equal(f, image)]
  assert 30 < len(mirrored) < 70
  assert all(np.array_equal(f, image[:, ::-1]) for f in mirrored)


def test_an_unknown_resize_is_named():
  with pytest.raises(UserError, match=r"unknown data.resize 'liner': did you mean 'linear'"):
    transforms.make_resize('liner')
