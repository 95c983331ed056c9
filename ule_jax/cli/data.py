"""Check of a data set before anything is trained on it: `python -m ule_jax.data --config=celeba`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from etils import epy

from ule_jax.cli.arguments import ConfigFields, ConfigFile, Directory, Images
from ule_jax.config import load
from ule_jax.errors import UserError, unknown
from ule_jax.paths import local_path, output_path

with epy.lazy_imports():  # help and errors of the command line come before what takes long to import
  import numpy as np

  from ule_jax import data as data_sets
  from ule_jax.cli import tables
  from ule_jax.data import checks, class_folders, layouts, sheets
  from ule_jax.runs import files

if TYPE_CHECKING:
  from ule_jax.data import Dataset
  from ule_jax.data.checks import Scan


def data(
  *,
  config: ConfigFile,
  overrides: ConfigFields = (),
  out: Directory = '',
  images: Images = True,
  write_metadata: bool = False,
  force: bool = False,
) -> None:
  """Check a data set: counts, every image, and a picture of each group.

  For example:

    python -m ule_jax.data --config=configs/waterbirds.py --config.data.dir=DIR
    python -m ule_jax.data --config=folder --config.data.dir=DIR --write-metadata

  The counts are compared with those of the release. The exit code is 2 if something is wrong, and the
  error names it; other counts are only a warning with --config.data.official=False, and images that
  do not decode with --config.data.on_bad_image=skip.

  Args:
    out: folder for the contact sheets (default sheets/<config>).
    images: decode every image.
    write_metadata: of a folder for each class, write DIR/metadata.csv with its labels and splits, for
      you to edit, and do nothing else.
    force: with --write-metadata, replace a metadata.csv that exists.
  """
  settings: Any
  settings, config_name = load.load_text(config, overrides)
  if write_metadata:
    _write_metadata(dict(settings.data), force)
    return
  if force:
    raise UserError('--force is for --write-metadata, which replaces metadata.csv with it: give both, or neither.')
  folder = output_path(out or f'sheets/{config_name}', '--out')
  options = dict(settings.data)
  name = options.pop('name')
  strict, on_bad_image = options.pop('official', True), options.pop('on_bad_image', 'fail')
  if on_bad_image not in data_sets.ON_BAD_IMAGE:
    raise unknown('data.on_bad_image', on_bad_image, data_sets.ON_BAD_IMAGE)
  dataset = data_sets.read(name, options)
  print(tables.counts_table(dataset))
  if dataset.remarks:
    print('\n' + '\n'.join(dataset.remarks))
  if dataset.is_features:
    precision = np.dtype(dataset.dtype)
    print(f'\n{dataset.image_shape[0]:,} finite features a row in {precision}; there are no images to draw')
    return
  wrong = _compare_with_release(dataset, name, strict)
  scans = _scan(dataset) if images else {}
  bad = sum(len(scan.bad) for scan in scans.values())
  if bad and on_bad_image == 'fail':
    wrong.append(f'{bad} images cannot be decoded (--config.data.on_bad_image=skip leaves them out)')
  try:
    written = sheets.contact_sheets(dataset, folder, {split: scan.bad for split, scan in scans.items()})
  except OSError as error:
    raise UserError(f'{folder} cannot be written ({error.strerror}): choose another --out.') from None
  print(f'\n{len(written)} contact sheets in {folder}')
  if wrong:
    raise UserError(f'{name} is not as it should be: {"; ".join(wrong)}.')


def _scan(dataset: Dataset) -> dict[str, Scan]:
  """Decode every image, print those that cannot be decoded and remarks on the others, and return the scans by split."""
  scans = {split: checks.scan_images(content) for split, content in dataset.splits.items()}
  problems = [text for scan in scans.values() for text in scan.bad.values()]
  print(f'\n{len(problems)} images cannot be decoded' + ''.join(f'\n  {text}' for text in problems))
  for text in checks.remarks(scans.values(), dataset.decoding):
    print(f'warning: {text}')
  return scans


def _compare_with_release(dataset: Dataset, name: str, strict: bool) -> list[str]:
  """Print whether the counts are those of the release; return the fault in words, if there is one.

  Args:
    dataset: of any source.
    name: of its source.
    strict: whether other counts are a fault.
  """
  if differences := checks.differences(dataset):
    print(f'\nother counts than the release of {name}:\n' + '\n'.join(f'  {text}' for text in differences))
    return ['the counts differ from the release (--config.data.official=False makes this a warning)'] if strict else []
  if dataset.official:
    print(f'\nall counts are those of the release of {name}')
  return []


def _write_metadata(options: dict[str, Any], force: bool) -> None:
  """Write metadata.csv of a folder without it, and print its path, the counts and the remarks.

  Args:
    options: of the data set, with its name.
    force: replace the file.

  Raises:
    UserError: the file exists, the folder cannot be read as a folder for each class, or a row cannot be written.
  """
  name = options.pop('name')
  if name != 'folder':
    raise UserError(f'--write-metadata is for --config=folder, and {name} has lists of its own: leave it out.')
  path = local_path(options['dir'], 'data.dir') / class_folders.METADATA
  if path.exists() and not force:
    raise UserError(f'{path} exists: edit it, move it away, or replace it with --force.')
  if path.exists() and options['layout'] == 'auto':
    options['layout'] = layouts.recognise(path.parent)
  dataset = data_sets.read(name, options)
  if dataset.table is None or dataset.table.is_array_record:
    raise UserError(f'{path.parent} holds prepared data, which have their labels: --write-metadata is for image files.')
  text, advice = class_folders.as_checked_csv(dataset.table, path)
  try:
    files.write_text(path, text)
  except OSError as error:
    raise UserError(f'{path} cannot be written ({error.strerror}): make the folder writable.') from None
  print(tables.counts_table(dataset))
  print('\n' + '\n'.join(dataset.remarks))
  rows = sum(split.count for split in dataset.splits.values())
  print(f'\n{rows:,} rows in {path}, which is read from now on.{advice}')
