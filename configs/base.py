"""The names that a config file takes from here: `make`, `parse`, `vary`, and the defaults of methods and data sets.

A config file takes `make(data, method)` and changes values. It may not add fields: the config is locked, and a
mistyped field fails with the nearest right name. Every option is declared beside its owner in ule_jax/;
docs/reference/config.md lists them all.
"""

from ule_jax.config.build import VARIANTS, make, vary
from ule_jax.config.build import split_spec as parse
from ule_jax.data import DATASETS
from ule_jax.methods import METHODS as _METHODS
from ule_jax.two_stage import TWO_STAGE

METHODS = {name: row.options.defaults() for name, row in _METHODS.items()}  # method -> defaults of config.method
NEEDS = {name: dict(row.fields) for name, row in _METHODS.items()}  # method -> fields elsewhere that it needs
DATA = {name: row.options.defaults() for name, row in DATASETS.items()}  # data set -> defaults of config.data
PREPARATIONS = {name: row.options.defaults() for name, row in TWO_STAGE.items()}  # rule -> of config.two_stage.<rule>

__all__ = ['DATA', 'METHODS', 'NEEDS', 'PREPARATIONS', 'VARIANTS', 'make', 'parse', 'vary']
