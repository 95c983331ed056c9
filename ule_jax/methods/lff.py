"""Learning from Failure: examples that are hard for a biased network weigh more for the debiased one.

Paper: Nam et al., "Learning from Failure: Training Debiased Classifier from Biased Classifier",
arXiv 2007.02561. Code: alinlab/LfF.

  L_biased   = mean_i q p_i^q CE(b(x_i), y_i)
  L_debiased = mean_i w_i CE(d(x_i), y_i),  w_i = B_i / (B_i + D_i + 1e-8)
  e_i       <- decay e_i + (1 - decay) CE_i, and e_i <- CE_i when example i is seen for the first time
  B_i, D_i   e_i of the biased and the debiased network over the largest e_j of the examples with i's label

  p_i    probability of the label under the biased network, without a gradient of its own
  e_i    moving averages, one for each example of train and network: `biased` and `debiased` of the state
  q      `q`
  decay  `decay`

Departs from the paper: as the code does, the losses are averaged over time and normalised within
the class, and the biased loss has the gradient of generalised cross entropy times q. An example
that stands in a batch twice enters its average once, with the mean of both; the code keeps either.
"""

from __future__ import annotations

from etils import epy

from ule_jax import losses
from ule_jax.methods.contract import IGNORES_WEIGHT_ZERO, LABEL_FREE, PERMUTATION_INVARIANT, Aux, Method, Sizes, Step
from ule_jax.options import Options, option

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp

BIASED, DEBIASED = 'biased', 'debiased'


class Lff(Options):
  """Options of learning from failure."""

  q: float = option(0.7, "exponent of the biased network's loss; LfF", gt=0, le=1)
  decay: float = option(0.7, 'decay per visit of the moving averages of the losses; LfF', ge=0, le=1)


def make_method(options: Lff, sizes: Sizes) -> Method:
  """Return LfF."""
  n, k = sizes.n, sizes.k

  def init(_):
    # The label of an example that has not been seen is k, which is no class.
    return {BIASED: jnp.zeros(n, jnp.float32), DEBIASED: jnp.zeros(n, jnp.float32), 'label': jnp.full(n, k, jnp.int32)}

  def loss(step: Step):
    state, batch = step.state, step.batch
    real = (batch.weight > 0) & (batch.index >= 0)
    weight = jnp.where(real, batch.weight, 0)
    index = jnp.where(real, batch.index, n)  # n is out of range: writes are dropped, reads clipped and not used
    times = jnp.zeros(n, weight.dtype).at[index].add(1, mode='drop')
    label = state['label'].at[index].set(batch.label, mode='drop')

    def follow(role, each):
      """Return the moving averages of the losses, and the batch's own, relative to the largest of their class."""
      mean = jnp.zeros(n, each.dtype).at[index].add(each, mode='drop') / jnp.maximum(times, 1)
      seen = (state['label'] < k).astype(each.dtype)
      average = options.decay * state[role] + (1 - options.decay * seen) * mean
      average = jnp.where(times > 0, average, state[role])
      largest = jnp.zeros(k, each.dtype).at[label].max(average, mode='drop')
      of_batch = average.at[index].get(mode='clip')
      return average, of_batch / jnp.maximum(losses.take(largest, batch.label), losses.EPS)

    biased, debiased = step.forward(BIASED, batch.image), step.forward(DEBIASED, batch.image)
    of_biased, of_debiased = (losses.cross_entropy(out.logits, batch.label) for out in (biased, debiased))
    averages_b, relative_b = follow(BIASED, jax.lax.stop_gradient(of_biased))
    averages_d, relative_d = follow(DEBIASED, jax.lax.stop_gradient(of_debiased))
    difficulty = relative_b / (relative_b + relative_d + 1e-8)
    easiness = jax.lax.stop_gradient(jnp.exp(-options.q * of_biased))
    value_b = losses.weighted_mean(options.q * easiness * of_biased, weight)
    value_d = losses.weighted_mean(difficulty * of_debiased, weight)
    return value_b + value_d, Aux(
      losses={BIASED: value_b, DEBIASED: value_d},
      batch_stats={BIASED: biased.batch_stats, DEBIASED: debiased.batch_stats},
      method_state={BIASED: averages_b, DEBIASED: averages_d, 'label': label},
      metrics={'difficulty': losses.weighted_mean(difficulty, weight)},
    )

  properties = frozenset({LABEL_FREE, PERMUTATION_INVARIANT, IGNORES_WEIGHT_ZERO})
  return Method((BIASED, DEBIASED), loss, properties, init)
