"""What a run was trained on: a fingerprint of its data, kept as fingerprint.json in the folder of the run.

It is compared wherever the run goes on, is reused or is read. Names, labels and groups are compared every time, and so
is the state of the image files: their sizes and times of change. Times only say where to look: where the state
differs, digests of the files' bytes decide, so that a touched or copied data set is the same one. A file that was
replaced by one of its size, and whose time was set back, is therefore not noticed.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ule_jax.data import Dataset, Split
from ule_jax.errors import UserError
from ule_jax.runs.files import read_json, write_json

NAME = 'fingerprint.json'
VERSION = 1
THREADS = 16  # that wait for a disk or a network
CHUNK = 512  # examples of one task
EVERY = 10.0  # seconds between lines of progress
# What is compared of a split, and how a sentence calls it
ASPECTS = {
  'names': 'image names or their order',
  'labels': 'labels',
  'groups': 'groups',
  'content': 'images',
  'masks': 'masks',
}
ELSEWHERE = 'Restore the data, choose another --workdir, or go on with --force'


class Fingerprint:
  """The fingerprint of a data set that was loaded; what needs the bytes of all images is computed when asked for."""

  def __init__(self, dataset: Dataset, say: Callable[[str], None] = lambda text: None):
    """Prepare it.

    Args:
      say: takes progress, a line each.
    """
    self.dataset, self._say = dataset, say
    self._content: dict[str, dict[str, str]] = {}

  @functools.cached_property
  def quick(self) -> dict[str, dict[str, Any]]:
    """What needs no image, by split."""
    return {name: _quick(self.dataset, name, split) for name, split in self.dataset.splits.items()}

  def content(self, name: str) -> dict[str, str]:
    """Return the digests of a split's images and masks; reads them all, once."""
    if name not in self._content:
      self._content[name] = _content(name, self.dataset.splits[name], self._say)
    return self._content[name]

  def trust(self, recorded: Mapping[str, Any]) -> None:
    """Take over the recorded digests of splits whose files are in the recorded state."""
    for name, now in self.quick.items():
      then = recorded['splits'].get(name, {})
      if now['state'] and all(then.get(key) == now[key] for key in ('state', 'names')):
        self._content.setdefault(name, {key: then[key] for key in ('content', 'masks') if key in then})

  def record(self) -> dict[str, Any]:
    """Return what fingerprint.json holds."""
    return {
      'version': VERSION,
      'classes': list(self.dataset.classes),
      'groups': list(self.dataset.groups),
      'splits': {name: {**found, **self.content(name)} for name, found in self.quick.items()},
    }

  def differences(self, recorded: Mapping[str, Any]) -> str:
    """Say how the data differ from what was recorded; '' if they do not."""
    self.trust(recorded)
    named = {'classes': self.dataset.classes, 'groups': self.dataset.groups}
    told = [f'the names of the {key} differ' for key, names in named.items() if recorded[key] != list(names)]
    then = recorded['splits']
    told += [f'there is no split {name}' for name in then if name not in self.quick]
    told += [f'the split {name} is new' for name in self.quick if name not in then]
    differing: dict[tuple[str, ...], list[str]] = {}
    for name in (name for name in self.quick if name in then):
      now, old = self.quick[name], then[name]
      if now['count'] != old['count']:
        told.append(f'{name} has {now["count"]:,} examples where it had {old["count"]:,}')
        continue
      aspects = ['names', 'labels', 'groups']
      if now['names'] == old['names']:  # else the digests, which are in the order of the names, say nothing more
        now, aspects = now | self.content(name), list(ASPECTS)
      if found := tuple(f'the {ASPECTS[key]}' for key in aspects if now.get(key) != old.get(key)):
        differing.setdefault(found, []).append(name)
    parts = [f'{_listed(words)} of {_listed(names)}' for words, names in differing.items()]
    return '; '.join([*told, *([f'{_listed(parts)} differ'] if parts else [])])


def _listed(words: Sequence[str]) -> str:
  *before, last = words
  return f'{", ".join(before)} and {last}' if before else last


def read(directory: Path) -> dict[str, Any] | None:
  """Read the fingerprint of a run; None if it was recorded without one.

  Raises:
    UserError: it is damaged, or of another version.
  """
  path, advice = directory / NAME, 'remove it, and the data that are there will be taken for those of the run'
  if not path.exists():
    return None
  found = read_json(path, advice)
  splits = found.get('splits')
  due = {'count', 'names', 'labels', 'groups', 'content'}
  whole = isinstance(splits, dict) and all(isinstance(of, dict) and due <= of.keys() for of in splits.values())
  if found.get('version') != VERSION or not whole or not {'classes', 'groups'} <= found.keys():
    raise UserError(f'{path} is damaged, or of another version of ule_jax: {advice}.')
  return found


