"""Predictions of a finished run for images of any folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from etils import epy
from jaxtyping import Float

from ule_jax.data import Dataset, Split
from ule_jax.data.checks import remarks, scan_images
from ule_jax.data.decoding import Decoded, Decoding, has_changed, may_have_changed, read
from ule_jax.data.listing import SUFFIXES, walk
from ule_jax.errors import UserError
from ule_jax.runs import progress

if TYPE_CHECKING:
  from ule_jax.runs.restore import Restored

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  import jax

  from ule_jax.data import pipeline
  from ule_jax.devices import mesh
  from ule_jax.explain import saliency
  from ule_jax.report import pictures

SIDE = 192  # pixels, about, of a picture of saliency

SPLIT = 'input'

ADVICE = 'take it out of the input'

OR_SKIP = ', or give it a row without a prediction with --on-bad-image=skip'

SHOWN = 12  # endings that a line names, and characters of one


class Listing(NamedTuple):
  """What lies below a folder: the names of its images, sorted, and how many files of which endings are passed over."""

  root: Path
  names: list[str]
  others: Counter[str]

  @property
  def passed_over(self) -> list[str]:
    """A sentence for each kind of file that is passed over."""
    said = []
    if count := self.others.total():
      ended = 'file with another ending was' if count == 1 else 'files with other endings were'
      said.append(f'{count:,} {ended} passed over: {endings(self.others)}')
    return said


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
    return Listing(path.parent, [path.name], Counter())
  if not path.is_dir():
    raise UserError(f'--input {path} is no image and no folder.')
  listing = Listing(path, [], Counter())
  for name in sorted(below + file for below, files in walk(path) for file in files):
    ending = PurePath(name).suffix.lower()
    if ending not in SUFFIXES:
      listing.others[ending] += 1
    else:
      listing.names.append(name)
  if not listing.names:
    only = f', only files that end on {endings(listing.others)}' if listing.others else ''
    raise UserError(f'{path} holds no image{only}: images end on {" ".join(SUFFIXES)}.')
  return listing


def endings(others: Counter[str]) -> str:
  """Lay out the endings of files; of many, the most frequent."""
  frequent = sorted(others, key=lambda ending: (-others[ending], ending))[:SHOWN]
  named = sorted(repr(ending)[1:-1][:SHOWN] or '(none)' for ending in frequent)
  more = f' and {len(others) - SHOWN} more' if len(others) > SHOWN else ''
  return ' '.join(named) + more


def scan(listing: Listing, look: Callable[[str], Decoded], decoding: Decoding, skip: bool) -> set[str]:
  """Decode every image once and warn of what they have; return the names of those that cannot be decoded.

  Args:
    look: as of `reader`.
    skip: warn of images that cannot be decoded, instead of ending.

  Raises:
    UserError: an image cannot be decoded, or, if such are skipped, none can.
  """
  seen = scan_images(split_of_files(look, listing.names), progress.say)
  bad = seen.bad
  for text in remarks([seen], decoding):
    progress.say(f'warning: {text}')
  if not bad:
    return set()
  first, count = next(iter(bad.values())), len(listing.names)
  if not skip:
    raise UserError(first + (f' {len(bad) - 1:,} more of {count:,} cannot.' if len(bad) > 1 else ''))
  if len(bad) == count:
    raise UserError(f'no image of the input can be decoded: {first}')
  progress.say(f'warning: {len(bad):,} of {count:,} images have no prediction, the first: {first}')
  return {listing.names[i] for i in bad}


def predict(
  run: Restored, look: Callable[[str], Decoded], files: Sequence[str], draw: bool = False
) -> Iterator[tuple[str, Float[np.ndarray, 'k'], np.ndarray | None]]:
  """Yield (name, probabilities, picture of the saliency) of each image, in order.

  Args:
    look: as of `reader`.
    draw: make the pictures.

  Raises:
    UserError: an image cannot be decoded, or the network gives no finite numbers for it.
  """
  dataset, deployed = of_files(run, look, files), run.roles[-1]
  forward = jax.jit(run.forward())
  gradients_of = saliency.make_saliency_step(run.model, run.preprocess, run.roles, run.scalar) if draw else None
  size = min(run.batch_size, -(-len(files) // run.mesh.size) * run.mesh.size)
  for batch in pipeline.eval_batches(dataset, SPLIT, batch_size=size, threads=run.config.loader.threads):
    image = mesh.shard_batch(batch['image'], run.mesh)
    chances = np.asarray(jax.nn.softmax(forward(run.variables(deployed), image)))
    maps = {}
    if gradients_of is not None:
      gradients, _, _ = gradients_of(*run.networks, image, chances.argmax(1).astype(np.int32))
      maps = {role: np.linalg.norm(np.asarray(g, np.float32), axis=-1) for role, g in gradients.items()}
    for row in np.flatnonzero(batch['weight'] > 0).tolist():
      shown = [batch['image'][row], *(pictures.colored(maps[role][row]) for role in maps)]
      picture = pictures.beside([pictures.scaled(one, SIDE) for one in shown]) if draw else None
      name = files[int(batch['index'][row])]
      if not np.isfinite(chances[row]).all():
        raise UserError(f'the logits of {deployed} are not finite for {name}: choose a run whose network is.')
      yield name, chances[row], picture


def of_files(run: Restored, look: Callable[[str], Decoded], files: Sequence[str]) -> Dataset:
  """Make a data set of image files, prepared as the run says, without labels."""
  split = split_of_files(look, files)
  return Dataset({SPLIT: split}, run.classes, (), train_transform=None, **run.preparation._asdict())


def split_of_files(look: Callable[[str], Decoded], files: Sequence[str]) -> Split:
  """Make a split of image files without labels."""
  nothing = np.full(len(files), -1, np.int32)
  return Split(nothing, nothing, lambda i: look(files[i]).pixels, files.__getitem__, look=lambda i: look(files[i]))


def reader(root: Path, decoding: Decoding, older: bool, advice: str = ADVICE) -> Callable[[str], Decoded]:
  """Make the function that reads an image below a folder by its name.

  Args:
    older: the run was recorded before there was data.white: compare the pixels with those of then.
    advice: what to do about an image that cannot be decoded.
  """

  def look(name: str) -> Decoded:
    path = root / name
    try:
      if path.exists() and not path.is_file():  # a pipe would be waited for
        raise OSError(None, 'it is no regular file')
      encoded = path.read_bytes()
    except OSError as error:
      raise UserError(f'image {name} cannot be read ({error.strerror}): {advice}.') from None
    image = read(encoded, name, advice, decoding)
    return image._replace(changed=older and may_have_changed(encoded) and has_changed(encoded, image.pixels))

  return look


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
