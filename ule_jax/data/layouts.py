"""Layouts of images in folders: recognised by the names of the folders, checked, and an image's place in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ule_jax.data.listing import SUFFIXES, is_companion, walk
from ule_jax.data.split_names import of_folder
from ule_jax.errors import UserError, brief

LAYOUTS = ('auto', 'class', 'split_class', 'prefix')
FORMS = {
  'class': 'CLASS/*.jpg', 'split_class': 'SPLIT/CLASS/*.jpg', 'prefix': 'SPLIT/CLASS_NUMBER.jpg or CLASS_NUMBER.jpg',
}  # fmt: skip


class Tree(NamedTuple):
  """The files below a folder, as sorted paths relative to it.

  Attributes:
    images: files that end as an image does.
    others: further files.
    companions: names of hidden files and folders, and of those that operating systems write.
  """

  images: list[str]
  others: list[str]
  companions: list[str]


def natural(name: str) -> tuple[list[Any], str]:
  """Return a sort key in which numbers inside names count as numbers.

  >>> sorted(['class10', 'class2', '10', '9'], key=natural)
  ['9', '10', 'class2', 'class10']
  """
  return [int(text) if i % 2 else text for i, text in enumerate(re.split(r'(\d+)', name))], name


def recognise(root: Path, tree: Tree | None = None) -> str:
  """Return the layout of a folder: `class`, or `split_class` if its folders are called train, val and test.

  Raises:
    UserError: it may be either, or has neither.
  """
  tree = tree or read_tree(root)
  tops = _folders(root)
  filled = {name.partition('/')[0] for name in tree.images if '/' in name}
  if not filled:
    raise UserError(
      f'{root} has no metadata.csv and no images in a folder for each class: move the images of each class into a '
      'folder, or write metadata.csv with the columns filename, label, split.'
    )
  splits = [top for top in tops if of_folder(top)]
  if not splits:
    _refuse_nested(root, tree, sorted(filled))
    return 'class'
  others = sorted(filled - set(splits))
  if others or not any(of_folder(top) == 'train' for top in splits):
    beside = f'{brief(splits[0])} beside {brief(others[0])}' if others else f'{brief(splits[0])}, and no folder train'
    raise UserError(
      f'{root} has a folder {beside}: if all of its folders are classes, set --config.data.layout=class; otherwise '
      f'{"move the folder away that is no split" if others else "name the folder of the training images train"}.'
    )
  train = next(root / top for top in splits if of_folder(top) == 'train')
  if not _folders(train):
    raise UserError(
      f'{train} has no folder for each class: if the names of its files are CLASS_NUMBER, set '
      '--config.data.layout=prefix.'
    )
  return 'split_class'


def read_tree(root: Path) -> Tree:
  """List the files below a folder.

  Raises:
    UserError: a folder cannot be read, or the name of an image is not UTF-8.
  """
  tree = Tree([], [], [])
  for below, files in walk(root, tree.companions):
    for name in files:
      (tree.images if name.lower().endswith(SUFFIXES) else tree.others).append(below + name)
  tree.images.sort()
  tree.others.sort()
  try:
    '\n'.join(tree.images).encode()
  except UnicodeEncodeError as error:  # lists of images are text in UTF-8
    name = '\n'.join(tree.images)[: error.end].rpartition('\n')[2]
    raise UserError(f'{root} has an image whose name is not UTF-8, {brief(ascii(name))}...: rename it.') from None
  return tree


def _folders(root: Path) -> list[str]:
  """Return the sorted names of the folders in a folder; companions are skipped.

  Raises:
    UserError: the folder cannot be read.
  """
  try:
    with os.scandir(root) as entries:
      return sorted(entry.name for entry in entries if entry.is_dir() and not is_companion(entry.name))
  except OSError as error:
    raise UserError(f'{root} cannot be read ({error.strerror}): make it readable, or move it away.') from None


def split_folders(root: Path) -> dict[str, str]:
  """Return folder -> split; {} without a folder train.

  Raises:
    UserError: two folders are one split.
  """
  folders: dict[str, str] = {}
  for top in _folders(root):
    part = of_folder(top)
    if part and part in folders.values():
      other = next(name for name, split in folders.items() if split == part)
      raise UserError(f'{root} has both {other} and {top}, which are one split: move the images into one of them.')
    if part:
      folders[top] = part
  return folders if 'train' in folders.values() else {}


def place_of(name: str, layout: str, splits: Mapping[str, str]) -> tuple[str, str] | None:
  """Return split and class of an image by its path; None if it is in no class."""
  top, *below = name.split('/')
  if layout == 'class':
    return ('train', top) if below else None
  if splits and (top not in splits or not below):
    return None
  part = splits.get(top, 'train')
  if layout == 'split_class':
    return (part, below[0]) if len(below) > 1 else None
  prefix = re.fullmatch(r'(.+)_\d+', PurePosixPath(name).stem)
  return (part, prefix[1].strip()) if prefix and prefix[1].strip() else None


def refuse_empty(root: Path, layout: str, splits: Mapping[str, str], images: Iterable[str]) -> None:
  """Check that every folder of a split or class has an image.

  Raises:
    UserError: one has none.
  """
  expected = [*splits] if splits else _folders(root) if layout == 'class' else []
  if layout == 'split_class':
    expected += [f'{top}/{name}' for top in splits for name in _folders(root / top)]
  filled = {'/'.join(name.split('/')[:depth]) for name in images for depth in (1, 2)}
  if empty := [name for name in expected if name not in filled]:
    link = ', as it is a link to a folder that was read already' if (root / empty[0]).is_symlink() else ''
    raise UserError(f'{root}/{brief(empty[0])} holds no image{link}: put some there, or move the folder away.')


def _refuse_nested(root: Path, tree: Tree, tops: Sequence[str]) -> None:
  """Check that folders of classes are not the only one that an archive made, and have no folders of splits.

  Raises:
    UserError: they are, or have.
  """
  below = {'/'.join(name.split('/')[:2]): name for name in tree.images if name.count('/') > 1}
  if len(tops) == 1:
    remedy = (
      f'if the classes are below it, point --config.data.dir at {root / tops[0]}'
      if below
      else 'add one for each further class'
    )
    raise UserError(f'{root} has only one folder with images, {brief(tops[0])}, and a classifier needs two: {remedy}.')
  for folder in sorted(below):
    if of_folder(folder.split('/')[1]):
      raise UserError(
        f'{root} has {brief(folder)}, a split below a class: move it to SPLIT/CLASS, write metadata.csv, or set '
        '--config.data.layout=class if it is a part of the class.'
      )
