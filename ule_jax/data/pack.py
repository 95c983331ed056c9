"""Pack a data set of image files into array_record shards."""

from __future__ import annotations

import io
import shutil
import sys
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


def pack(name: str, table: Table, out: Path, skip: bool, decoding: Decoding = BY_TYPE) -> int:
  """Write a table, all or nothing; return the number of images.

  Args:
    out: a folder that does not exist.
    skip: leave out images that cannot be decoded, instead of ending at the first.
    decoding: that they have to be decoded with.

  Raises:
    UserError: an image cannot be read or decoded, or the folder cannot be written.
  """
  parts = {part: _decodable(part, rows, skip, decoding) for part, rows in table.parts.items()}
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is a rename: the target is there as a whole or not at all.
    partial = Path(tempfile.mkdtemp(prefix=f'.{out.name}.', suffix='.partial', dir=out.parent))
  except OSError as error:
    raise UserError(f'{out.parent} cannot be written ({error.strerror}): choose another --out.') from None
  try:
    written = _write(name, parts, table.names, partial)
    np.savez_compressed(
      written / COLUMNS,
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
  """Decode every image once; return the rows whose images can be decoded."""
  count, unknown = len(rows.names), np.full(len(rows.names), -1)
  scan = scan_images(split_of(rows, unknown, unknown, decoding), _say)
  bad = scan.bad
  first = next(iter(bad.values()), '')
  if bad and not skip:
    raise UserError(first + (f' {len(bad) - 1} more of {part} cannot.' if len(bad) > 1 else ''))
  if len(bad) == count:
    raise UserError(f'no image of {part} can be decoded: {first}')
  if bad:
    _say(f'warning: {len(bad)} of {count:,} images of {part} are left out, the first: {first}')
  for text in remarks([scan], decoding):
    _say(f'warning: {part}: {text}')
  return rows.take(np.setdiff1d(np.arange(count), list(bad)))


def _write(dataset: str, parts: Mapping[str, Rows], names: Mapping[str, tuple[str, ...]], folder: Path) -> Path:
  """Let TFDS write the records; return the folder of the version."""
  import tensorflow_datasets as tfds

  some = next(iter(parts.values()))
  features: dict[str, Any] = {'image': tfds.features.Image(), 'name': tfds.features.Text()}
  features |= {mask: tfds.features.Image(shape=(None, None, 1)) for mask in some.masks}
  for column in some.columns:
    features[column] = _feature(column, some.columns[column], names)

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The data set of one table."""

    name = dataset
    VERSION = tfds.core.Version('1.0.0')
    pkg_dir_path = folder

    def _info(self):
      # In the order of the table: shuffling is the pipeline's, by the seed of a run.
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
  """Choose the feature of a column; prepared data may have columns of text, too."""
  import tensorflow_datasets as tfds

  if column in names:
    return tfds.features.ClassLabel(names=names[column])
  if np.issubdtype(values.dtype, np.number) or values.dtype == bool:
    return values.dtype
  return tfds.features.Text()


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)
