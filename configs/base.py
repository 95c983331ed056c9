"""The schema: every field that exists, once, with its default, unit and meaning.

A config file takes `make(data, method)` from here and changes values. It may not add fields: the
config is locked, and a mistyped field fails with the nearest right name. Options that only some
methods or data sets have are born in the tables METHODS and DATA.
"""

import copy
import difflib

from ml_collections import ConfigDict

# These and the term's defaults: chosen on the validation of benchmarks/robustness/settings.toml (docs/robustness.md).
_STUDENT = dict(
  student_loss='generalized_cross_entropy',  # cross_entropy | generalized_cross_entropy
  q=0.7,  # of generalized_cross_entropy, in (0, 1]; 0.7 from Zhang and Sabuncu 2018 and LfF
  student_noise=0.0,  # standard deviation of Gaussian noise on the student's normalised input (or features)
  mistakes='balanced',  # none | weight | class_balanced_weight | balanced
  mistake_share=0.7,  # of balanced, in [0, 1]: what the student's mistakes weigh in their class
  hold_back=3.0,  # >= 0: the higher, the less the term and the share of balanced count where the student is often wrong
)

# method -> its options, read as config.method.<option>
METHODS = {
  'erm': dict(
    loss='cross_entropy',  # cross_entropy | generalized_cross_entropy
    q=0.7,  # of generalized_cross_entropy, in (0, 1]
    noise=0.0,  # standard deviation of Gaussian noise on the normalised input in training
  ),
  'ule': dict(
    at='image',  # where gradients are taken: image | features (with model.encoder=frozen)
    weight=0.03,  # of the unlearning term; an exact 0 leaves it out of the graph
    warmup_steps=0,  # over which the weight grows from 0
    term='oppose_signed',  # oppose | oppose_signed | suppress | project | cosine
    a=1.0,  # of oppose_signed: the multiple of the student's gradient to oppose
    scalar='margin',  # what is differentiated: label_logit | top_logit | margin | loss
    **_STUDENT,
  ),
  'gradient_penalty': dict(
    at='image',  # image | features (with model.encoder=frozen)
    weight=0.1,  # of the squared input gradient
    warmup_steps=0,
    scalar='margin',
    **_STUDENT | dict(mistakes='none'),  # with mistakes a student is trained for them
  ),
  'group_dro': dict(
    step_size=0.01,  # of the groups' weights, >= 0; group_DRO
    adjustment=0.0,  # C >= 0: C / sqrt(examples of the group in train) is added to its loss; group_DRO
  ),
  'lff': dict(
    q=0.7,  # of the biased network's loss, in (0, 1]; LfF
    decay=0.7,  # of the moving averages of the losses, in [0, 1]; LfF
  ),
  'irm': dict(
    penalty_weight=100.0,  # >= 0, from step anneal_steps on; DomainBed
    anneal_steps=500,  # in which the penalty's weight is 1; DomainBed
  ),
  'vrex': dict(
    penalty_weight=10.0,  # >= 0, from step anneal_steps on; DomainBed
    anneal_steps=500,  # in which the penalty's weight is 1; DomainBed
  ),
  'coral': dict(
    gamma=1.0,  # weight >= 0 of the feature differences, an exact 0 leaves them out of the graph; DomainBed
  ),
  'mmd': dict(
    gamma=1.0,  # weight >= 0 of the feature differences, an exact 0 leaves them out of the graph; DomainBed
  ),
  'mixup': dict(
    alpha=0.2,  # > 0, of the Beta distribution of the shares: small ones hardly mix; DomainBed
  ),
  'lisa': dict(
    alpha=2.0,  # > 0, of the Beta distribution of the shares; LISA
    p_sel=0.5,  # probability of mixing within labels rather than within domains, where domains > 0; LISA
    domains=0,  # groups in each class, where domain = group % domains; 0: mix within labels only
  ),
}
METHODS['shuffled_student'] = METHODS['ule']

