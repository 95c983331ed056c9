"""Where the numbers of the configs come from: the official repositories, read at the commits named, or us.

(config, method) -> (source, fields)...: what the source says, as the config of the method has to have it. `erm` is what
a config does for every method that changes nothing. `base` has the defaults of configs/base.py, for a method, what a
first run is made of (`first.<prepare>`), or a variant (`,<variant>`).
"""

DOMAINBED = 'facebookresearch/DomainBed 04cfc61 domainbed/hparams_registry.py'
DRO = 'kohpangwei/group_DRO 547d293 run_expt.py: --robust_step_size, --generalization_adjustment'
DRO_README = 'kohpangwei/group_DRO 2789944 README.md'
JTT = 'anniesch/jtt 0af2430 README.md and generate_downstream.py (batch size)'
DFR = 'PolinaKirichenko/deep_feature_reweighting 2247d3f README.md'
AFR = 'AndPotap/afr 5d5d78e README.md'
CNC = 'HazyResearch/correct-n-contrast eaa1c66 README.md'
# A loader for each group, of batches of 16; the shortest one is an epoch.
LISA = 'huaxiuyao/LISA 2622340 README.md and subpopulation_shifts/{run_expt,train}.py'
SPUCO = 'BigML-CS-UCLA/SpuCo 8f61942 quickstart/{}_spare.py'
SUBPOPBENCH = 'YyzHarry/SubpopBench 524615d subpopbench/hparams_registry.py, dataset/datasets.py and models/networks.py'
WHACAMOLE = 'facebookresearch/Whac-A-Mole 1094624 urbancars_trainers/{}.py'
SPAWRIOUS = 'aengusl/spawrious, the hyper-parameters of its data set card (second-hand)'
VIT = 'google-research/vision_transformer 0f6b288 vit_jax/configs/common.py; arXiv 2010.11929'
OURS = 'ours'

# batch_norm: freeze_bn of models/networks.py, whenever a network is put into training mode
_SUBPOPBENCH_BOTH = {'train.batch_size': 108, 'train.epochs': 0.0, 'model.batch_norm': 'frozen'}
_SUBPOPBENCH_WATERBIRDS = {**_SUBPOPBENCH_BOTH, 'train.steps': 5001}
_SUBPOPBENCH_CELEBA = {**_SUBPOPBENCH_BOTH, 'optim.lr': 1e-3, 'train.steps': 30_001}
_SUBPOPBENCH_METHODS = ('irm', 'vrex', 'coral', 'mmd', 'mixup')
_AN_EPOCH = (OURS, {'two_stage.epochs': 1.0})

