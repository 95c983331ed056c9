"""Configs that users may change: a ConfigDict with the options of a data set and a method, from their declarations."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from ule_jax.config import schema
from ule_jax.config.former import announce, former_words
from ule_jax.data import DATASETS, holds_features
from ule_jax.methods import METHODS

# variant -> the fields that it changes, behind a method: --config=celeba:ule,vit_b16,frozen. Both are ours, and were
# not tuned.
VARIANTS = {
  # How arXiv 2010.11929 fine-tunes (table 4: SGD 0.9, cosine, clip 1, no weight decay; one of its rates)
  'vit_b16': {
    'model.name': 'vit_b16', 'optim.name': 'sgd', 'optim.lr': 3e-3, 'optim.weight_decay': 0.0,
    'optim.schedule': 'cosine', 'optim.clip': 1.0,
  },
  # Heads on features that are computed once take few steps.
  'frozen': {
    'model.encoder': 'frozen', 'optim.name': 'adam', 'optim.lr': 1e-3, 'optim.weight_decay': 0.0,
    'train.steps': 0, 'train.epochs': 20.0,
  },
  # A hidden layer in place of a linear head, on features
  'mlp': {'model.name': 'mlp', 'model.width': 256, 'model.depth': 1},
}  # fmt: skip


class EditableConfig(ConfigDict):
  """A ConfigDict that also understands the former names of its fields, and prints one line about each."""

  def _present(self, key: Any) -> Any:
    """Return the present name of a field."""
    fields = self.__dict__.get('_fields', {})
    if not isinstance(key, str) or key in fields:
      return key
    former, dotted = former_words().get(key, (key, key))
    name = dotted.rpartition('.')[2]
    if name == key or name not in fields:
      return key
    every = '.*' if isinstance(fields[name], ConfigDict) else ''
    announce(f'{former}{every}', f'{dotted}{every}')
    return name

  def __getitem__(self, key: Any) -> Any:
    return super().__getitem__(self._present(key))

  def __setitem__(self, key: Any, value: Any) -> None:
    super().__setitem__(self._present(key), value)

  def __contains__(self, key: object) -> bool:
    return super().__contains__(self._present(key))

  def update(self, *other: Any, **fields: Any) -> None:
    """Update recursively, as ConfigDict does."""
    renamed = [{self._present(key): value for key, value in mapping.items()} for mapping in (*other, fields)]
    for mapping in renamed:
      super().update(mapping)


def editable(values: Mapping[str, Any]) -> EditableConfig:
  """Return a config with nested values."""
  config = EditableConfig()
  for name, value in values.items():
    config[name] = editable(value) if isinstance(value, Mapping) else value
  return config


def make(data: str, method: str) -> EditableConfig:
  """Return the locked config of a data set and a method: every field has its default, or the value the method needs.

  Raises:
    ValueError: the data set or the method is unknown.
  """
  _look_up(DATASETS, 'data set', data)
  _look_up(METHODS, 'method', method)
  nested: dict[str, Any] = {}
  for dotted, value in schema.defaults(data, method).items():
    *parts, name = dotted.split('.')
    place = nested
    for part in parts:
      place = place.setdefault(part, {})
    place[name] = value
  config = editable(nested)
  config.lock()
  return config


def split_spec(spec: str) -> tuple[str, list[dict[str, Any]]]:
  """Split the text behind the colon of --config, `method[,variant...]`, into the method and the variants' changes.

  Raises:
    ValueError: a variant is unknown.
  """
  method, *names = spec.split(',')
  return method, [_look_up(VARIANTS, 'variant', name) for name in names]


def vary(config: ConfigDict, changes: Sequence[Mapping[str, Any]]) -> ConfigDict:
  """Apply the changes of variants; on features, methods that take gradients take them there."""
  for change in changes:
    config.update_from_flattened_dict(change)
  on_features = config.model.encoder == 'frozen' or holds_features(config.data.name)
  if on_features and 'at' in config.method:
    config.method.at = 'features'
  return config


def _look_up(table: Mapping[str, Any], kind: str, name: str) -> Any:
  if name not in table:
    near = difflib.get_close_matches(name, table, n=1, cutoff=0.0)[0]
    raise ValueError(f'unknown {kind} {name!r}: did you mean {near!r}? Known: {", ".join(sorted(table))}.')
  return table[name]
