"""A task: config, data, selection rules and length of a run, decided before anything touches a device."""

from __future__ import annotations

from typing import NamedTuple

from ule_jax.config.schema import NO_RULE, Config
from ule_jax.data import Dataset
from ule_jax.runs import inputs
from ule_jax.runs.fingerprint import Fingerprint
from ule_jax.train import training_data
from ule_jax.train.selection import refuse_empty_groups, selection_rules, trains_student
from ule_jax.two_stage.contract import SecondStage


class Task(NamedTuple):
  """A config and its data, checked.

  Attributes:
    config: the config of the run, or of any member of a sweep.
    inputs: the data set as it was loaded, with its fingerprint.
    dataset: the data set that is evaluated on; of a frozen encoder its features.
    training: the data set that is trained on: without the hold-out, with the groups of a first run.
    rules: the selection rules that the labels of the data allow.
    steps: of the whole run; 0 where a last layer is fitted.
    second: the result of a first run; empty for methods of one stage.
  """

  config: Config
  inputs: Fingerprint
  dataset: Dataset
  training: Dataset
  rules: tuple[str, ...]
  steps: int
  second: SecondStage = SecondStage()

  @property
  def examples(self) -> int:
    """The number of training examples."""
    return self.training.splits['train'].count

  @property
  def is_frozen(self) -> bool:
    """Whether a frozen encoder's features are trained on."""
    return self.config.model.encoder == 'frozen'

  @property
  def has_linear_head(self) -> bool:
    """Whether the networks are linear on the features that the data consist of."""
    return training_data.is_linear(self.config, self.inputs.dataset)

  @property
  def is_fit(self) -> bool:
    """Whether the method fits the last layer of its first run, without steps of its own."""
    return training_data.is_fit(self.config)

  @property
  def has_first_run(self) -> bool:
    """Whether the method has two stages."""
    return self.config.two_stage.rule != NO_RULE

  def on(self, dataset: Dataset, second: SecondStage) -> Task:
    """Return the task on the features of a frozen encoder, and on the result of a first run."""
    return self._replace(dataset=dataset, second=second, training=training_data.of_stage(self.config, dataset, second))


def load_task(config: Config, current: Fingerprint | None = None) -> Task:
  """Load the data of a checked config, and the facts that depend on both.

  Args:
    config: of the run.
    current: the data, if another run of this process loaded them.

  Raises:
    UserError: the data cannot be loaded, or the config asks for labels or groups that they do not have.
  """
  current = current or inputs.load_data(config)
  dataset = current.dataset
  training = training_data.of_stage(config, dataset, SecondStage())
  rules = selection_rules(dataset, config.select, trains_student(config, dataset))
  task = Task(config, current, dataset, training, rules, training_data.total_steps(config, training))
  if not task.has_first_run:
    refuse_empty_groups(config, dataset)
  return task
