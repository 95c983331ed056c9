"""The style page (docs/develop/style.md), as far as a program can check it.

`python tests/words_test.py [FILE...]` prints every offence with its replacement. Files that were written before the
style page have their counts in words_allowed.txt; a count there has to equal the offences of today, so that it shrinks
with every rewrite: `python tests/words_test.py --update` writes the present counts, and refuses a larger total.
"""

import ast
import collections
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = Path(__file__).with_name('words_allowed.txt')
SHIPPED = ('ule_jax', 'configs', 'benchmarks')
CHECKED = (*SHIPPED, 'tests')  # tests: first words and paraphrases only

# First word of a docstring -> the verbs or the noun that it stands in for.
FIRST_WORDS = {
  'What': 'the noun: "Fields that ...", "Counts of ..."',
  'How': 'the noun: "Style of ...", "Procedure for ..."',
  'Say': 'Return, Describe, Format or Log',
  'Tell': 'Return whether, or Distinguish',
  'Take': 'Select, Copy, Acquire or Return',
  'Put': 'Join, Insert, Place or Encode',
  'Lay': 'Format or Arrange',
  'Let': 'Allow or Enable, or the verb itself',
  'Give': 'Return, Assign or Scale',
  'Name': 'Return the name of, Label or Choose',
  'Do': 'the verb of what is done: Run, Apply, Train',
  'Bring': 'Move, Convert or Resize',
  'Turn': 'Convert or Rotate',
  'Part': 'Split, Partition or Cluster',
  'Number': 'Encode, Enumerate or Return the index of',
  'Look': 'Inspect, Search or Read',
  'Leave': 'Omit, Drop or Skip',
  'See': 'View or Inspect',
  'Lose': 'Drop, Exit or Disconnect',
}
FINE = {('Look', 'up'), ('Number', 'of'), ('Part', 'of')}  # a verb of the field, and nouns
# Locals, parameters, loop variables, functions and classes -> what they are to be named for.
NAMES = {
  'found': 'the noun: counts, paths, matches, hasher, ...',
  'said': 'text, predictions, notes, ...',
  'told': 'labels, lines, warnings, ...',
  'shown': 'panels, text, ...',
  'made': 'the noun of what was built: panels, batch, ...',
  'own': 'the noun: leaf, rows, params, ...',
  'one': 'the noun: run, series, image, ...',
  'due': 'expected, required',
  'its': 'the noun',
  'of': 'the noun of the container',
  'here': 'mask, local, rows, ...',
  'everyone': 'indices, gathered, ...',
  'heeded': 'until_signal',
  'lose': 'drop, exit_peer_lost',
}
# In docstrings, comments and messages: the paraphrase -> the field's term or the plain word.
PARAPHRASES = {
  r'heard of': 'responds, stops responding',
  r'by hand': 'explicitly, manually, or the name of the mechanism',
  r'for ever': 'indefinitely',
  r'signs? of life': 'heartbeat',
  r'puts? together': 'all-gather, concatenate or merge',
  r'parted': 'split, partitioned or clustered',
  r"nobody's business": 'private',
  r'goes without saying': 'implied',
  r'c[ao]mes? to nothing': 'fails, failed',
  r'(?:to|by|for|from) who': 'readers, users or callers',
  r'(?:,|and) who (?:reads|asks|cannot|finds|sees|uses)': 'the reader, the user or the caller',
  r"one's own": 'custom, user-defined',
  r'(?:is|are|was|were) told': 'receives, is called with',
  r'(?:is|are|was|were) due': 'expected, required',
  r'heed(?:s|ed|ing)?': 'handle (a signal)',
  r'everyone': 'all devices, all processes, the gathered batch',
  r'anew': 'again, re-',
  r'(?:lay|lays|laid) out': 'format, arrange',
  r'(?:gives?|gave|given|giving) back': 'return, release',
  r'aloud': 'in a warning',
  r'waited at': 'barrier',
  r'mend(?:s|ed)?': 'fix',
  r'what is no': 'non-, other',
  r'what became of': 'the outcome of, the status of',
  r'one after the other': 'sequentially',
  r'(?:go|goes|going|went|gone) on': 'resume, continue',
}
_PARAPHRASE = re.compile('|'.join(rf'(?:\b|(?=,))(?P<g{i}>{text})\b' for i, text in enumerate(PARAPHRASES)), re.I)


class Offence(NamedTuple):
  """One place that the style page asks to rewrite."""

  path: str
  line: int
  kind: str  # first, what, name or phrase
  text: str
  replacement: str

  def __str__(self) -> str:
    return f'{self.path}:{self.line}: {self.text!r}: write {self.replacement}'


def offences(path: str, source: str) -> list[Offence]:
  """List the offences of a Python file, in the order of its lines.

  Args:
    path: relative to the repository; files below tests/ are checked for first words and paraphrases only.
  """
  shipped = path.split('/')[0] in SHIPPED
  tree = ast.parse(source)
  docstrings = {id(node): (line, text) for node, line, text in _docstrings(tree)}
  places = [*_first_words(path, docstrings.values()), *_paraphrases(path, _comments(source))]
  places += _paraphrases(path, docstrings.values())
  if shipped:
    places += [
      Offence(path, line, 'what', text.split('\n\n')[0], 'the noun in place of the what-clause')
      for line, text in docstrings.values()
      if re.search(r'\bwhat\b', text.split('\n\n')[0], re.I)
    ]
    strings = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    places += _paraphrases(path, [(n.lineno, n.value) for n in strings if id(n) not in docstrings])
    places += [Offence(path, line, 'name', name, NAMES[name]) for line, name in _names(tree) if name in NAMES]
  return sorted(places, key=lambda offence: offence.line)


