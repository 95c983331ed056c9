"""Classification of images: `python -m ule_jax.predict --run=runs/first --input=photos`."""

from __future__ import annotations

import csv
from collections import Counter
from typing import Annotated, Literal

from cyclopts import Parameter
from etils import epy

from ule_jax.cli.arguments import Cache, Directory, File, Run, Threads
from ule_jax.paths import local_path, output_path

with epy.lazy_imports():  # jax takes seconds to import: help and errors of the command line come before it
  from ule_jax import data
  from ule_jax.deploy import finished
  from ule_jax.deploy import predict as deployed
  from ule_jax.runs import workdir


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

  Files with other endings than these are passed over and counted: jpg jpeg jpe jfif png apng bmp dib
  gif tif tiff webp avif jp2 j2k jpx ppm pgm pbm pnm.

  Args:
    input: an image, or a folder of images at any depth.
    out: the CSV file.
    saliency: folder for a PNG of each image, with a map over it of where each network's output changes with its pixels.
    on_bad_image: end if an image cannot be decoded, or give such images rows without a prediction.
  """
  directory, path = local_path(run, '--run'), output_path(out, '--out')
  pictures = output_path(saliency, '--saliency') if saliency else None
  listing = deployed.find(local_path(input, '--input'))
  loaded = finished.load_run(directory, threads, compilation_cache)
  config, results = loaded.config, loaded.results
  decoding, classes = data.input_spec(config.data.name, config.data).decoding, results['classes']
  skip = on_bad_image == 'skip'
  advice = deployed.ADVICE if skip else deployed.ADVICE + deployed.OR_SKIP
  read = deployed.reader(listing.root, decoding, workdir.lacks(directory, 'data.white'), advice=advice)
  counts: Counter[str] = Counter()
  with deployed.writing(path) as file:
    bad = deployed.scan(listing, read, decoding, skip)
    restored = loaded.restored
    good = [name for name in listing.names if name not in bad]
    predictions = deployed.predict(restored, read, good, draw=pictures is not None)
    writer = csv.writer(file)
    writer.writerow(['filename', 'prediction', *(f'probability_{name}' for name in classes)])
    for name in listing.names:
      if name in bad:
        writer.writerow([name, '', *('' for _ in classes)])
        continue
      _, chances, picture = next(predictions)
      predicted_class = classes[int(chances.argmax())]
      counts[predicted_class] += 1
      writer.writerow([name, predicted_class, *(f'{chance:.6f}' for chance in chances)])
      if pictures is not None and picture is not None:
        deployed.draw(pictures / f'{name}.png', picture)
  without = [f'{len(bad):,} without a prediction'] if bad else []
  print(f'{len(listing.names):,} images: ' + ', '.join([*(f'{counts[name]:,} {name}' for name in classes), *without]))
  for text in listing.passed_over:
    print(text)
  print(f'predictions: {path}' + (f'\nsaliency: {pictures}' if pictures is not None else ''))
