"""Damaged and disguised files of weights: each is read, or refused with one sentence, in time, and runs no code.

  python benchmarks/fuzz_weights.py --cases=2000

A case is made from its number alone, so that `--only=17` shows one again. A file of small weights, wrapped as some
repository does and under any ending, is cut, overwritten, spliced, or given opcodes and names of functions. What is
read has to have tensors of the names and shapes of the file, or to be refused when it is fitted.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import os
import pickle
import random
import sys
import tempfile
import time
import traceback
import zipfile
from pathlib import Path

import numpy as np
import record
import torch
from safetensors.torch import save

sys.path.append(str(Path(__file__).parent.parent))
from ule_jax.errors import UserError
from ule_jax.models.pretrained import networks, weight_files

RESULTS = Path(__file__).parent / 'results' / 'fuzz_weights.jsonl'
LIMIT = 20.0  # seconds for a case
ENDINGS = ('.pth', '.pkl', '.tar', '.safetensors', '.npz', '.ckpt', '', '.zip', '.gz')
CALLS = (
  b'cos\nmkdir\n',
  b'cposix\nsystem\n',
  b'cbuiltins\neval\n',
  b'csubprocess\nPopen\n',
  b'ctorch\nload\n',
  b'cx\ny\n',
)
WATCHED = ('os.mkdir', 'os.system', 'subprocess.Popen', 'os.exec', 'os.posix_spawn', 'exec', 'socket.connect')
watched: list[str] = []


def tensors() -> dict[str, torch.Tensor]:
  """Make what tells a residual network, and a little more."""
  names = ('conv1.weight', 'layer1.0.conv1.weight', 'layer1.0.bn1.weight', 'fc.weight', 'fc.bias')
  return {name: torch.ones(4, 3, 2, 2) if 'conv' in name else torch.ones(4) for name in names}


def wrapped(rng: random.Random) -> object:
  prefix = rng.choice(('', 'module.', 'model.', 'network.0.network.'))
  own = {prefix + name: tensor for name, tensor in tensors().items()}
  return rng.choice((
    own,
    {'state_dict': own, 'best_acc1': torch.tensor(3.0), 'epoch': 3},
    {'model': own, 'model_ema': own, 'args': argparse.Namespace(lr=np.float64(0.1))},
    [own, {'state': {0: {'exp_avg': torch.ones(4)}}, 'param_groups': []}],
    {'a': {'b': {'c': {'d': own}}}},
    torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.Linear(2, 2)),
  ))  # fmt: skip


def written(rng: random.Random) -> bytes:
  """Write a file of one of the kinds."""
  file, kind = io.BytesIO(), rng.randrange(6)
  if kind == 0:
    return save(tensors())
  if kind == 1:
    np.savez(file, **{name: value.numpy() for name, value in tensors().items()})
  elif kind == 2:
    pickle.dump(tensors(), file, protocol=rng.randrange(6))
  else:
    torch.save(wrapped(rng), file, _use_new_zipfile_serialization=kind != 3)
  return file.getvalue()


def damaged(content: bytes, rng: random.Random) -> bytes:
  """Damage a file in up to three ways."""
  for _ in range(rng.randrange(4)):
    i, j = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    way = rng.randrange(9)
    if way == 0:
      content = content[:i]
    elif way == 1:
      content = content[i:]
    elif way == 2:
      content = content[:i] + rng.randbytes(rng.randrange(1, 9)) + content[i:]
    elif way == 3:
      content = content[:i] + content[j:]
    elif way == 4:
      content = content[:i] + content[i:j] * 2 + content[j:]
    elif way == 5:
      content = rng.choice((b'<html>', b'version https://git-lfs', b'\x1f\x8b', b'PK', b'{', b'\x80\x02')) + content
    elif way == 6:
      with contextlib.suppress(Exception):
        content = _edited(content, rng)  # unless it is damaged already
    elif content:
      some = bytearray(content)
      for _ in range(rng.randrange(1, 20)):
        some[rng.randrange(len(some))] = rng.randrange(256)
      content = bytes(some)
  return content


def _edited(content: bytes, rng: random.Random) -> bytes:
  """Put a call, or opcodes, into the pickle of a torch.save file and keep the archive whole."""
  attack = rng.choice(CALLS) + rng.choice((b'(U\x01xtR', b'(U\x01xtR0', b')\x81', b')\x81}b', b')R.'))
  if not zipfile.is_zipfile(io.BytesIO(content)):
    i = rng.randrange(len(content) + 1)
    return content[:i] + attack + content[i:]
  out = io.BytesIO()
  with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, 'w') as new:
    for name in old.namelist():
      data = old.read(name)
      if name.endswith('data.pkl'):
        i = rng.choice((2, rng.randrange(2, len(data)) if len(data) > 2 else 2))
        data = data[:i] + attack + data[i:]
      new.writestr(name, data)
  return out.getvalue()


def attempt(number: int, place: Path) -> str:
  """Read a case; say how that ended."""
  rng = random.Random(number)
  path = place / f'case{rng.choice(ENDINGS)}'
  path.write_bytes(damaged(written(rng), rng))
  watched.clear()
  began = time.monotonic()
  try:
    found = networks.network_in(weight_files.read(path), 'a case')
    end = 'read' if set(found.tensors) <= set(tensors()) | set(found.names) else 'read in part'
  except UserError as error:
    end = 'refused' if len(str(error).splitlines()) == 1 else f'several lines: {error}'
  except Exception:
    end = f'traceback: {traceback.format_exc(limit=-3)}'
  if watched:
    end = f'ran {watched[0]}'
  return f'slow: {end}' if time.monotonic() - began > LIMIT else end


def watch(event: str, arguments: tuple) -> None:
  """Note what a file makes happen."""
  if event in WATCHED and not (event == 'exec' and getattr(arguments[0], 'co_filename', '').endswith('.py')):
    watched.append(f'{event} {arguments}')


def main() -> None:
  """Run the cases and say how many ended in which way."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--cases', type=int, default=2000)
  parser.add_argument('--only', type=int)
  arguments = parser.parse_args()
  ends: dict[str, list[int]] = collections.defaultdict(list)
  with tempfile.TemporaryDirectory() as folder:
    attempt(0, Path(folder))  # imports
    sys.addaudithook(watch)
    for number in range(arguments.cases) if arguments.only is None else [arguments.only]:
      ends[attempt(number, Path(folder))].append(number)
  for end, numbers in sorted(ends.items(), key=lambda item: -len(item[1])):
    print(f'{len(numbers):6,}  {end}  ({", ".join(map(str, numbers[:5]))})')
  bad = {end: numbers for end, numbers in ends.items() if end not in ('read', 'read in part', 'refused')}
  if arguments.only is None:
    counts = {end.split(':')[0]: len(numbers) for end, numbers in ends.items()}
    record.add(RESULTS, record.made() | {'cases': arguments.cases, 'ended': counts})
  sys.exit(1 if bad else 0)


if __name__ == '__main__':
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  main()
