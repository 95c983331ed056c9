"""Reading of files of weights: tensors by dotted name. The format is detected from the content, not the ending.

Other objects that training scripts save with the tensors (arguments, counters, whole modules) are skipped without
importing or calling anything that the file names: PyTorch's weights-only unpickler reads them, with stand-ins for other
classes.
"""

from __future__ import annotations

import _compat_pickle
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ule_jax.errors import UserError

Tensors = dict[str, np.ndarray]

_AGAIN = 'download it again'
_UNPACK = 'unpack it, and give the file of weights in it'
# (first bytes, kind of file, remedy)
_OTHERS = (
  (b'version https://git-lfs', 'a git-lfs pointer and not the file itself', 'fetch that with git lfs pull'),
  (b'\x1f\x8b', 'compressed (gzip)', _UNPACK),
  (b'BZh', 'compressed (bzip2)', _UNPACK),
  (b'\xfd7zXZ\x00', 'compressed (xz)', _UNPACK),
  (b'(\xb5/\xfd', 'compressed (zstd)', _UNPACK),
  (b'7z\xbc\xaf\x27\x1c', 'a 7z archive', _UNPACK),
  (b'Rar!', 'a rar archive', _UNPACK),
  (b'\x89HDF\r\n\x1a\n', 'an HDF5 file', 'load it where it came from, and save its arrays as .safetensors'),
  (b'\x93NUMPY', 'a single NumPy array', 'give a file with all tensors and their names, as .npz or .safetensors'),
)
_TORCH_MAGIC = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19'  # 119547037146038801333356, the first number of a torch.save file
_TEXT_PICKLE = re.compile(rb'[(\]})]+[dlpq]|c[\w.]+\n\w+\n')  # the first bytes of protocols 0 and 1
# Callables for objects without tensors, which are replaced by an empty dictionary.
_HARMLESS = re.compile(
  r'numpy\.(_?core\.(multiarray|numeric)\.(scalar|_reconstruct|_frombuffer)|dtype|ndarray|dtypes\.\w+'
  r'|random\._pickle\.__\w+_ctor)'
  r'|pathlib\.(_local\.)?\w*Path|datetime\.\w+|collections\.(defaultdict|deque)|functools\.partial|uuid\.UUID'
  r'|builtins\.(slice|range|frozenset|list|dict|tuple)|fractions\.Fraction|decimal\.Decimal'
)


def read(path: Path) -> Tensors:
  """Read all tensors of a file; names of nested ones are joined by dots.

  Raises:
    UserError: the format is not known, or the file is damaged, or could run code.
    MemoryError: there is not enough memory.
  """
  try:
    tensors = _READERS[_kind(path)](path)
  except UserError:
    raise
  except MemoryError:  # the file may be fine
    raise
  except Exception as error:  # libraries raise any type for a damaged file
    raise UserError(f'{path} cannot be read ({_first_line(error)}): {_AGAIN}.') from None
  if not tensors:
    raise UserError(f'{path} holds no tensors: give a state dict.')
  return tensors


def _kind(path: Path) -> str:
  """Detect the reader of a file from its first bytes, whatever its ending.

  Raises:
    UserError: the format is not supported; the error has its name.
  """
  with path.open('rb') as file:
    head = file.read(1024)
  if not head:
    raise UserError(f'{path} is empty: {_AGAIN}.')
  header = int.from_bytes(head[:8], 'little')
  if head[8:9] == b'{' and 2 <= header <= 100_000_000:
    return 'safetensors'
  if head.startswith(b'PK'):
    return _kind_of_zip(path)
  if _TORCH_MAGIC in head[:32]:
    return 'torch'
  if (head[0] == 0x80 and head[1:2] in (b'\x02', b'\x03', b'\x04', b'\x05')) or _TEXT_PICKLE.match(head):
    raise UserError(
      f'{path} is refused: a plain pickle may run any code when it is read. If you trust it, load it where it came '
      'from, and save its tensors with safetensors.'
    )
  kind, advice = next(((kind, advice) for start, kind, advice in _OTHERS if head.startswith(start)), ('', ''))
  if not kind:
    kind, advice = _text(head)
  if not kind and head[257:262] == b'ustar':
    kind, advice = 'a tar archive', _UNPACK
  if not kind:
    kind, advice = 'none of .safetensors, .npz and what torch.save writes', 'convert it to .safetensors'
  raise UserError(f'{path} is {kind}: {advice}.')


def _kind_of_zip(path: Path) -> str:
  with zipfile.ZipFile(path) as archive:
    names = archive.namelist()
  members = {name.rpartition('/')[2] for name in names}
  if 'constants.pkl' in members:
    raise UserError(
      f'{path} is a TorchScript program: save the state dict alone, torch.save(model.state_dict(), FILE).'
    )
  if 'data.pkl' in members:
    return 'torch'
  if names and all(name.endswith('.npy') for name in names):
    return 'npz'
  raise UserError(f'{path} is a zip archive of something else: {_UNPACK}.')


def _text(head: bytes) -> tuple[str, str]:
  """Return the kind of a text file and the remedy; ('', '') for a file that is not text."""
  text = head.removeprefix(b'\xef\xbb\xbf').lstrip()
  if text.startswith(b'<'):
    return 'a web page or XML and not weights', _AGAIN
  if text.startswith((b'{', b'[')):
    return 'JSON and not weights', 'give the file of weights beside it'
  if text and all(byte >= 32 or byte in b'\t\n\r\f' for byte in text):
    return 'a text and not weights', _AGAIN
  return '', ''


