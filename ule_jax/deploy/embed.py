"""Features of the images of a data set as a file that `data.name=embeddings` reads.

Parts of some thousand images are written as they are computed, into a folder beside the file, so that the same command
continues where it stopped. They are joined at the end; the .json beside the file names the encoder and its
preprocessing, and marks it as done.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from ule_jax.data import Dataset, feature_files
from ule_jax.data.words import WHOLE
from ule_jax.deploy.encoders import ImageEncoder
from ule_jax.errors import UserError
from ule_jax.report.numbers import to_csv
from ule_jax.runs.files import read_json, write_atomic, write_json
from ule_jax.train import features

log = logging.getLogger(__name__)

PART = 2048  # images of a part, about
MOST = float(np.finfo(np.float16).max)


def embed(
  encoder: ImageEncoder, contents: Mapping[str, str], out: Path, batch_size: int, threads: int, half: bool = False
) -> bool:
  """Write the features of all images of a data set; continue where an earlier call stopped.

  Args:
    encoder: with its data set.
    contents: split -> the digest of its images.
    out: of one of `feature_files.WRITTEN`.
    batch_size: images at a time, over all devices.
    threads: that read and prepare images.
    half: write half precision.

  Returns:
    Whether anything was written; False for a file that is done.

  Raises:
    UserError: an image cannot be read, a feature is not finite, or there is another file, or no room.
  """
  about = {'encoder': encoder.about, 'images': dict(contents), 'half': half, 'classes': list(encoder.dataset.classes)}
  about |= {'format': out.suffix, 'splits': {name: split.count for name, split in encoder.dataset.splits.items()}}
  # Of the weights their digest counts, not the path.
  which = {name: value for name, value in encoder.about.items() if name != 'weights'}
  key = hashlib.sha256(json.dumps(about | {'encoder': which}, sort_keys=True).encode()).hexdigest()
  done, folder = out.with_suffix('.json'), out.with_name(f'{out.name}.parts')
  if out.exists():
    if done.exists() and read_json(done, 'remove it').get('key') == key:
      return False
    raise UserError(f'{out} exists and is of other images or another encoder: choose another --out, or remove it.')
  try:
    _open_parts(folder, key)
    paths = list(_compute_parts(encoder, folder, batch_size, threads))
    x = _join(paths, folder / 'x.npy', half)
    _write(out, x, columns_of(encoder.dataset))
    write_json(done, {'key': key, 'x': list(x.shape), **about})
  except OSError as error:
    raise UserError(f'{out} cannot be written ({error.strerror}): choose another --out.') from None
  del x
  shutil.rmtree(folder)
  return True


def _open_parts(folder: Path, key: str) -> None:
  """Create the folder of parts; parts of other images or another encoder are removed."""
  mark = folder / 'key.json'
  if folder.exists() and (not mark.exists() or read_json(mark, 'remove it').get('key') != key):
    if any(path.name != mark.name and path.suffix not in ('.npy', '.partial') for path in folder.iterdir()):
      raise UserError(f'{folder} holds files of something else: remove them, or choose another --out.')
    log.info(f'{folder} is of other images or another encoder: its parts are computed again')
    shutil.rmtree(folder)
  folder.mkdir(parents=True, exist_ok=True)
  write_json(mark, {'key': key})


def _compute_parts(encoder: ImageEncoder, folder: Path, batch_size: int, threads: int) -> Iterator[Path]:
  """Compute the parts that are not there; yield the path of every part, in the order of the splits."""
  dataset, size = encoder.dataset, max(1, PART // batch_size) * batch_size
  total = sum(split.count for split in dataset.splits.values())
  first = reused = 0
  for name, split in dataset.splits.items():
    for number, start in enumerate(range(0, split.count, size)):
      path, ids = folder / f'{name}-{number:06}.npy', np.arange(start, min(start + size, split.count))
      if _is_part(path, len(ids)):
        reused += len(ids)
      else:
        if reused:
          log.info(f'{reused:,} of {total:,} images are done already')
          reused = 0
        part = dataset._replace(splits={name: split.take(ids)})
        rows = features.compute(part, name, encoder.apply, batch_size, threads, first, total)
        if rows.ndim != 2:
          raise UserError(f'the encoder makes {rows.shape[1:]} for an image: choose one that makes a vector.')
        with write_atomic(path) as file:
          np.save(file, rows)
      first += len(ids)
      yield path


def _is_part(path: Path, count: int) -> bool:
  try:
    return len(np.load(path, mmap_mode='r', allow_pickle=False)) == count
  except (OSError, ValueError, EOFError):
    return False


def _join(paths: list[Path], path: Path, half: bool) -> Float[np.ndarray, 'n d']:
  """Join parts to one file; return it as a memory map.

  Raises:
    UserError: a feature is beyond half precision.
  """
  parts: list[Float32[np.ndarray, 'b d']] = [np.load(part, mmap_mode='r', allow_pickle=False) for part in paths]
  shape = (sum(map(len, parts)), parts[0].shape[1])
  x = np.lib.format.open_memmap(path, mode='w+', dtype=np.float16 if half else np.float32, shape=shape)
  first = 0
  for part in parts:
    if half and (largest := float(np.abs(part).max())) > MOST:
      raise UserError(f'a feature is {largest:g}, and half precision ends at {MOST:g}: leave --half out.')
    x[first : first + len(part)] = part
    first += len(part)
  x.flush()
  return x


def columns_of(dataset: Dataset) -> dict[str, list[str]]:
  """Return the columns beside the features, as `data.name=embeddings` reads them: label, split, group and id."""
  columns: dict[str, list[str]] = {'label': [], 'split': [], 'group': [], 'id': []}
  for name, split in dataset.splits.items():
    columns['label'] += [dataset.classes[code] for code in split.label.tolist()]
    columns['split'] += [name] * split.count
    columns['group'] += [dataset.groups[code] if code >= 0 else '' for code in split.group.tolist()]
    columns['id'] += [split.name(i).encode('utf-8', 'backslashreplace').decode() for i in range(split.count)]
  ids = columns['id']
  if len(set(ids)) < len(ids):  # as where an image is in several splits
    columns['id'] = [f'{i} {name}' for i, name in enumerate(ids)]
  if not dataset.groups:
    del columns['group']
  return columns


def class_option(classes: tuple[str, ...]) -> str:
  """Return the option by which the classes keep their order; '' where they have it anyway."""
  if all(WHOLE.fullmatch(name) for name in classes) or list(classes) == sorted(classes):
    return ''
  return f' --config.data.classes="{classes!r}"'


def _write(out: Path, x: Float[np.ndarray, 'n d'], columns: Mapping[str, list[str]]) -> None:
  """Write the features, and their columns inside or beside them; the file of the features is the last."""
  if out.suffix != '.npz':
    with write_atomic(out.with_suffix('.csv')) as file:
      file.write(to_csv(list(columns), list(zip(*columns.values(), strict=True))).encode())
  with write_atomic(out) as file:
    if out.suffix == '.npz':
      arrays: dict[str, Any] = {name: np.array(values) for name, values in columns.items()}
      np.savez(file, x=x, **arrays)
    elif out.suffix == '.npy':
      np.save(file, x)
    else:
      from safetensors.numpy import save

      feature_files.refuse_too_large(out, x.nbytes)
      file.write(save({feature_files.FEATURES: np.ascontiguousarray(x)}))
