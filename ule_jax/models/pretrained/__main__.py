"""`python -m ule_jax.models.pretrained`: the mapping of a file of weights (cli/weights.py)."""

from ule_jax.cli.app import run_verb

if __name__ == '__main__':
  run_verb('models.pretrained')
