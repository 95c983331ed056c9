"""`python -m ule_jax.detect`: is there a shortcut in the data (cli/detect.py)?"""

from ule_jax.cli.app import run_verb

if __name__ == '__main__':
  run_verb('detect')
