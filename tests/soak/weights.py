"""Damaged and disguised files of weights: each is read, or refused with one sentence, in time, and runs no code.

  python -m tests.soak.weights --cases=2000 [--seed=0] [--only=file:17]

A file of small weights, wrapped as some repository does and under any ending, is cut, overwritten, spliced, or given
opcodes and names of functions. A file that is read has to have tensors of its own names and shapes, or to be refused
when it is fitted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import pickle
import random
import sys
import tempfile
import traceback
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from ule_jax.errors import UserError
from ule_jax.models.pretrained import networks, weight_files

from . import runner

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
  """Return the tensors by which a residual network is known, and a little more."""
  names = ('conv1.weight', 'layer1.0.conv1.weight', 'layer1.0.bn1.weight', 'fc.weight', 'fc.bias')
  return {name: torch.ones(4, 3, 2, 2) if 'conv' in name else torch.ones(4) for name in names}


def wrapped(rng: random.Random) -> object:
  """Return the content of a file as some repository saves it."""
  prefix = rng.choice(('', 'module.', 'model.', 'network.0.network.'))
  state = {prefix + name: tensor for name, tensor in tensors().items()}
  return rng.choice((
    state,
    {'state_dict': state, 'best_acc1': torch.tensor(3.0), 'epoch': 3},
    {'model': state, 'model_ema': state, 'args': argparse.Namespace(lr=np.float64(0.1))},
    [state, {'state': {0: {'exp_avg': torch.ones(4)}}, 'param_groups': []}],
    {'a': {'b': {'c': {'d': state}}}},
    torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.Linear(2, 2)),
  ))  # fmt: skip


def written(rng: random.Random) -> bytes:
  """Write a file of one of the kinds."""
  file, kind = io.BytesIO(), rng.randrange(6)
  if kind == 0:
    return save(tensors())
  if kind == 1:
    np.savez(file, allow_pickle=False, **{name: value.numpy() for name, value in tensors().items()})
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
  """Insert a call, or opcodes, into the pickle of a torch.save file and keep the archive whole."""
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


def attempt(kind: str, number: int) -> str:
  """Read a case; return how that ended."""
  rng = random.Random(number)
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / f'case{rng.choice(ENDINGS)}'
    path.write_bytes(damaged(written(rng), rng))
    watched.clear()
    try:
      network = networks.network_in(weight_files.read(path), 'a case')
      end = 'read' if set(network.tensors) <= set(tensors()) | set(network.names) else 'read in part'
    except UserError as error:
      end = 'refused' if len(str(error).splitlines()) == 1 else f'several lines: {error}'
    except Exception:
      end = f'traceback: {traceback.format_exc(limit=-3)}'
    return f'ran {watched[0]}' if watched else end


def watch(event: str, arguments: tuple) -> None:
  """Note an event of those that a file must not cause."""
  if event in WATCHED and not (event == 'exec' and getattr(arguments[0], 'co_filename', '').endswith('.py')):
    watched.append(f'{event} {arguments}')


def prepare() -> None:
  """Watch from now on; what the first cases import runs code too, once."""
  for number in range(30):
    attempt('file', number)
  sys.addaudithook(watch)


SUITE = runner.Suite(attempt, ('read', 'read in part', 'refused'), {'file': 1.0}, prepare=prepare, memory=64 << 30)

if __name__ == '__main__':
  runner.main(SUITE, __doc__, 2000)
