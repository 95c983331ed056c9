"""Search for shortcuts of data: `python -m ule_jax.detect --config=digits`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from etils import epy

from ule_jax.cli.arguments import ConfigFields, ConfigFile, Count, Directory, Images, Text, Threads
from ule_jax.config import load
from ule_jax.detect.arguments import FEWEST, NETWORKS
from ule_jax.errors import UserError, unknown
from ule_jax.paths import output_path

with epy.lazy_imports():  # help and errors of the command line come before what takes long to import
  from ule_jax import data as data_sets
  from ule_jax.detect import find, page, reading, verdict
  from ule_jax.report import page as pages


def detect(
  *,
  config: ConfigFile,
  overrides: ConfigFields = (),
  out: Directory = 'shortcuts',
  split: Text = 'train',
  examples: Count = 8000,
  side: Count = 32,
  network: Text = 'mlp',
  steps: Count = 320,
  permutations: Count = 500,
  seed: Count = 0,
  pictures: Count = 8,
  images: Images = True,
  threads: Threads = 2,
) -> None:
  """Search data for a shortcut before training, without group labels.

  For example:

    python -m ule_jax.detect --config=digits
    python -m ule_jax.detect --config=folder --config.data.dir=photos --out=shortcuts

  Three kinds of rules are suspected: properties of images and their files that predict the label, the
  rule of two quick networks, and clusters that a quick network fails on. A rule is a shortcut if a
  network is markedly worse on unseen images that contradict it, and need not be: the verdict is no
  evidence, some or strong. index.html has pictures, images.csv says which images contradict what.

  Args:
    out: folder for index.html, images.csv and findings.json; an older page is replaced.
    split: split of the data set.
    examples: number of examples at most, drawn at random; 0 takes all.
    side: pixels to which larger images are reduced for the networks.
    network: mlp, linear or, for images, cnn, which takes minutes on a CPU.
    steps: steps of each training, 128 examples each.
    permutations: permutations of the labels, from 100.
    seed: seed of the choice of examples, of networks and permutations.
    pictures: images of each kind on the page.
    images: include examples of the data; --no-images for sets whose images may not be passed on.
  """
  _refuse(network, {'permutations': (permutations, 100), 'steps': (steps, 8), 'side': (side, 4)})
  folder = output_path(out, '--out')
  pages.refuse_others(folder, page.GENERATOR)
  settings: Any
  settings, config_name = load.load_text(config, overrides)
  name = settings.data.name
  dataset = data_sets.load(name, dict(settings.data))
  chosen = reading.read(dataset, split, examples, side, threads, seed)
  reading.refuse_few(chosen, dataset.classes, split, FEWEST)
  group = chosen.group if (chosen.group >= 0).any() else None
  result = _find(
    chosen.x, chosen.label, group, chosen.properties, classes=dataset.classes, network=network, steps=steps,
    permutations=permutations, seed=seed,
  )  # fmt: skip
  licence = data_sets.DATASETS[name].licence
  content = page.content(result, chosen, dataset, f'{config_name}, {split}', pictures if images else 0, licence)
  files = page.files(Path(page.__file__).with_name('page.html'), content, result, chosen, dataset)
  pages.write(folder, files)
  print(f'{name}, {len(chosen.rows):,} examples of {split}: rules that may be a shortcut, accuracies in %\n{result}')
  print(f'\n{folder / "index.html"}{" has the pictures" if content["pictures"] else ""}')
  if licence and images:
    print(f'{licence}: keep this page to yourself, or use --no-images.')
  print(f'next: {_next_command(config, overrides, result.verdict)}')


def _find(*args: Any, **options: Any) -> Any:
  """Return the result of `find_shortcuts`, whose refusals become errors of the user.

  Raises:
    UserError: as its ValueError.
  """
  try:
    return find.find_shortcuts(*args, **options)
  except ValueError as error:
    raise UserError(str(error)) from None


def _next_command(config: str, overrides: ConfigFields, outcome: str) -> str:
  """Return the command that trains on the data: plainly if there is no evidence of a shortcut."""
  base = config if ':' in Path(config).name else f'{config}:{"erm" if outcome == verdict.NONE else "ule"}'
  flags = [f'--config={base}', *(f'--config.{field}={text}' for field, text in overrides)]
  return f'python -m ule_jax.main {shlex.join(flags)}'


def _refuse(network: str, numbers: dict[str, tuple[int, int]]) -> None:
  """Refuse an unknown network and numbers that are too small.

  Args:
    network: the flag.
    numbers: flag -> its value and the least one.

  Raises:
    UserError: names the flag.
  """
  if network not in NETWORKS:
    raise unknown('--network', network, NETWORKS)
  for name, (value, least) in numbers.items():
    if value < least:
      raise UserError(f'--{name} is {value}: give at least {least}.')
