"""Environment inference for invariant learning: two environments in which a first run violates invariance most.

Paper: Creager et al. 2021, arXiv 2010.07249.

  q_i in (0, 1), learnt:  maximise  (d/dw mean_i q_i l_i(w) at w=1)^2 + (d/dw mean_i (1 - q_i) l_i(w) at w=1)^2
  l_i(w) = cross entropy of w * f_1(x_i);   group = (y_i, [q_i > 1/2])

  f_1 -> the first run, the number of Adam steps and their rate -> two_stage.eiil.{steps,lr}

Any method or sampling that reads groups can use these; the method `eiil` is GroupDRO on them, as in the paper.
Follows the authors' objective as kept in BigML-CS-UCLA/SpuCo 2875d57 (group_inference/eiil.py); the derivative
d l_i / dw does not depend on q and is computed once.
Departs from the official code: the groups here are environments within labels, four for two classes; the environments
of SpuCo and of facebookresearch/Whac-A-Mole 1094624 (urbancars_trainers/eiil.py) cross the labels, two in all. And
Whac-A-Mole adds up the objectives of the classes, each over its own examples, where SpuCo and this have one over all.
"""

from __future__ import annotations

import numpy as np
from etils import epy

from ule_jax.options import Options, option
from ule_jax.two_stage.contract import FirstRun, SecondStage, probabilities

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp
  import optax


class Eiil(Options):
  """Options of EIIL."""

  steps: int = option(10_000, 'Adam steps on the assignment to environments; Whac-A-Mole', ge=1)
  lr: float = option(1e-3, 'learning rate of these steps; Whac-A-Mole', ge=0)


def prepare(options: Eiil, first: FirstRun) -> SecondStage:
  """Return the groups (label, environment), with two environments that the first run's logits infer.

  Raises:
    UserError: a training example has no label.
  """
  train = first.labelled('train')
  logits, label = train['logits'].astype(np.float64), train['label']
  # d/dw of cross entropy(w * z, y) at w = 1 is sum_k p_k z_k - z_y
  slope = (probabilities(logits) * logits).sum(1) - logits[np.arange(len(label)), label]
  slope = jnp.asarray(slope, jnp.float32)
  start = jax.random.normal(jax.random.key(first.seed), slope.shape)
  adam = optax.adam(options.lr)

  def loss(w):
    q = jax.nn.sigmoid(w)
    return -((q * slope).mean() ** 2 + ((1 - q) * slope).mean() ** 2) / 2

  def step(carry, _):
    w, state = carry
    updates, state = adam.update(jax.grad(loss)(w), state)
    return (optax.apply_updates(w, updates), state), None

  (w, _), _ = jax.jit(lambda: jax.lax.scan(step, (start, adam.init(start)), length=options.steps))()
  environment = np.asarray(w > 0).astype(np.int32)
  names = tuple(f'{label}, environment {e}' for label in first.classes for e in (0, 1))
  return SecondStage(
    group=label * 2 + environment, groups=names, notes={'environments': np.bincount(environment).tolist()}
  )
