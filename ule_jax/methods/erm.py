"""Empirical risk minimisation: one network, the average loss, nothing else.

  L = mean_i loss(f(x_i + noise * n_i), y_i)

`loss` is `cross_entropy` or `generalized_cross_entropy`, and `noise` is 0 unless asked for. With
these two this is also the student of ULE on its own.
"""

from __future__ import annotations

from ule_jax import losses
from ule_jax.devices.collectives import local_examples
from ule_jax.methods.contract import PER_EXAMPLE, Aux, Method, Sizes, stateless


def make_method(options, sizes: Sizes, role: str = 'model') -> Method:
  """Make ERM. `role` names the network, and with it its initialisation and dropout keys."""
  del sizes
  classification_loss = losses.classification_loss(options.loss, options.q)

  def loss(params, forward, state, batch, step, key):
    del params, step
    out = forward(role, losses.add_noise(key, batch.image, local_examples(batch.index), options.noise))
    value = losses.weighted_mean(classification_loss(out.logits, batch.label), batch.weight)
    return value, Aux({role: value}, {role: out.batch_stats}, state, {})

  return Method((role,), stateless, loss, PER_EXAMPLE)
