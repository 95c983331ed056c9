"""Properties of images that need no network: light, colour, sharpness, border and corners, size, file and camera."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image

SIDE = 256  # pixels: larger images are reduced to this before they are measured
EDGE = 0.125  # width of the border, and of a corner, as a share of the side; at least 2 pixels
CAMERA = ('Make', 'Model', 'Software', 'Orientation')  # texts of the EXIF block
EXPOSURE = ('ISOSpeedRatings', 'ExposureTime', 'FNumber', 'FocalLength')  # its numbers

# property -> the words for a low and for a high value; texts have none
WORDS: dict[str, tuple[str, str]] = {
  'brightness': ('dark', 'bright'),
  'contrast': ('flat', 'contrasty'),
  'warmth': ('cold colours', 'warm colours'),
  'greenness': ('magenta colours', 'green colours'),
  'saturation': ('grey', 'colourful'),
  'sharpness': ('blurred', 'sharp'),
  'border brightness': ('dark border', 'bright border'),
  'border contrast': ('flat border', 'busy border'),
  'border against centre': ('border darker than the centre', 'border brighter than the centre'),
  'top left corner': ('dark corner', 'bright corner'),
  'top right corner': ('dark corner', 'bright corner'),
  'bottom left corner': ('dark corner', 'bright corner'),
  'bottom right corner': ('dark corner', 'bright corner'),
  'top against bottom': ('darker above', 'brighter above'),
  'left against right': ('darker left', 'brighter left'),
  'texture direction': ('horizontal edges', 'vertical edges'),
  'width': ('narrow', 'wide'),
  'height': ('low', 'high'),
  'aspect ratio': ('portrait', 'landscape'),
  'file size': ('small file', 'large file'),
  'bytes per pixel': ('compressed more', 'compressed less'),
  'JPEG quantisation': ('high quality', 'low quality'),
  'file format': ('', ''),
  **{f'EXIF {tag}': ('', '') for tag in CAMERA},
  **{f'EXIF {tag}': ('low', 'high') for tag in EXPOSURE},
}


def measure(pixels: UInt8[np.ndarray, 'h w 3'], encoded: bytes = b'') -> dict[str, float | str]:
  """Return the properties of one image; without its file, those of the file are absent.

  Args:
    pixels: as they are decoded, before any transform.
    encoded: bytes of the file.
  """
  height, width = pixels.shape[:2]
  properties: dict[str, float | str] = {'width': width, 'height': height, 'aspect ratio': width / height}
  if encoded:
    properties |= {'file size': len(encoded), 'bytes per pixel': len(encoded) / (width * height)} | _of_file(encoded)
  if (factor := max(height, width) / SIDE) > 1:
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
  return properties | _of_pixels(pixels.astype(np.float64) / 255)


def _of_pixels(rgb: Float[np.ndarray, 'h w 3']) -> dict[str, float | str]:
  red, green, blue = (float(rgb[..., c].mean()) for c in range(3))
  light = rgb @ np.array([0.299, 0.587, 0.114])
  height, width = light.shape
  down, right = (min(extent, max(2, round(EDGE * extent))) for extent in light.shape)
  centre = np.zeros(light.shape, bool)
  centre[down : height - down, right : width - right] = True
  if centre.all() or not centre.any():
    centre[:] = False
    centre[height // 2, width // 2] = True
  border = light[~centre] if not centre.all() else light
  vertical, horizontal = (
    float(np.abs(np.diff(light, axis=axis)).mean()) if n > 1 else 0.0 for axis, n in ((0, height), (1, width))
  )
  laplacian = cv2.Laplacian(light, cv2.CV_64F)
  half_height, half_width = (height + 1) // 2, (width + 1) // 2
  return {
    'brightness': float(light.mean()),
    'contrast': float(light.std()),
    'warmth': (red - blue) / (red + green + blue + 0.01),
    'greenness': (green - (red + blue) / 2) / (red + green + blue + 0.01),
    'saturation': float((rgb.max(-1) - rgb.min(-1)).mean()),
    'sharpness': float(np.log(laplacian.var() + 1e-8) - np.log(light.var() + 1e-4)),
    'border brightness': float(border.mean()),
    'border contrast': float(border.std()),
    'border against centre': float(border.mean() - light[centre].mean()),
    'top left corner': float(light[:down, :right].mean()),
    'top right corner': float(light[:down, -right:].mean()),
    'bottom left corner': float(light[-down:, :right].mean()),
    'bottom right corner': float(light[-down:, -right:].mean()),
    'top against bottom': float(light[:half_height].mean() - light[-half_height:].mean()),
    'left against right': float(light[:, :half_width].mean() - light[:, -half_width:].mean()),
    'texture direction': horizontal - vertical,
  }


def _of_file(encoded: bytes) -> dict[str, float | str]:
  """Return the format, the quantisation and the camera's entries of a file; damaged entries are left out."""
  properties: dict[str, float | str] = {}
  with contextlib.suppress(Exception):  # PIL raises any type for a damaged header or EXIF block
    image = Image.open(io.BytesIO(encoded))
    properties['file format'] = image.format or ''
    if tables := getattr(image, 'quantization', None):
      properties['JPEG quantisation'] = float(np.mean([np.mean(list(table)) for table in tables.values()]))
    exif = image.getexif()
    entries = {
      ExifTags.TAGS.get(tag, ''): value for tag, value in (*exif.items(), *exif.get_ifd(ExifTags.IFD.Exif).items())
    }
    properties |= {f'EXIF {tag}': str(entries[tag]).strip('\0 ') for tag in CAMERA if tag in entries}
    for tag in EXPOSURE:
      with contextlib.suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
        properties[f'EXIF {tag}'] = float(entries[tag])
  return properties


def columns(rows: Sequence[Mapping[str, float | str]]) -> dict[str, np.ndarray]:
  """Return each property as an array over the images; nan and '' where an image lacks it, without constant ones."""
  table = {}
  for name in dict.fromkeys(name for row in rows for name in row):
    values = [row.get(name) for row in rows]
    is_text = any(isinstance(value, str) for value in values)
    column = np.array(['' if v is None else str(v) for v in values]) if is_text else np.array(values, np.float64)
    if len(np.unique(column)) > 1:
      table[name] = column
  return table


def of_images(images: UInt8[np.ndarray, 'n h w c']) -> dict[str, np.ndarray]:
  """Return the properties of images in memory, each as an array over the images.

  Args:
    images: of one channel (grey) or three.
  """
  three = images.repeat(3, -1) if images.shape[-1] == 1 else images[..., :3]
  return columns([measure(image) for image in three])
