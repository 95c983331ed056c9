"""Pack a data set of image files into array_record shards."""

from __future__ import annotations

import io
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ule_jax.data.checks import remarks, scan_images
from ule_jax.data.decoding import BY_TYPE, Decoding
from ule_jax.data.image_files import split_of
from ule_jax.data.tables import COLUMNS, Rows, Table
from ule_jax.errors import UserError

log = logging.getLogger(__name__)


def pack(name: str, table: Table, out: Path, skip: bool, decoding: Decoding = BY_TYPE) -> int:
  """Write a table as array_record, atomically; return the number of images.

  Args:
    name: of the data set.
    out: a folder that does not exist.
    skip: skip images that cannot be decoded, instead of stopping at the first.
    decoding: white value and background for the check of every image; the files' bytes are written unchanged.

  Raises:
    UserError: an image cannot be read or decoded, or the folder cannot be written.
  """
  parts = {part: _decodable(part, rows, skip, decoding) for part, rows in table.parts.items()}
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    # In the folder of the target, so that the last step is an atomic rename.
    partial = Path(tempfile.mkdtemp(prefix=f'.{out.name}.', suffix='.partial', dir=out.parent))
  except OSError as error:
    raise UserError(f'{out.parent} cannot be written ({error.strerror}): choose another --out.') from None
  try:
    written = _write(name, parts, table.names, partial)
    np.savez_compressed(
      written / COLUMNS,
      allow_pickle=False,
      **{f'{part}/name': np.array(rows.names) for part, rows in parts.items()},
      **{f'{part}/{c}': values for part, rows in parts.items() for c, values in rows.columns.items()},
    )
    written.rename(out)
  except OSError as error:
    raise UserError(f'{out} cannot be written ({error.strerror}): choose another --out.') from None
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return sum(len(rows.names) for rows in parts.values())


def _decodable(part: str, rows: Rows, skip: bool, decoding: Decoding) -> Rows:
  """Decode every image, and return the rows whose images can be decoded."""
  count, unknown = len(rows.names), np.full(len(rows.names), -1)
  scan = scan_images(split_of(rows, unknown, unknown, decoding))
  bad = scan.bad
  first = next(iter(bad.values()), '')
  if bad and not skip:
    raise UserError(first + (f' {len(bad) - 1} more of {part} cannot.' if len(bad) > 1 else ''))
  if len(bad) == count:
    raise UserError(f'no image of {part} can be decoded: {first}')
  if bad:
    log.warning(f'{len(bad)} of {count:,} images of {part} are left out, the first: {first}')
  for text in remarks([scan], decoding):
    log.warning(f'{part}: {text}')
  return rows.take(np.setdiff1d(np.arange(count), list(bad)))


def _write(dataset: str, parts: Mapping[str, Rows], names: Mapping[str, tuple[str, ...]], folder: Path) -> Path:
  """Write the records with TFDS; return the folder of the version."""
  import tensorflow_datasets as tfds
  from etils import epath

  some = next(iter(parts.values()))
  features: dict[str, Any] = {'image': tfds.features.Image(), 'name': tfds.features.Text()}
  features |= {mask: tfds.features.Image(shape=(None, None, 1)) for mask in some.masks}
  for column in some.columns:
    features[column] = _feature(column, some.columns[column], names)

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The data set of one table."""

    name = dataset
    VERSION = tfds.core.Version('1.0.0')
    pkg_dir_path = epath.Path(folder)

    def _info(self):
      # In the order of the table, as the pipeline shuffles by the seed of a run.
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True)

    def _split_generators(self, dl_manager):
      del dl_manager
      return {part: self._generate_examples(rows) for part, rows in parts.items()}

    def _generate_examples(self, rows: Rows) -> Iterator[tuple[int, dict[str, Any]]]:
      for i, image in enumerate(rows.names):
        example = {'image': io.BytesIO(rows.read(i)), 'name': image}
        example |= {mask: io.BytesIO(read(i)) for mask, read in rows.masks.items()}
        yield i, example | {column: values[i].item() for column, values in rows.columns.items()}

  builder = Builder(data_dir=folder, file_format='array_record')
  builder.download_and_prepare()
  return Path(builder.data_dir)


def _feature(column: str, values: np.ndarray, names: Mapping[str, tuple[str, ...]]) -> Any:
  """Choose the TFDS feature of a column: class label, number or text."""
  import tensorflow_datasets as tfds

  if column in names:
    return tfds.features.ClassLabel(names=names[column])
  if np.issubdtype(values.dtype, np.number) or values.dtype == bool:
    return values.dtype
  return tfds.features.Text()
