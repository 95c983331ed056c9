"""`python -m ule_jax.embed`: features of images as a file (cli/embed.py)."""

from ule_jax.cli.app import run_verb

if __name__ == '__main__':
  run_verb('embed')
