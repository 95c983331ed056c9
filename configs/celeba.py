"""CelebA, blond hair against gender.

python -m ule_jax.main --config=configs/celeba.py --config.data.dir=DIR
"""

from configs import base


def get_config(method='ule'):
  """Make the config; `method` is what stands behind the colon of --config."""
  config = base.make('celeba', method)
  config.model.name = 'resnet50'
  config.model.batch_norm = 'batch'
  # kohpangwei/group_DRO README, CelebA: SGD 0.9, lr 1e-4, weight decay 1e-4, batch 128, 50 epochs
  config.optim.name = 'sgd'
  config.optim.lr = 1e-4
  config.optim.weight_decay = 1e-4
  config.train.batch_size = 128
  config.train.epochs = 50.0
  config.train.eval_batch_size = 256
  config.train.eval_every = 1272  # one epoch of the full train split
  config.loader.threads = 8
  return config
