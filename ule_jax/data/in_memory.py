"""Arrays in memory that Python hands over, as `ule_jax.fit` and the estimators do; no command can name them."""

from __future__ import annotations

from typing import NoReturn

from ule_jax.errors import UserError
from ule_jax.options import Options as Declared


class Options(Declared):
  """Options of arrays: none."""


def load(options: Options) -> NoReturn:
  """Refuse to load: there are no files.

  Raises:
    UserError: always.
  """
  del options
  raise UserError(
    'data.name=arrays stands for arrays in memory, which only Python can hand over: call ule_jax.fit, whose estimator '
    'predicts and saves itself, or choose another --config=FILE.'
  )


input_spec = load
