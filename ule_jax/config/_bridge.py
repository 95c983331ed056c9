"""TEMPORARY: Options of methods and rules made from the tables of configs/base.py."""

from typing import Any, NamedTuple

import pydantic

from ule_jax.options import Options, option


class Entry(NamedTuple):
  make: Any
  options: type[Options]
  fields: dict


class Rule(NamedTuple):
  prepare: Any
  options: type[Options]
  refits: bool


def _kind(name, table):
  return pydantic.create_model(name, __base__=Options, **{k: (type(v), option(v, k)) for k, v in table.items()})


_STUDENT = dict(
  student_loss='generalized_cross_entropy',  # cross_entropy | generalized_cross_entropy
  q=0.7,  # of generalized_cross_entropy, in (0, 1]; 0.7 from Zhang and Sabuncu 2018 and LfF
  student_noise=0.0,  # standard deviation of Gaussian noise on the student's normalised input (or features)
  mistakes='balanced',  # none | weight | class_balanced_weight | balanced
  mistake_share=0.7,  # of balanced, in [0, 1]: what the student's mistakes weigh in their class
  hold_back=3.0,  # >= 0: the higher, the less the term and the share of balanced count where the student is often wrong
)

# method -> its options, read as config.method.<option>
_METHODS = {
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
_METHODS['shuffled_student'] = _METHODS['ule']

_METHODS['cnc'] = dict(
  contrast=0.75,  # share of the contrastive loss, in [0, 1]; correct-n-contrast
  temperature=0.1,  # > 0, of the similarities; correct-n-contrast
)
_METHODS['eiil'] = _METHODS['group_dro']
for _name in ('rwg', 'rwy', 'subg', 'suby', 'jtt', 'spare', 'dfr', 'afr'):
  _METHODS[_name] = _METHODS['erm']

# method -> the fields outside of config.method that make it what it is
NEEDS = {
  'rwg': {'train.sampling': 'group_balanced'},
  'rwy': {'train.sampling': 'class_balanced'},
  'subg': {'train.sampling': 'group_subsampled'},
  'suby': {'train.sampling': 'class_subsampled'},
  # one epoch: ours, where a data set's recipe does not say
  'jtt': {'two_stage.rule': 'jtt', 'two_stage.epochs': 1.0},
  'spare': {'two_stage.rule': 'spare', 'two_stage.epochs': 1.0},
  'eiil': {'two_stage.rule': 'eiil', 'two_stage.epochs': 1.0, 'train.sampling': 'group_balanced'},
  'cnc': {'two_stage.rule': 'cnc', 'two_stage.epochs': 1.0, 'train.sampling': 'group_balanced'},
  'dfr': {'two_stage.rule': 'dfr'},
  'afr': {'two_stage.rule': 'afr', 'train.holdout': 0.2},  # afr: 80/20
}
# group_DRO's --reweight_groups; DomainBed and LISA draw as much from each environment
for _name in ('group_dro', 'irm', 'vrex', 'coral', 'mmd', 'lisa'):
  NEEDS[_name] = {'train.sampling': 'group_balanced'}

# What the second of two runs takes from the first, read as config.first.<prepare>.<option>
_PREP = dict(
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


METHODS = {n: Entry(None, _kind(n, t), NEEDS.get(n, {})) for n, t in _METHODS.items()}
TWO_STAGE = {
  n: Rule(None, _kind(n, _PREP.get(n, {})), n in ('dfr', 'afr')) for n in ('jtt', 'eiil', 'spare', 'cnc', 'dfr', 'afr')
}
