"""Empirical risk minimisation: one network, the average loss, nothing else.

  L = mean_i loss(f(x_i + noise * n_i), y_i)

  n_i  standard Gaussian noise, drawn from the step's key and the example's index

Options `loss` and `noise`. With both set as ULE's student has them, this is that student on its own.
"""

from __future__ import annotations

from ule_jax import losses
from ule_jax.methods.contract import PER_EXAMPLE, Aux, Method, Sizes, Step
from ule_jax.options import Options, option


class Erm(Options):
  """Options of empirical risk minimisation."""

  loss: str = option('cross_entropy', 'classification loss', choices=losses.CLASSIFICATION_LOSSES)
  q: float = option(0.7, 'exponent of generalized_cross_entropy', gt=0, le=1)
  noise: float = option(0.0, 'standard deviation of Gaussian noise on the normalised input in training', ge=0)


def make_method(options: Erm, _: Sizes, role: str = 'model') -> Method:
  """Return ERM.

  Args:
    role: name of the network, which seeds its initialisation and dropout.
  """
  classification_loss = losses.classification_loss(options.loss, options.q)

  def loss(step: Step):
    out = step.forward(role, step.noisy(options.noise))
    value = step.mean(classification_loss(out.logits, step.batch.label))
    return value, Aux({role: value}, {role: out.batch_stats})

  return Method((role,), loss, PER_EXAMPLE)
