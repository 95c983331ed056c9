"""The fingerprint of a run's data, kept as fingerprint.json in its workdir.

It is compared wherever the run resumes, is reused or is read: names, labels, groups, and the state of the image files
(sizes and modification times). Where the state differs, digests of the files' bytes decide, so that a touched or copied
data set is the same one. A file that was replaced by another of the same size and modification time is not noticed.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import logging
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

log = logging.getLogger(__name__)

NAME = 'fingerprint.json'
VERSION = 1
THREADS = 16  # that wait for a disk or a network
CHUNK = 512  # examples of one task
EVERY = 10.0  # seconds between lines of progress
ROWS = 2**22  # bytes of one task where examples are arrays
WEIGHTS = 'weights'
# key of a split's record -> its name in messages
ASPECTS = {
  'names': 'image names or their order',
  'labels': 'labels',
  'groups': 'groups',
  'content': 'images',
  'masks': 'masks',
  WEIGHTS: 'sampling weights',
}
ELSEWHERE = 'Restore the data, choose another --workdir, or continue with --force'


class Fingerprint:
  """The fingerprint of a loaded data set; digests that read every image are computed on first use."""

  def __init__(self, dataset: Dataset):
    """Keep the data set; nothing is read yet."""
    self.dataset = dataset
    self._content: dict[str, dict[str, str]] = {}
    of_features = {'names': 'names or the order of the rows', 'content': 'features'} if dataset.is_features else {}
    self._words = ASPECTS | of_features

  @functools.cached_property
  def quick(self) -> dict[str, dict[str, Any]]:
    """Split -> the counts and digests that need no image."""
    return {name: _quick(self.dataset, name, split) for name, split in self.dataset.splits.items()}

  def content(self, name: str) -> dict[str, str]:
    """Return the digests of a split's images and masks; all files are read on the first call."""
    if name not in self._content:
      self._content[name] = _content(name, self.dataset.splits[name])
    return self._content[name]

  def trust(self, recorded: Mapping[str, Any]) -> None:
    """Reuse the recorded digests of splits whose names and file state are as recorded."""
    for name, now in self.quick.items():
      then = recorded['splits'].get(name, {})
      if now['state'] and all(then.get(key) == now[key] for key in ('state', 'names')):
        self._content.setdefault(name, {key: then[key] for key in ('content', 'masks') if key in then})

  def record(self) -> dict[str, Any]:
    """Return the content of fingerprint.json."""
    return {
      'version': VERSION,
      'classes': list(self.dataset.classes),
      'groups': list(self.dataset.groups),
      'splits': {name: {**quick, **self.content(name)} for name, quick in self.quick.items()},
    }

  def differences(self, recorded: Mapping[str, Any]) -> str:
    """Describe the differences from a recorded fingerprint in half a sentence; '' if there are none."""
    self.trust(recorded)
    named = {'classes': self.dataset.classes, 'groups': self.dataset.groups}
    clauses = [f'the names of the {key} differ' for key, names in named.items() if recorded[key] != list(names)]
    then = recorded['splits']
    clauses += [f'there is no split {name}' for name in then if name not in self.quick]
    clauses += [f'the split {name} is new' for name in self.quick if name not in then]
    differing: dict[tuple[str, ...], list[str]] = {}
    for name in (name for name in self.quick if name in then):
      now, old = self.quick[name], then[name]
      if now['count'] != old['count']:
        clauses.append(f'{name} has {now["count"]:,} examples where it had {old["count"]:,}')
        continue
      aspects = ['names', 'labels', 'groups', WEIGHTS]
      if now['names'] == old['names']:  # the digests of images are in the order of the names
        now, aspects = now | self.content(name), list(ASPECTS)
      if changed := tuple(f'the {self._words[key]}' for key in aspects if now.get(key) != old.get(key)):
        differing.setdefault(changed, []).append(name)
    parts = [f'{_listed(aspects)} of {_listed(names)}' for aspects, names in differing.items()]
    return '; '.join([*clauses, *([f'{_listed(parts)} differ'] if parts else [])])


def _listed(words: Sequence[str]) -> str:
  """Join words as `a, b and c`."""
  *before, last = words
  return f'{", ".join(before)} and {last}' if before else last


def read(directory: Path) -> dict[str, Any] | None:
  """Read the fingerprint of a run; None for a run that was recorded without one.

  Raises:
    UserError: the file is damaged, or of another version.
  """
  path, advice = directory / NAME, 'remove it, and the data that are there will be taken for those of the run'
  if not path.exists():
    return None
  recorded = read_json(path, advice)
  splits = recorded.get('splits')
  required = {'count', 'names', 'labels', 'groups', 'content'}
  whole = isinstance(splits, dict) and all(isinstance(s, dict) and required <= s.keys() for s in splits.values())
  if recorded.get('version') != VERSION or not whole or not {'classes', 'groups'} <= recorded.keys():
    raise UserError(f'{path} is damaged, or of another version of ule_jax: {advice}.')
  return recorded


def check(directory: Path, current: Fingerprint, force: bool, advice: str = ELSEWHERE) -> str:
  """Compare the data with those that a run recorded, and return the differences, which `force` allows.

  Args:
    directory: of the run.
    force: return differences instead of raising.
    advice: the remedies in the error's sentence.

  Raises:
    UserError: they differ, and `force` is not set.
  """
  recorded = read(directory)
  differs = current.differences(recorded) if recorded else ''
  if differs and not force:
    raise UserError(f'{directory} was trained on other data than are there now: {differs}. {advice}.')
  return differs


