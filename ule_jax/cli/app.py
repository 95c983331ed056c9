"""Verbs and exit codes: from an exception to a sentence and an exit code.

Exit codes: 0 done, 2 usage or data, 75 stopped but resumable, 1 a defect of ours.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence

from ule_jax.errors import (
  DEFECT,
  DONE,
  RESUMABLE,
  USAGE,
  Interrupted,
  UserError,
  is_out_of_memory,
  one_line,
  out_of_memory,
  unknown,
)
from ule_jax.runs import progress
from ule_jax.runs.signals import Signals, tell

# verb -> the module that has its `main`
VERBS = {
  'main': 'ule_jax.cli.train',
  'data': 'ule_jax.cli.data',
  'prepare': 'ule_jax.cli.prepare',
  'sweep': 'ule_jax.cli.sweep',
  'evaluate': 'ule_jax.cli.evaluate',
  'report': 'ule_jax.cli.report',
  'predict': 'ule_jax.cli.predict',
  'export': 'ule_jax.cli.export',
  'diagnose': 'ule_jax.cli.diagnose',
  'models.pretrained': 'ule_jax.cli.weights',
}

USAGE_OF_ALL = """\
ule-jax VERB ... is python -m ule_jax.VERB ...; ule-jax VERB --help tells more.

  main                train and evaluate one config          ule-jax main --config=digits
  data                check a data set, draw its groups      ule-jax data --config=celeba --config.data.dir=DIR
  prepare             write it as few large files            ule-jax prepare --config=celeba --out=NEW
  sweep               many runs at once, in one graph        ule-jax sweep --config=digits --axis=seed=0,1
  evaluate            a finished run again, its saliency     ule-jax evaluate --run=DIR --saliency=4
  report              runs on one page                       ule-jax report runs --out=report
  predict             classify images                        ule-jax predict --run=DIR --input=PHOTOS
  export              the network without ule_jax            ule-jax export --run=DIR --out=model.stablehlo
  diagnose            is it taking a shortcut?               ule-jax diagnose --run=DIR
  models.pretrained   what becomes of a file of weights      ule-jax models.pretrained FILE --model=resnet50

Exit codes: 0 done, 2 usage or data, 75 stopped but resumable, 1 a defect of ule_jax."""


def main(verb: Callable[[Sequence[str]], None]) -> None:
  """Run a verb on the command line's arguments and exit with the code that its ending means."""
  several = False
  progress.to_terminal()
  if hasattr(sys.stdout, 'reconfigure'):
    sys.stdout.reconfigure(errors='backslashreplace')  # a name of a file may be no text, and a locale have no ±
  try:
    with Signals():
      try:
        verb(sys.argv[1:])
      finally:
        several = (
          'ule_jax.devices.processes' in sys.modules and sys.modules['ule_jax.devices.processes'].is_initialized()
        )
    code = DONE
  except UserError as error:
    code = _say(USAGE, f'error: {error}')
  except Interrupted as error:
    code = _say(RESUMABLE, f'stopped: {error}')
  except Exception as error:
    if known := _known(error):
      code = _say(USAGE, f'error: {known}')
    elif several:
      if type(error).__name__ == 'JaxRuntimeError':  # in the middle of what all hosts do together
        sys.modules['ule_jax.devices.processes'].exit_peer_lost(error)
      traceback.print_exc()
      code = DEFECT
    else:
      raise
  if several and code in (DONE, RESUMABLE):
    sys.modules['ule_jax.devices.processes'].shutdown()
  elif several:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an ordinary exit would wait for the other hosts, who wait for this one
  sys.exit(code)


def _known(error: Exception) -> str:
  """Say in a sentence what no verb is to blame for, '' of what is a defect."""
  if is_out_of_memory(error):
    remedy = 'take a device or a host with more memory, or train with a smaller train.eval_batch_size'
    return str(out_of_memory(error, remedy))
  if 'Unable to initialize backend' in str(error):
    return f'{one_line(error)[:300]}: set JAX_PLATFORMS to a device that is here, for example cpu.'
  return ''


def _say(code: int, text: str) -> int:
  tell(re.sub(r'[\x00-\x1f\x7f]', lambda match: ascii(match[0])[1:-1], text))
  return code


def run_verb(verb: str) -> None:
  """Run a verb on the command line's arguments; signals are caught before its module is imported."""
  main(lambda argv: importlib.import_module(VERBS[verb]).main(argv))


def command() -> None:
  """Run `ule-jax VERB ...`, which is `python -m ule_jax.VERB ...`."""
  verb = sys.argv[1] if len(sys.argv) > 1 else '--help'
  if verb in ('-h', '--help'):
    print(USAGE_OF_ALL)
    return
  if verb not in VERBS:
    sys.exit(_say(USAGE, f'error: {unknown("verb", verb, VERBS)}'))
  sys.argv = [f'ule-jax {verb}', *sys.argv[2:]]
  run_verb(verb)
