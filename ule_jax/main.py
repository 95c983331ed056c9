"""`python -m ule_jax.main`: train and evaluate one config (cli/train.py)."""

from ule_jax.cli.app import run_verb

if __name__ == '__main__':
  run_verb('main')
