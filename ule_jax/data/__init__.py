"""The table of data sets, by the name that configs use, and the checks that apply to all of them."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ule_jax.data import class_folders
from ule_jax.data.checks import (
  differences,
  look_at_images,
  refuse_unlabelled,
  warn_of_changed_pixels,
  without_bad_images,
)
from ule_jax.data.dataset import Dataset, InputSpec, Split
from ule_jax.data.options import ON_BAD_IMAGE
from ule_jax.errors import UserError
from ule_jax.options import Options, validate

log = logging.getLogger(__name__)


class Source(NamedTuple):
  """A row of the table of data sets.

  licence: the reason why its images may not be published; empty where there is none.
  is_features: its examples are features of an encoder, whose width and statistics a run records.
  """

  load: Callable[[Any], Dataset]
  input_spec: Callable[[Any], InputSpec]
  options: type[Options]
  licence: str = ''
  is_features: bool = False


def row(module: str) -> Source:
  """Return the row of the data set in a module of this package."""
  source = importlib.import_module(f'{__name__}.{module}')
  return Source(
    source.load,
    source.input_spec,
    source.Options,
    getattr(source, 'LICENCE', ''),
    getattr(source, 'IS_FEATURES', False),
  )


DATASETS = {
  'digits': row('digits'),
  'waterbirds': row('waterbirds'),
  'celeba': row('celeba'),
  'spawrious': row('spawrious'),
  'urbancars': row('urbancars'),
  'folder': row('folder'),
  'embeddings': row('embeddings'),
}
# With data that no command can name, because Python hands them over
SOURCES = {**DATASETS, 'arrays': row('in_memory')}


def holds_features(name: str) -> bool:
  """Return whether a data set by its name consists of features, not images; False for a name of no data set."""
  return name in DATASETS and DATASETS[name].is_features


def load(name: str, options: Options | Mapping[str, Any]) -> Dataset:
  """Load a data set and check it.

  Args:
    name: a key of DATASETS.
    options: of the data set; those that a mapping lacks have their defaults.

  Raises:
    UserError: a file is missing, malformed or differs from the release, or an option is unknown.
  """
  chosen = _options(name, options)
  dataset = read(name, chosen)
  for remark in dataset.remarks:
    log.info(f'note: {remark}')
  if differing := differences(dataset):
    more = f' and {len(differing) - 3} more (python -m ule_jax.data lists them)' if len(differing) > 3 else ''
    text = f'{getattr(chosen, "dir", name)} differs from the release of {name}: {"; ".join(differing[:3])}{more}'
    if getattr(chosen, 'official', True):
      raise UserError(f'{text}. Restore it, or, if it is meant to, set --config.data.official=False.')
    log.warning(text)
  if getattr(chosen, 'on_bad_image', 'fail') == 'skip':
    dataset = without_bad_images(dataset)
  return dataset


def _options(name: str, options: Options | Mapping[str, Any]) -> Options:
  """Return the options of a data set; those that a mapping lacks have their defaults."""
  if isinstance(options, Options):
    return options
  values = {option: value for option, value in options.items() if option != 'name'}
  return validate(SOURCES[name].options, values, 'data')


def read(name: str, options: Options | Mapping[str, Any]) -> Dataset:
  """Read a data set, and check that every split has examples and every example a label.

  Args:
    name: a key of DATASETS.
    options: as in `load`.

  Raises:
    UserError: a file is missing or malformed, a split is empty, or a label is missing.
  """
  dataset = SOURCES[name].load(_options(name, options))
  for part, split in dataset.splits.items():
    if not split.count:
      raise UserError(
        f'{name} has no example for {part}: give it more images, or change the share that becomes {part}.'
      )
  refuse_unlabelled(dataset)
  return dataset


def input_spec(name: str, options: Options | Mapping[str, Any]) -> InputSpec:
  """Return the input contract of a data set without reading its data.

  Args:
    name: a key of DATASETS.
    options: as in `load`.
  """
  return SOURCES[name].input_spec(_options(name, options))


def check_images(dataset: Dataset, options: Any, sampled: bool = False) -> None:
  """Decode all validation and test images before training starts, so that a corrupt file fails now.

  Also warns of images that are transparent, hold several frames, or use less than a quarter of the pixel range. Of
  array_record data, which were decoded when they were written, only a sample is decoded.

  Args:
    sampled: decode a sample only, because the caller reads all images anyway.

  Raises:
    UserError: an image cannot be decoded.
  """
  if dataset.table is not None and options.on_bad_image == 'fail':
    look_at_images(dataset, sampled or dataset.table.is_array_record)


def drawn_split(dataset: Dataset) -> str:
  """Return the images, labels and splits as the text of a metadata.csv if a split was drawn from train, else ''."""
  table = dataset.table
  return class_folders.as_csv(table) if table is not None and 'drawn' in table.notes else ''


__all__ = [
  'DATASETS',
  'ON_BAD_IMAGE',
  'SOURCES',
  'Dataset',
  'InputSpec',
  'Source',
  'Split',
  'check_images',
  'drawn_split',
  'holds_features',
  'input_spec',
  'load',
  'read',
  'warn_of_changed_pixels',
]
