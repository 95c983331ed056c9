"""Verbs and exit codes: from a command line to a function, and from an exception to a sentence and an exit code.

Exit codes: 0 done, 2 usage or data, 75 stopped but resumable, 1 a defect of ours.
"""

from __future__ import annotations

import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn, Protocol

from ule_jax.errors import (
  DEFECT,
  DONE,
  RESUMABLE,
  USAGE,
  Interrupted,
  UserError,
  is_out_of_memory,
  nearest_names,
  one_line,
  out_of_memory,
  unknown,
)
from ule_jax.runs import progress
from ule_jax.runs.signals import Signals
from ule_jax.runs.terminal import tell

if TYPE_CHECKING:
  from cyclopts import App, CycloptsError

# verb -> its module and function. Its flags are the function's parameters, its help is the function's docstring.
VERBS = {
  'main': 'ule_jax.cli.train:train',
  'data': 'ule_jax.cli.data:data',
  'prepare': 'ule_jax.cli.prepare:prepare',
  'embed': 'ule_jax.cli.embed:embed',
  'sweep': 'ule_jax.cli.sweep:sweep',
  'evaluate': 'ule_jax.cli.evaluate:evaluate',
  'report': 'ule_jax.cli.report:report',
  'predict': 'ule_jax.cli.predict:predict',
  'export': 'ule_jax.cli.export:export',
  'diagnose': 'ule_jax.cli.diagnose:diagnose',
  'detect': 'ule_jax.cli.detect:detect',
  'models.pretrained': 'ule_jax.cli.weights:weights',
}

HELP = 'Train image classifiers that do not take the shortcut, and look at what they have learned.'
# The verbs that one needs first, in the order of use: the greeting of `ule-jax` alone
FIRST = {
  'main': 'train a network by a method on images, and say what came out',
  'data': 'check images before anything is trained on them',
  'report': 'put finished runs on one page: tables, curves, pictures',
  'diagnose': 'look for groups of images that mislead a network',
  'predict': 'classify images with the network of a run',
}
EXAMPLE = 'python -m ule_jax.main --config=digits'
EXIT_CODES = 'Exit codes: 0 done, 2 usage or data, 75 stopped but resumable, 1 a defect of ule_jax.'
HELP_FLAGS = ('--help', '-h', '-help')


class Peers(Protocol):
  """The other hosts of a run, as the module `ule_jax.devices.processes` knows them."""

  def exit_peer_lost(self, error: Exception) -> None: ...
  def shutdown(self) -> None: ...


_peers: Peers | None = None


def join(peers: Peers) -> None:
  """Register the other hosts of a run, which the exit of this process has to respect.

  To be called after connecting to them: a look-up from here would import jax.
  """
  global _peers
  _peers = peers


def main(verb: Callable[[], None]) -> NoReturn:
  """Run a verb and exit with the code that its ending means."""
  progress.to_terminal()
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors='backslashreplace')  # a name of a file may be no text, and a locale have no ±
  try:
    with Signals():
      verb()
    code = DONE
  except UserError as error:
    code = _say(USAGE, f'error: {error}')
  except Interrupted as error:
    code = _say(RESUMABLE, f'stopped: {error}')
  except Exception as error:
    if known := _known(error):
      code = _say(USAGE, f'error: {known}')
    elif _peers:
      if type(error).__name__ == 'JaxRuntimeError':  # in the middle of what all hosts do together
        _peers.exit_peer_lost(error)
      traceback.print_exc()
      code = DEFECT
    else:
      raise
  if _peers and code in (DONE, RESUMABLE):
    _peers.shutdown()
  elif _peers:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an ordinary exit would wait for the other hosts, who wait for this one
  sys.exit(code)


def _known(error: Exception) -> str:
  """Return a sentence about an error that no verb is to blame for, '' for a defect."""
  if is_out_of_memory(error):
    remedy = 'take a device or a host with more memory, or train with a smaller train.eval_batch_size'
    return str(out_of_memory(error, remedy))
  if 'Unable to initialize backend' in str(error):
    return f'{one_line(error)[:300]}: set JAX_PLATFORMS to a device that is here, for example cpu.'
  return ''


def _say(code: int, text: str) -> int:
  tell(re.sub(r'[\x00-\x1f\x7f]', lambda match: ascii(match[0])[1:-1], text))
  return code


