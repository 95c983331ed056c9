"""The embedded task: digits below five or not, with a shortcut that follows the label. No download.

  python -m ule_jax.main --config=configs/digits.py[:method]

About 12 s on two CPU cores, compilation included. Test worst group at the last step, mean of seeds 10
to 19 (benchmarks/results/digits_grid.jsonl): erm 42.0, ule 90.6, shuffled_student 89.8, gradient_penalty
(with mistakes) 90.4; the README has the spread and the other rules.
"""

from configs import base

# The best setting of each method on val_balanced's worst group, seeds 0 to 2 (stage `methods` of
# benchmarks/digits_grid.py). The composition was frozen before; how it was chosen stands in the README.
TUNED = {
  'erm': {},
  'ule': dict(term='project', weight=30.0, q=0.3, student_noise=2.0),
  'shuffled_student': dict(term='project', weight=10.0, q=0.2, student_noise=2.0),
  'gradient_penalty': dict(weight=0.1, q=0.3, student_noise=1.0, mistakes='class_balanced_weight'),
}


def get_config(method='ule'):
  """Make the config; `method` is what stands behind the colon of --config."""
  config = base.make('digits', method)
  config.method.update(TUNED.get(method, {}))
  config.model.name = 'mlp'
  config.model.width = 64
  config.model.depth = 1
  config.optim.schedule = 'cosine'
  config.train.steps = 600
  config.train.log_every = 100
  return config
