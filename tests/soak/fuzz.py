"""Random edits of command lines, configs and inputs: each ends with 0, 2 or 75, in time, without a traceback.

  python -m tests.soak.fuzz --cases=3200 [--seed=0] [--kinds=command,data] [--only=command:17]

A case that ends with 0 has to have written `done` (and one that does not, must not), and data of which something cannot
be read have to end with 2. Runs are cut to two steps. The kinds beside `command` and `data` are those of `inputs`,
which knows the right outcome of each case.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import random
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

import writers

from . import inputs, runner

LIMIT = 60.0  # seconds for a case
SLOW = {'signal': 10, 'path': 3, 'stale': 2}  # times as long
FAST = ('--config.train.eval_every=1', '--config.data.crops=1', '--config.train.batch_size=16')
SMALL = (
  '--config.model.name=cnn',
  '--config.model.weights=none',
  '--config.model.width=2',
  '--config.model.depth=1',
  '--config.model.batch_norm=none',
)
METHODS = ('ule', 'erm', 'group_dro', 'lff', 'mixup', 'jtt', 'rwg', 'gradient_penalty')
VALUES = (
  '', ' ', '0', '-0', '1', '-1', '2', '0.5', '-0.5', '1e-320', '1e308', '1e999', 'nan', 'inf', '-inf', 'None', 'True',
  'false', 'yes', '9' * 30, '-' + '9' * 30, '0x10', '1_000', '½', '٣', '漢字', '🦆', 'a' * 5000, '()', '(1,)', '(1, 2)',
  '(0.5, "a")', '[', '{}', '{"a": 1}', 'lambda: 0', '__import__("os")', '../..', '/', '.', '%s', '\\', '"', "'", 'a b',
  'erm', 'cnn', 'vit', 'resnet18', 'resnet20', 'mlp', 'sgd', 'adamw', 'cosine', 'project', 'oppose', 'loss', 'patch',
  'class_balanced', 'group_subsampled', 'last', 'test/accuracy', 'val/accuracy', 'val_balanced/worst_group_accuracy',
  'weight', 'frozen', 'batch', '3', '7', '10', '100', '1e-3', '.*head.*', '(', '*',
)  # fmt: skip
# Of folders: below any of these a run ends as it does elsewhere, or is refused.
PATHS = (
  '[a]/b', '[!a]', '*', 'a?b', 'back\\slash', 'a\\', '"\'', '%20', '%s', '#&=,;', 'a:b', 'C:\\x', 'e\u0301', '🦆',
  'line\nbreak', './-x', '~', '~/' + 'a' * 300, '~nobody-of-this-name/x', 'a/../b/', 'dangling', 'x' * 255,
  'a/' * 2100, 'gs://bucket/x', 's3://b', 'gs:/b', 'https://host/x', 'file:///tmp/x', 'memory://x',
  '\udcff', '{}', '$HOME',
)  # fmt: skip
OBJECTS = (None, True, 0, 1, -1, 2.5, float('nan'), float('inf'), 10**30, '', 'erm', 'é', (), (1, 2), [], ['a'], b'x')
FILES = {
  'empty.py': '',
  'text.py': 'not python at all',
  'none.py': 'def get_config():\n  return None\n',
  'dict.py': 'def get_config():\n  return {"seed": 0}\n',
  'fails.py': 'def get_config():\n  raise RuntimeError("of its own")\n',
  'exits.py': 'raise SystemExit(0)\n',
  'many.py': 'def get_config(a, b):\n  return a\n',
  'notes.txt': 'notes',
}


class Command(NamedTuple):
  """A command line, and whether it must not end with 0."""

  argv: list[str]
  fatal: bool = False


def fields() -> list[str]:
  from ule_jax.config import load_config
  from ule_jax.config.fields import flatten

  return sorted(flatten(load_config('digits').to_dict()))


def command(number: int, place: Path) -> Command:
  """Make a valid command line and edit it once or twice."""
  rng = random.Random(number)
  argv = [f'--config=digits:{rng.choice(METHODS)}', *FAST, '--workdir=run']
  for _ in range(rng.choice((1, 1, 2))):
    argv = rng.choices(EDITS, weights=(8, 1, 1, 1, 1, 1, 3, 1))[0](argv, rng, place)
  return Command(argv)


def _set(argv: list[str], rng: random.Random, place: Path) -> list[str]:
  return [*argv, f'--config.{rng.choice(fields())}={rng.choice(VALUES)}']


def _misspell(argv: list[str], rng: random.Random, place: Path) -> list[str]:
  i = rng.randrange(len(argv))
  at = rng.randrange(len(argv[i]))
  return [
    *argv[:i],
    argv[i][:at] + rng.choice(('', 'x', 'é', '=', '.', '-', ' ', ':')) + argv[i][at + 1 :],
    *argv[i + 1 :],
  ]


def _drop(argv: list[str], rng: random.Random, place: Path) -> list[str]:
  i = rng.randrange(len(argv))
  return argv[:i] + argv[i + 1 :]


def _split(argv: list[str], rng: random.Random, place: Path) -> list[str]:
  i = rng.randrange(len(argv))
  return [*argv[:i], *argv[i].split('=', 1)[: rng.choice((1, 2))], *argv[i + 1 :]]


def _add(argv: list[str], rng: random.Random, place: Path) -> list[str]:
  extra = ('--', '-', '', 'x', '--force', '--force=', '--force=maybe', '--config', '--config=', '--=', '=', '--helpme')
  argv = list(argv)
  argv.insert(rng.randrange(len(argv) + 1), rng.choice(extra))
  return argv


def _file(argv: list[str], rng: random.Random, place: Path) -> list[str]:
  for name, text in FILES.items():
    (place / name).write_text(text)
  (place / 'binary.py').write_bytes(bytes(range(256)))
  (place / 'folder.py').mkdir(exist_ok=True)
  names = [str(place / name) for name in (*FILES, 'binary.py', 'folder.py', 'gone.py')]
  names += ['/dev/null', 'base', '__init__', 'digits:', 'digits::', ':erm', 'digits:é', 'Digits', 'a' * 300, '.']
  return [f'--config={rng.choice(names)}', *argv[1:]]


def _config(argv: list[str], rng: random.Random, place: Path) -> list[str]:
  """A custom config file, with a field set, deleted or added in Python, past what a flag could."""
  name, value = rng.choice(fields()), rng.choice(OBJECTS)
  parent, _, last = name.rpartition('.')
  owner = f'c.{parent}' if parent else 'c'
  change = rng.choice((f'{owner}.{last} = {value!r}', f'del {owner}.{last}', f'{owner}.{last}x = {value!r}'))
  lines = ['from configs import digits', 'def get_config(method="ule"):', '  c = digits.get_config(method)']
  lines += [
    '  nan, inf = float("nan"), float("inf")',
    '  with c.unlocked(), c.ignore_type():',
    f'    {change}',
    '  return c',
  ]
  (place / 'own.py').write_text('\n'.join(lines) + '\n')
  return [f'--config={place / "own.py"}', *argv[1:]]


def _workdir(argv: list[str], rng: random.Random, place: Path) -> list[str]:
  if not (place / 'dangling').is_symlink():
    (place / 'dangling').symlink_to('nowhere')
  (place / 'file').touch()
  (place / 'full').mkdir(exist_ok=True)
  (place / 'full' / 'thesis.tex').touch()
  (place / 'odd').mkdir(exist_ok=True)
  (place / 'odd' / 'config.json').write_text(rng.choice(('', '{', '[]', '{}', 'null', '\x00')))
  names = ('file', 'full', 'odd', 'file/below', 'a' * 300, 'é 漢字', 'deep/er/est', 'new ')
  return [*argv, f'--workdir={rng.choice((*names, *PATHS))}']


EDITS = (_set, _misspell, _drop, _split, _add, _file, _config, _workdir)


def data(number: int, place: Path) -> Command:
  """Write a small data set, damage it once, and make the command that trains on it."""
  rng = random.Random(number)
  root = place / 'data'
  if rng.random() < 0.6:
    cells = itertools.product(('train', 'val', 'test'), (0, 1), range(4))
    rows = [(f'{k}/{part}{i}.jpg', 'ab'[k], part, 'xy'[i % 2]) for part, k, i in cells]
    writers.write_folder(root, rows, ('filename', 'label', 'split', 'attribute'))
    config, lists = 'folder', [root / 'metadata.csv']
  else:
    form = rng.choice(('csv', 'txt'))
    writers.write_celeba(root, ((4, 3, 3, 2), (2, 2, 2, 2), (2, 2, 2, 2)), form=form, size=(40, 48))
    config, lists = 'celeba', sorted(root.glob('list_*'))
  images = sorted(p for p in root.rglob('*.jpg'))
  fatal = False
  if rng.random() < 0.5:
    path = rng.choice(images)
    fatal = rng.choice((_cut, _garble, _empty, _lose, _replace, _litter))(path, rng)
  else:
    edits = (_cut_text, _garble, _empty, _lose, _cell, _row, _twice, _header, _word, _word, _quote, _encode)
    fatal = rng.choice(edits)(rng.choice(lists), rng)
  argv = [f'--config={config}:{rng.choice(METHODS[:4])}', f'--config.data.dir={root}', '--config.data.size=8', *SMALL]
  argv += ['--config.train.batch_size=8', '--config.train.eval_every=1', '--config.train.eval_batch_size=8']
  argv += ['--config.data.official=False'] if config == 'celeba' else []
  return Command([*argv, '--config.train.steps=8', f'--workdir={place / "run"}'], fatal)


def _cut(path: Path, rng: random.Random) -> bool:
  content = path.read_bytes()
  path.write_bytes(content[: rng.randrange(len(content) // 2)])
  return True


def _cut_text(path: Path, rng: random.Random) -> bool:
  content = path.read_bytes()
  path.write_bytes(content[: rng.randrange(len(content))])
  return False  # what is left may be a smaller data set, as far as anyone can tell


def _garble(path: Path, rng: random.Random) -> bool:
  content = path.read_bytes()
  start = rng.randrange(len(content))
  path.write_bytes(content[:start] + rng.randbytes(min(64, len(content) - start)) + content[start + 64 :])
  return False  # pixels that are other pixels


def _empty(path: Path, rng: random.Random) -> bool:
  path.write_bytes(b'')
  return True


def _lose(path: Path, rng: random.Random) -> bool:
  path.unlink()
  return True


def _replace(path: Path, rng: random.Random) -> bool:
  path.unlink()
  rng.choice((path.mkdir, lambda: path.write_text('<html>404</html>'), lambda: path.symlink_to(path)))()
  return True


def _lines(path: Path) -> list[str]:
  return path.read_text().splitlines()


def _cell(path: Path, rng: random.Random) -> bool:
  lines = _lines(path)
  i = rng.randrange(len(lines))
  separator = ',' if ',' in lines[i] else ' '
  cells = lines[i].split(separator)
  cells[rng.randrange(len(cells))] = rng.choice(VALUES)
  lines[i] = separator.join(cells)
  path.write_text('\n'.join(lines))
  return False


def _row(path: Path, rng: random.Random) -> bool:
  lines = _lines(path)
  lines.insert(
    rng.randrange(len(lines) + 1), rng.choice(('', ',', ',,,', 'x', '\0', '"', '../../etc/passwd,a,train,x', 'é,' * 3))
  )
  path.write_text('\n'.join(lines))
  return False


def _twice(path: Path, rng: random.Random) -> bool:
  lines = _lines(path)
  path.write_text('\n'.join([*lines, lines[-1]]))
  return True


def _header(path: Path, rng: random.Random) -> bool:
  lines = _lines(path)
  path.write_text('\n'.join([lines[0].replace(rng.choice(lines[0]), rng.choice(('', 'x', ','))), *lines[1:]]))
  return False


WORDS = ('nan', 'NaN', 'None', 'NA', 'N/A', 'null', '<NA>', '-1', '\u200b', 'B', 'b ', '0.0', '1.0', 'Train', 'x\xa0')


def _word(path: Path, rng: random.Random) -> bool:
  """Write a word for missing, or another spelling of what stands in other rows."""
  lines = _lines(path)
  separator = ',' if ',' in lines[-1] else ' '
  place = rng.randrange(len(lines[-1].split(separator)))
  for i in rng.sample(range(1, len(lines)), 3):
    cells = lines[i].split(separator)
    cells[min(place, len(cells) - 1)] = rng.choice(WORDS)
    lines[i] = separator.join(cells)
  path.write_text('\n'.join(lines))
  return False


def _quote(path: Path, rng: random.Random) -> bool:
  """Open quotes, in one row or in two."""
  lines = _lines(path)
  for i in rng.sample(range(len(lines)), rng.choice((1, 2))):
    at = rng.randrange(len(lines[i]) + 1)
    lines[i] = lines[i][:at] + '"' + lines[i][at:]
  path.write_text('\n'.join(lines))
  return False


def _encode(path: Path, rng: random.Random) -> bool:
  """Write another encoding, other ends of lines or another separator."""
  text = path.read_text().replace('a', rng.choice('aé'))
  for old, new in rng.sample(((',', ';'), (',', '\t'), ('\n', '\r'), ('\n', '\r\n'), ('\n', '\n\n'), ('\n', ',\n')), 2):
    text = text.replace(old, rng.choice((old, new)))
  path.write_bytes(text.encode(rng.choice(('utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'latin-1'))))
  return False


def _litter(path: Path, rng: random.Random) -> bool:
  """Write the companion files of other systems beside a file, and a link that forms a loop."""
  for name in (f'._{path.name}', f'.{path.stem}.png', '__MACOSX', '@eaDir', '.ipynb_checkpoints', 'Thumbs.db'):
    there = path.parent / name
    if '.' in name[1:]:
      there.write_bytes(b'\0\5\26\7')
    else:
      there.mkdir(exist_ok=True)
      (there / f'{path.stem}.png').write_bytes(b'\0')
  (path.parent / 'loop').symlink_to(rng.choice(('.', '..', '/')))
  return False


def attempt(kind: str, number: int) -> str:
  """Run a case in this process; return its exit code as text, or the error in how it ended."""
  from ule_jax.train import training_data

  if kind in inputs.KINDS:
    try:
      return inputs.attempt(kind, number)
    except Exception:
      return f'traceback: {traceback.format_exc()}'
  place = Path(tempfile.mkdtemp(prefix='fuzz'))
  folder, argv, total_steps = Path.cwd(), sys.argv, training_data.total_steps
  # A thousand steps are no hang.
  training_data.total_steps = lambda config, dataset: min(total_steps(config, dataset), 2)
  try:
    os.chdir(place)
    return run({'command': command, 'data': data}[kind](number, place), place)
  finally:
    training_data.total_steps, sys.argv = total_steps, argv
    os.chdir(folder)
    shutil.rmtree(place, ignore_errors=True)


def run(case: Command, place: Path) -> str:
  """Run a command line below a folder; return its exit code as text, or the error in how it ended."""
  from ule_jax.cli import app

  before, output = set(place.rglob('done')), io.StringIO()
  sys.argv = ['main', *case.argv]
  try:
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(io.StringIO()):
      app.run_verb('main')
    code = 0
  except SystemExit as end:
    code = end.code
  except BaseException:
    return f'traceback: {traceback.format_exc()}\n{case.argv}'
  finished = any(path.parent.name != 'first' for path in set(place.rglob('done')) - before)
  text = output.getvalue()
  helped = not case.argv or any(a in ('--help', '-h', '-help') for a in case.argv)
  if code not in (0, 2, 75) or 'Traceback' in text:
    return f'code {code}: {text[-2000:]}\n{case.argv}'
  if code == 2 and len(text.strip().splitlines()[-1]) > 20_000:
    return f'a sentence of {len(text)} characters'
  if finished != (code == 0 and not helped) or (code == 0 and case.fatal):
    return f'code {code}, and done is {finished}, fatal {case.fatal}: {text[-500:]}\n{case.argv}'
  return str(code)


def seconds(kind: str) -> float:
  """Return the time that a case may take."""
  return LIMIT * SLOW.get(kind, 1)


SHARES = {'command': 0.3, 'data': 0.06} | {kind: 0.64 * share for kind, (_, share) in inputs.KINDS.items()}
SUITE = runner.Suite(attempt, ('0', '2', '75'), SHARES, seconds, memory=24 << 30)

if __name__ == '__main__':
  runner.main(SUITE, __doc__, 3200)
