"""`python -m ule_jax.data`: check a data set (cli/data.py)."""

from ule_jax.cli.app import run_verb

if __name__ == '__main__':
  run_verb('data')
