"""Labels and splits from the folders that images lie in, where there is no metadata.csv.

  class        cat/1.jpg, dog/7.png
  split_class  train/cat/1.jpg, val/dog/7.png, test/dog/8.png; val may be called valid or validation
  prefix       train/cat_1.jpg, test/dog_7.jpg, or the same without folders of splits: the class is the file's name
               without its ending and its last `_NUMBER`

Images may lie in folders below a class. A val or test that is absent is drawn from train (draw_units.py).
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ule_jax.data.codes import number, refuse_alike
from ule_jax.data.csv_files import Listing, parse_csv
from ule_jax.data.decoding import Decoding
from ule_jax.data.draw_units import draw as draw_splits
from ule_jax.data.layouts import FORMS, Tree, natural, place_of, read_tree, recognise, refuse_empty, split_folders
from ule_jax.data.listing import match_files, read_file
from ule_jax.data.near_duplicates import DISTANCE, units
from ule_jax.data.split_names import of_folder
from ule_jax.data.tables import Table
from ule_jax.errors import UserError, brief

FILES = 'move it, or ignore such files with --config.data.unlisted=ignore'
METADATA = 'metadata.csv'
HEADER = ('filename', 'label', 'split')


class Draw(NamedTuple):
  """Options of the splits that are drawn.

  Attributes:
    shares: split -> its share of train, for those that may be absent.
    seed: of the draw.
    together: one of near_duplicates.TOGETHER.
    decoding: of the images, for near-duplicates.
  """

  shares: Mapping[str, float]
  seed: int
  together: str
  decoding: Decoding


class Images(NamedTuple):
  """Labelled images of a folder.

  Attributes:
    listing: with the column label.
    parts: the split of each image.
    classes: names, in natural order.
    notes: entries for results.json.
    remarks: notes to log.
  """

  listing: Listing
  parts: list[str]
  classes: tuple[str, ...]
  notes: dict[str, Any]
  remarks: tuple[str, ...]


def read_images(root: Path, layout: str, unlisted: str, classes: Sequence[str], draw: Draw) -> Images:
  """List the images of a folder with their labels and splits; only near-duplicates are decoded for that.

  Args:
    root: the folder.
    layout: one of LAYOUTS.
    unlisted: `fail`, or `ignore` image files that are in no class.
    classes: all names of classes, in their order; () uses those of the folders.
    draw: options of the splits that are drawn.

  Raises:
    UserError: the layout is not recognised, an image is in no class, a folder of a class is empty, or a class has too
      few images.
  """
  tree = read_tree(root)
  layout = recognise(root, tree) if layout == 'auto' else layout
  splits = {} if layout == 'class' else split_folders(root)
  if layout == 'split_class' and not splits:
    raise UserError(f'{root} has no folder train, which data.layout=split_class needs: choose class, prefix or auto.')
  places = [place_of(name, layout, splits) for name in tree.images]
  outside = [name for name, place in zip(tree.images, places, strict=True) if not place]
  names = [name for name, place in zip(tree.images, places, strict=True) if place]
  if outside and (unlisted == 'fail' or not names):
    images = f'{len(outside):,} images in {root} are' if outside[1:] else f'an image in {root} is'
    remedy = FILES if names else 'set another --config.data.layout, or write metadata.csv'
    raise UserError(f'{images} not of the form {FORMS[layout]}, the first is {brief(outside[0])}: {remedy}.')
  if not names:
    raise UserError(f'{root} has no image: point --config.data.dir at a folder of images.')
  refuse_empty(root, layout, splits, tree.images)
  parts, labels = (list(values) for values in zip(*filter(None, places), strict=True))
  listing = Listing(root, names, lambda row: f'folder {brief(os.path.dirname(names[row]) or ".")}', {'label': labels})
  if not classes:
    refuse_alike(listing, 'label', dict.fromkeys(labels))
  known = tuple(classes) or tuple(sorted(set(labels), key=natural))
  unread = 'its metadata.csv is not read' if (root / METADATA).exists() else 'it has no metadata.csv'
  remarks = [f'the files of {root} are read as {FORMS[layout]} (data.layout={layout}; {unread}).']
  drawn, drawn_remarks = _draw(listing, parts, known, draw)
  remarks += drawn_remarks + _absent(parts, labels, known) + _ignored(root, tree, outside)
  return Images(listing, parts, known, {'layout': layout, **drawn}, tuple(remarks))


def beside_csv(listing: Listing) -> tuple[str, ...]:
  """Format a remark if images that metadata.csv lists lie in folders that look like splits or classes."""
  tops = {name.partition('/')[0] for name in listing.names if '/' in name}
  labels = set(listing.columns['label'])
  if tops and (all(map(of_folder, tops)) or labels <= tops):
    return (f'{listing.path} is read, and the folders beside it give neither labels nor splits.',)
  return ()


def as_csv(table: Table) -> str:
  """Return the splits and labels of a table as the text of a metadata.csv."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(HEADER)
  for part, rows in table.parts.items():
    labels = np.asarray(rows.columns['label']).tolist()
    writer.writerows((name, table.names['label'][code], part) for name, code in zip(rows.names, labels, strict=True))
  return text.getvalue()


