"""Compiler options of the tests' own process: tests compile for far longer than they compute."""

import os

import jax

HAS_OLDER_GENERATOR = jax.__version_info__ < (0, 11)  # later ones end at a flag that they do not know


def compile_quickly() -> None:
  """Choose little optimisation, and in jax 0.10 XLA's older code generator, which needs a third of the time.

  For the process that calls it before its first computation; XLA reads the flags when it starts. Processes that are
  started later inherit them unless they are taken out of the environment.
  """
  flags = ['--xla_cpu_parallel_codegen_split_count=1']
  if HAS_OLDER_GENERATOR:
    flags.append('--xla_cpu_use_fusion_emitters=false')
  os.environ['XLA_FLAGS'] = ' '.join([os.environ.get('XLA_FLAGS', ''), *flags])
  jax.config.update('jax_disable_most_optimizations', True)


def usual_generator() -> dict[str, bool]:
  """The compiler option that undoes the choice of the generator, for one function."""
  return {'xla_cpu_use_fusion_emitters': True} if HAS_OLDER_GENERATOR else {}
