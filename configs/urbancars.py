"""UrbanCars: urban and country cars with two shortcuts, the background and an object beside the car.

  python -m ule_jax.main --config=configs/urbancars.py[:method] --config.data.dir=DIR

DIR holds the two folders bg-..., as Whac-A-Mole's generator writes them. A full recipe for an accelerator;
we have not had the images, so that it has not been run on them by us.
"""

from ule_jax.config import make, split_spec, vary

# method -> what it changes, with its source; methods that are not listed train as ERM does
# (numbers are from facebookresearch/Whac-A-Mole where nothing else stands beside them)
RECIPES = {
  'group_dro': {'method.step_size': 0.01},
  'jtt': {'two_stage.epochs': 1.0, 'two_stage.jtt.up_weight': 100.0},
  'eiil': {'two_stage.epochs': 1.0, 'two_stage.eiil.steps': 10_000, 'two_stage.eiil.lr': 1e-3},
  'lff': {'method.q': 0.7, 'method.decay': 0.7},
  'lisa': {'method.domains': 4},  # ours: the cells of the two shortcuts
  # BigML-CS-UCLA/SpuCo quickstart (8f61942), which does not say how long the first run is: an epoch as for EIIL
  'spare': {
    'optim.lr': 1e-4, 'optim.weight_decay': 0.1, 'two_stage.epochs': 1.0, 'two_stage.lr': 1e-3,
    'two_stage.weight_decay': 1e-4, 'two_stage.spare.clusters': 4, 'two_stage.spare.high_power': 1,
  },
  'cnc': {'two_stage.epochs': 1.0},  # ours: an epoch as for EIIL
}  # fmt: skip


def get_config(spec='ule'):
  """Return the config of `method[,variant...]`, the part of --config after the colon."""
  method, variants = split_spec(spec)
  config = make('urbancars', method)
  config.model.name = 'resnet50'
  config.model.batch_norm = 'batch'
  config.model.weights = 'default'
  # facebookresearch/Whac-A-Mole, all methods: SGD 0.9, lr 1e-3, weight decay 1e-4, batch 128, 300 epochs
  config.optim.name = 'sgd'
  config.optim.lr = 1e-3
  config.optim.weight_decay = 1e-4
  config.train.batch_size = 128
  config.train.epochs = 300.0
  config.train.eval_batch_size = 256
  config.train.eval_every = 315  # 5 epochs
  config.loader.threads = 8
  config.update_from_flattened_dict(RECIPES.get(method, {}))
  return vary(config, variants)
