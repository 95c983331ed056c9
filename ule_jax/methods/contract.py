"""The contract of the family: what a method is and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from etils import epy
from jaxtyping import Float, Int

from ule_jax.errors import UserError

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp

Params = dict[str, Any]  # role -> its network's parameters, a tree of arrays


class Batch(NamedTuple):
  """One batch on the device. `weight` 0 marks padding; `label` and `group` are -1 where they are not known.

  The step gives an example without a label no weight (`labelled`). One without a group counts where no group is read;
  what a method that reads groups makes of it stands in its docstring.

  In a program that runs on every device (`parallel=pmap`) the images, and gradients at them, are those of one device,
  all else is of the whole batch: `sharding.everyone` and `sharding.here` lead from one to the other.
  """

  image: jax.Array  # b h w c; uint8 as shipped, normalised float once the step has prepared it
  label: Int[jax.Array, 'b']
  group: Int[jax.Array, 'b']
  index: Int[jax.Array, 'b']
  weight: Float[jax.Array, 'b']


def labelled(batch: Batch) -> Batch:
  """Give examples whose label is not known (-1) no weight, so that they count nowhere."""
  return batch._replace(weight=jnp.where(batch.label >= 0, batch.weight, 0))


class Output(NamedTuple):
  """What one network says about one batch; `batch_stats` are those after it ({} without BatchNorm)."""

  logits: Float[jax.Array, 'b k']
  features: Float[jax.Array, 'b d']
  batch_stats: Any


class Forward(Protocol):
  """Run the network of a role at `x`: the image, or features for heads on a shared encoder.

  Of one device, as a batch's images are; the output is of the whole batch.
  """

  def __call__(self, role: str, x: jax.Array, train: bool = True) -> Output: ...


class Aux(NamedTuple):
  """What a loss returns beside its scalar: per-role losses and batch statistics, state, metrics."""

  losses: dict[str, Float[jax.Array, '']]
  batch_stats: dict[str, Any]
  method_state: Any
  metrics: dict[str, Float[jax.Array, '']]


class Sizes(NamedTuple):
  """What a method may know of the data: examples, classes, groups, examples per group in train.

  couples_examples: whether a network's output for an example depends on the batch's others (BatchNorm in training).
  """

  n: int
  k: int
  g: int
  group_counts: Any  # int[g]
  couples_examples: bool = True


LABEL_FREE = 'label_free'  # never reads `group` in training
PERMUTATION_INVARIANT = 'permutation_invariant'  # the order inside a batch does not matter
IGNORES_WEIGHT_ZERO = 'ignores_weight_zero'  # an example of weight 0 changes nothing
SEPARABLE = 'separable'  # the loss of a batch is the weighted mean of those of its parts: it can be accumulated
# A mean over examples has all.
PER_EXAMPLE = frozenset({LABEL_FREE, PERMUTATION_INVARIANT, IGNORES_WEIGHT_ZERO, SEPARABLE})


class Method(NamedTuple):
  """A method as pure functions.

  roles: the networks it trains; the last is the one that is evaluated and deployed.
  init: params -> method_state, the arrays the method carries from step to step.
  loss: ONE scalar for all roles, with `stop_gradient` at the boundaries between them, and `Aux`.
  properties: what the common tests may demand of it.
  """

  roles: tuple[str, ...]
  init: Callable[[Params], Any]
  loss: Callable[[Params, Forward, Any, Batch, Int[jax.Array, ''], jax.Array], tuple[Float[jax.Array, ''], Aux]]
  properties: frozenset[str]


def stateless(params: Params) -> Any:
  """Initialise a method that carries nothing from step to step."""
  del params
  return {}


def require_groups(sizes: Sizes) -> None:
  """Refuse training data in which no example has a group.

  Raises:
    UserError: there is none.
  """
  if not sum(sizes.group_counts):
    raise UserError('no training example has a group, and the method needs groups: choose one that does not.')
