"""Encoders of images: the networks of models/ with weights, and those of timm with their own transform."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ule_jax.config.schema import Config
from ule_jax.data import Dataset
from ule_jax.errors import UserError, brief
from ule_jax.models.build import network_and_shapes
from ule_jax.models.pretrained import mapping, weight_files
from ule_jax.runs import fingerprint
from ule_jax.train.features import Apply, encoder_of


class ImageEncoder(NamedTuple):
  """An encoder with the images that it takes.

  Attributes:
    dataset: whose `eval_transform` prepares an image for `apply`.
    apply: prepared images [b ...] -> features [b d].
    about: its name, weights and preprocessing in words and numbers, which are the key of its features.
  """

  dataset: Dataset
  apply: Apply
  about: dict[str, Any]


def of_config(config: Config, dataset: Dataset) -> ImageEncoder:
  """Return the network of a config with `model.weights`, and the data set's own preprocessing.

  Args:
    config: names the network and its weights.
    dataset: of images.

  Raises:
    UserError: there are no weights, or they do not fit.
  """
  model = config.model
  if model.weights == 'none':
    raise UserError(
      f'model.weights is none, and features of a random {model.name} say nothing: give --config.model.weights=default, '
      'a file or hf:OWNER/NAME, or a network of timm by --timm=NAME.'
    )
  _, template = network_and_shapes(config, len(dataset.classes), dataset.image_shape)
  weights = mapping.load_pretrained(model.weights, model.name, template)
  encoder = encoder_of(config, dataset, weights)
  mean, std = encoder.scale
  about = {
    'library': 'ule_jax',
    'name': model.name,
    'weights': model.weights,
    'sha256': weights.sha256,
    'precision': model.precision,
    'transform': dataset.description,
    'mean': list(mean),
    'std': list(std),
    'identity': fingerprint.digest(np.frombuffer(encoder.identity.encode(), np.uint8)),
  }
  return ImageEncoder(dataset, encoder.apply, about)


def of_timm(name: str, checkpoint: Path | None, dataset: Dataset) -> ImageEncoder:
  """Return a network of timm without its last layer, and its own transform for evaluation.

  Args:
    name: as of `timm.create_model`.
    checkpoint: a file of weights (None: those of timm, from the hub or its cache).
    dataset: of images, which are decoded as it says; its own transform is not applied.

  Raises:
    UserError: PyTorch or timm is missing, there is no such network, or its weights cannot be had or do not fit.
  """
  try:
    import timm
    import torch
    from PIL import Image
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform
  except ImportError as error:
    raise UserError(f"--timm needs PyTorch and timm ({error}): pip install 'ule-jax[embed]'.") from None
  try:
    model: Any = timm.create_model(name, pretrained=checkpoint is None, num_classes=0)
  except Exception as error:  # any type of the hub's network stack, and of timm for an unknown name
    near = f' Near: {", ".join(similar)}.' if (similar := timm.list_models(f'*{name}*')[:5]) and checkpoint else ''
    raise UserError(
      f'--timm={name} cannot be made ({brief(error, 160)}): give a name of timm, and --checkpoint=FILE where the hub '
      f'cannot be reached.{near}'
    ) from None
  if checkpoint is not None:
    load_checkpoint(model, checkpoint)
  device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
  model = model.eval().to(device)
  settings = resolve_model_data_config(model)
  transform: Any = create_transform(**settings, is_training=False)

  def prepare(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    del rng
    return transform(Image.fromarray(image)).numpy()

  def apply(images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
      return model(torch.from_numpy(images).to(device)).float().cpu().numpy()

  state = [values.cpu().numpy() for values in model.state_dict().values()]
  about = {
    'library': f'timm {timm.__version__}',
    'name': name,
    'weights': str(checkpoint) if checkpoint else str(model.pretrained_cfg.get('hf_hub_id') or 'default'),
    'sha256': fingerprint.digest(*state),
    'transform': ', '.join(repr(step) for step in transform.transforms),
    'mean': list(settings['mean']),
    'std': list(settings['std']),
  }
  prepared = dataset._replace(
    image_shape=tuple(settings['input_size']), eval_transform=prepare, train_transform=None, dtype=np.float32
  )
  return ImageEncoder(prepared, apply, about)


def load_checkpoint(model: Any, path: Path) -> None:
  """Load weights into a network of PyTorch; only tensors are read, below any prefix, and a last layer is left out.

  Args:
    model: a module of timm.
    path: .safetensors, .pth or .npz.

  Raises:
    UserError: a tensor of the network is missing or has another shape.
  """
  import torch

  tensors = weight_files.read(path)
  wanted: Mapping[str, Any] = model.state_dict()
  first = next(iter(wanted))
  prefixes = {name.removesuffix(first) for name in tensors if name.endswith(first)}
  needed = [name for name in wanted if not name.endswith('num_batches_tracked')]
  complete = sorted(prefix for prefix in prefixes if all(prefix + name in tensors for name in needed))
  if not complete:
    prefix = min(prefixes, default='')
    lacking = next(name for name in needed if prefix + name not in tensors)
    raise UserError(f'{path} has no tensor {lacking}, which the network needs: give the weights of this network.')
  prefix = complete[0]
  state = dict(wanted)
  for name in needed:
    value = np.asarray(tensors[prefix + name])
    shape = tuple(wanted[name].shape)
    if value.shape != shape:
      raise UserError(
        f'the tensor {prefix}{name} of {path} has the shape {value.shape}, and the network {shape}: give the weights '
        'of this network.'
      )
    state[name] = torch.from_numpy(np.array(value, np.float32)).to(wanted[name].dtype)
  model.load_state_dict(state)
