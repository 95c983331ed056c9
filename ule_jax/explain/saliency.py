"""Saliency: input gradients of a run's networks for hard, typical and randomly drawn examples.

`saliency/<split>.npz` has a row for each category of each chosen example:

  index, label, group     of the example in its split; group -1 is unknown
  category                hardest | typical | group (class, without groups) | only <role> right
  image                   uint8: the networks' input before normalisation
  mask_<name>             uint8, where the data set has masks
  saliency_<role>         float16 in [0, 1]: norm over channels of the gradient of `scalar` with respect to the
                          normalised image, divided by its maximum over the image
  peak_<role>             that maximum
  gradient_<role>         int8: the signed gradient of each channel, scaled so that its largest magnitude is 127
  prediction_<role>, probability_<role>     the predicted class, the probabilities of all classes
  cosine                  of the two roles' signed gradients
  name                    of the example in its data set, such as its file
  photograph              the image before its transform, at most 640 pixels long: PNG or JPEG files, one after another
  photograph_end          where each of these files ends
  box                     the part of the photograph that is the networks' input: left, top, right, bottom in [0, 1]
  step                    of the checkpoint
  scalar                  the differentiated output: config.method.scalar, or margin
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import log_softmax, softmax

from ule_jax import losses
from ule_jax.data import Dataset, Split
from ule_jax.explain.photographs import joined, visible_box

CHUNK = 32  # examples of one compiled call


def choose(
  label: Int[np.ndarray, 'n'],
  group: Int[np.ndarray, 'n'],
  logits: dict[str, Float[np.ndarray, 'n k']],
  count: int,
) -> list[tuple[str, int]]:
  """Choose (category, example) pairs, a pure function of the predictions.

  The hardest examples have the largest losses of the deployed (last) role, the typical ones losses closest to the
  median. The others are drawn with a fixed seed. Examples without a label (-1) are not chosen.

  Args:
    label: -1 is missing.
    group: -1 is unknown.
    logits: role -> logits.
    count: examples at most of a category, and of each group.
  """
  rng = np.random.default_rng(0)
  labelled = np.flatnonzero(label >= 0)
  label, group, logits = label[labelled], group[labelled], {role: values[labelled] for role, values in logits.items()}
  ids = np.arange(len(label))
  deployed = list(logits)[-1]
  loss = -log_softmax(logits[deployed], axis=1)[ids, label]
  chosen = {
    'hardest': [np.argsort(-loss, kind='stable')],
    'typical': [np.argsort(np.abs(loss - np.median(loss)), kind='stable')],
  }
  known = group >= 0
  name, codes = ('group', group) if known.any() else ('class', label)
  chosen[name] = [rng.permutation(ids[codes == code]) for code in np.unique(codes[codes >= 0])]
  if len(logits) == 2:
    right = {role: values.argmax(1) == label for role, values in logits.items()}
    for role, other in (list(logits), list(logits)[::-1]):
      chosen[f'only {role} right'] = [rng.permutation(ids[right[role] & ~right[other]])]
  return [(category, int(labelled[i])) for category, lists in chosen.items() for part in lists for i in part[:count]]


def logits_by_role(predictions: dict[str, np.ndarray]) -> dict[str, Float[np.ndarray, 'n k']]:
  """Return role -> logits of predictions, in the order of the roles."""
  return {name.removeprefix('logits_'): v for name, v in predictions.items() if name.startswith('logits_')}


def make_saliency_step(model, preprocess: Callable, roles: Sequence[str], scalar: str) -> Callable:
  """Return the jitted function `(params, batch_stats, image, label) -> (gradients, peaks, cosine of two roles)`.

  Args:
    preprocess: from uint8 images to the networks' input.
    roles: whose gradients are computed; gradients and peaks are dictionaries by role.
    scalar: a key of `losses.SCALARS`.
  """

  @jax.jit
  def step(params, batch_stats, image: Array, label: Int[Array, 'b']):
    x = preprocess(image)
    scaled, peaks = {}, {}
    for role in roles:
      variables = {'params': params[role], 'batch_stats': batch_stats[role]}
      _, gradient = losses.input_gradient(
        lambda x, v=variables: model.apply(v, x, train=False)[0],
        x,
        lambda logits: losses.SCALARS[scalar](logits, label),
      )
      peaks[role] = jnp.max(jnp.linalg.norm(gradient, axis=-1), axis=(1, 2))
      # Scaled, because float16 underflows at 6e-8, above the gradients of a confident network.
      scaled[role] = gradient / jnp.maximum(peaks[role], jnp.finfo(gradient.dtype).tiny)[:, None, None, None]
    return scaled, peaks, _cosine(*scaled.values()) if len(roles) == 2 else None

  return step


def collect(
  step: Callable,
  networks: Any,
  dataset: Dataset,
  split: str,
  predictions: dict[str, np.ndarray],
  chosen: Sequence[tuple[str, int]],
) -> dict[str, np.ndarray]:
  """Compute the arrays of the file, except `step` and `scalar`.

  Args:
    step: from `make_saliency_step`.
    networks: with `params` and `batch_stats`, by role.
    predictions: of the split, with `logits_<role>`.
    chosen: (category, example) pairs from `choose`.
  """
  logits = logits_by_role(predictions)
  rows = np.array([i for _, i in chosen])
  content = dataset.splits[split]
  inputs = [_transformed(dataset, content, i) for i in rows.tolist()]
  image, label = np.stack([image for image, _, _ in inputs]), predictions['label'][rows]
  box, photographs = visible_box(dataset.eval_transform), [photograph for _, _, photograph in inputs]
  arrays = {
    'index': predictions['index'][rows],
    'label': label,
    'group': predictions['group'][rows],
    'category': np.array([category for category, _ in chosen]),
    'image': image,
    **{f'mask_{name}': np.stack([masks[name] for _, masks, _ in inputs]) for name in inputs[0][1]},
    'name': np.array([_plain(content.name(i)) for i in rows.tolist()]),
    **joined(photographs),
    'box': np.array([box(*photograph.shape[:2]) for photograph in photographs], np.float32),
  }
  parts = []
  for start in range(0, len(rows), CHUNK):
    chunk = slice(start, start + CHUNK)
    parts.append(jax.device_get(step(networks.params, networks.batch_stats, image[chunk], label[chunk])))
  for role, values in logits.items():
    gradient = np.concatenate([scaled[role] for scaled, _, _ in parts])
    arrays[f'saliency_{role}'] = np.linalg.norm(gradient, axis=-1).astype(np.float16)
    arrays[f'peak_{role}'] = np.concatenate([peaks[role] for _, peaks, _ in parts])
    largest = np.abs(gradient).max(axis=(1, 2, 3), keepdims=True, initial=np.finfo(np.float32).tiny)
    arrays[f'gradient_{role}'] = np.rint(gradient / largest * 127).astype(np.int8)
    arrays[f'prediction_{role}'] = values[rows].argmax(1).astype(np.int32)
    arrays[f'probability_{role}'] = softmax(values[rows], axis=1)
  if parts[0][2] is not None:
    arrays['cosine'] = np.concatenate([cosine for _, _, cosine in parts])
  return arrays


def _cosine(a: Float[Array, 'b h w c'], b: Float[Array, 'b h w c']) -> Float[Array, 'b']:
  def product(a, b):
    return jnp.sum(a * b, axis=(1, 2, 3))

  return product(a, b) / jnp.sqrt(product(a, a) * product(b, b) + losses.EPS)


def _plain(name: str) -> str:
  """Replace the bytes of a file name that are no text, which an array of strings cannot hold."""
  return name.encode(errors='replace').decode()


def _transformed(dataset: Dataset, split: Split, i: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
  """Read an image and its masks, and apply the evaluation transform; return both, and the image before it."""
  masks, photograph = split.masks(i) if split.masks else {}, split.load(i)

  def transform(image):
    return dataset.eval_transform(image, np.random.default_rng((0, 0, 0))) if dataset.eval_transform else image

  # The transform needs three channels: the mask is repeated.
  transformed = {name: transform(np.repeat(mask[..., None], 3, axis=-1))[..., 0] for name, mask in masks.items()}
  return transform(photograph), transformed, photograph