def _read_safetensors(path: Path) -> Tensors:
  import safetensors
  from safetensors.flax import load_file  # safetensors.numpy does not support bfloat16

  try:
    return {name: np.asarray(value) for name, value in load_file(path).items()}
  except safetensors.SafetensorError as error:
    raise ValueError(str(error)) from None


def _read_npz(path: Path) -> Tensors:
  with np.load(path, allow_pickle=False) as file:
    return {name: file[name] for name in file.files}


def _read_torch(path: Path) -> Tensors:
  try:
    import torch
  except ImportError:
    raise UserError(
      f"{path} needs PyTorch to be read: pip install 'ule-jax[torch]', or convert it where PyTorch is, with "
      'safetensors.torch.save_file(state_dict, FILE).'
    ) from None
  try:
    with path.open('rb') as file, warnings.catch_warnings():
      warnings.simplefilter('ignore')  # the error has the same information
      stand_ins: list[Callable | tuple[Callable, str]] = [(_stand_in(name), name) for name in sorted(_names(file))]
      file.seek(0)
      with torch.serialization.safe_globals(stand_ins):
        # weights_only, because a pickle may run any code; an open file, because PyTorch reads a path by its ending.
        content = torch.load(file, map_location='cpu', weights_only=True)
  except pickle.UnpicklingError as error:
    raise UserError(
      f'{path} is refused, as it holds more than tensors, which could run code ({_reason(error)}): '
      'save its state dict alone, torch.save(model.state_dict(), FILE).'
    ) from None
  return {name: _array(name, tensor) for name, tensor in _tensors(content, torch.Tensor)}


def _reason(error: Exception) -> str:
  """Extract the fault of the file from PyTorch's long message."""
  match = re.search(r'WeightsUnpickler error: (.*?)(?:\. Please|\n|$)', str(error))
  return match[1] if match else _first_line(error)


def _array(name: str, tensor: Any) -> np.ndarray:
  if tensor.is_complex() or tensor.is_quantized or tensor.is_sparse or tensor.is_meta:
    raise ValueError(f'{name} is no ordinary tensor but {tensor.layout}, {tensor.dtype}')
  return tensor.detach().float().numpy()


def _names(file: BinaryIO) -> set[str]:
  """List the classes and functions that the pickles of a torch.save file name, without unpickling them."""
  names: set[str] = set()
  if zipfile.is_zipfile(file):
    with zipfile.ZipFile(file) as archive:
      (data,) = (name for name in archive.namelist() if name.rpartition('/')[2] == 'data.pkl')
      pickles = [archive.read(data)]
  else:
    file.seek(0)
    pickles = [file] * 4  # before PyTorch 1.6: its magic number, version, machine, and then the object
  for stream in pickles:
    for operation, argument, _ in pickletools.genops(stream):
      if operation.name == 'GLOBAL':
        module, name = str(argument).split(' ', 1)
        module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
        names.add(f'{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}')
  return names


class _StandIn(type):
  """The metaclass of stand-ins for a file's classes: a new instance is an empty dictionary, and calls are refused."""

  def __call__(cls, *_: Any) -> Any:
    raise pickle.UnpicklingError(f'WeightsUnpickler error: it would call {cls.__name__}')


def _empty(*_: Any) -> OrderedDict:
  return OrderedDict()  # the unpickler adds the items, and the state as attributes


class _Passed:
  """Stand-in for an object whose state is not a dictionary."""

  def __init__(self, *_: Any):
    pass

  def __setstate__(self, _: Any) -> None:
    pass


def _stand_in(path: str) -> Any:
  """Return the stand-in that the unpickler gets for a class or function of a file.

  Instances of any class may be rebuilt from their data, because no code of the class is run. Calls are refused, except
  of the few callables in _HARMLESS.
  """
  if path.startswith(('numpy.', 'datetime.')) and _HARMLESS.fullmatch(path):
    return _Passed
  return _empty if _HARMLESS.fullmatch(path) else _StandIn(path, (), {'__new__': _empty})


def _tensors(content: Any, kind: type) -> Iterator[tuple[str, Any]]:
  """Yield the tensors of nested dictionaries, lists and modules, once each; the state of an optimiser is skipped."""
  waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
  seen: set[int] = set()
  while waiting:
    name, value = waiting.pop()
    if isinstance(value, kind):
      yield '.'.join(name), value
      continue
    if not isinstance(value, (Mapping, list, tuple)) or id(value) in seen:
      continue
    seen.add(id(value))
    inner = _inside(value)
    waiting += [((*name, *key), part) for key, part in reversed(inner)]


def _inside(value: Any) -> list[tuple[tuple[str, ...], Any]]:
  """List the (name, value) pairs inside a list, dictionary or module."""
  if not isinstance(value, Mapping):
    return [((str(i),), part) for i, part in enumerate(value)]
  state = getattr(value, '__dict__', {})
  if '_parameters' in state and '_modules' in state:  # a whole module was saved
    return [((), state[part]) for part in ('_parameters', '_buffers', '_modules') if part in state]
  if {'state', 'param_groups'} <= value.keys():
    return []
  return [((str(key),), part) for key, part in value.items()]


def _first_line(error: Exception) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip('.')


_READERS: dict[str, Callable[[Path], Tensors]] = {
  'safetensors': _read_safetensors,
  'npz': _read_npz,
  'torch': _read_torch,
}
