"""`python -m ule_jax.predict`: classify images (cli/predict.py)."""

from ule_jax.cli.app import run_verb

if __name__ == '__main__':
  run_verb('predict')
