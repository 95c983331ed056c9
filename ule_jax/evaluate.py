"""`python -m ule_jax.evaluate`: evaluate a finished run again (cli/evaluate.py)."""

from ule_jax.cli.app import run_verb

if __name__ == '__main__':
  run_verb('evaluate')
