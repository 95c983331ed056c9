"""`python -m ule_jax.report`: runs on one page (cli/report.py)."""

from ule_jax.cli.app import run_verb

if __name__ == '__main__':
  run_verb('report')
