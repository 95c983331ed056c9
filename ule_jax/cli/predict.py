"""Classify images: `python -m ule_jax.predict --run=runs/first --input=photos`."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence

from etils import epy

from ule_jax import data
from ule_jax.cli.flags import read
from ule_jax.data import ON_BAD_IMAGE
from ule_jax.data.listing import SUFFIXES
from ule_jax.deploy.predict import ADVICE, OR_SKIP, draw, find, predict, reader, scan, writing
from ule_jax.errors import UserError, unknown
from ule_jax.paths import local_path, output_path
from ule_jax.runs import recorded, workdir

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  from ule_jax.runs import restore

USAGE = f"""\
Classify images with the network that a finished run deploys, prepared exactly as the run evaluated its own.

  python -m ule_jax.predict --run=runs/first --input=photos --out=predictions.csv
  python -m ule_jax.predict --run=runs/first --input=one.jpg --saliency=looks     also a picture of what it looks at

  --run=DIR        the --workdir of a run that is done; its training data need not be there
  --input=PATH     an image, or a folder of images at any depth; files with other endings are passed over and counted
                   ({' '.join(s[1:] for s in SUFFIXES)})
  --out=FILE       a row per image in sorted order: filename, prediction, probability_<class>... (default
                   predictions.csv)
  --saliency=DIR   for each image, a PNG of it and of where the output of each network changes with its pixels
  --on-bad-image=fail|skip
                   all images are decoded before the first is classified: end if one cannot be, so that nothing is
                   lost (fail, the default), or give such images rows without a prediction (skip)
{recorded.FLAGS_USAGE}

Exit codes: 0 done, 2 usage or data, 1 a defect of ule_jax."""


def main(argv: Sequence[str]) -> None:
  """Write the predictions and print how many images are of which class."""
  known = {'run': '', 'input': '', 'out': 'predictions.csv', 'saliency': '', 'on-bad-image': 'fail', **recorded.FLAGS}
  flags = read(argv, USAGE, known).values
  for name in ('run', 'input'):
    if not flags[name]:
      raise UserError(f'give --{name}; see --help.')
  if flags['on-bad-image'] not in ON_BAD_IMAGE:
    raise unknown('--on-bad-image', flags['on-bad-image'], ON_BAD_IMAGE)
  directory, out = local_path(flags['run'], '--run'), output_path(flags['out'], '--out')
  looks = output_path(flags['saliency'], '--saliency') if flags['saliency'] else None
  listing = find(local_path(flags['input'], '--input'))
  config, results = recorded.read_run(directory)
  decoding, classes = data.input_spec(config.data.name, config.data.to_dict()).decoding, results['classes']
  skip = flags['on-bad-image'] == 'skip'
  look = reader(
    listing.root, decoding, workdir.lacks(directory, 'data.white'), advice=ADVICE if skip else ADVICE + OR_SKIP
  )
  counts: Counter[str] = Counter()
  with writing(out) as file:
    bad = scan(listing, look, decoding, skip)
    run = restore.restore(directory, flags)
    good = [name for name in listing.names if name not in bad]
    predicted = predict(run, look, good, draw=looks is not None)
    writer = csv.writer(file)
    writer.writerow(['filename', 'prediction', *(f'probability_{name}' for name in classes)])
    for name in listing.names:
      if name in bad:
        writer.writerow([name, '', *('' for _ in classes)])
        continue
      _, chances, picture = next(predicted)
      predicted_class = classes[int(chances.argmax())]
      counts[predicted_class] += 1
      writer.writerow([name, predicted_class, *(f'{chance:.6f}' for chance in chances)])
      if looks is not None:
        draw(looks / f'{name}.png', picture)
  without = [f'{len(bad):,} without a prediction'] if bad else []
  print(f'{len(listing.names):,} images: ' + ', '.join([*(f'{counts[name]:,} {name}' for name in classes), *without]))
  for text in listing.passed_over:
    print(text)
  print(f'predictions: {out}' + (f'\nsaliency: {looks}' if looks is not None else ''))
