"""Waterbirds: landbirds and waterbirds on land and water backgrounds.

  python -m ule_jax.main --config=configs/waterbirds.py[:method] --config.data.dir=DIR

DIR holds metadata.csv and the species folders. A full recipe for an accelerator; we have had the labels
only, so that it has not been run on the images by us.
"""

from ule_jax.config import make, split_spec, vary

# method -> what it changes, with its source; methods that are not listed train as ERM does
_SUBPOPBENCH = {  # YyzHarry/SubpopBench, whose networks keep BatchNorm in evaluation mode (networks.py)
  'train.batch_size': 108, 'train.epochs': 0.0, 'train.steps': 5001, 'model.batch_norm': 'frozen',
}  # fmt: skip
RECIPES = {
  'group_dro': {'method.step_size': 0.01},  # kohpangwei/group_DRO README: otherwise as ERM
  # anniesch/jtt README and issues 2 and 6; with a larger lr the error set is empty
  'jtt': {
    'optim.lr': 1e-5, 'optim.weight_decay': 1.0, 'train.batch_size': 64,
    'two_stage.epochs': 60.0, 'two_stage.jtt.up_weight': 100.0,
  },
  # PolinaKirichenko/deep_feature_reweighting README: its base ERM
  'dfr': {
    'optim.weight_decay': 1e-3, 'train.batch_size': 32, 'train.epochs': 100.0, 'data.augment': True,
  },
  # AndPotap/afr README (5d5d78e), its commands for Waterbirds
  'afr': {
    'optim.lr': 3e-3, 'train.batch_size': 32, 'train.epochs': 50.0, 'data.augment': True,
    'two_stage.afr.gamma': 10.0, 'two_stage.afr.strength': 0.0, 'two_stage.afr.steps': 500, 'two_stage.afr.lr': 0.01,
  },
  # BigML-CS-UCLA/SpuCo quickstart (8f61942): groups after one epoch
  'spare': {
    'optim.lr': 1e-4, 'optim.weight_decay': 0.1, 'train.epochs': 100.0,
    'two_stage.epochs': 1.0, 'two_stage.lr': 1e-3, 'two_stage.weight_decay': 1e-4, 'two_stage.spare.clusters': 4,
  },
  'eiil': {'two_stage.epochs': 1.0},  # facebookresearch/Whac-A-Mole (for UrbanCars); GroupDRO's recipe on top
  # HazyResearch/correct-n-contrast README (eaa1c66): running statistics; four times 17 examples around an anchor, of
  # which its steps add up 32, so that its epochs are longer. The first run is ours: ERM as above, for one epoch.
  'cnc': {
    'optim.lr': 1e-4, 'optim.weight_decay': 1e-3, 'train.batch_size': 68, 'train.epochs': 5.0,
    'method.contrast': 0.75, 'method.temperature': 0.1, 'model.batch_norm': 'frozen',
    'two_stage.epochs': 1.0, 'two_stage.lr': 1e-3, 'two_stage.weight_decay': 1e-4, 'two_stage.batch_norm': 'batch',
  },
  # huaxiuyao/LISA README: batches of 16 of each of the four groups, of which the smallest has 4: its 300 epochs are
  # 1,200 steps. Evaluated after 10 of these epochs (ours).
  'lisa': {
    'train.batch_size': 64, 'train.epochs': 0.0, 'train.steps': 1200, 'train.eval_every': 40,
    'method.alpha': 2.0, 'method.p_sel': 0.5, 'method.domains': 2,
  },
  'lff': _SUBPOPBENCH | {'train.batch_size': 54, 'method.q': 0.7},
  **dict.fromkeys(('irm', 'vrex', 'coral', 'mmd', 'mixup'), _SUBPOPBENCH),  # vrex: DomainBed's penalty
}  # fmt: skip


def get_config(spec='ule'):
  """Return the config of `method[,variant...]`, the part of --config after the colon."""
  method, variants = split_spec(spec)
  config = make('waterbirds', method)
  config.model.name = 'resnet50'
  config.model.batch_norm = 'batch'
  config.model.weights = 'default'
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
  config.update_from_flattened_dict(RECIPES.get(method, {}))
  return vary(config, variants)
