"""Features of any encoder: a file with x, label, split, and group or attribute if known, and a head on it.

  python -m ule_jax.main --config=configs/embeddings.py[:method[,mlp]] --config.data.file=FILE

A linear head, or with `,mlp` one of a hidden layer of 256. A start, not a recipe: learning rate and length are for you
to choose.
"""

from ule_jax.config import make, split_spec, vary


def get_config(spec='ule'):
  """Return the config of `method[,variant...]`, the part of --config after the colon."""
  method, variants = split_spec(spec)
  config = make('embeddings', method)
  config.model.name = 'linear'
  config.optim.name = 'adam'
  config.optim.lr = 1e-3
  config.train.batch_size = 256
  config.train.epochs = 20.0
  config.train.eval_batch_size = 1024
  config.train.eval_every = 200
  return vary(config, variants)