def write(directory: Path, current: Fingerprint, **more: Any) -> None:
  """Write the fingerprint of a run's data, unless the same one is recorded.

  Args:
    more: further entries of the record; empty ones are omitted.
  """
  content = current.record() | {key: value for key, value in more.items() if value}
  if content != read(directory):
    write_json(directory / NAME, content)


def refresh(directory: Path, current: Fingerprint) -> None:
  """Record the new state of touched or copied files, so that the next comparison does not read them again."""
  if recorded := read(directory):
    write(directory, current, **{key: value for key, value in recorded.items() if key not in current.record()})


def identity(recorded: Mapping[str, Any]) -> str:
  """Return 8 hex digits that are equal for all runs on the same data, whatever their folder."""
  splits = {
    name: {key: split.get(key) for key in ASPECTS if key != WEIGHTS or key in split}  # most data have none
    for name, split in recorded['splits'].items()
  }
  text = json.dumps([recorded['classes'], recorded['groups'], splits], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def digest(*arrays: Any) -> str:
  """Compute the SHA-256 (hex) of some arrays with their dtypes and shapes; each may be None."""
  hasher = hashlib.sha256()
  for array in arrays:
    array = None if array is None else np.ascontiguousarray(array)
    hasher.update(b'none' if array is None else f'{array.dtype} {array.shape} '.encode() + array.tobytes())
  return hasher.hexdigest()


def code(*parts: ModuleType | Callable) -> str:
  """Compute the SHA-256 (hex) of the source code of functions and modules; a package counts with all its modules."""
  hasher = hashlib.sha256()
  for part in parts:
    if isinstance(part, ModuleType):
      path = Path(str(part.__file__))
      for file in sorted(path.parent.glob('*.py*')) if hasattr(part, '__path__') else [path]:
        hasher.update(f'{file.name}\n'.encode() + file.read_bytes())
    else:
      hasher.update(inspect.getsource(part).encode())
  return hasher.hexdigest()


def file_digest(path: Path) -> str:
  """Compute the SHA-256 (hex) of a file, as `sha256sum` does."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _quick(dataset: Dataset, name: str, split: Split) -> dict[str, Any]:
  """Compute the counts and digests of a split that need no image."""
  names = '\0'.join(split.name(i) for i in range(split.count))
  state = None
  if version := split.version:
    hasher = hashlib.sha256()
    for part in _in_chunks(split.count, lambda ids: '\0'.join(version(i) for i in ids)):
      hasher.update(f'{part}\n'.encode())
    state = hasher.hexdigest()
  return {
    'count': split.count,
    'group_counts': dataset.group_counts(name).tolist(),
    'names': hashlib.sha256(names.encode('utf-8', 'surrogateescape')).hexdigest(),
    'labels': digest(split.label),
    'groups': digest(split.group),
    'state': state,
    **({} if split.sampling_weight is None else {WEIGHTS: digest(split.sampling_weight)}),
  }


def _content(name: str, split: Split) -> dict[str, str]:
  """Compute the SHA-256 of the images and of the masks of a split: each over the files' digests, in order."""
  images, masks = hashlib.sha256(), hashlib.sha256()
  if split.load_rows and not split.files and not split.masks:
    return {'content': _rows_digest(split)}
  count, done, began = split.count, 0, time.monotonic()
  logged = began
  for chunk in _in_chunks(count, lambda ids: [_digests(split, i) for i in ids]):
    for image, *rest in chunk:
      images.update(image)
      masks.update(b''.join(rest))
    done += len(chunk)
    if (now := time.monotonic()) - logged > EVERY:
      logged, rate = now, done / (now - began)
      log.info(f'fingerprint of {name}: {done:,} of {count:,} files read, {(count - done) / rate:,.0f} s left')
  return {'content': images.hexdigest()} | ({'masks': masks.hexdigest()} if split.masks else {})


def _rows_digest(split: Split) -> str:
  """Compute the SHA-256 over the digests of blocks of rows, of about `ROWS` bytes each, of a split of arrays."""
  load_rows = split.load_rows
  assert load_rows is not None, 'the caller has asked'
  size = max(1, ROWS // max(1, load_rows(np.arange(min(1, split.count))).nbytes))
  hasher = hashlib.sha256()
  with ThreadPoolExecutor(THREADS) as pool:
    blocks = [np.arange(start, min(start + size, split.count)) for start in range(0, split.count, size)]
    for block in pool.map(lambda ids: hashlib.sha256(np.ascontiguousarray(load_rows(ids)).data).digest(), blocks):
      hasher.update(block)
  return hasher.hexdigest()


def _digests(split: Split, i: int) -> list[bytes]:
  """Compute the SHA-256 of an image and of each of its masks: of their files, or of the pixels without files."""
  if split.files:
    parts = split.files(i)
  else:
    masks = split.masks(i) if split.masks else {}
    parts = [np.ascontiguousarray(pixels).data for pixels in (split.load(i), *masks.values())]
  return [hashlib.sha256(part).digest() for part in parts]


def _in_chunks(count: int, work: Callable[[range], Any]) -> Iterator[Any]:
  """Map `work` over the indices of all examples in chunks of `CHUNK`, in threads; yield the results in order."""
  chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
  with ThreadPoolExecutor(THREADS) as pool:
    yield from pool.map(work, chunks)