METHODS['cnc'] = dict(
  contrast=0.75,  # share of the contrastive loss, in [0, 1]; correct-n-contrast
  temperature=0.1,  # > 0, of the similarities; correct-n-contrast
)
METHODS['eiil'] = METHODS['group_dro']
for _name in ('rwg', 'rwy', 'subg', 'suby', 'jtt', 'spare', 'dfr', 'afr'):
  METHODS[_name] = METHODS['erm']

# method -> the fields outside of config.method that make it what it is
NEEDS = {
  'rwg': {'train.sampling': 'group_balanced'},
  'rwy': {'train.sampling': 'class_balanced'},
  'subg': {'train.sampling': 'group_subsampled'},
  'suby': {'train.sampling': 'class_subsampled'},
  # one epoch: ours, where a data set's recipe does not say
  'jtt': {'first.prepare': 'jtt', 'first.epochs': 1.0},
  'spare': {'first.prepare': 'spare', 'first.epochs': 1.0},
  'eiil': {'first.prepare': 'eiil', 'first.epochs': 1.0, 'train.sampling': 'group_balanced'},
  'cnc': {'first.prepare': 'cnc', 'first.epochs': 1.0, 'train.sampling': 'group_balanced'},
  'dfr': {'first.prepare': 'dfr'},
  'afr': {'first.prepare': 'afr', 'train.holdout': 0.2},  # afr: 80/20
}
# group_DRO's --reweight_groups; DomainBed and LISA draw as much from each environment
for _name in ('group_dro', 'irm', 'vrex', 'coral', 'mmd', 'lisa'):
  NEEDS[_name] = {'train.sampling': 'group_balanced'}

# What the second of two runs takes from the first, read as config.first.<prepare>.<option>
PREPARATIONS = dict(
  jtt=dict(
    up_weight=50.0,  # times that a mistake of the first run is added to the training set; jtt, CelebA
  ),
  eiil=dict(
    steps=10_000,  # of Adam on the assignment to environments; Whac-A-Mole
    lr=1e-3,  # of these; Whac-A-Mole
  ),
  spare=dict(
    clusters=0,  # of a class; 0: by silhouette
    max_clusters=5,  # the most that the silhouette chooses from, from 2 on
    threshold=0.9,  # silhouette from which clusters are clear; SpuCo
    high_power=2,  # of the sampling where they are not; SpuCo
  ),
  dfr=dict(
    split='val',  # the fit's data, which need group labels
    strengths=(1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01),  # inverse l1 strengths to choose from; DFR
    fits=20,  # balanced subsets whose fits are averaged; DFR
  ),
  afr=dict(
    gamma=10.0,  # of the weights exp(-gamma p); afr
    strength=0.0,  # of the pull towards the first run's last layer; afr
    steps=500,  # of gradient descent; afr
    lr=0.01,  # of these; afr
  ),
)

_FILES = dict(
  dir='',  # the folder, or a data set that ule_jax.prepare wrote; $ULE_DATA/<data set> if empty
  resize='antialias',  # antialias (as torchvision) | linear (faster, rougher where it shrinks)
  white=0.0,  # the value that is white in files that have it; 0: by the type, 255, 65535 (4095 in 12 bits), 1 in floats
  background='white',  # the colour that transparent images are put on, by name or as #808080
  on_bad_image='fail',  # fail when it is read | skip: decode all first, leave out and report what cannot be
)
_OFFICIAL = dict(
  official=True,  # refuse group counts that differ from the release; False, for subsets, only warns
)

