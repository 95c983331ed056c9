"""Predictions of a finished run for images of any folder."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from etils import epy
from jaxtyping import Float

from ule_jax.data import Dataset, Split, arrays
from ule_jax.data.checks import remarks, scan_images
from ule_jax.data.decoding import Decoded, Decoding, has_changed, may_have_changed, read
from ule_jax.data.feature_files import FeatureFile
from ule_jax.data.listing import SUFFIXES, walk
from ule_jax.errors import UserError

if TYPE_CHECKING:
  from ule_jax.runs.restore import Restored

with epy.lazy_imports():  # jax takes seconds to import: --help and errors of the command line come before it
  import jax

  from ule_jax.data import pipeline
  from ule_jax.devices import mesh
  from ule_jax.explain import photographs, saliency
  from ule_jax.report import panels, pictures, sheet

log = logging.getLogger(__name__)

LONGEST = 1024  # pixels of the longer side of a photograph in a picture; larger ones are shrunk

SPLIT = 'input'

ADVICE = 'take it out of the input'

OR_SKIP = ', or give it a row without a prediction with --on-bad-image=skip'

SHOWN = 12  # endings that a line lists, and characters of each


class Listing(NamedTuple):
  """The files below a folder.

  Attributes:
    root: the folder.
    names: of its images relative to `root`, sorted.
    others: ending -> number of files that are passed over.
  """

  root: Path
  names: list[str]
  others: Counter[str]

  @property
  def passed_over(self) -> list[str]:
    """A sentence for each kind of file that is passed over."""
    count = self.others.total()
    if not count:
      return []
    kind = 'file with another ending was' if count == 1 else 'files with other endings were'
    return [f'{count:,} {kind} passed over: {endings(self.others)}']


def draw(path: Path, picture: np.ndarray) -> None:
  """Write a picture as PNG, and create its folder.

  Args:
    path: of the file.
    picture: uint8 [h w 3].

  Raises:
    UserError: it cannot be written.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pictures.to_png(picture))
  except OSError as error:
    raise UserError(f'{path} cannot be written ({error.strerror}): choose another --saliency.') from None


