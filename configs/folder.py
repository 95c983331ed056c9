"""Your own images: a folder for each class, or metadata.csv (filename, label, split, and group or attribute if known).

  python -m ule_jax.data --config=configs/folder.py --config.data.dir=DIR
  python -m ule_jax.main --config=configs/folder.py[:method] --config.data.dir=DIR

A start, not a recipe: size, network, learning rate and length are for you to choose.
"""

from ule_jax.config import make, split_spec, vary


def get_config(spec='ule'):
  """Return the config of `method[,variant...]`, the part of --config after the colon."""
  method, variants = split_spec(spec)
  config = make('folder', method)
  config.model.name = 'resnet18'
  config.model.batch_norm = 'batch'
  config.model.weights = 'default'
  config.optim.name = 'sgd'
  config.optim.lr = 1e-3
  config.optim.weight_decay = 1e-4
  config.train.batch_size = 64
  config.train.epochs = 50.0
  config.train.eval_batch_size = 256
  config.train.eval_every = 200
  config.loader.threads = 8
  return vary(config, variants)