# data set -> its options, read as config.data.<option>
DATA = {
  'digits': dict(
    shortcut='tint',  # tint | place | patch: what follows the label in train and val
    rate=0.98,  # share of train and val whose shortcut follows the label
    crops=8,  # times each digit is composed, each time on another crop of a photograph
    brightness=0.5,  # factor on the photograph behind the digit
    seed=0,  # of the split and the composition, not of training
  ),
  'waterbirds': dict(
    **_FILES,
    **_OFFICIAL,
    size=224,  # pixels, height and width
    augment=False,  # random crop (0.7 to 1 of the area) and flip in training
  ),
  'celeba': dict(
    **_FILES,
    **_OFFICIAL,
    target='Blond_Hair',  # the attribute to predict
    attribute='Male',  # the attribute that makes the groups together with the target
    size=224,  # pixels, height and width
    augment=True,  # random crop (0.7 to 1 of the area) and flip in training
  ),
  'spawrious': dict(
    **_FILES,
    **_OFFICIAL,
    challenge='o2o_hard',  # o2o_ or m2m_, then easy, medium or hard
    size=224,  # pixels, height and width
    augment=True,  # flip, colour jitter and sometimes grey in training
    val_fraction=0.2,  # of train: the release has no validation split
    seed=0,  # of the choice of files and the validation split, not of training
  ),
  'urbancars': dict(
    **_FILES,
    **_OFFICIAL,
    size=256,  # pixels, height and width
    augment=True,  # flip in training
  ),
  'folder': dict(
    **_FILES,
    size=224,  # pixels, height and width
    fit='crop',  # crop (the middle square) | stretch
    augment=True,  # random crop and flip in training
    scale=(0.7, 1.0),  # of random crops: share of the area
    ratio=(0.75, 4 / 3),  # of random crops: width / height
    jitter=0.0,  # strength of colour jitter in training, 0 to 0.5
    unlisted='fail',  # fail | ignore: image files without a row in metadata.csv
    classes=(),  # names of the classes in order, of which every label has to be one; (): those that occur, sorted
  ),
}


def make(data: str, method: str) -> ConfigDict:
  """Make the locked config of a data set and a method, all other fields at their defaults."""
  config = ConfigDict(
    dict(
      data=dict(name=data, **_look_up(DATA, 'data set', data)),
      method=dict(name=method, **_look_up(METHODS, 'method', method)),
      model=dict(
        # mlp | cnn | vit | vit_ti16 | vit_s16 | vit_b16 | resnet20 | resnet56 | resnet18 | resnet34 | resnet50
        name='cnn',
        width=32,  # mlp: hidden units; cnn: channels of the first block; vit: of a token
        depth=3,  # mlp: hidden layers; cnn, vit: blocks
        heads=4,  # vit
        patch=4,  # vit: pixels
        batch_norm='none',  # cnn, resnets: none | batch | frozen (running statistics that do not move)
        dropout=0.0,  # in [0, 1): of what the last layer sees; vits: after the positions and in every branch
        drop_path=0.0,  # resnets, vits: share of examples that skip the last residual branch, from 0 at the first
        precision='float32',  # float32 | bfloat16: of the layers; parameters, head, losses and terms stay float32
        fast_variance=True,  # norms' variance in one pass, 2 % off where a mean is 300 deviations; False: in two
        remat=False,  # resnets, vits: keep less in memory and compute it again in the backward pass
        weights='none',  # to start from: none | a file (.safetensors .pth .npz) | hf:OWNER/NAME | default
        keep_head=False,  # take the last layer from the weights, too
        head_init='lecun',  # how a new last layer starts: lecun | torch (sqrt 3 smaller) | timm (its vits') | zero
        pixels='default',  # what weights expect: imagenet | symmetric; default: as the default weights or the data say
        encoder='trained',  # trained | frozen: train heads only, on features that are computed once and cached
        feature_cache='',  # folder of these; the user's cache folder if empty
        head_depth=0,  # hidden layers of a head on a frozen encoder
        head_width=256,  # their units
      ),
      optim=dict(
        name='adam',  # sgd (momentum 0.9) | adam | adamw
        lr=1e-3,
        # of every parameter that is trained, biases, norms and positions too; L2 in sgd and adam, decoupled in adamw
        weight_decay=0.0,
        schedule='constant',  # constant | cosine
        warmup_steps=0,  # of the learning rate
        clip=0.0,  # largest gradient norm of each role; 0: none
        trainable='.*',  # regular expression on parameter paths; the others stay as they are
      ),
      train=dict(
        steps=0,  # 0: from epochs
        epochs=0.0,
        batch_size=128,
        accumulate=1,  # parts of a batch that are computed one after the other, for memory
        eval_batch_size=512,
        eval_every=100,  # steps between evaluations, each of which saves a checkpoint
        log_every=50,  # steps between reports of the training loss
        sampling='uniform',  # uniform | class_balanced | group_balanced | class_subsampled | group_subsampled
        holdout=0.0,  # share of train that is not trained on, in [0, 1)
      ),
      loader=dict(
        threads=2,  # that read and transform; 0: the main thread does
        workers=0,  # processes that do it for training instead, each with that many threads
      ),
      checkpoint=dict(
        keep=2,  # newest ones that stay, beside the best by each rule; where one is damaged the one before serves
      ),
      # A first run, for methods of two: this config with other values in a few places.
      first=dict(
        prepare='none',  # none | jtt | eiil | spare | cnc | dfr | afr: what is made of its predictions
        workdir='',  # of a first run to share; <workdir>/first if empty
        method=dict(name='erm', **METHODS['erm']),
        steps=0,  # 0: from first.epochs
        epochs=0.0,  # 0, and first.steps too: as long as this run (dfr, afr)
        lr=0.0,  # 0: as in this run
        weight_decay=-1.0,  # below 0: as in this run
        batch_norm='same',  # none | batch | frozen | same: as in this run
        **copy.deepcopy(PREPARATIONS),
      ),
      # last, or <validation split>/{accuracy,worst_class_accuracy,worst_group_accuracy,mistake_balanced_accuracy}
      select='val/worst_class_accuracy',
      seed=0,  # of initialisation, dropout and data order
      parallel='jit',  # jit (one program, divided by the compiler) | pmap (one on every device): the same numbers
      fsdp=False,  # divide large parameters and their optimiser state over the devices, for memory; with jit
      # of what XLA compiled: default ($XDG_CACHE_HOME/ule_jax/xla, else below ~/.cache) | off | a folder
      compilation_cache='default',
    )
  )
  config.update_from_flattened_dict(NEEDS.get(method, {}))
  return config.lock()


