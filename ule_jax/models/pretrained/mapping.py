"""Mapping between the tensors of a file and the parameters of a network.

Every tensor of the file is used exactly once or listed as unused, every parameter is set exactly once, and shapes are
checked.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import jaxtyping
import numpy as np
from etils import epy

from ule_jax.errors import UserError
from ule_jax.models.pretrained.layouts import FLAVOURS, IGNORED, Row, find_flavour, match_names
from ule_jax.models.pretrained.networks import network_in
from ule_jax.models.pretrained.sources import SHA256, find_file, split_source
from ule_jax.models.pretrained.weight_files import Tensors, read

with epy.lazy_imports():  # jax takes seconds to import, which --help and errors of the command line do not need
  from flax import traverse_util


class Pretrained(NamedTuple):
  """Parameters from a file of weights.

  Attributes:
    params: of the network; without the last layer unless that was kept.
    batch_stats: running statistics of BatchNorm.
    rows: the mapping of each tensor.
    flavour: layout of the file.
    path: of the file.
    sha256: of the file.
    revision: commit on the hub; '' for a local file.
    place: prefix of the tensors' names.
    note: a sentence on unused tensors for the user; '' without any.
  """

  params: jaxtyping.PyTree
  batch_stats: jaxtyping.PyTree
  rows: list[Row]
  flavour: str
  path: Path
  sha256: str
  revision: str
  place: str
  note: str


def load_pretrained(source: str, name: str, template: jaxtyping.PyTree, keep_head: bool = False) -> Pretrained:
  """Read weights for a network.

  Args:
    source: a file, `hf:OWNER/NAME[@REVISION]`, or `default` (DEFAULTS); a suffix `#NAME` selects one of several
      networks in the file.
    name: of the network, for messages and `default`.
    template: `params` and `batch_stats` of the network, or their shapes.
    keep_head: load the last layer, too; its classes have to be the network's.

  Raises:
    UserError: the file does not exist, holds no weights, or does not fit the network.
  """
  path = find_file(source, name)
  sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
  if source == 'default' and sha256 != SHA256[name]:
    raise UserError(
      f'{path} is not the file that default means for {name} (its SHA-256 is {sha256}, and not {SHA256[name]}): '
      'remove it from the cache, or install its package again, and run again; or give a file as model.weights.'
    )
  title, (_, wanted) = f'{name} from {path.name}', split_source(source)
  network = network_in(read(path), title, wanted)
  params, batch_stats, rows, flavour = fit(network.tensors, template, title, keep_head)
  rows = [row._replace(theirs=network.names.get(row.theirs, row.theirs)) for row in rows] + network.rows
  revision = path.parent.name if path.parent.parent.name == 'snapshots' else ''
  return Pretrained(params, batch_stats, rows, flavour, path, sha256, revision, network.place, network.note)


def convert(source: str, name: str, out: Path) -> Path:
  """Write the tensors of a network in a file of weights as .safetensors, under their names in it.

  Args:
    source: as in `load_pretrained`.
    name: of the network, for messages and `default`.
    out: the new file.

  Returns:
    The path of the source.

  Raises:
    UserError: as `load_pretrained`; or the file cannot be written.
  """
  from safetensors.numpy import save_file

  path = find_file(source, name)
  _, wanted = split_source(source)
  tensors = network_in(read(path), f'{name} from {path.name}', wanted).tensors
  try:
    save_file({tensor: np.ascontiguousarray(value) for tensor, value in tensors.items()}, out)
  except OSError as error:
    raise UserError(f'{out} cannot be written ({error.strerror}): choose another --out.') from None
  return path


def fit(
  tensors: Tensors, template: jaxtyping.PyTree, title: str, keep_head: bool = False
) -> tuple[jaxtyping.PyTree, jaxtyping.PyTree, list[Row], str]:
  """Convert the tensors of a file to parameters.

  Args:
    template: as in `load_pretrained`.
    title: of network and file, for messages.
    keep_head: convert the last layer, too.

  Returns:
    `params`, `batch_stats`, the mapping of each tensor, and the layout.

  Raises:
    UserError: the layout is not known, or a tensor is missing, left over or of another shape.
  """
  flavour, _ = find_flavour(tensors, title)
  leaves: dict[str, Any] = traverse_util.flatten_dict(dict(template), sep='/')
  shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
  wanted = {p: s for p, s in shapes.items() if keep_head or not p.startswith('params/head/')}
  places = match_names(shapes, FLAVOURS[flavour][1], title)
  filled, rows, used = {}, [], set()
  for theirs, (ours, layout) in places.items():
    if ours[0] not in wanted:
      continue
    if theirs not in tensors:
      raise UserError(f'{title}: it has no tensor {theirs}, to become {ours[0]}. Are these weights of this network?')
    tensor, used = tensors[theirs], used | {theirs}
    try:
      arrays = layout.read(tensor, [wanted[path] for path in ours])
      fits = [a.shape for a in arrays] == [wanted[path] for path in ours]
    except ValueError:
      fits = False
    if not fits:
      raise UserError(
        f'{title}: {theirs} of shape {tensor.shape} does not become {ours[0]} of shape {wanted[ours[0]]}. '
        'Are these weights of this network'
        + (', and of as many classes?' if ours[0].startswith('params/head/') else '?')
      )
    filled |= {path: np.ascontiguousarray(a) for path, a in zip(ours, arrays, strict=True)}
    rows.append(Row(theirs, tensor.shape, ours, layout.note))
  heads = {theirs for theirs, (ours, _) in places.items() if ours[0].startswith('params/head/')}
  if not keep_head:  # several layers may take the place of the last one
    heads |= {
      theirs for theirs in tensors if theirs.startswith(tuple(re.split(r'(?<=[./])', head)[0] for head in heads))
    }
  for theirs in tensors.keys() - used:
    if theirs in heads:
      rows.append(Row(theirs, tensors[theirs].shape, (), 'the last layer, not kept'))
    elif IGNORED.search(theirs):
      rows.append(Row(theirs, tensors[theirs].shape, (), 'no weight of a classifier'))
    else:
      left = sorted(n for n in tensors.keys() - used - heads if not IGNORED.search(n))
      raise UserError(f'{title}: {len(left)} tensors have no place, the first is {left[0]}. Are these its weights?')
  tree = traverse_util.unflatten_dict(filled, sep='/')
  return tree['params'], tree.get('batch_stats', {}), rows, flavour


def export_tensors(params: jaxtyping.PyTree, batch_stats: jaxtyping.PyTree, flavour: str) -> Tensors:
  """Convert parameters to the tensors of a layout: the inverse of `fit`.

  Args:
    flavour: the layout, a key of FLAVOURS.

  Raises:
    UserError: the layout does not have such a network.
  """
  arrays = traverse_util.flatten_dict({'params': params, 'batch_stats': batch_stats}, sep='/')
  arrays = {path: np.asarray(value) for path, value in arrays.items()}
  places = match_names({path: a.shape for path, a in arrays.items()}, FLAVOURS[flavour][1], flavour)
  return {
    theirs: np.ascontiguousarray(layout.write([arrays[path] for path in ours]))
    for theirs, (ours, layout) in places.items()
  }
