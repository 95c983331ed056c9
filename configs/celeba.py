"""CelebA, blond hair against gender, or any other pair of the 40 attributes.

  python -m ule_jax.main --config=configs/celeba.py[:method] --config.data.dir=DIR

The defaults are a full recipe for an accelerator (ResNet-50 at 224); it has not been run to its end
by us yet. docs/guides/data/celeba.md has a small run that takes a minute on a CPU.
"""

from ule_jax.config import make, split_spec, vary

_SUBPOPBENCH = {  # YyzHarry/SubpopBench, whose networks keep BatchNorm in evaluation mode (networks.py)
  'optim.lr': 1e-3, 'train.batch_size': 108, 'train.epochs': 0.0, 'train.steps': 30_001,
  'model.batch_norm': 'frozen',
}  # fmt: skip

# method -> what it changes, with its source; methods that are not listed train as ERM does
RECIPES = {
  'group_dro': {'method.step_size': 0.01},  # kohpangwei/group_DRO README: otherwise as ERM
  # anniesch/jtt README and issues 2 and 6
  'jtt': {
    'optim.lr': 1e-5, 'optim.weight_decay': 0.1, 'train.batch_size': 64,
    'two_stage.epochs': 1.0, 'two_stage.jtt.up_weight': 50.0,
  },
  # PolinaKirichenko/deep_feature_reweighting README: its base ERM
  'dfr': {'optim.lr': 1e-3},
  # AndPotap/afr README (5d5d78e), its commands for CelebA
  'afr': {
    'optim.lr': 3e-3, 'optim.schedule': 'cosine', 'train.batch_size': 100, 'train.epochs': 20.0,
    'two_stage.afr.gamma': 1.44, 'two_stage.afr.strength': 1e-3, 'two_stage.afr.steps': 1000, 'two_stage.afr.lr': 0.02,
  },
  # BigML-CS-UCLA/SpuCo quickstart (8f61942), which clusters features before training; one epoch as for Waterbirds
  'spare': {
    'optim.lr': 1e-5, 'optim.weight_decay': 1.0, 'train.epochs': 50.0,
    'two_stage.epochs': 1.0, 'two_stage.lr': 1e-3, 'two_stage.weight_decay': 1e-4, 'two_stage.spare.clusters': 2,
  },
  'eiil': {'two_stage.epochs': 1.0},  # facebookresearch/Whac-A-Mole (for UrbanCars); GroupDRO's recipe on top
  # HazyResearch/correct-n-contrast README (eaa1c66): running statistics; four times 64 examples around an anchor, of
  # which its steps add up 32, and of the anchors a tenth in an epoch. The first run is ours: ERM as below, one epoch.
  'cnc': {
    'optim.lr': 1e-5, 'optim.weight_decay': 0.1, 'train.batch_size': 256, 'train.epochs': 15.0,
    'method.contrast': 0.75, 'method.temperature': 0.05, 'model.batch_norm': 'frozen',
    'two_stage.epochs': 1.0, 'two_stage.lr': 1e-4, 'two_stage.weight_decay': 1e-4, 'two_stage.batch_norm': 'batch',
  },
  # huaxiuyao/LISA README, without its CutMix: batches of 16 of each of the four groups, of which the smallest has 87:
  # its 50 epochs are 4,350 steps. Evaluated after 5 of these epochs (ours).
  'lisa': {
    'train.batch_size': 64, 'train.epochs': 0.0, 'train.steps': 4350, 'train.eval_every': 435,
    'method.alpha': 2.0, 'method.p_sel': 0.5, 'method.domains': 2,
  },
  'lff': _SUBPOPBENCH | {'train.batch_size': 54, 'method.q': 0.7},
  **dict.fromkeys(('irm', 'vrex', 'coral', 'mmd', 'mixup'), _SUBPOPBENCH),  # vrex: DomainBed's penalty
}  # fmt: skip


def get_config(spec='ule'):
  """Return the config of `method[,variant...]`, the part of --config after the colon."""
  method, variants = split_spec(spec)
  config = make('celeba', method)
  config.model.name = 'resnet50'
  config.model.batch_norm = 'batch'
  config.model.weights = 'default'
  # Augmented for every method, as DFR's and AFR's base runs are; group_DRO, JTT and SubpopBench do not augment:
  # --config.data.augment=False.
  # kohpangwei/group_DRO README, CelebA: SGD 0.9, lr 1e-4, weight decay 1e-4, batch 128, 50 epochs
  config.optim.name = 'sgd'
  config.optim.lr = 1e-4
  config.optim.weight_decay = 1e-4
  config.train.batch_size = 128
  config.train.epochs = 50.0
  config.train.eval_batch_size = 256
  config.train.eval_every = 1272  # one epoch of the full train split
  config.loader.threads = 8
  config.update_from_flattened_dict(RECIPES.get(method, {}))
  return vary(config, variants)