# variant -> what it changes, behind a method: --config=celeba:ule,vit_b16,frozen. Both are ours, and were not tuned.
VARIANTS = {
  # How arXiv 2010.11929 fine-tunes (table 4: SGD 0.9, cosine, clip 1, no weight decay; one of its rates)
  'vit_b16': {
    'model.name': 'vit_b16', 'optim.name': 'sgd', 'optim.lr': 3e-3, 'optim.weight_decay': 0.0,
    'optim.schedule': 'cosine', 'optim.clip': 1.0,
  },
  # Heads on features that are computed once take few steps.
  'frozen': {
    'model.encoder': 'frozen', 'optim.name': 'adam', 'optim.lr': 1e-3, 'optim.weight_decay': 0.0,
    'train.steps': 0, 'train.epochs': 20.0,
  },
}  # fmt: skip


def parse(spec: str) -> tuple[str, list[dict]]:
  """Split what stands behind the colon of --config, `method[,variant...]`, into the method and what variants change."""
  method, *names = spec.split(',')
  return method, [_look_up(VARIANTS, 'variant', name) for name in names]


def vary(config: ConfigDict, changes: list[dict]) -> ConfigDict:
  """Apply what variants change; on a frozen encoder, methods that take gradients take them at the features."""
  for change in changes:
    config.update_from_flattened_dict(change)
  if config.model.encoder == 'frozen' and 'at' in config.method:
    config.method.at = 'features'
  return config


def _look_up(table, kind, name):
  if name not in table:
    near = difflib.get_close_matches(name, table, n=1, cutoff=0.0)[0]
    raise ValueError(f'unknown {kind} {name!r}: did you mean {near!r}? Known: {", ".join(sorted(table))}.')
  return table[name]
