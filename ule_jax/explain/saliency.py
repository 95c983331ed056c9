"""What the networks of a run look at: input gradients of examples that are worth a look.

`saliency/<split>.npz` has a row for each category of each chosen example:

  index, label, group     of the example in its split; group -1 is unknown
  category                hardest | typical | group (class, without groups) | only <role> right
  image                   uint8, as the networks are shown it before normalisation
  mask_<name>             uint8, where the data set knows what is where
  saliency_<role>         float16 in [0, 1]: the length over channels of the gradient of `scalar` at the normalised
                          image, divided by its maximum over the image
  peak_<role>             that maximum
  gradient_<role>         int8: the gradient itself, its signs and channels with it, where 127 is its largest value
  prediction_<role>, probability_<role>     the predicted class, the probabilities of all
  cosine                  of two roles' gradients as they are, with signs
  step                    of the checkpoint
  scalar                  what was differentiated: config.method.scalar, or margin
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ule_jax import losses
from ule_jax.data import Dataset, Split

CHUNK = 32  # examples differentiated at a time


def choose(
  label: Int[np.ndarray, 'n'],
  group: Int[np.ndarray, 'n'],
  logits: dict[str, Float[np.ndarray, 'n k']],
  count: int,
) -> list[tuple[str, int]]:
  """Choose (category, example) pairs, up to `count` of a category (of each group): a pure function of predictions.

  Hardest are those of the largest loss of the deployed role, which is the last, and typical those whose loss is
  nearest to the median. The others are drawn with a fixed seed. Examples without a label (-1) are not chosen.
  """
  rng = np.random.default_rng(0)
  labelled = np.flatnonzero(label >= 0)
  label, group, logits = label[labelled], group[labelled], {role: values[labelled] for role, values in logits.items()}
  ids = np.arange(len(label))
  deployed = list(logits)[-1]
  loss = -_log_softmax(logits[deployed])[ids, label]
  chosen = {
    'hardest': [np.argsort(-loss, kind='stable')],
    'typical': [np.argsort(np.abs(loss - np.median(loss)), kind='stable')],
  }
  known = group >= 0
  name, of = ('group', group) if known.any() else ('class', label)
  chosen[name] = [rng.permutation(ids[of == value]) for value in np.unique(of[of >= 0])]
  if len(logits) == 2:
    right = {role: values.argmax(1) == label for role, values in logits.items()}
    for role, other in (list(logits), list(logits)[::-1]):
      chosen[f'only {role} right'] = [rng.permutation(ids[right[role] & ~right[other]])]
  return [(category, int(labelled[i])) for category, lists in chosen.items() for part in lists for i in part[:count]]


def logits_by_role(predictions: dict[str, np.ndarray]) -> dict[str, Float[np.ndarray, 'n k']]:
  """Take the logits out of predictions, in the order of the roles."""
  return {name.removeprefix('logits_'): v for name, v in predictions.items() if name.startswith('logits_')}


def make_saliency_step(model, preprocess: Callable, roles: Sequence[str], scalar: str) -> Callable:
  """Make the jitted `(params, batch_stats, image, label) -> (gradients, peaks by role, cosine of two roles)`."""

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
      # Divided, as float16 ends at 6e-8, which is more than a confident network's gradient.
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
  """Make the arrays of the file.

  Args:
    step: of `make_saliency_step`.
    networks: has `params` and `batch_stats`.
    predictions: of the split, with `logits_<role>`.
    chosen: (category, example) pairs, as `choose` gives them.
  """
  logits = logits_by_role(predictions)
  rows = np.array([i for _, i in chosen])
  content = dataset.splits[split]
  shown = [_shown(dataset, content, i) for i in rows.tolist()]
  image, label = np.stack([image for image, _ in shown]), predictions['label'][rows]
  arrays = {
    'index': predictions['index'][rows],
    'label': label,
    'group': predictions['group'][rows],
    'category': np.array([category for category, _ in chosen]),
    'image': image,
    **{f'mask_{name}': np.stack([masks[name] for _, masks in shown]) for name in shown[0][1]},
  }
  parts = []
  for start in range(0, len(rows), CHUNK):
    here = slice(start, start + CHUNK)
    parts.append(jax.device_get(step(networks.params, networks.batch_stats, image[here], label[here])))
  for role, values in logits.items():
    gradient = np.concatenate([scaled[role] for scaled, _, _ in parts])
    arrays[f'saliency_{role}'] = np.linalg.norm(gradient, axis=-1).astype(np.float16)
    arrays[f'peak_{role}'] = np.concatenate([peaks[role] for _, peaks, _ in parts])
    largest = np.abs(gradient).max(axis=(1, 2, 3), keepdims=True, initial=np.finfo(np.float32).tiny)
    arrays[f'gradient_{role}'] = np.rint(gradient / largest * 127).astype(np.int8)
    arrays[f'prediction_{role}'] = values[rows].argmax(1).astype(np.int32)
    arrays[f'probability_{role}'] = np.exp(_log_softmax(values[rows]))
  if parts[0][2] is not None:
    arrays['cosine'] = np.concatenate([cosine for _, _, cosine in parts])
  return arrays


def _cosine(a: Float[Array, 'b h w c'], b: Float[Array, 'b h w c']) -> Float[Array, 'b']:
  def product(a, b):
    return jnp.sum(a * b, axis=(1, 2, 3))

  return product(a, b) / jnp.sqrt(product(a, a) * product(b, b) + losses.EPS)


def _shown(dataset: Dataset, split: Split, i: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Read an image and its masks, cropped and resized as in evaluation."""
  masks = split.masks(i) if split.masks else {}

  def transform(image):
    return dataset.eval_transform(image, np.random.default_rng((0, 0, 0))) if dataset.eval_transform else image

  # A transform takes colour images; a grey one of three equal channels goes the same way.
  moved = {name: transform(np.repeat(mask[..., None], 3, axis=-1))[..., 0] for name, mask in masks.items()}
  return transform(split.load(i)), moved


def _log_softmax(logits: Float[np.ndarray, 'n k']) -> Float[np.ndarray, 'n k']:
  shifted = logits - logits.max(1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
