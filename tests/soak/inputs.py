"""Random inputs whose right outcome is known beside the code under test: cases for `fuzz`.

A case makes its input and its right outcome: the same content, or a `UserError`. Anything else raises
`Wrong`: data that are read as other data, a damaged file that is taken, an old result for new data, a folder that
nobody asked for. The oracle never calls the code that it checks.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ule_jax.errors import Interrupted, UserError

TINY = (
  '--config.data.size=8', '--config.model.name=mlp', '--config.model.width=4', '--config.model.depth=1',
  '--config.model.weights=none', '--config.model.batch_norm=none', '--config.train.steps=2',
  '--config.train.batch_size=8', '--config.train.eval_batch_size=8', '--config.train.eval_every=1',
  '--config.train.log_every=1', '--config.loader.threads=1', '--config.train.epochs=0',
)  # fmt: skip


class Wrong(AssertionError):
  """A forbidden outcome of a case."""


class Row(NamedTuple):
  """A row of metadata.csv as it is meant; '' where the attribute is not known."""

  name: str
  label: str
  split: str
  attribute: str


def expect(condition: bool, text: str) -> None:
  if not condition:
    raise Wrong(text)


def intended(rng: random.Random, labels=('ant', 'bee'), attributes=('red', 'blue')) -> list[Row]:
  """Make the rows of a small data set in which every class is in every split."""
  rows = []
  for split, count in (('train', 4), ('val', 2), ('test', 2)):
    for label in labels:
      rows += [Row(f'{split}_{label}_{i}.png', label, split, attributes[i % 2]) for i in range(count)]
  rng.shuffle(rows)
  return rows


def write_images(root: Path, names: list[str], seed: int = 0) -> None:
  """Write a PNG of noise under each name, each one different."""
  root.mkdir(parents=True, exist_ok=True)
  for i, name in enumerate(names):
    pixels = np.random.default_rng((seed, i)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / name)


def csv_text(rows: Sequence[tuple], header=('filename', 'label', 'split', 'attribute')) -> str:
  out = io.StringIO()
  csv.writer(out).writerows([header, *rows])
  return out.getvalue()


def options_of(root: Path, *flags: str) -> dict:
  """Make the options of config.data for a folder of images."""
  from ule_jax.config import load_text

  pairs = [flag.removeprefix('--config.').split('=', 1) for flag in (f'--config.data.dir={root}', *TINY, *flags)]
  config, _ = load_text('folder:erm', [(name, text) for name, text in pairs])
  return config.data.to_dict()


def read(root: Path, *flags: str) -> set[Row]:
  """Read a folder through the package, as rows by name."""
  from ule_jax.data import load

  options = options_of(root, *flags)
  dataset = load(options.pop('name'), options)
  rows = set()
  for part, split in dataset.splits.items():
    for i in range(split.count):
      expect(split.label[i] >= 0, f'{split.name(i)} of {part} has no label and is taken')
      label = dataset.classes[split.label[i]]
      group = '' if split.group[i] < 0 else dataset.groups[split.group[i]]
      rows.add(Row(split.name(i), label, part, group.removeprefix(f'{label}, ')))
  return rows


def compare(rows: set[Row], due: list[Row]) -> None:
  if rows != set(due):
    raise Wrong(f'read as other data: {sorted(rows ^ set(due))[:4]}')


# --- metadata.csv as other programs write it ---------------------------------------------------------


def _open_quote(rng, text):
  lines = text.split('\r\n')
  for i in rng.sample(range(len(lines)), min(rng.choice((1, 2)), len(lines))):
    cut = rng.randrange(len(lines[i]) + 1)
    lines[i] = lines[i][:cut] + '"' + lines[i][cut:]
  return '\r\n'.join(lines)


def _dialect(delimiter):
  return lambda rng, text: text.replace(',', delimiter)


def _quoted(rng, text):
  return '\r\n'.join(','.join(f'"{v}"' for v in line.split(',')) if line else '' for line in text.split('\r\n'))


def _blanks(rng, text):
  return text.replace(',', rng.choice((', ', ' ,', '\t,', ' , ')))


def _blank_lines(rng, text):
  return text.replace('\r\n', rng.choice(('\r\n\r\n', '\r\n \r\n', '\r\n,,,\r\n')), rng.randrange(1, 4))


def _trailing(rng, text):
  return text.replace('\r\n', ',\r\n')


def _note(value):
  def edit(rng, text):
    header, *lines = text.strip('\r\n').split('\r\n')
    return '\r\n'.join([f'{header},note', *(f'{line},{value(rng, i)}' for i, line in enumerate(lines))]) + '\r\n'

  return edit


def _swapped(rng, text):
  return '\r\n'.join(','.join(line.split(',')[::-1]) for line in text.split('\r\n'))


def _one_line(change):
  def edit(rng, text):
    lines = text.split('\r\n')
    if len(lines) > 2:  # another edit may have changed the ends of the lines
      i = rng.randrange(1, len(lines) - 1)
      lines[i] = change(rng, lines[i])
    return '\r\n'.join(lines)

  return edit


CSV_EDITS: tuple[Callable, ...] = (
  _open_quote,
  _open_quote,
  _open_quote,
  *map(_dialect, (';', '\t', '|', ' ')),
  _quoted,
  _blanks,
  _blank_lines,
  _trailing,
  _swapped,
  lambda rng, text: text.replace('\r\n', rng.choice(('\n', '\r', '\n\n', '\x0b', '\u2028'))),
  lambda rng, text: text.rstrip('\r\n'),
  lambda rng, text: '\ufeff' + text,
  lambda rng, text: '\ufeff\ufeff' + text,
  lambda rng, text: 'sep=,\r\n' + text,
  lambda rng, text: '# made by a script\r\n' + text,
  lambda rng, text: text.replace('filename', rng.choice(('Filename', ' filename', 'file name', 'filename,filename'))),
  _note(lambda rng, i: f'"a ""quoted"" note {i}"'),
  _note(lambda rng, i: '"two\r\nlines"' if i == 3 else 'one'),
  _note(lambda rng, i: 'x' * rng.choice((10, 140_000, 1_000_000)) if i == 3 else ''),
  _note(lambda rng, i: 'a\0b' if i == 3 else ''),
  _note(lambda rng, i: rng.choice(('é', '漢字', '🦆', '½'))),
  _note(lambda rng, i: f'5" wide{i}'),
  _note(lambda rng, i: '"wide' if i == 2 else 'tall"' if i == 8 else ''),
  _one_line(lambda rng, line: line + rng.choice((',', ',x', '"'))),
  _one_line(lambda rng, line: rng.choice(('"', '\\"')) + line),
  _one_line(lambda rng, line: line[: line.rindex(',') - rng.randrange(3)] if ',' in line else line),
  _one_line(lambda rng, line: line.replace(',', '","', 1)),
  _one_line(lambda rng, line: f'{line}\n{line}'),
)
ENCODINGS = ('utf-8',) * 6 + ('utf-8-sig', 'utf-16', 'utf-16-le', 'latin-1', 'cp1252', 'utf-32')


def csv_case(rng: random.Random, place: Path) -> None:
  """A list in some dialect, or damaged: the rows that were meant, or a refusal."""
  rows = intended(rng)
  text = csv_text(rows)
  for edit in rng.sample(CSV_EDITS, rng.choice((1, 1, 1, 2))):
    text = edit(rng, text)
  write_images(place / 'data', [row.name for row in rows])
  encoding = rng.choice(ENCODINGS)
  (place / 'data' / 'metadata.csv').write_bytes(text.encode(encoding, errors='replace'))
  flags = ['--config.data.unlisted=ignore'] if rng.random() < 0.5 else []
  # A row that stands there twice or is cut is for the reader to refuse; what it takes has to be what was meant.
  compare(read(place / 'data', *flags), rows)


# --- Words for missing, and spellings ----------------------------------------------------------------

MISSING = ('', 'nan', 'NaN', 'None', 'NA', 'N/A', 'null', '<NA>', ' ', 'NAN', 'n/a', ' nan ')
INVISIBLE = ('\u200b', '\ufeff', '\u00a0', '\u2060', '\u00ad', '\u200d', '\u3000')


def _missing_group(rng, rows):
  """Some attributes are not known: they become unknown groups."""
  word, chosen = rng.choice(MISSING), set(rng.sample(range(len(rows)), rng.randrange(1, 5)))
  written = [row._replace(attribute=word) if i in chosen else row for i, row in enumerate(rows)]
  return written, [row._replace(attribute='') if i in chosen else row for i, row in enumerate(rows)]


def _missing_label(rng, rows):
  chosen = rng.randrange(len(rows))
  word = rng.choice(MISSING)
  return [row._replace(label=word) if i == chosen else row for i, row in enumerate(rows)], None


def _spelling(field):
  def edit(rng, rows):
    chosen, value = rng.choice([(i, getattr(row, field)) for i, row in enumerate(rows)])
    invisible = rng.choice(INVISIBLE)
    other = rng.choice((value.upper(), value.title(), f'{value}{invisible}', f'{invisible}{value}', f'{value} \u200b'))
    written = [row._replace(**{field: other}) if i == chosen else row for i, row in enumerate(rows)]
    # A blank at an end may be cut off, which gives what was meant.
    return written, rows if other.strip('\u00a0\u3000 ') == value else None

  return edit


def _renamed(rng, rows, names):
  """Write other names for labels and attributes."""
  labels = dict(zip(('ant', 'bee'), names, strict=True))
  return [row._replace(label=labels[row.label]) for row in rows]


def _float_labels(rng, rows):
  return _renamed(rng, rows, ('0.0', '1.0')), _renamed(rng, rows, ('0', '1'))


def _half_float_labels(rng, rows):
  written = _renamed(rng, rows, ('0', '1'))
  chosen = rng.randrange(len(rows))
  return [r._replace(label=f'{r.label}.0') if i == chosen else r for i, r in enumerate(written)], None


def _accents(rng, rows):
  """One name in two normal forms, which print alike."""
  written = _renamed(rng, rows, ('caf\u00e9', 'bee'))
  chosen = rng.choice([i for i, row in enumerate(written) if row.label != 'bee'])
  other = unicodedata.normalize('NFD', 'caf\u00e9')
  return [r._replace(label=other) if i == chosen else r for i, r in enumerate(written)], None


def _accented(rng, rows):
  return (_renamed(rng, rows, ('caf\u00e9', '漢字')),) * 2


def _commas(rng, rows):
  """Labels and attributes whose groups print alike: 'a, b' + 'c' and 'a' + 'b, c'."""
  labels = {'ant': 'a', 'bee': 'a, b'}
  attributes = {'red': 'b, c', 'blue': 'c'}
  return [r._replace(label=labels[r.label], attribute=attributes[r.attribute]) for r in rows], None


def _word_is_class(rng, rows):
  """A class that is called like a word for missing: refused, unless data.classes lists it."""
  return _renamed(rng, rows, (rng.choice(('None', 'NA', 'nan', 'null')), 'bee')), None


WORD_EDITS = (
  _missing_group, _missing_group, _missing_label, _spelling('label'), _spelling('attribute'), _float_labels,
  _half_float_labels, _accents, _accented, _commas, _word_is_class,
)  # fmt: skip


def words_case(rng: random.Random, place: Path) -> None:
  """Odd values in the columns: unknown groups, refusals, or the names that were meant."""
  rows = intended(rng)
  edit = rng.choice(WORD_EDITS)
  written, due = edit(rng, rows)
  write_images(place / 'data', [row.name for row in rows])
  (place / 'data' / 'metadata.csv').write_text(csv_text(written), encoding='utf-8')
  result = read(place / 'data')
  expect(due is not None, f'{edit.__name__} is taken: {sorted(result)[:2]}')
  assert due is not None
  # Attributes that are numbers or names come back as they are written.
  compare(result, due)


def prepared_case(rng: random.Random, place: Path) -> None:
  """A TFDS data set whose labels lack, are out of range, or are of another type."""
  import tensorflow_datasets as tfds
  from etils import epath

  kinds = ('whole', 'bare', 'bare', 'plain', 'group_text', 'group_bare', 'no_val', 'far')
  kind, split = rng.choice(kinds), rng.choice(('train', 'validation', 'test'))
  features = {'image': tfds.features.Image(shape=(None, None, 3)), 'label': tfds.features.ClassLabel(names=['a', 'b'])}
  if kind in ('plain', 'far'):
    features['label'] = np.int64
  if kind == 'group_text':
    features['group'] = tfds.features.Text()
  if kind == 'group_bare':
    features['group'] = tfds.features.ClassLabel(names=['x', 'y'])
  splits = ('train', 'test') if kind == 'no_val' else ('train', 'validation', 'test')
  place.joinpath('tfds').mkdir()

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name, VERSION, pkg_dir_path = f'fuzz_{kind}', tfds.core.Version('1.0.0'), epath.Path(place / 'tfds')

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
      return {name: self._generate_examples(name) for name in splits}

    def _generate_examples(self, name):
      for i in range(8):
        content = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(content, 'PNG')
        content.seek(0)
        label = -1 if kind == 'bare' and name == split and i < 3 else 7 if kind == 'far' and i == 2 else i % 2
        example = {'image': content, 'label': label}
        if kind == 'group_text':
          example['group'] = 'xy'[i % 2]
        if kind == 'group_bare':
          example['group'] = -1 if i < 3 else i % 2
        yield i, example

  quiet = io.StringIO()
  with contextlib.redirect_stderr(quiet), contextlib.redirect_stdout(quiet):
    builder = Builder(data_dir=place / 'tfds', file_format='array_record')
    builder.download_and_prepare()
  from ule_jax.data import load

  options = options_of(Path(str(builder.data_dir)))
  dataset = load(options.pop('name'), options)
  expect(kind not in ('no_val', 'far'), f'{kind} is taken')
  for part, content in dataset.splits.items():
    # TFDS shuffles: which example it is, its level of grey says.
    examples = [int(content.load(i)[0, 0, 0]) // 20 for i in range(content.count)]
    bare = kind == 'bare' and part.startswith(split[:3])
    expect(sorted(examples) == list(range(3 if bare else 0, 8)), f'{kind}: the examples of {part} are {examples}')
    expect(
      [int(v) for v in content.label] == [i % 2 for i in examples], f'{kind}: labels of {part} are {content.label}'
    )
    if kind == 'group_text':
      names = [dataset.groups[g] for g in content.group]
      expect(names == ['xy'[i % 2] for i in examples], f'groups of {part} are {names}')
    if kind == 'group_bare':
      due = [-1 if i < 3 else i % 2 for i in examples]
      expect([int(v) for v in content.group] == due, f'groups of {part} are {content.group}')


# --- Images of every type ----------------------------------------------------------------------------


def _save(image: Image.Image, path: Path, **options) -> None:
  image.save(path, **options)


def _levels(rng: random.Random, top: float, dtype) -> np.ndarray:
  """Make 8 x 8 values from 0 to `top`, of which the largest is drawn too."""
  generator = np.random.default_rng(rng.randrange(2**32))
  return (generator.random((8, 8)) * top).astype(dtype)


def _grey16(rng, path, white):
  top = rng.choice((200, 255, 256, 4095, 65535))
  values = _levels(rng, top, np.uint16)
  values[0, 0] = top
  _save(Image.fromarray(values), path.with_suffix(ending := rng.choice(('.png', '.tif'))))
  due = values / (white or 65535) * 255
  return path.with_suffix(ending), None if top > (white or 65535) else due


def _float(rng, path, white):
  top = rng.choice((0.2, 1.0, 1.0, 1.5, 255.0, 4095.0))
  values = _levels(rng, top, np.float32)
  values[0, 0] = top
  if rng.random() < 0.2:
    values[1, 1] = rng.choice((np.nan, np.inf, -1.0))
  _save(Image.fromarray(values), path.with_suffix('.tif'))
  slack = 1e-3 * (white or 1.0)  # a quarter of a level, as floats are not exact
  inside = np.isfinite(values).all() and values.min() >= -slack and values.max() <= (white or 1.0) + slack
  return path.with_suffix('.tif'), (values / (white or 1.0) * 255).clip(0, 255) if inside else None


def _int32(rng, path, white):
  top = rng.choice((255, 4095, 65535, 2**31 - 1))
  values = _levels(rng, top, np.int32)
  values[0, 0] = top
  _save(Image.fromarray(values), path.with_suffix('.tif'))
  if white and top <= white:
    return path.with_suffix('.tif'), values / white * 255
  return path.with_suffix('.tif'), None


def _colours(rng, path, white):
  generator = np.random.default_rng(rng.randrange(2**32))
  values = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
  ending = rng.choice(('.png', '.bmp', '.tif', '.webp'))
  _save(Image.fromarray(values), path.with_suffix(ending), **({'lossless': True} if ending == '.webp' else {}))
  return path.with_suffix(ending), values.astype(float)


def _palette(rng, path, white):
  generator = np.random.default_rng(rng.randrange(2**32))
  values = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
  image = Image.fromarray(values).quantize(16)
  ending = rng.choice(('.png', '.gif', '.bmp'))
  _save(image, path.with_suffix(ending))
  return path.with_suffix(ending), np.asarray(image.convert('RGB'), float)


def _bits(rng, path, white):
  values = _levels(rng, 2, np.uint8).astype(bool)
  _save(Image.fromarray(values), path.with_suffix(ending := rng.choice(('.png', '.tif', '.bmp'))))
  return path.with_suffix(ending), values * 255.0


SCALES = (_grey16, _grey16, _float, _float, _int32, _colours, _palette, _bits)


def load_images(root: Path, *flags: str) -> list[np.ndarray]:
  from ule_jax.data import load

  options = options_of(root, *flags)
  dataset = load(options.pop('name'), options)
  split = dataset.splits['train']
  order = sorted(range(split.count), key=split.name)
  return [split.load(i) for i in order if not split.name(i).startswith('other')]


def list_images(root: Path, names: list[str]) -> None:
  """Write metadata.csv with these images in train, and others beside them."""
  others = [f'other_{split}_{label}.png' for split in ('train', 'val', 'test') for label in 'ab']
  write_images(root, others)
  rows = [(name, 'a', 'train') for name in names]
  rows += [(name, name[-5], name.split('_')[1]) for name in others]
  (root / 'metadata.csv').write_text(csv_text(rows, ('filename', 'label', 'split')))


def image_case(rng: random.Random, place: Path) -> None:
  """An image of a type and a range: the pixels that its type means, or a refusal."""
  root = place / 'data'
  root.mkdir()
  white = rng.choice((0, 0, 0, 4095, 255))
  make = rng.choice(SCALES)
  path, due = make(rng, root / 'image', white if make in (_grey16, _float, _int32) else 0)
  list_images(root, [path.name])
  flags = [f'--config.data.white={white}'] if white else []
  (pixels,) = load_images(root, *flags)
  expect(due is not None, f'{make.__name__} is taken as {pixels.min()}..{pixels.max()} with white={white}')
  if white and make in (_colours, _palette, _bits):
    return  # what the option means for 8 bits is for the package to say; that it ends is enough
  assert due is not None
  due = due if due.ndim == 3 else due[..., None].repeat(3, -1)
  gap = np.abs(pixels.astype(float) - due).max()
  expect(gap <= 1.01, f'{make.__name__} differs by {gap:.1f} levels with white={white}')


def alpha_case(rng: random.Random, place: Path) -> None:
  """Two images that look alike, and differ only under pixels that cannot be seen, are the same."""
  root, generator = place / 'data', np.random.default_rng(rng.randrange(2**32))
  root.mkdir()
  alpha = np.where(generator.random((8, 8)) < 0.5, 0, 255).astype(np.uint8)
  seen = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
  ending = rng.choice(('.png', '.tif', '.webp', '.la.png', '.p.png'))
  for name in ('one', 'two'):
    hidden = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    pixels = np.where(alpha[..., None] > 0, seen, hidden)
    image = Image.fromarray(np.concatenate([pixels, alpha[..., None]], -1))
    if ending == '.la.png':
      image = image.convert('LA')
    if ending == '.p.png':  # an entry of the palette is transparent, and its colour differs
      image = Image.fromarray((alpha > 0).astype(np.uint8)).convert('P')
      image.putpalette([*generator.integers(0, 256, 3).tolist(), 9, 99, 199])
      image.info['transparency'] = 0
    _save(image, root / f'{name}{ending}', **({'lossless': True, 'exact': True} if ending == '.webp' else {}))
  list_images(root, [f'one{ending}', f'two{ending}'])
  first, second = load_images(root)
  expect(np.array_equal(first, second), f'what lies under alpha 0 is seen in {ending}')


def damaged_image_case(rng: random.Random, place: Path) -> None:
  """An image file with bytes changed: an image, or a refusal."""
  root = place / 'data'
  root.mkdir()
  ending, kind = rng.choice((('.jpg', 'JPEG'), ('.png', 'PNG'), ('.gif', 'GIF'), ('.tif', 'TIFF'), ('.webp', 'WEBP')))
  content = io.BytesIO()
  exif = Image.Exif()
  exif[274] = rng.randrange(0, 10)
  exif[0x8825] = {rng.randrange(32): rng.choice((b'2200', 'N', 3, -1.5, (1, 2)))} if rng.random() < 0.3 else {}
  picture = Image.fromarray(np.random.default_rng(rng.randrange(99)).integers(0, 256, (24, 24, 3), dtype=np.uint8))
  try:
    picture.save(content, kind, **({} if kind == 'GIF' else {'exif': exif}))
  except Exception:  # an EXIF block that Pillow does not write
    content = io.BytesIO()
    picture.save(content, kind)
  damaged = bytearray(content.getvalue())
  for _ in range(rng.choice((1, 2, 8))):
    damaged[rng.randrange(len(damaged))] = rng.randrange(256)
  if rng.random() < 0.3:
    damaged = damaged[: rng.randrange(len(damaged))]
  (root / f'image{ending}').write_bytes(damaged)
  list_images(root, [f'image{ending}'])
  (pixels,) = load_images(root)
  expect(pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3, f'an image of shape {pixels.shape}')


# --- Weights -----------------------------------------------------------------------------------------


def _template():
  import common
  import jax
  import jax.numpy as jnp

  network = common.network('resnet20', 10, batch_norm='frozen')
  return jax.jit(lambda: network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))()


_VARIABLES: list = []


def weights_case(rng: random.Random, place: Path) -> None:
  """A state dict under wrappers, prefixes and endings of the field: these tensors, or a refusal."""
  import jax
  import torch
  from safetensors.numpy import save_file

  from ule_jax.models.pretrained import mapping

  if not _VARIABLES:
    _VARIABLES.append(_template())
  variables = _VARIABLES[0]
  tensors = mapping.export_tensors(variables['params'], variables['batch_stats'], 'CIFAR ResNet')
  prefix = rng.choice(('', '', 'module.', 'model.', 'network.', 'backbone.', 'encoder.', 'module.model.', '_orig_mod.'))
  tensors = {prefix + name: value for name, value in tensors.items()}
  content = {name: torch.tensor(value) for name, value in tensors.items()}
  for _ in range(rng.choice((0, 1, 1, 2))):
    key = rng.choice(('state_dict', 'model', 'algorithm', 'model_dict', 'net', 'weights', 'anything', 'ema'))
    beside = rng.choice(({}, {'epoch': 3}, {'args': {}, 'best': 0.7}, {'optimizer': {'state': {}, 'param_groups': []}}))
    content = {key: content, **beside}
  ending = rng.choice(('.pth', '.pt', '.pkl', '.tar', '.pth.tar', '.ckpt', '.bin', '.th', '.safetensors'))
  path = place / f'weights{ending}'
  if ending == '.safetensors':
    save_file(tensors, path)
  else:
    torch.save(content, path, _use_new_zipfile_serialization=rng.random() < 0.7)
  damage = rng.choice(('', '', '', 'cut', 'pointer', 'page', 'empty', 'pickle', 'json'))
  if damage == 'cut':
    path.write_bytes(path.read_bytes()[: rng.randrange(1, path.stat().st_size)])
  elif damage == 'pointer':
    path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 46807446\n')
  elif damage == 'page':
    path.write_text(rng.choice(('<!DOCTYPE html><html>', '<html>', '\n  <!doctype html>', '<?xml version="1.0"?>')))
  elif damage == 'empty':
    path.write_bytes(b'')
  elif damage == 'pickle':
    path.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
  elif damage == 'json':
    path.write_text(json.dumps({'state_dict': {}}))
  loaded = mapping.load_pretrained(str(path), 'resnet20', variables, keep_head=True)
  expect(not damage or damage == 'cut', f'{damage} is taken as weights')
  same = jax.tree.map(lambda a, b: bool(np.allclose(a, b)), loaded.params, dict(variables['params']))
  expect(all(jax.tree.leaves(same)), 'other tensors than those of the file')


# --- Runs --------------------------------------------------------------------------------------------


def verb(name: str, *argv: str) -> tuple[int, str]:
  """Run a verb in this process: its exit code and what it printed."""
  from ule_jax.cli import app

  before, out = sys.argv, io.StringIO()
  sys.argv = [name, *argv]
  try:
    with contextlib.redirect_stderr(out), contextlib.redirect_stdout(out):
      app.run_verb(name)
  except SystemExit as end:
    code = end.code or 0
  finally:
    sys.argv = before
  expect(code in (0, 2, 75), f'{name} ends with {code}: {out.getvalue()[-1500:]}')
  expect('Traceback' not in out.getvalue(), f'{name} prints a traceback: {out.getvalue()[-1500:]}')
  return int(code), out.getvalue()


_RUN: list[Path] = []


def finished_run() -> Path:
  """Train a small run once for all cases of this process: a folder with `data` and `run`."""
  if not _RUN:
    root = Path(tempfile.mkdtemp(prefix='fuzzrun'))
    rows = intended(random.Random(0))
    write_images(root / 'data', [row.name for row in rows])
    (root / 'data' / 'metadata.csv').write_text(csv_text(rows))
    command = ['--config=folder:erm', f'--config.data.dir={root}/data', *TINY, f'--workdir={root}/run']
    code, text = verb('main', *command)
    expect(code == 0, f'the first run ends with {code}: {text[-500:]}')
    _RUN.append(root)
  return _RUN[0]


def _swap_labels(rng, data):
  rows = list(csv.reader((data / 'metadata.csv').open()))
  same = [i for i, row in enumerate(rows) if i and row[2] == rng.choice(('train', 'val', 'test'))] or [1]
  i = rng.choice(same)
  rows[i][1] = {'ant': 'bee', 'bee': 'ant'}[rows[i][1]]
  with (data / 'metadata.csv').open('w', newline='') as file:
    csv.writer(file).writerows(rows)
  return True


def _swap_attribute(rng, data):
  rows = list(csv.reader((data / 'metadata.csv').open()))
  i = rng.randrange(1, len(rows))
  rows[i][3] = {'red': 'blue', 'blue': 'red'}[rows[i][3]]
  with (data / 'metadata.csv').open('w', newline='') as file:
    csv.writer(file).writerows(rows)
  return True


def _other_image(rng, data):
  path = rng.choice(sorted(data.glob('*.png')))
  Image.fromarray(np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
  return True


def _two_images_swapped(rng, data):
  first, second = rng.sample(sorted(data.glob('*.png')), 2)
  contents = first.read_bytes(), second.read_bytes()
  second.write_bytes(contents[0])
  first.write_bytes(contents[1])
  return True


def _renamed_image(rng, data):
  path = rng.choice(sorted(data.glob('*.png')))
  path.rename(data / f'new_{path.name}')
  text = (data / 'metadata.csv').read_text()
  (data / 'metadata.csv').write_text(text.replace(path.name, f'new_{path.name}'))
  return True


def _row_gone(rng, data):
  rows = (data / 'metadata.csv').read_text().splitlines()
  name = rows.pop(rng.randrange(1, len(rows))).split(',')[0]
  (data / name).unlink()
  (data / 'metadata.csv').write_text('\n'.join(rows) + '\n')
  return True


def _touched(rng, data):
  for path in data.glob('*.png'):
    os.utime(path, (1, rng.randrange(10**9)))
  return False


def _copied(rng, data):
  for path in data.glob('*.png'):
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
  return False


def _rewritten(rng, data):
  """The same rows in another dialect of the file."""
  text = (data / 'metadata.csv').read_text()
  (data / 'metadata.csv').write_bytes(('\ufeff' + text.replace('\r\n', '\n').replace('\n', '\r\n')).encode())
  return False


STALE = (
  _swap_labels, _swap_labels, _swap_attribute, _other_image, _other_image, _two_images_swapped, _renamed_image,
  _row_gone, _touched, _copied, _rewritten,
)  # fmt: skip


def stale_case(rng: random.Random, place: Path) -> None:
  """Data that changed since a run: whatever reads them says so; data that did not change are no matter."""
  origin = finished_run()
  data, run = origin / 'data', origin / 'run'
  shutil.copytree(data, place / 'data')
  shutil.copytree(run, place / 'run')
  shutil.rmtree(origin / 'kept', ignore_errors=True)
  data.rename(origin / 'kept')  # the run names this folder: it holds the changed data until the end of the case
  try:
    shutil.copytree(origin / 'kept', data)
    edit = rng.choice(STALE)
    changed = edit(rng, data)
    done = rng.random() < 0.6
    if not done:
      (place / 'run' / 'done').unlink()
    name = rng.choice(('main', 'main', 'evaluate', 'diagnose')) if done else 'main'
    argv = [f'--run={place}/run', *([f'--out={place}/diagnosis'] if name == 'diagnose' else [])]
    if name == 'main':
      argv = ['--config=folder:erm', f'--config.data.dir={data}', *TINY, f'--workdir={place}/run']
    before = (place / 'run' / 'results.json').read_bytes()
    code, text = verb(name, *argv)
    expect(code == (2 if changed else 0), f'{edit.__name__}: {name} ends with {code}: {text[-600:]}')
    if changed:
      expect((place / 'run' / 'results.json').read_bytes() == before, f'{edit.__name__}: the results are written anew')
  finally:
    shutil.rmtree(data, ignore_errors=True)
    (origin / 'kept').rename(data)


ODD = (
  '[a]', 'a[0-9]b', '*', 'a?b', '{x}', 'back\\slash', 'a b', ' lead', 'trail ', '-dash', '--x', 'a\nb', "it's", '"q"',
  '100%', '%20', '#1', 'a&b', 'a=b', 'a,b', 'a:b', 'é', 'e\u0301', '漢字', '🦆', '~', '~x', '$HOME', '`x`', 'a;b',
  '(c)', '!', 'con', '.hidden', '...', 'n' * 200, 'x' * 256, 'gs:', 'file:', 'a//b', './a/../b', 'tab\tx', '\u200b',
)  # fmt: skip
URLS = ('gs://bucket/x', 's3://bucket/x', 'https://example.org/x', 'hdfs://x', 'memory://x', 'gcs://b')


def path_case(rng: random.Random, place: Path) -> None:
  """A run below an odd path is found again and read; a URL makes no folder."""
  origin = finished_run()
  home = place / 'cwd'
  home.mkdir()
  url = rng.random() < 0.2
  name = rng.choice(URLS) if url else rng.choice(ODD) + rng.choice(('', '/run', rng.choice(ODD)))
  relative = url or rng.random() < 0.4
  given = name if relative else f'{home}/{name}'
  before = Path.cwd()
  os.chdir(home)
  try:
    common = ['--config=folder:erm', f'--config.data.dir={origin}/data', *TINY]
    code, text = verb('main', *common, f'--workdir={given}')
    written = [p for p in home.rglob('*') if p.name in ('done', 'config.json')]
    if code:
      expect(not written, f'{given!r} is refused ({text[-300:]}) and {written} are there')
      return
    expect(not url, f'{given} is taken')
    expect((Path(given) / 'done').exists() or given.startswith('~'), f'{given!r}: nothing is where it was asked for')
    if given.startswith('~'):
      return
    again, text = verb('main', *common, f'--workdir={given}', '--config.train.steps=3')
    expect(again == 0 and 'from step 2' in text, f'{given!r}: more steps end with {again}: {text[-600:]}')
    name = rng.choice(('evaluate', 'report', 'predict'))
    argv = {
      'evaluate': [f'--run={given}'],
      'report': [given if not given.startswith('-') else f'./{given}', f'--out={place}/report'],
      'predict': [f'--run={given}', f'--input={origin}/data', f'--out={place}/p.csv'],
    }[name]
    code, text = verb(name, *argv)
    expect(code == 0, f'{given!r}: {name} ends with {code}: {text[-600:]}')
  finally:
    os.chdir(before)


def signal_case(rng: random.Random, place: Path) -> None:
  """A signal at any moment of a run: 75 (or done), and the same command ends it."""
  origin = finished_run()
  command = [sys.executable, '-m', 'ule_jax.main', '--config=folder:erm', f'--config.data.dir={origin}/data', *TINY]
  command = [c for c in command if 'train.steps' not in c] + ['--config.train.steps=400', f'--workdir={place}/run']
  env = os.environ | {'PYTHONPATH': str(Path(__file__).parents[2])}
  process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
  # In the first moments there is only Python's own start, which ends by the signal.
  deadline = time.monotonic() + 120
  while not (place / 'run' / 'config.json').exists() and process.poll() is None and time.monotonic() < deadline:
    time.sleep(0.01)
  time.sleep(rng.random() * 6)
  number = rng.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1))
  process.send_signal(number)
  text = process.communicate(timeout=120)[1]
  expect('Traceback' not in text, f'{number.name}: {text[-1500:]}')
  expect(process.returncode in (0, 75), f'{number.name} ends with {process.returncode}: {text[-1500:]}')
  again = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
  expect(again.returncode == 0, f'after {number.name} the command ends with {again.returncode}: {again.stderr[-900:]}')


KINDS: dict[str, tuple[Callable[[random.Random, Path], None], float]] = {
  'csv': (csv_case, 0.25),
  'words': (words_case, 0.2),
  'image': (image_case, 0.15),
  'alpha': (alpha_case, 0.05),
  'damaged': (damaged_image_case, 0.1),
  'weights': (weights_case, 0.08),
  'prepared': (prepared_case, 0.02),
  'stale': (stale_case, 0.1),
  'path': (path_case, 0.04),
  'signal': (signal_case, 0.01),
}  # kind -> the case, and its share of --inputs


def attempt(kind: str, number: int) -> str:
  """Run a case: '0' if it came to what was meant, '2' if it was refused, or what is wrong."""
  rng, place = random.Random(f'{kind} {number}'), Path(tempfile.mkdtemp(prefix='fuzz'))
  try:
    KINDS[kind][0](rng, place)
    return '0'
  except UserError as error:
    text = str(error)
    if len(text) > 2000 or not re.search(r'\w', text):
      return f'a sentence of {len(text)} characters: {text[:300]}'
    return '2'
  except Interrupted:
    return '75'
  except Wrong as error:
    return f'wrong: {error}'
  finally:
    shutil.rmtree(place, ignore_errors=True)
