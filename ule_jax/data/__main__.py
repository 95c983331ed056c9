"""Check a data set before training on it: `python -m ule_jax.data --config=configs/celeba.py`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ule_jax import cli
from ule_jax.data import ON_BAD_IMAGE, read
from ule_jax.data.checks import Scan, differences, remarks, scan_images
from ule_jax.data.dataset import Dataset
from ule_jax.errors import UserError, unknown
from ule_jax.paths import output_path

USAGE = """\
Check a data set: its counts against the release, every image, and a picture of each group.

  python -m ule_jax.data --config=configs/waterbirds.py --config.data.dir=DIR

  --config=FILE                  a file, or the name of a shipped config
  --config.data.FIELD=VALUE      change a field; official=False warns of other counts than the release's instead of
                                 failing, on_bad_image=skip warns of images that cannot be decoded
  --out=DIR                      folder for the contact sheets (default sheets/<config>)
  --images=false                 do not decode every image

Exit codes: 0 no problem, 2 a problem, which is named."""

PER_SPLIT, SIDE, BAR = 8, 112, 16  # images of a split on a sheet, side of an image and height of a caption in pixels


def main(argv: Sequence[str]) -> None:
  """Print the counts, the problems and the folder of the contact sheets.

  Raises:
    UserError: the counts differ from the release, or an image cannot be decoded.
  """
  flags = cli.parse(argv, USAGE, {'out': '', 'images': True})
  out = output_path(flags.values['out'] or f'sheets/{flags.name}', '--out')
  options = dict(flags.config.data)
  name = options.pop('name')
  strict, on_bad_image = options.pop('official', True), options.pop('on_bad_image', 'fail')
  if on_bad_image not in ON_BAD_IMAGE:
    raise unknown('data.on_bad_image', on_bad_image, ON_BAD_IMAGE)
  dataset = read(name, options)
  print(counts_table(dataset))
  if dataset.remarks:
    print('\n' + '\n'.join(dataset.remarks))
  wrong = []
  if differing := differences(dataset):
    print(f'\nother counts than the release of {name}:\n' + '\n'.join(f'  {text}' for text in differing))
    if strict:
      wrong.append('the counts differ from the release (--config.data.official=False makes this a warning)')
  elif dataset.official:
    print(f'\nall counts are those of the release of {name}')
  scans: dict[str, Scan] = {}
  if flags.values['images']:
    for split, content in dataset.splits.items():
      scans[split] = scan_images(content, lambda text: print(text, file=sys.stderr, flush=True))
    problems = [text for scan in scans.values() for text in scan.bad.values()]
    print(f'\n{len(problems)} images cannot be decoded' + ''.join(f'\n  {text}' for text in problems))
    if problems and on_bad_image == 'fail':
      wrong.append(f'{len(problems)} images cannot be decoded (--config.data.on_bad_image=skip leaves them out)')
    for text in remarks(scans.values(), dataset.decoding):
      print(f'warning: {text}')
  try:
    sheets = contact_sheets(dataset, out, {split: scan.bad for split, scan in scans.items()})
  except OSError as error:
    raise UserError(f'{out} cannot be written ({error.strerror}): choose another --out.') from None
  print(f'\n{len(sheets)} contact sheets in {out}')
  if wrong:
    raise UserError(f'{name} is not as it should be: {"; ".join(wrong)}.')


def counts_table(dataset: Dataset) -> str:
  """Format the number of images per split and group, class and in total as a table."""
  named = [*dataset.groups, 'unknown group']
  cells = {}
  for split, content in dataset.splits.items():
    unlabelled = int((content.group < 0).sum())
    cells[split] = [*dataset.group_counts(split).tolist(), unlabelled]
  kept = [i for i in range(len(named)) if any(counts[i] for counts in cells.values())]
  rows = [('group', *cells)]
  rows += [(named[i], *(f'{counts[i]:,}' for counts in cells.values())) for i in kept]
  for k, label in enumerate(dataset.classes):
    rows.append((f'class: {label}', *(f'{int((s.label == k).sum()):,}' for s in dataset.splits.values())))
  rows.append(('all', *(f'{s.count:,}' for s in dataset.splits.values())))
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  lines = [
    '  '.join([r[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(r[1:], widths[1:], strict=True))]) for r in rows
  ]
  rule = '-' * len(lines[0])
  top, classes = len(kept) + 1, len(dataset.classes)
  return '\n'.join([lines[0], rule, *lines[1:top], rule, *lines[top : top + classes], rule, lines[-1]])


def contact_sheets(dataset: Dataset, out: Path, bad: dict[str, dict[int, str]]) -> list[Path]:
  """Write a contact sheet of each group (of each class without groups) with images after the evaluation transform.

  Args:
    out: the folder for the PNG files.
    bad: split -> index of each image that cannot be decoded -> the error's sentence.

  Returns:
    The paths of the files.
  """
  out.mkdir(parents=True, exist_ok=True)
  grouped = bool(dataset.groups)
  written = []
  for code, name in enumerate(dataset.groups if grouped else dataset.classes):
    strips = []
    for split, content in dataset.splits.items():
      members = np.flatnonzero((content.group if grouped else content.label) == code)
      chosen = np.random.default_rng(code).permutation(members)
      chosen = [i for i in chosen.tolist() if i not in bad.get(split, {})][:PER_SPLIT]
      if chosen:
        strips.append((f'{split}: {len(members):,}', [_tile(dataset, content.load(i)) for i in chosen]))
    if not strips:
      continue
    sheet = Image.new('RGB', (PER_SPLIT * SIDE, len(strips) * (SIDE + BAR) + BAR), 'white')
    draw = ImageDraw.Draw(sheet)
    draw.text((4, 2), name, fill='black')
    for row, (caption, tiles) in enumerate(strips):
      top = BAR + row * (SIDE + BAR)
      draw.text((4, top + 2), caption, fill='black')
      for column, tile in enumerate(tiles):
        sheet.paste(tile, (column * SIDE, top + BAR))
    written.append(out / f'{code:02}-{re.sub(r"[^0-9a-zA-Z]+", "-", name).strip("-")}.png')
    sheet.save(written[-1])
  return written


def _tile(dataset: Dataset, image: np.ndarray) -> Image.Image:
  """Apply the evaluation transform, and resize to the side of a tile."""
  if dataset.eval_transform:
    image = dataset.eval_transform(image, np.random.default_rng(0))
  return Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


if __name__ == '__main__':
  cli.main(main)