def call(verb: str, argv: Sequence[str]) -> None:
  """Call the function of a verb with the arguments of a command line, or print its help.

  Raises:
    UserError: there is no such verb, or an argument is not right.
    Exception: whatever the verb raises.
  """
  from cyclopts import CycloptsError

  from ule_jax.cli.arguments import split
  from ule_jax.cli.help import print_help

  if verb not in VERBS:
    raise unknown('verb', verb, VERBS)
  app = _app()
  if not argv or set(HELP_FLAGS) & set(argv):
    print_help(app, verb)
    return
  overrides, others = split(argv)
  try:
    function, bound, injected = app.parse_args(
      [verb, *others], print_error=False, exit_on_error=False, help_on_error=False
    )
  except CycloptsError as error:
    raise UserError(_sentence(error, app[verb])) from None
  if 'overrides' in injected:
    bound.arguments['overrides'] = overrides
  elif overrides:
    raise UserError(f'unknown flag --config.{overrides[0][0]}: {verb} takes no config; see --help.')
  function(*bound.args, **bound.kwargs)


def _app() -> App:
  """Return the parser of all verbs, whose modules are imported when they are called or described."""
  from cyclopts import App, Parameter

  from ule_jax.cli.help import Columns

  app = App(
    name='ule-jax',
    usage='Usage: ule-jax VERB ..., which is python -m ule_jax.VERB ...; ule-jax VERB --help has its flags.',
    help=HELP,
    help_epilogue=EXIT_CODES,
    help_format='plaintext',
    help_flags=(),
    version_flags=(),
    help_formatter=Columns(),
    default_parameter=Parameter(negative=(), allow_repeating=True, show_default=_worth_showing),
  )
  for verb, target in VERBS.items():
    app.command(target, name=verb, sort_key=list(VERBS).index(verb))
  return app


def _worth_showing(default: object) -> str | None:
  """Return a default as help has it, None for one that means "not given"."""
  return None if default in ('', False, 0, None, ()) else str(default)


def _sentence(error: CycloptsError, verb: App) -> str:
  """Return one sentence for an error on the command line: ours where it has a remedy, else the library's words."""
  from cyclopts import MissingArgumentError, UnknownOptionError, UnusedCliTokensError

  arguments = verb.assemble_argument_collection(parse_docstring=True)
  missing, others = None, []
  if isinstance(error, MissingArgumentError) and error.argument:
    missing, others = error.argument, error.unused_tokens or []
    if error.keyword or missing.tokens:
      return f'{missing.name} has no value: write {missing.name}=VALUE.'
  elif isinstance(error, UnusedCliTokensError):
    others = error.unused_tokens or []
  elif isinstance(error, UnknownOptionError):
    others = [error.token.keyword or error.token.value]
  if others and others[0].startswith('-'):
    known = [argument.name[2:] for argument in arguments if argument.parse and argument.name.startswith('--')]
    name = others[0].partition('=')[0]
    return f'unknown flag {name}{nearest_names(name.lstrip("-"), known, "--")}'
  if others:
    return f'unexpected argument {others[0]!r}: flags look like --NAME=VALUE; see --help.'
  if missing:
    name = f'{missing.name}=' if missing.name.startswith('--') else ''
    meaning = next(argument.parameter.help or '' for argument in arguments if argument.name == missing.name)
    return f'give {name}{missing.parameter.metavar or "VALUE"}, {meaning.partition(".")[0]}; see --help.'
  error.verbose = False
  return re.sub(r'(^|\. )([A-Z])', lambda start: start[1].replace('.', ';') + start[2].lower(), one_line(error))


def greeting() -> str:
  """Return the first words to somebody who has typed no verb: the purpose, a first command, and the first verbs."""
  width = max(map(len, FIRST))
  verbs = [f'  python -m ule_jax.{verb:{width}}  {purpose}' for verb, purpose in FIRST.items()]
  parts = [HELP, f'Try it, on images that ship along:\n  {EXAMPLE}', 'The first verbs:\n' + '\n'.join(verbs)]
  parts.append('ule-jax --help has all verbs, and each verb has its own --help.')
  return '\n\n'.join(parts)


def run_verb(verb: str) -> NoReturn:
  """Run a verb on the command line's arguments; signals are caught before its module is imported."""
  main(lambda: call(verb, sys.argv[1:]))


def command() -> None:
  """Run `ule-jax VERB ...`, which is `python -m ule_jax.VERB ...`; without arguments greet."""
  if not sys.argv[1:]:
    print(greeting())
    return
  verb, *argv = sys.argv[1:]
  if verb in HELP_FLAGS:
    from ule_jax.cli.help import print_help

    print_help(_app())
    return
  sys.argv = [f'ule-jax {verb}', *argv]
  run_verb(verb)