def find(path: Path) -> Listing:
  """List the images of a folder at any depth, or the one at `path`.

  Raises:
    UserError: there is none, or a folder cannot be read.
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
  """Format endings of files, the most frequent ones if there are many."""
  frequent = sorted(others, key=lambda ending: (-others[ending], ending))[:SHOWN]
  named = sorted(repr(ending)[1:-1][:SHOWN] or '(none)' for ending in frequent)
  more = f' and {len(others) - SHOWN} more' if len(others) > SHOWN else ''
  return ' '.join(named) + more


def scan(listing: Listing, look: Callable[[str], Decoded], decoding: Decoding, skip: bool) -> set[str]:
  """Decode every image once, with warnings as for a data set; return the names of those that cannot be decoded.

  Args:
    listing: of the images.
    look: of `reader`.
    decoding: of the run.
    skip: warn of images that cannot be decoded instead of raising.

  Raises:
    UserError: an image cannot be decoded; with `skip`, no image can.
  """
  seen = scan_images(split_of_files(look, listing.names))
  bad = seen.bad
  for text in remarks([seen], decoding):
    log.warning(text)
  if not bad:
    return set()
  first, count = next(iter(bad.values())), len(listing.names)
  if not skip:
    raise UserError(first + (f' {len(bad) - 1:,} more of {count:,} cannot.' if len(bad) > 1 else ''))
  if len(bad) == count:
    raise UserError(f'no image of the input can be decoded: {first}')
  log.warning(f'{len(bad):,} of {count:,} images have no prediction, the first: {first}')
  return {listing.names[i] for i in bad}


def predict(
  run: Restored, look: Callable[[str], Decoded], files: Sequence[str], draw: bool = False
) -> Iterator[tuple[str, Float[np.ndarray, 'k'], np.ndarray | None]]:
  """Yield the predictions of image files, as `predict_examples`.

  Args:
    run: whose deployed network predicts.
    look: of `reader`.
    files: names of images.
    draw: make the pictures: the image, and the saliency of each network over it.

  Raises:
    UserError: an image cannot be decoded, or its logits are not finite.
  """
  return predict_examples(run, of_files(run, look, files), look if draw else None)


def predict_examples(
  run: Restored, dataset: Dataset, look: Callable[[str], Decoded] | None = None
) -> Iterator[tuple[str, Float[np.ndarray, 'k'], np.ndarray | None]]:
  """Yield (name, probabilities [k], picture of the saliency or None) of each example, in order.

  Args:
    run: whose deployed network predicts.
    dataset: of `of_files` or `of_features`.
    look: of `reader`, where pictures are made.

  Raises:
    UserError: an image cannot be decoded, or its logits are not finite.
  """
  deployed, inputs = run.roles[-1], dataset.splits[SPLIT]
  forward = jax.jit(run.forward())
  gradients_of = saliency.make_saliency_step(run.model, run.preprocess, run.roles, run.scalar) if look else None
  box = photographs.visible_box(run.input_spec.eval_transform) if look else None
  size = min(run.batch_size, -(-inputs.count // run.mesh.size) * run.mesh.size)
  for batch in pipeline.eval_batches(dataset, SPLIT, batch_size=size, threads=run.config.loader.threads):
    image = mesh.shard_batch(batch['image'], run.mesh)
    chances = np.asarray(jax.nn.softmax(forward(run.variables(deployed), image)))
    maps, answers = {}, {}
    if gradients_of is not None:
      gradients, _, _ = gradients_of(*run.networks, image, chances.argmax(1).astype(np.int32))
      maps = {role: np.linalg.norm(np.asarray(g, np.float32), axis=-1) for role, g in gradients.items()}
      answers = {role: np.asarray(jax.nn.softmax(forward(run.variables(role), image))) for role in run.roles}
    for row in np.flatnonzero(batch['weight'] > 0).tolist():
      name = inputs.name(int(batch['index'][row]))
      if not np.isfinite(chances[row]).all():
        raise UserError(f'the logits of {deployed} are not finite for {name}: choose a run whose network is.')
      picture = None
      if look and box:
        photograph = look(name).pixels
        answered = {role: (values[row], maps[role][row]) for role, values in answers.items()}
        picture = _sheet(run, name, pictures.scaled(photograph, LONGEST), box(*photograph.shape[:2]), answered)
      yield name, chances[row], picture


def _sheet(
  run: Restored, name: str, photograph: np.ndarray, box: photographs.Box, answers: dict[str, tuple[np.ndarray, ...]]
) -> np.ndarray:
  """Draw a photograph and each network's map over it, with its answer.

  Args:
    run: whose networks answered.
    name: of the file.
    photograph: uint8 [h w 3].
    box: the part of the photograph that the networks see.
    answers: role -> probabilities [k], map [h w].
  """
  tiles = [sheet.Tile(photograph, sheet.one_line(name))]
  for chances, values in answers.values():
    caption = f'{run.classes[chances.argmax()]}, {100 * chances.max():.0f}\xa0%'
    tiles.append(sheet.Tile(pictures.overlay(photograph, values, box), caption))
  headings = [panels.heading(run.config.method.name, run.roles, role) for role in run.roles]
  return sheet.draw(['photograph', *headings], [tiles])


def of_files(run: Restored, look: Callable[[str], Decoded], files: Sequence[str]) -> Dataset:
  """Return a data set of image files without labels, with the input contract of a run.

  Args:
    run: as in `predict`.
    look: of `reader`.
    files: names of images.
  """
  split = split_of_files(look, files)
  return Dataset({SPLIT: split}, run.classes, (), train_transform=None, **run.input_spec._asdict())


def of_features(features: FeatureFile, run: Restored) -> Dataset:
  """Return a data set of the features of a file without labels.

  Args:
    features: whose rows are named by a column `id` in the file, or in a table beside it.
    run: as in `predict`.

  Raises:
    UserError: the features are of another width than those of the run.
  """
  x, listing = features
  (width,) = run.input_spec.image_shape
  if x.shape[1] != width:
    raise UserError(
      f'{listing.path} has {x.shape[1]:,} features a row, and the run was trained on {width:,}: encode it with the '
      'same encoder.'
    )
  rows = arrays.Rows(x, np.full(len(x), -1), names=listing.names)
  return arrays.from_rows({SPLIT: rows}, run.classes, standardise=False)


def split_of_files(look: Callable[[str], Decoded], files: Sequence[str]) -> Split:
  """Return a split of image files without labels; arguments as in `of_files`."""
  unknown = np.full(len(files), -1, np.int32)

  def decode(i: int) -> Decoded:
    return look(files[i])

  def name(i: int) -> str:
    return files[i]

  return Split(unknown, unknown, lambda i: decode(i).pixels, name, look=decode)


def reader(root: Path, decoding: Decoding, older: bool, advice: str = ADVICE) -> Callable[[str], Decoded]:
  """Return the function that decodes an image by its name; it raises a UserError if that is not possible.

  Args:
    root: folder of the images.
    decoding: of the run.
    older: mark images whose pixels differ from those of runs recorded before there was data.white.
    advice: end of the error's sentence.
  """

  def look(name: str) -> Decoded:
    path = root / name
    try:
      if path.exists() and not path.is_file():  # reading a pipe would block
        raise OSError(None, 'it is no regular file')
      encoded = path.read_bytes()
    except OSError as error:
      raise UserError(f'image {name} cannot be read ({error.strerror}): {advice}.') from None
    image = read(encoded, name, advice, decoding)
    return image._replace(changed=older and may_have_changed(encoded) and has_changed(encoded, image.pixels))

  return look
