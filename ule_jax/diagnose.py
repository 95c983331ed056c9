"""`python -m ule_jax.diagnose`: look for shortcuts of a finished run (cli/diagnose.py)."""

from ule_jax.cli.app import run_verb

if __name__ == '__main__':
  run_verb('diagnose')
