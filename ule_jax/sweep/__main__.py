"""`python -m ule_jax.sweep`: train many runs as one graph (cli/sweep.py)."""

from ule_jax.cli.app import run_verb

if __name__ == '__main__':
  run_verb('sweep')
