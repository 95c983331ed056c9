"""A finished run in Python, and the way on which the verbs read one: `load_run('runs/first').predict('photos')`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epy
from jaxtyping import Float

from ule_jax.config.schema import Config
from ule_jax.data import Dataset, feature_files, holds_features
from ule_jax.errors import UserError, unknown
from ule_jax.paths import local_path
from ule_jax.runs import recorded
from ule_jax.runs.results import Results

with epy.lazy_imports():  # jax takes seconds to import: config and results are read before it
  import jax
  from scipy import special

  from ule_jax.data import pipeline
  from ule_jax.deploy import predict as deployed
  from ule_jax.devices import mesh as device_mesh
  from ule_jax.explain import saliency as looks
  from ule_jax.runs import restore, workdir
  from ule_jax.train import evaluate as evaluation


class Predictions(NamedTuple):
  """Predictions for images, in the order of `names`.

  names: of the files, or numbers of the rows.
  labels: name of the predicted class.
  probabilities: of each class.
  """

  names: list[str]
  labels: list[str]
  probabilities: Float[np.ndarray, 'n k']


class Network(NamedTuple):
  """One network of a run: a function from inputs, as the run evaluates its own, to logits.

  role: its name in the run.
  variables: `params` and `batch_stats`, as Flax takes them.
  apply: (variables, inputs) -> logits.
  """

  role: str
  variables: dict[str, Any]
  apply: Callable[[dict[str, Any], np.ndarray], Float[np.ndarray, 'n k']]

  def __call__(self, inputs: np.ndarray) -> Float[np.ndarray, 'n k']:
    """Return the logits of uint8 images [n h w c], or of features [n d]."""
    return self.apply(self.variables, inputs)


class LoadedRun:
  """A finished run; its networks and its data are read when they are first used.

  Attributes:
    directory: its folder.
    config: complete.
    results: its results.json.
  """

  def __init__(self, directory: Path, threads: int = 2, compilation_cache: str = 'default'):
    """Read config and results, as `load_run`."""
    self.directory = directory
    self.config: Config
    self.results: Results
    self.config, self.results = recorded.read_run(directory, threads, compilation_cache)
    self._threads, self._cache = threads, compilation_cache

  @functools.cached_property
  def restored(self) -> restore.Restored:
    """The run with its networks on every device.

    Raises:
      UserError: its checkpoint or the weights of its encoder are missing or damaged.
    """
    return restore.restore(self.directory, self._threads, self._cache)

  def dataset(self, split: str = 'test', force: bool = False) -> Dataset:
    """Return the data that the run was trained on, loaded as the run did.

    Args:
      split: one that they must have.
      force: return them although they differ from those in training.

    Raises:
      UserError: they cannot be loaded, differ, or have no such split.
    """
    dataset = restore.load_data(self.restored, force)
    if split not in dataset.splits:
      raise unknown('split', split, dataset.splits)
    return dataset

  @property
  def student(self) -> Network:
    """The network that is kept biased, of methods of two.

    Raises:
      UserError: the method trains one network.
    """
    if len(self.results.roles) < 2:
      raise UserError(f'{self.results.method} trains no student: its network is `teacher`, the one that predicts.')
    return self._network(self.results.roles[0])

  @property
  def teacher(self) -> Network:
    """The network that predicts: the last role."""
    return self._network(self.results.roles[-1])

  def _network(self, role: str) -> Network:
    return Network(role, self.restored.variables(role), self._apply)

  @functools.cached_property
  def _forward(self) -> Callable:
    return jax.jit(self.restored.forward())

  def _apply(self, variables: dict[str, Any], inputs: np.ndarray) -> Float[np.ndarray, 'n k']:
    run, inputs = self.restored, np.asarray(inputs)
    shape, dtype = run.input_spec.image_shape, np.dtype(run.input_spec.dtype)
    if inputs.shape[1:] != tuple(shape) or not len(inputs) or (inputs.dtype == np.uint8) != (dtype == np.uint8):
      raise UserError(
        f'the inputs have shape {inputs.shape} and type {inputs.dtype}: {self.directory} takes {dtype} of shape '
        f'{("n", *shape)}.'
      )
    outputs, size = [], run.batch_size
    for start in range(0, len(inputs), size):
      batch = inputs[start : start + size].astype(dtype)
      padded = np.zeros((size, *shape), dtype)
      padded[: len(batch)] = batch
      outputs.append(np.asarray(self._forward(variables, device_mesh.shard_batch(padded, run.mesh)))[: len(batch)])
    return np.concatenate(outputs)

  def predict(self, images: str | os.PathLike[str] | np.ndarray) -> Predictions:
    """Return the predictions of the deployed network.

    Args:
      images: an image file or a folder of them at any depth, prepared as the run prepared its own; or an array of
        prepared inputs: uint8 images [n h w c] or features [n d]. Of a run on embeddings a file of features.

    Raises:
      UserError: an image cannot be decoded, or inputs have another shape or type.
    """
    if isinstance(images, (str, os.PathLike)) and holds_features(self.config.data.name):
      features = feature_files.read(local_path(Path(images), 'images'))
      dataset = deployed.of_features(features, self.restored)
      rows = [(name, chances) for name, chances, _ in deployed.predict_examples(self.restored, dataset)]
      names, probabilities = [name for name, _ in rows], np.stack([chances for _, chances in rows])
    elif isinstance(images, (str, os.PathLike)):
      listing = deployed.find(local_path(Path(images), 'images'))
      decoding, older = self.restored.input_spec.decoding, workdir.lacks(self.directory, 'data.white')
      look = deployed.reader(listing.root, decoding, older)
      rows = [(name, chances) for name, chances, *_ in deployed.predict(self.restored, look, listing.names)]
      names, probabilities = [name for name, _ in rows], np.stack([chances for _, chances in rows])
    else:
      probabilities = special.softmax(self.teacher(images), axis=1)
      names = [str(i) for i in range(len(probabilities))]
    labels = [self.results.classes[k] for k in probabilities.argmax(1).tolist()]
    return Predictions(names, labels, probabilities)

  def evaluate(self, dataset: Dataset, split: str, collect: bool = False) -> evaluation.Evaluation:
    """Evaluate the networks of the selected checkpoint on a split, again.

    Args:
      dataset: of `dataset`.
      split: of it.
      collect: return predictions.

    Raises:
      UserError: an image cannot be read, or a logit is not finite.
    """
    run = self.restored
    step = evaluation.make_eval_step(run.model, run.preprocess, run.roles, len(dataset.groups), run.mesh)
    batches = pipeline.eval_batches(dataset, split, batch_size=run.batch_size, threads=self._threads)
    where = f'{split} at step {self.results.step:,}'
    return evaluation.evaluate(step, run.networks, batches, run.mesh, collect, where)

  def saliency(self, split: str = 'test', count: int = 4) -> dict[str, np.ndarray]:
    """Return input gradients of chosen examples: the arrays of saliency/<split>.npz, as explain/saliency.py lists them.

    Args:
      split: of its data.
      count: examples of each category.

    Raises:
      UserError: the data are missing or differ from those in training, or are features, which cannot be drawn.
    """
    dataset = self.dataset(split)
    return self.saliency_of(dataset, split, self.evaluate(dataset, split, collect=True).predictions, count)

  def saliency_of(
    self, dataset: Dataset, split: str, predictions: dict[str, np.ndarray], count: int
  ) -> dict[str, np.ndarray]:
    """Return the same as `saliency`, from predictions of `evaluate`."""
    if dataset.is_features:
      raise UserError(f'saliency is of images, and {self.directory} was trained on features, which have none.')
    run = self.restored
    look = looks.make_saliency_step(run.model, run.preprocess, run.roles, run.scalar)
    logits = looks.logits_by_role(predictions)
    chosen = looks.choose(predictions['label'], predictions['group'], logits, count)
    arrays = looks.collect(look, run.networks, dataset, split, predictions, chosen)
    return arrays | {'step': np.array(self.results.step, np.int32), 'scalar': np.array(run.scalar)}


def load_run(path: str | os.PathLike[str], threads: int = 2, compilation_cache: str = 'default') -> LoadedRun:
  """Return a finished run of a folder.

  Args:
    path: of the folder.
    threads: that read images.
    compilation_cache: as in a config.

  Raises:
    UserError: the folder holds no finished run, or one of another version of ule_jax.
  """
  return LoadedRun(local_path(os.fspath(path), '--run'), threads, compilation_cache)
