"""`python -m ule_jax`: the greeting, or `python -m ule_jax VERB ...`, as the console script `ule-jax` (cli/app.py)."""

from ule_jax.cli.app import command

if __name__ == '__main__':
  command()
