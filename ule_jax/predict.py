"""Classify images with a finished run: `python -m ule_jax.predict --run=runs/first --input=photos`."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from ule_jax import cli, sharding
from ule_jax.data import Dataset, Split, pipeline
from ule_jax.data.records import SUFFIXES
from ule_jax.data.transforms import decode
from ule_jax.errors import UserError
from ule_jax.evaluate.saliency import make_saliency_step
from ule_jax.report.pictures import beside, colored, scaled, to_png
from ule_jax.restore import Restored, restore

USAGE = """\
Classify images with the network that a finished run deploys, prepared exactly as the run evaluated its own.

  python -m ule_jax.predict --run=runs/first --input=photos --out=predictions.csv
  python -m ule_jax.predict --run=runs/first --input=one.jpg --saliency=looks     also a picture of what it looks at

  --run=DIR        the --workdir of a run that is done; its training data need not be there
  --input=PATH     an image, or a folder of images at any depth (jpg png bmp gif tif webp)
  --out=FILE       a row per image in sorted order: filename, prediction, probability_<class>... (default
                   predictions.csv)
  --saliency=DIR   for each image, a PNG of it and of where the output of each network changes with its pixels

Exit codes: 0 done, 2 usage or data, 1 a defect of ule_jax."""

SIDE = 192  # pixels, about, of a picture of saliency
SPLIT = 'input'


def main(argv: Sequence[str]) -> None:
  """Write the predictions and print how many images are of which class."""
  flags = cli.read(argv, USAGE, {'run': '', 'input': '', 'out': 'predictions.csv', 'saliency': ''}).values
  for name in ('run', 'input'):
    if not flags[name]:
      raise UserError(f'give --{name}; see --help.')
  root, files = find(Path(flags['input']))
  run, out = restore(Path(flags['run'])), Path(flags['out'])
  looks = Path(flags['saliency']) if flags['saliency'] else None
  counts: Counter[str] = Counter()
  with writing(out) as file:
    writer = csv.writer(file)
    writer.writerow(['filename', 'prediction', *(f'probability_{name}' for name in run.classes)])
    for name, chances, picture in predict(run, root, files, draw=looks is not None):
      found = run.classes[int(chances.argmax())]
      counts[found] += 1
      writer.writerow([name, found, *(f'{chance:.6f}' for chance in chances)])
      if looks is not None:
        draw(looks / f'{name}.png', picture)
  print(f'{len(files):,} images: ' + ', '.join(f'{counts[name]:,} {name}' for name in run.classes))
  print(f'predictions: {out}' + (f'\nsaliency: {looks}' if looks is not None else ''))


def draw(path: Path, picture: np.ndarray) -> None:
  """Write a picture and the folder it is in.

  Raises:
    UserError: that is not possible.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_png(picture))
  except OSError as error:
    raise UserError(f'{path} cannot be written ({error.strerror}): choose another --saliency.') from None


def find(path: Path) -> tuple[Path, list[str]]:
  """Find the images of a folder at any depth, or one; return the folder and the names in it, sorted.

  Raises:
    UserError: there are none.
  """
  if path.is_file():
    return path.parent, [path.name]
  if not path.is_dir():
    raise UserError(f'--input {path} is no image and no folder.')
  names = sorted(
    p.relative_to(path).as_posix() for p in path.rglob('*') if p.suffix.lower() in SUFFIXES and p.is_file()
  )
  if not names:
    raise UserError(f'{path} holds no image ({" ".join(SUFFIXES)}).')
  return path, names


def predict(
  run: Restored, root: Path, files: Sequence[str], draw: bool = False
) -> Iterator[tuple[str, Float[np.ndarray, 'k'], np.ndarray | None]]:
  """Yield (name, probabilities, picture of the saliency) of each image, in order.

  Args:
    root: the folder that `files` are in.
    draw: make the pictures.

  Raises:
    UserError: an image cannot be decoded, or the network gives no finite numbers for it.
  """
  dataset, deployed = of_files(run, root, files), run.roles[-1]
  forward = jax.jit(run.forward())
  look = make_saliency_step(run.model, run.preprocess, run.roles, run.scalar) if draw else None
  size = min(run.batch_size, -(-len(files) // run.mesh.size) * run.mesh.size)
  for batch in pipeline.eval_batches(dataset, SPLIT, batch_size=size, threads=run.config.loader.threads):
    image = sharding.shard_batch(batch['image'], run.mesh)
    chances = np.asarray(jax.nn.softmax(forward(run.variables(deployed), image)))
    maps = {}
    if look is not None:
      gradients, _, _ = look(*run.networks, image, chances.argmax(1).astype(np.int32))
      maps = {role: np.linalg.norm(np.asarray(g, np.float32), axis=-1) for role, g in gradients.items()}
    for row in np.flatnonzero(batch['weight'] > 0).tolist():
      pictures = [batch['image'][row], *(colored(maps[role][row]) for role in maps)]
      picture = beside([scaled(one, SIDE) for one in pictures]) if draw else None
      name = files[int(batch['index'][row])]
      if not np.isfinite(chances[row]).all():
        raise UserError(f'the logits of {deployed} are not finite for {name}: choose a run whose network is.')
      yield name, chances[row], picture


def of_files(run: Restored, root: Path, files: Sequence[str]) -> Dataset:
  """Make a data set of image files, prepared as the run says, without labels."""
  nothing = np.full(len(files), -1, np.int32)
  split = Split(np.maximum(nothing, 0), nothing, _reader(root, files), files.__getitem__)
  return Dataset({SPLIT: split}, run.classes, (), train_transform=None, **run.preparation._asdict())


def _reader(root: Path, files: Sequence[str]) -> Callable[[int], np.ndarray]:
  def load(i: int) -> np.ndarray:
    try:
      encoded = (root / files[i]).read_bytes()
    except OSError as error:
      raise UserError(f'image {files[i]} cannot be read ({error.strerror}): take it out of the input.') from None
    return decode(encoded, files[i], 'take it out of the input')

  return load


@contextmanager
def writing(path: Path) -> Iterator:
  """Open a file for text that is there in the end only if all of it is.

  Raises:
    UserError: it cannot be written.
  """
  partial = path.with_name(f'{path.name}.partial')
  try:
    if path.is_dir():
      raise IsADirectoryError(None, 'it is a folder')
    path.parent.mkdir(parents=True, exist_ok=True)
    # Names of files may be any bytes.
    with partial.open('w', newline='', encoding='utf-8', errors='surrogateescape') as file:
      yield file
    os.replace(partial, path)
  except OSError as error:
    raise UserError(f'{path} cannot be written ({error.strerror}): choose another --out.') from None
  finally:
    partial.unlink(missing_ok=True)


if __name__ == '__main__':
  cli.main(main)
