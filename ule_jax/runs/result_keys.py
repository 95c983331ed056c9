"""Meaning of the keys of results.json and of the files beside it; docs/reference/results-json.md is made from it."""

from __future__ import annotations

# Keys of results.json -> their content
KEYS: dict[tuple[str, ...], str] = {
  ('method', 'dataset', 'seed', 'select'): '`method.name`, `data.name`, `seed` and `select` of the config',
  ('model', 'sampling'): '`model.name` and `train.sampling`',
  ('classes', 'groups'): 'names, in the order of the logits and of the group numbers',
  ('step',): 'the step of the deployed checkpoint, which `select` took',
  ('train', 'val', 'test', 'val_NAME'): 'metrics of the deployed network at that step, for each split',
  ('roles',): (
    'role (`model`, or `student` and `teacher`) -> the metrics of its network at that step, of `train`, too; '
    'the last role is deployed'
  ),
  ('selected',): 'selection rule -> `step` and the metrics of the deployed network there',
  ('last',): 'the same for the last step',
  ('needs_groups',): 'whether group labels were used in `train`, and in `validation`',
  ('first',): 'of a method of two runs: the rule, and what it found',
  ('data',): (
    'notes of the data set: skipped images, official counts that differ; of a folder for each class its '
    '`layout`, and in `drawn` the shares, seed and counts of splits that were drawn from train'
  ),
  ('titles',): 'metric -> its name in the literature of the data set',
  ('class_of_group',): 'group -> the class of all of its examples; `null` for a group of several classes',
  ('counter_examples',): (
    'split -> how many of its examples are known to break the shortcut: those beside the most frequent group of '
    'their class; `null` without group labels'
  ),
  ('chance',): (
    "split -> `uniform`, the accuracy of a guess, and `majority`, that of always the split's most frequent class"
  ),
  ('trust', 'term_share'): (
    "of methods with a student and a term: `mean` and `last` of the trust in the student and of the term's "
    "share of the teacher's loss, over the lines of metrics.jsonl, three digits; with `train.accumulate` the "
    'share is the mean over the parts'
  ),
  ('changed',): 'changes of data or weights that `--force` allowed, each with its step',
}

# Keys of the metrics of a split -> their content
METRICS: dict[tuple[str, ...], str] = {
  ('accuracy',): 'share of the examples that are right',
  ('worst_class_accuracy',): 'the lowest accuracy of a class',
  ('mistake_balanced_accuracy',): 'the mean over class x (student right, student wrong); needs a student',
  ('worst_group_accuracy',): 'the lowest accuracy of a group that has examples in the split',
  ('mean_group_accuracy',): 'the mean over groups',
  ('adjusted_accuracy',): 'groups weighted by their shares of train',
  ('classes',): 'class -> `accuracy`, `count`',
  ('groups',): 'group -> `accuracy`, `count`, `interval` (95 % Wilson)',
  ('reasons',): 'metric -> the reason why it is `null`',
}

# Other files in the folder of a run -> their content
FILES: dict[tuple[str, ...], str] = {
  ('predictions/SPLIT.npz',): (
    '`index`, `label`, `group` (-1 unknown), `logits_ROLE`, `features_ROLE` (not of a linear head on '
    'embeddings, whose features are its input), of the deployed step'
  ),
  ('saliency/SPLIT.npz',): 'input gradients of chosen examples, and their photographs (by `evaluate --saliency`)',
  ('sweep.json',): 'in the folder of a sweep: mean, standard deviation (n - 1) and n over the seeds of each setting',
  ('config.json',): 'every field, defaults included',
  ('env.json',): 'command, commit, versions, devices, XLA flags',
  ('split.csv',): (
    'if a split was drawn from train: every image with its label and split, in the form of `metadata.csv`'
  ),
  ('fingerprint.json', 'weights.json'): 'digests of data and weights',
  ('results-STEP.json',): 'older results of a run that was made longer, or continued with changed data',
}
