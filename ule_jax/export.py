"""`python -m ule_jax.export`: export a trained network (cli/export.py)."""

from ule_jax.cli.app import run_verb

if __name__ == '__main__':
  run_verb('export')
