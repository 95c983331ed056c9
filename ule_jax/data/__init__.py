"""Every data set, by the name that configs use."""

from ule_jax.data import celeba, digits
from ule_jax.data.dataset import Dataset, Split

DATASETS = {
  'digits': digits.load,
  'celeba': celeba.load,
}

__all__ = ['DATASETS', 'Dataset', 'Split']
