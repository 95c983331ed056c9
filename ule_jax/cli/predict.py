"""Classification of images: `python -m ule_jax.predict --run=runs/first --input=photos`."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from etils import epy
from jaxtyping import Float

from ule_jax.cli.arguments import Cache, Directory, File, Run, Threads
from ule_jax.errors import UserError
from ule_jax.paths import local_path, output_path

if TYPE_CHECKING:
  from ule_jax.deploy.finished import LoadedRun

with epy.lazy_imports():  # jax takes seconds to import: help and errors of the command line come before it
  import numpy as np

  from ule_jax import data
  from ule_jax.data import feature_files
  from ule_jax.deploy import finished
  from ule_jax.deploy import predict as deployed
  from ule_jax.runs import files, workdir


def predict(
  *,
  run: Run,
  input: Annotated[str, Parameter(metavar='PATH')],
  out: File = 'predictions.csv',
  saliency: Directory = '',
  on_bad_image: Literal['fail', 'skip'] = 'fail',
  threads: Threads = 2,
  compilation_cache: Cache = 'default',
) -> None:
  """Classify images with the network that a finished run deploys.

  For example:

    python -m ule_jax.predict --run=runs/first --input=photos --out=predictions.csv
    python -m ule_jax.predict --run=runs/first --input=one.jpg --saliency=looks

  Images are prepared exactly as the run evaluated its own, and its training data need not be there.
  All images are decoded before the first is classified, so that nothing is lost if one cannot be.
  The CSV file has a row per image in sorted order: filename, prediction, probability_<class>... It
  prints how many images are of which class.

  Of a run on embeddings, --input is a file of features (.npy .npz .safetensors .parquet) of the same
  encoder, and a row is named by its id, or its number from 0 on.

  Files with other endings than these are passed over and counted: jpg jpeg jpe jfif png apng bmp dib
  gif tif tiff webp avif jp2 j2k jpx ppm pgm pbm pnm.

  Args:
    input: an image, or a folder of images at any depth; of a run on embeddings a file of features.
    out: the CSV file.
    saliency: folder for a PNG of each image, with a map over it of where each network's output changes with its pixels.
    on_bad_image: end if an image cannot be decoded, or give such images rows without a prediction.
  """
  directory, path = local_path(run, '--run'), output_path(out, '--out')
  pictures = output_path(saliency, '--saliency') if saliency else None
  loaded = finished.load_run(directory, threads, compilation_cache)
  config, results = loaded.config, loaded.results
  classes = results['classes']
  if data.holds_features(config.data.name):
    predict_features(loaded, local_path(input, '--input'), path, (saliency, on_bad_image))
    return
  listing = deployed.find(local_path(input, '--input'))
  decoding = data.input_spec(config.data.name, config.data).decoding
  skip = on_bad_image == 'skip'
  advice = deployed.ADVICE if skip else deployed.ADVICE + deployed.OR_SKIP
  read = deployed.reader(listing.root, decoding, workdir.lacks(directory, 'data.white'), advice=advice)
  with writing(path) as file:
    bad = deployed.scan(listing, read, decoding, skip)
    good = [name for name in listing.names if name not in bad]
    predictions = deployed.predict(loaded.restored, read, good, draw=pictures is not None)
    counts = write_rows(csv.writer(file), listing.names, bad, classes, predictions, pictures)
  without = [f'{len(bad):,} without a prediction'] if bad else []
  print(f'{len(listing.names):,} images: ' + ', '.join([*(f'{counts[name]:,} {name}' for name in classes), *without]))
  for text in listing.passed_over:
    print(text)
  print(f'predictions: {path}' + (f'\nsaliency: {pictures}' if pictures is not None else ''))


def write_rows(
  writer: Any,
  names: Sequence[str],
  bad: Collection[str],
  classes: Sequence[str],
  predictions: Iterator[tuple[str, np.ndarray, Any]],
  pictures: Path | None,
) -> Counter[str]:
  """Write the rows of images, and their pictures; return the number of images of each predicted class.

  Args:
    writer: of the CSV file.
    names: of all images.
    bad: of those that cannot be decoded, whose rows have no prediction.
    classes: their names.
    predictions: (name, probabilities, picture) of the other images, in the order of `names`.
    pictures: folder of the pictures; None without them.
  """
  counts: Counter[str] = Counter()
  writer.writerow(header(classes))
  for name in names:
    if name in bad:
      writer.writerow([name, '', *('' for _ in classes)])
      continue
    _, chances, picture = next(predictions)
    counts[classes[int(chances.argmax())]] += 1
    writer.writerow(row(name, chances, classes))
    if pictures is not None and picture is not None:
      deployed.draw(pictures / f'{name}.png', picture)
  return counts


def predict_features(run: LoadedRun, source: Path, path: Path, of_images: tuple[str, str]) -> None:
  """Classify the features of a file with the network of a run on features.

  Args:
    run: on features.
    source: the file of features.
    path: of the CSV file.
    of_images: --saliency and --on-bad-image, which are for images.

  Raises:
    UserError: a flag is for images, or the features cannot be used.
  """
  if of_images != ('', 'fail'):
    flag = '--saliency' if of_images[0] else '--on-bad-image'
    raise UserError(f'{flag} is for images, and {run.directory} was trained on features: leave it out.')
  features = feature_files.read(source)
  restored = run.restored
  classes, counts = restored.classes, Counter()
  dataset = deployed.of_features(features, restored)
  with writing(path) as file:
    writer = csv.writer(file)
    writer.writerow(header(classes))
    for name, chances, _ in deployed.predict_examples(restored, dataset):
      counts[classes[int(chances.argmax())]] += 1
      writer.writerow(row(name, chances, classes))
  print(f'{counts.total():,} rows of features: ' + ', '.join(f'{counts[name]:,} {name}' for name in classes))
  print(f'predictions: {path}')


@contextmanager
def writing(path: Path) -> Iterator[IO[str]]:
  """Open a text file that replaces `path`, whose folders are created, when the block ends without an error.

  Raises:
    UserError: it cannot be written.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
      files.write_atomic(path) as file,
      # Names of files may be any bytes.
      io.TextIOWrapper(file, newline='', encoding='utf-8', errors='surrogateescape') as text,  # pyright: ignore[reportArgumentType] a raw file is enough, as TextIOWrapper only writes
    ):
      yield text
  except OSError as error:
    raise UserError(f'{path} cannot be written ({error.strerror}): choose another --out.') from None


def header(classes: Sequence[str]) -> list[str]:
  """Return the names of the columns of the CSV file."""
  return ['filename', 'prediction', *(f'probability_{name}' for name in classes)]


def row(name: str, chances: Float[np.ndarray, 'k'], classes: Sequence[str]) -> list[str]:
  """Return the row of an example.

  Args:
    name: of the example.
    chances: probability of each class.
    classes: their names.
  """
  return [name, classes[int(chances.argmax())], *(f'{chance:.6f}' for chance in chances)]
