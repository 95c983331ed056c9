"""Classify images with a finished run: `python -m ule_jax.predict --run=runs/first --input=photos`."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from etils import epy
from jaxtyping import Float

from ule_jax import cli, console, recorded
from ule_jax.data import ON_BAD_IMAGE, Dataset, Split
from ule_jax.data.checks import bad_images
from ule_jax.data.records import SUFFIXES
from ule_jax.data.transforms import decode
from ule_jax.errors import UserError, unknown

if TYPE_CHECKING:
  from ule_jax.restore import Restored

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  import jax

  from ule_jax import restore, sharding
  from ule_jax.data import pipeline
  from ule_jax.evaluate import saliency
  from ule_jax.report import pictures

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

SIDE = 192  # pixels, about, of a picture of saliency
SPLIT = 'input'
ADVICE = 'take it out of the input'
OR_SKIP = ', or give it a row without a prediction with --on-bad-image=skip'
SHOWN = 12  # endings that a line names, and characters of one
COMPANION_FOLDERS = {'__MACOSX', '.AppleDouble', '@eaDir'}  # of macOS in archives, on network drives, and of Synology


class Listing(NamedTuple):
  """What lies below a folder: the names of its images, sorted, and how many files of which kinds are passed over."""

  root: Path
  names: list[str]
  others: Counter[str]  # by ending
  companions: list[str]

  @property
  def passed_over(self) -> list[str]:
    """A sentence for each kind of file that is passed over."""
    said = []
    if count := self.others.total():
      ended = 'file with another ending was' if count == 1 else 'files with other endings were'
      said.append(f'{count:,} {ended} passed over: {endings(self.others)}')
    if count := len(self.companions):
      were = 'companion file of another system was' if count == 1 else 'companion files of other systems were'
      said.append(f'{count:,} {were} passed over, the first: {self.companions[0]}')
    return said


def main(argv: Sequence[str]) -> None:
  """Write the predictions and print how many images are of which class."""
  known = {'run': '', 'input': '', 'out': 'predictions.csv', 'saliency': '', 'on-bad-image': 'fail', **recorded.FLAGS}
  flags = cli.read(argv, USAGE, known).values
  for name in ('run', 'input'):
    if not flags[name]:
      raise UserError(f'give --{name}; see --help.')
  if flags['on-bad-image'] not in ON_BAD_IMAGE:
    raise unknown('--on-bad-image', flags['on-bad-image'], ON_BAD_IMAGE)
  directory, out = Path(flags['run']), Path(flags['out'])
  looks = Path(flags['saliency']) if flags['saliency'] else None
  listing = find(Path(flags['input']))
  classes = recorded.read_run(directory)[1]['classes']
  counts: Counter[str] = Counter()
  with writing(out) as file:
    bad = scan(listing, skip=flags['on-bad-image'] == 'skip')
    run = restore.restore(directory, flags)
    good = [name for name in listing.names if name not in bad]
    predicted = predict(run, listing.root, good, draw=looks is not None)
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


def draw(path: Path, picture: np.ndarray) -> None:
  """Write a picture and the folder it is in.

  Raises:
    UserError: that is not possible.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pictures.to_png(picture))
  except OSError as error:
    raise UserError(f'{path} cannot be written ({error.strerror}): choose another --saliency.') from None


def find(path: Path) -> Listing:
  """Find the images of a folder at any depth, or take one.

  Raises:
    UserError: there are none, or a folder cannot be read.
  """
  if path.is_file():
    return Listing(path.parent, [path.name], Counter(), [])
  if not path.is_dir():
    raise UserError(f'--input {path} is no image and no folder.')
  listing = Listing(path, [], Counter(), [])
  for name in walk(path):
    ending = PurePath(name).suffix.lower()
    if ending not in SUFFIXES:
      listing.others[ending] += 1
    elif is_companion(name):
      listing.companions.append(name)
    else:
      listing.names.append(name)
  if not listing.names:
    only = f', only files that end on {endings(listing.others)}' if listing.others else ''
    raise UserError(f'{path} holds no image{only}: images end on {" ".join(SUFFIXES)}.')
  return listing


def walk(root: Path) -> Iterator[str]:
  """List the files below a folder, relative to it, sorted as text; each folder once, whatever links lead to it.

  Raises:
    UserError: a folder cannot be read.
  """

  def refuse(error: OSError) -> None:
    raise UserError(f'{error.filename} cannot be read ({error.strerror}): take it out of the input.')

  visited, names = set(), []
  for folder, below, files in os.walk(root, followlinks=True, onerror=refuse):
    found = os.stat(folder)
    if (found.st_dev, found.st_ino) in visited:
      below.clear()
      continue
    visited.add((found.st_dev, found.st_ino))
    below.sort()
    names += [Path(folder, name).relative_to(root).as_posix() for name in files]
  return iter(sorted(names))


