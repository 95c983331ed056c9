"""results.json: the metrics of a finished run, its method and its data. Without jax, which takes seconds to import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ule_jax import selection
from ule_jax.errors import UserError
from ule_jax.runs.files import read_json, write_json

NAME = 'results.json'
REQUIRED = (
  'method', 'dataset', 'seed', 'select', 'needs_groups', 'classes', 'groups', 'step', 'test', 'selected', 'last',
  'roles',
)  # fmt: skip

# The metrics of one network at one step: `step`, and for each split other than train the dict of `metrics.summarize`.
Entry = dict[str, Any]


class Results(dict[str, Any]):
  """The content of results.json: a dict with the keys of the file, the common ones also as properties.

  All accuracies are in [0, 1]; a metric that does not exist is None, and `reasons` beside it says why.
  """

  @classmethod
  def read(cls, directory: Path, advice: str = 'choose another --workdir') -> Results:
    """Read the results of a finished run.

    Args:
      directory: of the run.
      advice: the end of an error's sentence.

    Raises:
      UserError: the file cannot be read, or lacks a key.
    """
    path = directory / NAME
    results = cls(read_json(path, advice))
    if missing := [key for key in REQUIRED if key not in results]:
      raise UserError(f'{path} lacks {", ".join(missing)}: {advice}.')
    return results

  def write(self, directory: Path) -> None:
    """Write results.json and mark the run as done."""
    write_json(directory / NAME, self)
    (directory / 'done').touch()

  @property
  def method(self) -> str:
    """`method.name`."""
    return self['method']

  @property
  def dataset(self) -> str:
    """`data.name`."""
    return self['dataset']

  @property
  def seed(self) -> int:
    """`seed`."""
    return self['seed']

  @property
  def select(self) -> str:
    """The rule that selected the deployed checkpoint."""
    return self['select']

  @property
  def step(self) -> int:
    """The step of the deployed checkpoint."""
    return self['step']

  @property
  def classes(self) -> tuple[str, ...]:
    """The names of the classes, in the order of the logits."""
    return tuple(self['classes'])

  @property
  def groups(self) -> tuple[str, ...]:
    """The names of the groups, in the order of their numbers."""
    return tuple(self['groups'])

  @property
  def roles(self) -> tuple[str, ...]:
    """The names of the networks; the last one is deployed."""
    return tuple(self['roles'])

  @property
  def by_role(self) -> dict[str, Entry]:
    """Role -> its metrics at the deployed step."""
    return self['roles']

  @property
  def last(self) -> Entry:
    """The metrics of the deployed network at the last step."""
    return self['last']

  @property
  def selected(self) -> dict[str, Entry]:
    """Rule -> the metrics of the deployed network at the step that the rule selects."""
    return self['selected']

  @property
  def needs_groups(self) -> dict[str, bool]:
    """Whether group labels were used in `train`, and in `validation`."""
    return self['needs_groups']

  @property
  def titles(self) -> dict[str, str]:
    """Metric -> its name in the literature of the data set, where that differs."""
    return self.get('titles', {})

  @property
  def skipped_images(self) -> dict[str, list[str]]:
    """Split -> the images that were left out because they could not be decoded."""
    return self.get('data', {}).get('skipped_images', {})

  @property
  def changed(self) -> list[dict[str, Any]]:
    """The changes of data or weights that `--force` allowed, each with its `step` and a clause."""
    return self.get('changed', [])

  def by_rule(self, rule: str) -> Entry | None:
    """Return the metrics of the deployed network under a selection rule; None if the rule was not possible."""
    return self.last if rule == selection.LAST else self.selected.get(rule)


def last_step(directory: Path) -> int | None:
  """Return the last step of the run whose results a folder holds; None without them, or if the run failed.

  Raises:
    UserError: results.json cannot be read.
  """
  path = directory / NAME
  content = read_json(path) if path.exists() else {}
  return content['last']['step'] if 'last' in content else None
