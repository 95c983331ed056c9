"""Write the pages of the reference that follow from declarations.

`python docs/generate.py` writes docs/reference/command-line.md, methods.md and estimators.md. With `--check` it names
those that differ from the declarations, with exit code 1.
"""

import inspect
import io
import sys
from contextlib import redirect_stdout
from pathlib import Path

FOLDER = Path(__file__).parent / 'reference'
MADE = '*This page is made by `python docs/generate.py`.*'
FIRST = ('erm', 'ule', 'gradient_penalty', 'shuffled_student')


def command_line() -> str:
  """Return the page of verbs: the help of each, as `--help` prints it."""
  from ule_jax.cli import app

  parts = [
    '# Command line',
    '`python -m ule_jax.VERB ...` and `ule-jax VERB ...` are the same. Every command takes `--help`. '
    'Exit codes: 0 done, 2 usage or data, 75 stopped but resumable, 1 a defect of ule_jax.',
    MADE,
  ]
  for verb in app.VERBS:
    text = io.StringIO()
    with redirect_stdout(text):
      app.call(verb, ['--help'])
    parts += [f'## {verb}', f'```text\n{text.getvalue().strip()}\n```']
  return '\n\n'.join(parts) + '\n'


def methods() -> str:
  """Return the page of methods: a table, and the docstring of each one's module."""
  from ule_jax.estimators import parameters
  from ule_jax.methods import METHODS
  from ule_jax.two_stage import TWO_STAGE

  rows, parts, documented = [], [], set()
  for name in sorted(METHODS, key=lambda name: (name not in FIRST, name)):
    entry = METHODS[name]
    module = inspect.getmodule(TWO_STAGE[name].prepare if name in TWO_STAGE else entry.make)
    assert module is not None
    first, _, rest = inspect.cleandoc(module.__doc__ or '').partition('\n\n')
    first = ' '.join(first.split()).replace('|', '\\|')
    sets = ', '.join(f'`{field}={value}`' for field, value in entry.fields.items())
    heading = module.__name__.rpartition('.')[2]
    groups = 'needed' if parameters.needs_groups(name) else ''
    rows.append(f'| [`{name}`](#{heading}) | {first} | {groups} | {sets} |')
    if module.__name__ not in documented:
      documented.add(module.__name__)
      path = module.__name__.replace('.', '/')
      parts += [f'## {heading}', first, f'```text\n{rest.strip()}\n```', f'[{path}.py](../../{path}.py)']
  table = '\n'.join(['| method | loss or rule | group labels | sets |', '|---|---|---|---|', *rows])
  intro = (
    '`--config=CONFIG:METHOD` takes any of them on any data set, and `--config.method.OPTION` sets its '
    '[options](config.md#method). [Which method](../guides/which-method.md) helps to choose.'
  )
  return '\n\n'.join(['# Methods', intro, table, *parts, MADE]) + '\n'


def estimators() -> str:
  """Return the page of estimators: the parameters of all of them, and those of each one's method."""
  from ule_jax.estimators import ESTIMATORS, parameters

  intro = (
    '`ule_jax.fit(X, y, method)` returns one of these, fitted; `from ule_jax.estimators import ULEClassifier` has them '
    'by name. [You have a notebook](../guides/notebook.md) shows how they are used.'
  )

  def table(fields: dict) -> str:
    rows = [f'| `{name}` | `{default!r}` | {text} |' for name, (default, text) in fields.items()]
    return '\n'.join(['| parameter | default | meaning |', '|---|---|---|', *rows])

  common = {name: (field.get_default(), field.description) for name, field in parameters.Common.model_fields.items()}
  parts = ['# Estimators', intro, '## All', table(common)]
  for method, kind in ESTIMATORS.items():
    defaults = parameters.signature_of(method).parameters
    options = {n: (defaults[n].default, f.description) for n, (_, f) in parameters.options_of(method).items()}
    needs = ' `fit` needs `groups`.' if parameters.needs_groups(method) else ''
    parts += [
      f'## {kind.__name__}',
      f'The method [`{method}`](methods.md).{needs}',
      *([table(options)] if options else []),
    ]
  return '\n\n'.join([*parts, MADE]) + '\n'


def results_json() -> str:
  """Return the page of results.json: its keys, those of the metrics of a split, and the files beside it."""
  from ule_jax.runs.result_keys import FILES, KEYS, METRICS

  def table(heading: str, rows: dict[tuple[str, ...], str]) -> str:
    lines = [f'| {", ".join(f"`{name}`" for name in names)} | {text} |' for names, text in rows.items()]
    return '\n'.join([f'| {heading} | content |', '|---|---|', *lines])

  intro = (
    'The result of a finished run. All accuracies are in [0, 1]. A metric that cannot be computed is `null`, and '
    '`reasons` beside it says why. [How to read a result](../concepts/reading-results.md) explains the metrics and '
    'rules.'
  )
  more = (
    'Data sets add their own: `spawrious` the average accuracy and the worst cell, `urbancars` the I.D. accuracy and '
    'three gaps.'
  )
  parts = ['# results.json', intro, table('key', KEYS), '## Metrics of a split', table('key', METRICS), more]
  return '\n\n'.join([*parts, '## Beside it', table('file', FILES), MADE]) + '\n'


PAGES = {
  'command-line.md': command_line,
  'methods.md': methods,
  'estimators.md': estimators,
  'results-json.md': results_json,
}


def main(check: bool) -> int:
  """Write the pages, or only compare them; return the exit code."""
  stale = []
  for name, page in PAGES.items():
    path, text = FOLDER / name, page()
    if not path.exists() or path.read_text() != text:
      stale.append(name)
      if not check:
        path.write_text(text)
  if stale:
    print(f'{"differ" if check else "written"}: {", ".join(stale)}')
  return int(check and bool(stale))


if __name__ == '__main__':
  sys.exit(main('--check' in sys.argv[1:]))
