"""The embedded task: digits below five or not, with a shortcut that follows the label. No download.

python -m ule_jax.main --config=configs/digits.py[:method]
"""

from configs import base


def get_config(method='ule'):
  """Make the config; `method` is what stands behind the colon of --config."""
  config = base.make('digits', method or 'ule')
  config.model.name = 'mlp'
  config.model.width = 64
  config.model.depth = 1
  config.optim.schedule = 'cosine'
  config.train.steps = 600
  config.train.log_every = 100
  return config
