"""Automatic feature reweighting: ERM's last layer, fitted again with most weight on the examples that are hard for ERM.

Paper: Qiu et al. 2023, arXiv 2306.11074.

  on data that ERM did not train on (a share `train.holdout` of train):
  mu_i ~ exp(-gamma * p_1(y_i | x_i)), times n / n_y, normalised to sum 1
  minimise  sum_i mu_i * cross entropy(W z_i + b, y_i) + strength * (|W - W_1|^2 + |b - b_1|^2)   by gradient descent

  p_1, W_1, b_1 -> the first run (ERM); gamma, strength, steps, lr -> two_stage.afr.*
  a gradient whose norm, over W and b together, is above CLIP is scaled to it

Follows AndPotap/afr 5d5d78e (train_embeddings.py and its README's commands: one view of each image, not augmented,
`--grad_norm=1.0`). Departs from the official code: the held-out share is drawn by the seed, theirs is the last fifth;
and the last step instead of the one that is best on validation groups: no group label is read.
"""

from __future__ import annotations

import numpy as np
from etils import epy

from ule_jax.errors import UserError
from ule_jax.options import Options, option
from ule_jax.two_stage.contract import FirstRun, SecondStage, probabilities

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp
  import optax

CLIP = 1.0  # largest norm of a gradient


class Afr(Options):
  """Options of AFR."""

  gamma: float = option(10.0, 'factor in the weights exp(-gamma p); afr', ge=0)
  strength: float = option(0.0, "pull towards the first run's last layer; afr", ge=0)
  steps: int = option(500, 'steps of gradient descent; afr', ge=1)
  lr: float = option(0.01, 'learning rate of these steps; afr', ge=0)


def prepare(options: Afr, first: FirstRun) -> SecondStage:
  """Return the last layer, fitted on the held-out share of train.

  Raises:
    UserError: no training example was held out, or one has no label.
  """
  if not first.held_out.any():
    raise UserError('AFR fits on data that the first run did not see: set train.holdout, for example to 0.2.')
  train = {name: values[first.held_out] for name, values in first.labelled('train').items()}
  label = train['label']
  weight = np.exp(-options.gamma * probabilities(train['logits'].astype(np.float64))[np.arange(len(label)), label])
  weight *= len(label) / np.bincount(label, minlength=len(first.classes))[label]
  numbers = jnp.result_type(float)  # float32, or float64 where jax_enable_x64 is set
  weight, features = (jnp.asarray(values, numbers) for values in (weight / weight.sum(), train['features']))
  start, label = tuple(jnp.asarray(part, numbers) for part in (first.kernel, first.bias)), jnp.asarray(label)

  def loss(head):
    entropy = optax.softmax_cross_entropy_with_integer_labels(features @ head[0] + head[1][None], label)
    return (weight * entropy).sum() + options.strength * sum(
      ((a - b) ** 2).sum() for a, b in zip(head, start, strict=True)
    )

  def step(head, _):
    gradient = jax.grad(loss)(head)
    scale = jnp.minimum(1, CLIP / (optax.tree.norm(gradient) + 1e-6))  # torch.nn.utils.clip_grad_norm_
    return jax.tree.map(lambda p, g: p - options.lr * scale * g, head, gradient), None

  (kernel, bias), _ = jax.jit(lambda: jax.lax.scan(step, start, length=options.steps))()
  return SecondStage(head=(np.asarray(kernel), np.asarray(bias)), notes={'fitted_on': int(first.held_out.sum())})
