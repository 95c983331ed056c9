"""The contract of a method: `scalar, aux = loss(step)`, and the types on both sides of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from etils import epy
from jaxtyping import Float, Int

from ule_jax import losses
from ule_jax.errors import UserError

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp

Params = dict[str, Any]  # role -> its network's parameters, a tree of arrays

Rows = TypeVar('Rows')  # an array, or a tree of arrays, whose first axis is examples


class Batch(NamedTuple):
  """One batch on the device; the letters of shapes are `b` examples, `k` classes, `g` groups, `n` training examples.

  Under `parallel=pmap`, `image` (and any gradient with respect to it) holds this device's shard; every other field
  holds the whole batch.

  image: `b h w c`; uint8 in a data set, normalised float in a loss; `b d` features for heads on a frozen encoder.
  label: class, in [0, k), or -1 if unknown; the step gives an unlabelled example weight 0 (`labelled`).
  group: in [0, g), or -1 if unknown; a method that reads groups documents its use of examples without one.
  index: number of the example in its split, in [0, n).
  weight: from 0 on; 0 marks padding.
  """

  image: jax.Array
  label: Int[jax.Array, 'b']
  group: Int[jax.Array, 'b']
  index: Int[jax.Array, 'b']  # pyright: ignore[reportIncompatibleMethodOverride] a field; tuple.index is not used
  weight: Float[jax.Array, 'b']


def labelled(batch: Batch) -> Batch:
  """Return the batch with weight 0 for the examples whose label is unknown (-1)."""
  return batch._replace(weight=jnp.where(batch.label >= 0, batch.weight, 0))


class Output(NamedTuple):
  """Output of one network for one batch; `batch_stats` are the running statistics after it, {} without BatchNorm."""

  logits: Float[jax.Array, 'b k']
  features: Float[jax.Array, 'b d']
  batch_stats: Any


class Forward(Protocol):
  """Run the network of a role on `x`: images, or features for heads on a frozen encoder.

  Under `parallel=pmap`, `x` holds this device's shard, as `Batch.image` does; the output is of the whole batch.
  """

  def __call__(self, role: str, x: jax.Array, train: bool = True) -> Output: ...


class Aux(NamedTuple):
  """Results of a loss beside its scalar.

  losses: role -> its part of the scalar.
  batch_stats: role -> the running statistics after the step.
  method_state: the arrays for the method's next step.
  metrics: name -> a scalar for the log.
  """

  losses: dict[str, Float[jax.Array, '']]
  batch_stats: dict[str, Any]
  method_state: Mapping[str, Any] = {}
  metrics: Mapping[str, Float[jax.Array, '']] = {}


def _same(rows: Rows) -> Rows:
  return rows


class Step(NamedTuple):
  """One training step, as a loss sees it.

  params: parameters of every role.
  state: the method's arrays from its previous step (`Method.init` before the first).
  batch: the batch, with normalised images.
  number: of the step, from 0 on.
  key: random key of the step; the same for every part of a batch under `train.accumulate`.
  forward: (role, x, train=True) -> Output.
  per_example: from values of this device's images, `b ...`, to those of the whole batch; the identity but under pmap.
  per_image: the inverse, from values of the whole batch to those of this device's images.
  """

  params: Params
  state: Any
  batch: Batch
  number: Int[jax.Array, '']
  key: jax.Array
  forward: Forward
  per_example: Callable[[Any], Any] = _same
  per_image: Callable[[Any], Any] = _same

  def mean(self, values: Float[jax.Array, 'b']) -> Float[jax.Array, '']:
    """Return the mean over the batch, weighted by its weights; 0 if all are 0."""
    return losses.weighted_mean(values, self.batch.weight)

  def noisy(self, std: Any) -> jax.Array:
    """Return the batch's images with Gaussian noise, drawn from the step's key and each example's index.

    Args:
      std: standard deviation in units of the normalised input; a Python 0 leaves the noise out of the graph.
    """
    return losses.add_noise(self.key, self.batch.image, self.per_image(self.batch.index), std)

  def forward_with_input_gradient(
    self,
    role: str,
    x: Float[jax.Array, 'i *shape'],
    fit: Callable[[jax.Array], jax.Array],
    scalar: Callable[[jax.Array, jax.Array], jax.Array],
    proportional: bool = False,
  ) -> tuple[Output, Float[jax.Array, ''], Float[jax.Array, 'i *shape']]:
    """Run a network once; return its output, its loss, and each example's gradient of a scalar at `x`.

    Args:
      role: of the network.
      x: its input, with this device's rows, as `batch.image` has them; the gradient has the same.
      fit: logits -> loss of the batch, which falls as the margin grows.
      scalar: (logits, label) -> scalar of each example; a value of `losses.SCALARS`.
      proportional: the gradients of `fit` and `scalar` are proportional (`losses.is_proportional`).
    """
    return losses.fit_and_input_gradient(
      lambda x: self.forward(role, x), x, self.batch.label, fit, scalar, proportional, self.per_image
    )


class Sizes(NamedTuple):
  """Sizes of the training data and a property of the network, for `make_method`.

  n: training examples; k: classes; g: groups.
  group_counts: training examples of each group, `int[g]`.
  couples_examples: the network's output for an example depends on the batch's others (BatchNorm in training).
  """

  n: int
  k: int
  g: int = 0
  group_counts: Any = ()
  couples_examples: bool = True


LABEL_FREE = 'label_free'  # never reads `group` in training
PERMUTATION_INVARIANT = 'permutation_invariant'  # the order inside a batch does not matter
IGNORES_WEIGHT_ZERO = 'ignores_weight_zero'  # an example of weight 0 changes nothing
SEPARABLE = 'separable'  # the loss of a batch is the weighted mean of those of its parts: it can be accumulated
# A mean over examples has all.
PER_EXAMPLE = frozenset({LABEL_FREE, PERMUTATION_INVARIANT, IGNORES_WEIGHT_ZERO, SEPARABLE})


class Method(NamedTuple):
  """A method as pure functions.

  roles: names of the networks it trains; the last one is evaluated and deployed. A role's name seeds its
    initialisation and dropout.
  loss: step -> one scalar for all roles, with `stop_gradient` at the boundaries between them, and `Aux`.
  properties: of the loss, which the battery over all methods tests.
  init: parameters -> the method's state before the first step; {} for a method without one.
  """

  roles: tuple[str, ...]
  loss: Callable[[Step], tuple[Float[jax.Array, ''], Aux]]
  properties: frozenset[str]
  init: Callable[[Params], Any] = lambda _: {}


def require_groups(sizes: Sizes) -> None:
  """Refuse training data in which no example has a group.

  Raises:
    UserError: no example has one.
  """
  if not sum(sizes.group_counts):
    raise UserError('no training example has a group, and the method needs groups: choose one that does not.')
