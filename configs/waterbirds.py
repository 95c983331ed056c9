"""Waterbirds: landbirds and waterbirds on land and water backgrounds.

  python -m ule_jax.main --config=configs/waterbirds.py[:method] --config.data.dir=DIR

DIR holds metadata.csv and the species folders. A full recipe for an accelerator; we have had the labels
only, so that it has not been run on the images by us.
"""

from configs import base


def get_config(method='ule'):
  """Make the config; `method` is what stands behind the colon of --config."""
  config = base.make('waterbirds', method)
  config.model.name = 'resnet50'
  config.model.batch_norm = 'batch'
  # kohpangwei/group_DRO, ERM of its grid: SGD 0.9, lr 1e-3, weight decay 1e-4, batch 128, 300 epochs, not
  # augmented. WILDS' default (1e-5 and 1.0) gives ERM a worst group of 0: p-lambda/wilds issue 148.
  config.optim.name = 'sgd'
  config.optim.lr = 1e-3
  config.optim.weight_decay = 1e-4
  config.train.batch_size = 128
  config.train.epochs = 300.0
  config.train.eval_batch_size = 256
  config.train.eval_every = 190  # 5 epochs
  config.loader.threads = 8
  return config