SOURCES = {
  ('base', 'ule'): [('arXiv 1805.07836 and alinlab/LfF e66796e module/loss.py', {'method.q': 0.7})],
  ('base', 'group_dro'): [
    (DRO, {'method.step_size': 0.01, 'method.adjustment': 0.0}),
    (f'{DRO_README}: --reweight_groups', {'train.sampling': 'group_balanced'}),
  ],
  ('base', 'lff'): [('alinlab/LfF e66796e module/loss.py and train.py', {'method.q': 0.7, 'method.decay': 0.7})],
  ('base', 'irm'): [(DOMAINBED, {'method.penalty_weight': 100.0, 'method.anneal_steps': 500})],
  ('base', 'vrex'): [(DOMAINBED, {'method.penalty_weight': 10.0, 'method.anneal_steps': 500})],
  ('base', 'coral'): [(DOMAINBED, {'method.gamma': 1.0})],
  ('base', 'mmd'): [(DOMAINBED, {'method.gamma': 1.0})],
  ('base', 'mixup'): [(DOMAINBED, {'method.alpha': 0.2})],
  ('base', 'lisa'): [(LISA, {'method.alpha': 2.0, 'method.p_sel': 0.5})],
  ('base', 'cnc'): [(f'{CNC}, Waterbirds', {'method.contrast': 0.75, 'method.temperature': 0.1})],
  ('base', 'two_stage.jtt'): [(f'{JTT}, CelebA', {'two_stage.jtt.up_weight': 50.0})],
  ('base', 'two_stage.eiil'): [
    (WHACAMOLE.format('{launcher,eiil}'), {'two_stage.eiil.steps': 10_000, 'two_stage.eiil.lr': 1e-3}),
  ],
  ('base', 'two_stage.spare'): [
    (
      'BigML-CS-UCLA/SpuCo e83ea98 src/spuco/group_inference/spare_inference.py',
      {'two_stage.spare.threshold': 0.9, 'two_stage.spare.high_power': 2},
    ),
  ],
  ('base', 'two_stage.dfr'): [
    (
      'PolinaKirichenko/deep_feature_reweighting 46666e6 dfr_evaluate_spurious.py',
      {'two_stage.dfr.strengths': (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01), 'two_stage.dfr.fits': 20},
    ),
  ],
  ('base', 'two_stage.afr'): [
    (
      f'{AFR}, Waterbirds',
      {
        'two_stage.afr.gamma': 10.0, 'two_stage.afr.strength': 0.0,
        'two_stage.afr.steps': 500, 'two_stage.afr.lr': 0.01,
      },
    ),
  ],
  ('base', 'afr'): [(f'{AFR}: --train_prop=80', {'train.holdout': 0.2})],
  ('base', ',vit_b16'): [
    (
      VIT,
      {'optim.name': 'sgd', 'optim.schedule': 'cosine', 'optim.clip': 1.0, 'optim.weight_decay': 0.0},
    ),
    (f'{OURS}: one of the rates of arXiv 2010.11929', {'optim.lr': 3e-3}),
    (OURS, {'model.name': 'vit_b16'}),
  ],
  # --- Waterbirds
  ('waterbirds', 'erm'): [
    (
      f'{DRO_README}, Waterbirds',
      {
        'model.name': 'resnet50', 'optim.name': 'sgd', 'optim.lr': 1e-3, 'optim.weight_decay': 1e-4,
        'train.batch_size': 128, 'train.epochs': 300.0, 'data.augment': False,
      },
    ),
  ],
  ('waterbirds', 'group_dro'): [(DRO, {'method.step_size': 0.01})],
  ('waterbirds', 'jtt'): [
    (
      f'{JTT}, Waterbirds',
      {
        'optim.lr': 1e-5, 'optim.weight_decay': 1.0, 'train.batch_size': 64, 'train.epochs': 300.0,
        'two_stage.epochs': 60.0, 'two_stage.jtt.up_weight': 100.0,
      },
    ),
  ],
  ('waterbirds', 'dfr'): [
    (
      f'{DFR}, Waterbirds',
      {
        'optim.lr': 1e-3, 'optim.weight_decay': 1e-3, 'train.batch_size': 32, 'train.epochs': 100.0,
        'data.augment': True,
      },
    ),
  ],
  ('waterbirds', 'afr'): [
    (
      f'{AFR}, Waterbirds',
      {
        'optim.lr': 3e-3, 'optim.weight_decay': 1e-4, 'optim.schedule': 'constant', 'train.batch_size': 32,
        'train.epochs': 50.0, 'train.holdout': 0.2, 'data.augment': True, 'two_stage.afr.gamma': 10.0,
        'two_stage.afr.strength': 0.0, 'two_stage.afr.steps': 500, 'two_stage.afr.lr': 0.01,
      },
    ),
  ],
  ('waterbirds', 'spare'): [
    (
      SPUCO.format('waterbirds/waterbirds'),
      {
        'optim.lr': 1e-4, 'optim.weight_decay': 0.1, 'train.batch_size': 128, 'train.epochs': 100.0,
        'two_stage.epochs': 1.0, 'two_stage.lr': 1e-3, 'two_stage.weight_decay': 1e-4, 'two_stage.spare.clusters': 4,
        'two_stage.spare.high_power': 2,
      },
    ),
  ],
  ('waterbirds', 'eiil'): [(WHACAMOLE.format('launcher'), {'two_stage.epochs': 1.0})],
  ('waterbirds', 'cnc'): [
    (
      f'{CNC}, Waterbirds; train_supervised_contrast.py: encoder.eval()',
      {
        'optim.lr': 1e-4, 'optim.weight_decay': 1e-3, 'train.batch_size': 4 * 17, 'train.epochs': 5.0,
        'method.contrast': 0.75, 'method.temperature': 0.1, 'model.batch_norm': 'frozen',
      },
    ),
    (
      OURS,
      {'two_stage.epochs': 1.0, 'two_stage.lr': 1e-3, 'two_stage.weight_decay': 1e-4, 'two_stage.batch_norm': 'batch'},
    ),
  ],
  ('waterbirds', 'lisa'): [
    (
      f'{LISA}, Waterbirds',
      {
        'optim.lr': 1e-3, 'optim.weight_decay': 1e-4, 'train.batch_size': 4 * 16, 'train.steps': 300 * 4,
        'train.epochs': 0.0, 'method.alpha': 2.0, 'method.p_sel': 0.5,
      },
    ),
    (OURS, {'train.eval_every': 40, 'method.domains': 2}),
  ],
  ('waterbirds', 'lff'): [
    (SUBPOPBENCH, _SUBPOPBENCH_WATERBIRDS | {'optim.lr': 1e-3, 'train.batch_size': 54, 'method.q': 0.7}),
  ],
  **{
    ('waterbirds', method): [(SUBPOPBENCH, _SUBPOPBENCH_WATERBIRDS | {'optim.lr': 1e-3, 'optim.weight_decay': 1e-4})]
    for method in _SUBPOPBENCH_METHODS
  },
  # --- CelebA
  ('celeba', 'erm'): [
    (
      f'{DRO_README}, CelebA',
      {
        'model.name': 'resnet50', 'optim.name': 'sgd', 'optim.lr': 1e-4, 'optim.weight_decay': 1e-4,
        'train.batch_size': 128, 'train.epochs': 50.0,
      },
    ),
    (OURS, {'data.augment': True}),
  ],
  ('celeba', 'group_dro'): [(DRO, {'method.step_size': 0.01})],
  ('celeba', 'jtt'): [
    (
      f'{JTT}, CelebA',
      {
        'optim.lr': 1e-5, 'optim.weight_decay': 0.1, 'train.batch_size': 64, 'train.epochs': 50.0,
        'two_stage.epochs': 1.0, 'two_stage.jtt.up_weight': 50.0,
      },
    ),
  ],
  ('celeba', 'dfr'): [
    (
      f'{DFR}, CelebA',
      {
        'optim.lr': 1e-3, 'optim.weight_decay': 1e-4, 'train.batch_size': 128, 'train.epochs': 50.0,
        'data.augment': True,
      },
    ),
  ],
  ('celeba', 'afr'): [
    (
      f'{AFR}, CelebA',
      {
        'optim.lr': 3e-3, 'optim.weight_decay': 1e-4, 'optim.schedule': 'cosine', 'train.batch_size': 100,
        'train.epochs': 20.0, 'train.holdout': 0.2, 'data.augment': True, 'two_stage.afr.gamma': 1.44,
        'two_stage.afr.strength': 1e-3, 'two_stage.afr.steps': 1000, 'two_stage.afr.lr': 0.02,
      },
    ),
  ],
  ('celeba', 'spare'): [
    (
      SPUCO.format('celebA/celebA'),
      {
        'optim.lr': 1e-5, 'optim.weight_decay': 1.0, 'train.batch_size': 128, 'train.epochs': 50.0,
        'two_stage.lr': 1e-3, 'two_stage.weight_decay': 1e-4,
        'two_stage.spare.clusters': 2, 'two_stage.spare.high_power': 2,
      },
    ),
    _AN_EPOCH,
  ],
  ('celeba', 'eiil'): [(WHACAMOLE.format('launcher'), {'two_stage.epochs': 1.0})],
  ('celeba', 'cnc'): [
    (
      f'{CNC}, CelebA; train_supervised_contrast.py: encoder.eval()',
      {
        'optim.lr': 1e-5, 'optim.weight_decay': 0.1, 'train.batch_size': 4 * 64, 'train.epochs': 15.0,
        'method.contrast': 0.75, 'method.temperature': 0.05, 'model.batch_norm': 'frozen',
      },
    ),
    (
      OURS,
      {'two_stage.epochs': 1.0, 'two_stage.lr': 1e-4, 'two_stage.weight_decay': 1e-4, 'two_stage.batch_norm': 'batch'},
    ),
  ],
  ('celeba', 'lisa'): [
    (
      f'{LISA}, CelebA',
      {
        'optim.lr': 1e-4, 'optim.weight_decay': 1e-4, 'train.batch_size': 4 * 16, 'train.steps': 50 * 87,
        'train.epochs': 0.0, 'method.alpha': 2.0, 'method.p_sel': 0.5,
      },
    ),
    (OURS, {'train.eval_every': 435, 'method.domains': 2}),
  ],
  ('celeba', 'lff'): [(SUBPOPBENCH, _SUBPOPBENCH_CELEBA | {'train.batch_size': 54, 'method.q': 0.7})],
  **{('celeba', method): [(SUBPOPBENCH, _SUBPOPBENCH_CELEBA)] for method in _SUBPOPBENCH_METHODS},
  # --- Spawrious
  ('spawrious', 'erm'): [
    (
      SPAWRIOUS,
      {'optim.lr': 1.663e-4, 'optim.weight_decay': 1.198e-6, 'train.batch_size': 128, 'data.augment': True},
    ),
    (
      'facebookresearch/DomainBed 99353c2 domainbed/{datasets,algorithms}.py',
      {'optim.name': 'adam', 'train.steps': 5001, 'train.eval_every': 300},
    ),
  ],
  ('spawrious', 'group_dro'): [(SPAWRIOUS, {'method.step_size': 5.3e-3})],
  ('spawrious', 'irm'): [(SPAWRIOUS, {'method.penalty_weight': 1.88, 'method.anneal_steps': 247})],
  ('spawrious', 'mmd'): [(SPAWRIOUS, {'method.gamma': 7.29})],
  ('spawrious', 'jtt'): [(OURS, {'two_stage.steps': 500})],
  **{('spawrious', method): [(OURS, {'two_stage.steps': 200})] for method in ('spare', 'eiil', 'cnc')},
  # --- UrbanCars
  ('urbancars', 'erm'): [
    (
      WHACAMOLE.format('launcher'),
      {
        'model.name': 'resnet50', 'optim.name': 'sgd', 'optim.lr': 1e-3, 'optim.weight_decay': 1e-4,
        'train.batch_size': 128, 'train.epochs': 300.0,
      },
    ),
  ],
  ('urbancars', 'group_dro'): [(WHACAMOLE.format('launcher'), {'method.step_size': 0.01})],
  ('urbancars', 'jtt'): [(WHACAMOLE.format('launcher'), {'two_stage.epochs': 1.0, 'two_stage.jtt.up_weight': 100.0})],
  ('urbancars', 'eiil'): [
    (
      WHACAMOLE.format('{launcher,eiil}'),
      {'two_stage.epochs': 1.0, 'two_stage.eiil.steps': 10_000, 'two_stage.eiil.lr': 1e-3, 'method.step_size': 0.01},
    ),
  ],
  ('urbancars', 'lff'): [
    (f'{WHACAMOLE.format("lff")} and model/criterion.py', {'method.q': 0.7, 'method.decay': 0.7}),
  ],
  ('urbancars', 'lisa'): [(OURS, {'method.domains': 4})],
  ('urbancars', 'spare'): [
    (
      SPUCO.format('urbancars/urbancars'),
      {
        'optim.lr': 1e-4, 'optim.weight_decay': 0.1, 'train.batch_size': 128, 'train.epochs': 300.0,
        'two_stage.lr': 1e-3, 'two_stage.weight_decay': 1e-4,
        'two_stage.spare.clusters': 4, 'two_stage.spare.high_power': 1,
      },
    ),
    _AN_EPOCH,
  ],
  ('urbancars', 'cnc'): [_AN_EPOCH],
}  # fmt: skip