def is_companion(name: str) -> bool:
  """Tell whether a file is what another system keeps beside an image, under the ending of that."""
  *folders, file = PurePath(name).parts
  return file.startswith('._') or not COMPANION_FOLDERS.isdisjoint(folders)


def endings(others: Counter[str]) -> str:
  """Lay out the endings of files; of many, the most frequent."""
  frequent = sorted(others, key=lambda ending: (-others[ending], ending))[:SHOWN]
  named = sorted(repr(ending)[1:-1][:SHOWN] or '(none)' for ending in frequent)
  more = f' and {len(others) - SHOWN} more' if len(others) > SHOWN else ''
  return ' '.join(named) + more


def scan(listing: Listing, skip: bool) -> set[str]:
  """Decode every image once; return the names of those that cannot be decoded.

  Args:
    skip: say so, instead of ending.

  Raises:
    UserError: an image cannot be decoded, or, if such are skipped, none can.
  """
  advice = ADVICE if skip else ADVICE + OR_SKIP
  bad = bad_images(split_of_files(listing.root, listing.names, advice), console.say)
  if not bad:
    return set()
  first, count = next(iter(bad.values())), len(listing.names)
  if not skip:
    raise UserError(first + (f' {len(bad) - 1:,} more of {count:,} cannot.' if len(bad) > 1 else ''))
  if len(bad) == count:
    raise UserError(f'no image of the input can be decoded: {first}')
  console.say(f'warning: {len(bad):,} of {count:,} images have no prediction, the first: {first}')
  return {listing.names[i] for i in bad}


def predict(
  run: Restored, root: Path, files: Sequence[str], draw: bool = False
) -> Iterator[tuple[str, Float[np.ndarray, 'k'], np.ndarray | None]]:
  """Yield (name, probabilities, picture of the saliency) of each image, in order.

  Args:
    root: the folder that `files` are in.
    draw: make the pictures.

  Raises:
    UserError: an image cannot be decoded.
  """
  dataset, deployed = of_files(run, root, files), run.roles[-1]
  forward = jax.jit(run.forward())
  look = saliency.make_saliency_step(run.model, run.preprocess, run.roles, run.scalar) if draw else None
  size = min(run.batch_size, -(-len(files) // run.mesh.size) * run.mesh.size)
  for batch in pipeline.eval_batches(dataset, SPLIT, batch_size=size, threads=run.config.loader.threads):
    image = sharding.shard_batch(batch['image'], run.mesh)
    chances = np.asarray(jax.nn.softmax(forward(run.variables(deployed), image)))
    maps = {}
    if look is not None:
      gradients, _, _ = look(*run.networks, image, chances.argmax(1).astype(np.int32))
      maps = {role: np.linalg.norm(np.asarray(g, np.float32), axis=-1) for role, g in gradients.items()}
    for row in np.flatnonzero(batch['weight'] > 0).tolist():
      shown = [batch['image'][row], *(pictures.colored(maps[role][row]) for role in maps)]
      picture = pictures.beside([pictures.scaled(one, SIDE) for one in shown]) if draw else None
      yield files[int(batch['index'][row])], chances[row], picture


def of_files(run: Restored, root: Path, files: Sequence[str]) -> Dataset:
  """Make a data set of image files, prepared as the run says, without labels."""
  split = split_of_files(root, files)
  return Dataset({SPLIT: split}, run.classes, (), train_transform=None, **run.preparation._asdict())


def split_of_files(root: Path, files: Sequence[str], advice: str = ADVICE) -> Split:
  """Make a split of image files without labels; the advice is about one that cannot be decoded."""
  nothing = np.full(len(files), -1, np.int32)
  return Split(np.maximum(nothing, 0), nothing, _reader(root, files, advice), files.__getitem__)


def _reader(root: Path, files: Sequence[str], advice: str) -> Callable[[int], np.ndarray]:
  def load(i: int) -> np.ndarray:
    path = root / files[i]
    try:
      if path.exists() and not path.is_file():  # a pipe would be waited for
        raise OSError(None, 'it is no regular file')
      encoded = path.read_bytes()
    except OSError as error:
      raise UserError(f'image {files[i]} cannot be read ({error.strerror}): {advice}.') from None
    return decode(encoded, files[i], advice)

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