def as_checked_csv(table: Table, path: Path) -> tuple[str, str]:
  """Return the text of a metadata.csv that is read as the table, and advice on the order of its classes, or ''.

  Args:
    table: of files in the folder of `path`.
    path: of the file that will have the text, for messages.

  Raises:
    UserError: a name of a file or class cannot be a value of the list.
  """
  text, classes = as_csv(table), table.names['label']
  for name in (*classes, *(name for rows in table.parts.values() for name in rows.names)):
    if name != name.strip() or len(name.splitlines()) > 1:
      raise UserError(f"{path} cannot list '{brief(name)}', with a blank at its end or a line break: rename it.")
  try:
    listing = parse_csv(path, text, HEADER[0], HEADER[1:])
    match_files(listing, path.parent, 'ignore')
  except UserError as error:
    raise UserError(f'{path} would not be read ({str(error).rstrip(".")}): rename that file or folder.') from None
  try:
    is_same = number(listing, 'label').names == classes
  except UserError:
    is_same = False
  return text, '' if is_same else f' Give its classes in their order: --config.data.classes="{classes}".'


def _draw(listing: Listing, parts: list[str], classes: Sequence[str], draw: Draw) -> tuple[dict[str, Any], list[str]]:
  """Draw the splits that are absent, in place; return notes and remarks.

  Raises:
    UserError: a class has too few images.
  """
  shares = {split: share for split, share in draw.shares.items() if split not in parts}
  if not shares:
    return {}, []
  root, pool = listing.path, [row for row, part in enumerate(parts) if part == 'train']
  names = [listing.names[row] for row in pool]
  code = {name: index for index, name in enumerate(classes)}
  labels = [listing.columns['label'][row] for row in pool]
  if strangers := [label for label in labels if label not in code]:
    choices = brief(', '.join(classes), 300)
    raise UserError(f"{root} has the class '{brief(strangers[0])}' instead of one of {choices} (data.classes).")
  unit = units(names, draw.together, lambda i: read_file(root / names[i]), draw.decoding)
  drawn = draw_splits(names, np.array([code[label] for label in labels]), classes, shares, draw.seed, unit)
  for row, part in zip(pool, drawn, strict=True):
    parts[row] = part
  counts = {split: drawn.count(split) for split in shares}
  text = ' and '.join(f'{count:,} for {split}' for split, count in counts.items())
  remarks = [
    f'{root} has no {" and no ".join(shares)}: {text} of the {len(pool):,} images of train are drawn, stratified by '
    f'class, by data.split_seed={draw.seed}; they have the shortcuts of train, so that a high accuracy on them rules '
    'none out.'
  ]
  if unit is not None:
    sizes = Counter(Counter(unit.tolist()).values())
    several = {size: count for size, count in sizes.items() if size > 1}
    bits = '' if draw.together == 'names' else f'; near-duplicates differ in at most {DISTANCE} of 128 bits'
    largest = max(several, default=0)
    sets = f'{sum(several.values()):,} sets of images, the largest of {largest:,},' if several else 'no two images'
    remarks.append(f'{sets} are kept in one split (data.together={draw.together}{bits}).')
  return {'drawn': {**shares, 'split_seed': draw.seed, 'together': draw.together, 'images': counts}}, remarks


def _absent(parts: Sequence[str], labels: Sequence[str], classes: Sequence[str]) -> list[str]:
  """Format a remark for each split that lacks classes of train."""
  present: dict[str, set[str]] = {}
  for part, label in zip(parts, labels, strict=True):
    present.setdefault(part, set()).add(label)
  remarks = []
  for part, there in present.items():
    lacking = [name for name in classes if name not in there]
    if lacking and part != 'train':
      more = f' and of {len(lacking) - 1:,} more classes' if lacking[1:] else ''
      remarks.append(f"{part} has no image of the class '{brief(lacking[0])}'{more}.")
  return remarks


def _ignored(root: Path, tree: Tree, outside: Sequence[str]) -> list[str]:
  """Format a remark with the number of files that are not read."""
  kinds = {
    'images in no class': outside,
    'files that do not end as an image does': [name for name in tree.others if name != METADATA],
    'hidden files and those of operating systems': tree.companions,
  }
  ignored = [
    f'{kind} ({len(names):,}: {brief(names[0])}{" ..." if names[1:] else ""})' for kind, names in kinds.items() if names
  ]
  return [f'{root}: ignored are {", ".join(ignored)}.'] if ignored else []