def check(directory: Path, current: Fingerprint, force: bool, advice: str = ELSEWHERE) -> str:
  """Compare the data with those of a run; return how they differ, which `force` allows.

  Raises:
    UserError: they differ, and `force` is not set.
  """
  recorded = read(directory)
  differs = current.differences(recorded) if recorded else ''
  if differs and not force:
    raise UserError(f'{directory} was trained on other data than are there now: {differs}. {advice}.')
  return differs


def write(directory: Path, current: Fingerprint, **more: Any) -> None:
  """Record the data of a run.

  Args:
    more: what else the record holds.
  """
  content = current.record() | {key: value for key, value in more.items() if value}
  if content != read(directory):
    write_json(directory / NAME, content)


def refresh(directory: Path, current: Fingerprint) -> None:
  """Record the new state of files that were touched or copied, so that they are not read again the next time."""
  if recorded := read(directory):
    write(directory, current, **{key: value for key, value in recorded.items() if key not in current.record()})


def identity(recorded: Mapping[str, Any]) -> str:
  """Name the data that a run was trained on: the same for all runs on the same ones, wherever they lay."""
  splits = {name: {key: of.get(key) for key in ASPECTS} for name, of in recorded['splits'].items()}
  text = json.dumps([recorded['classes'], recorded['groups'], splits], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def digest(*arrays: Any) -> str:
  """Make the digest of some arrays, any of which may be None."""
  found = hashlib.sha256()
  for array in arrays:
    array = None if array is None else np.ascontiguousarray(array)
    found.update(b'none' if array is None else f'{array.dtype} {array.shape} '.encode() + array.tobytes())
  return found.hexdigest()


def code(*parts: ModuleType | Callable) -> str:
  """Make the digest of the source code of some functions and modules, and of all that is in packages among these."""
  found = hashlib.sha256()
  for part in parts:
    if isinstance(part, ModuleType):
      path = Path(part.__file__)
      for one in sorted(path.parent.glob('*.py*')) if hasattr(part, '__path__') else [path]:
        found.update(f'{one.name}\n'.encode() + one.read_bytes())
    else:
      found.update(inspect.getsource(part).encode())
  return found.hexdigest()


def file_digest(path: Path) -> str:
  """Make the digest of a file, as `sha256sum` does."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _quick(dataset: Dataset, name: str, split: Split) -> dict[str, Any]:
  """Compute what is compared without reading an image."""
  names = '\0'.join(split.name(i) for i in range(split.count))
  state = None
  if split.version:
    found = hashlib.sha256()
    for part in _in_chunks(split.count, lambda ids: '\0'.join(split.version(i) for i in ids)):
      found.update(f'{part}\n'.encode())
    state = found.hexdigest()
  return {
    'count': split.count,
    'group_counts': dataset.group_counts(name).tolist(),
    'names': hashlib.sha256(names.encode('utf-8', 'surrogateescape')).hexdigest(),
    'labels': digest(split.label),
    'groups': digest(split.group),
    'state': state,
  }


def _content(name: str, split: Split, say: Callable[[str], None]) -> dict[str, str]:
  """Compute the digests of the images and the masks of a split: over the digests of each, in order."""
  images, masks = hashlib.sha256(), hashlib.sha256()
  count, done, began = split.count, 0, time.monotonic()
  told = began
  for found in _in_chunks(count, lambda ids: [_digests(split, i) for i in ids]):
    for one in found:
      images.update(one[0])
      masks.update(b''.join(one[1:]))
    done += len(found)
    if (now := time.monotonic()) - told > EVERY:
      told, rate = now, done / (now - began)
      say(f'fingerprint of {name}: {done:,} of {count:,} files read, {(count - done) / rate:,.0f} s left')
  return {'content': images.hexdigest()} | ({'masks': masks.hexdigest()} if split.masks else {})


def _digests(split: Split, i: int) -> list[bytes]:
  """Compute the digest of an image and of each of its masks: of their files, or of the pixels if there are none."""
  if split.files:
    parts = split.files(i)
  else:
    masks = split.masks(i) if split.masks else {}
    parts = [np.ascontiguousarray(pixels) for pixels in (split.load(i), *masks.values())]
  return [hashlib.sha256(part).digest() for part in parts]


def _in_chunks(count: int, work: Callable[[range], Any]) -> Iterator[Any]:
  """Do some work on all examples, in order, by threads."""
  chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
  with ThreadPoolExecutor(THREADS) as pool:
    yield from pool.map(work, chunks)
