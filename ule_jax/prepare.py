"""`python -m ule_jax.prepare`: pack a data set into array_record shards (cli/prepare.py)."""

from ule_jax.cli.app import run_verb

if __name__ == '__main__':
  run_verb('prepare')