def _docstrings(tree):
  """Yield each docstring as (its node, line, text)."""
  for node in ast.walk(tree):
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
      text, first = ast.get_docstring(node), next(iter(node.body), None)
      if text and isinstance(first, ast.Expr):
        yield first.value, first.lineno, text


def _comments(source):
  """Yield each comment as (line, text)."""
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      yield token.start[0], token.string


def _names(tree):
  """Yield each variable, parameter, field, function and class that the file binds, as (line, name)."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      yield node.lineno, node.id
    elif isinstance(node, ast.arg):
      yield node.lineno, node.arg
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
      yield node.lineno, node.name


def _first_words(path, docstrings):
  for line, text in docstrings:
    word, following = (*re.findall(r'[A-Za-z]+', text)[:2], '', '')[:2]
    if word in FIRST_WORDS and (word, following) not in FINE:
      yield Offence(path, line, 'first', f'{word} {following}', FIRST_WORDS[word])


def _paraphrases(path, texts):
  replacements = list(PARAPHRASES.values())
  for line, text in texts:
    for match in _PARAPHRASE.finditer(' '.join(text.split())):
      yield Offence(path, line, 'phrase', match.group(), replacements[int(str(match.lastgroup)[1:])])


def all_offences() -> list[Offence]:
  """List the offences of every checked file."""
  paths = sorted(path for top in CHECKED for path in (ROOT / top).rglob('*.py'))
  paths = [path for path in paths if path.name != Path(__file__).name]  # it quotes what it bans
  return [x for path in paths for x in offences(path.relative_to(ROOT).as_posix(), path.read_text(encoding='utf-8'))]


def counts(listed) -> dict[tuple[str, str], int]:
  """Count offences by (path, kind)."""
  return dict(collections.Counter((offence.path, offence.kind) for offence in listed))


def allowed() -> dict[tuple[str, str], int]:
  """Read words_allowed.txt: (path, kind) -> the count that is recorded."""
  rows = [line.split() for line in ALLOWED.read_text(encoding='utf-8').splitlines() if line]
  return {(path, kind): int(count) for path, kind, count in rows}


@pytest.fixture(scope='module')
def listed():
  return all_offences()


@pytest.mark.parametrize('kind', ['first', 'what', 'name', 'phrase'])
def test_words_are_those_of_the_style_page(listed, kind):
  today, recorded = counts(listed), allowed()
  lines = [str(x) for x in listed if x.kind == kind and today[x.path, kind] > recorded.get((x.path, kind), 0)]
  assert not lines, '\n'.join([f'{len(lines)} places in files with more than are recorded:', *lines])


def test_the_table_of_allowed_counts_shrinks_with_the_work(listed):
  today = counts(listed)
  stale = [f'{p} {k} {n}: now {today.get((p, k), 0)}' for (p, k), n in allowed().items() if today.get((p, k), 0) < n]
  assert not stale, '\n'.join(['run `python tests/words_test.py --update`, as these have become fewer:', *stale])


@pytest.mark.parametrize(
  ('source', 'kind'),
  [
    ('"""Tell whether it rains."""', 'first'),
    ('"""Fields of what was read."""', 'what'),
    ('for found in range(3):\n  pass', 'name'),
    ('def found():\n  pass', 'name'),
    ('def f(*, said=1):\n  pass', 'name'),
    ('# it waits for ever', 'phrase'),
    ('"""Wait.\n\nWhen a host is not\nheard of.\n"""', 'phrase'),
    ('raise ValueError(f"{1} of one\'s own")', 'phrase'),
  ],
)
def test_each_kind_of_offence_is_seen(source, kind):
  assert [offence.kind for offence in offences('ule_jax/x.py', f'{source}\n')] == [kind]


def test_plain_text_is_no_offence():
  source = (
    '"""Look up a name, and return its count.\n\nWhat follows may say what it likes.\n"""\ncounts = 1  # by name\n'
  )
  assert not offences('ule_jax/x.py', source)


def main(arguments):
  """Print the offences of some files, or of all; with --update write their counts."""
  listed = all_offences()
  if arguments == ['--update']:
    today = counts(listed)
    for kind in ('first', 'what', 'name', 'phrase'):
      total, before = (sum(n for (_, k), n in table.items() if k == kind) for table in (today, allowed()))
      print(f'{kind}: {before} -> {total}')
      if total > before:
        sys.exit(f'{total - before} more of kind {kind}: rewrite them, see `python tests/words_test.py`.')
    ALLOWED.write_text(''.join(f'{p} {k} {n}\n' for (p, k), n in sorted(today.items())), encoding='utf-8')
  else:
    print(*(x for x in listed if not arguments or any(x.path.startswith(part) for part in arguments)), sep='\n')


if __name__ == '__main__':
  main(sys.argv[1:])
